//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The process.* kinds and new cgroups. process.fork, process.exec and process.exit are from the scheduler's
// tracepoints: no pointer of the caller's is trusted.

#include "syscall.h"
#include "failedexec.h"
#include "namespace.h"
#include "setid.h"
#include "target.h"

#define SIGNAL_GROUP_EXIT 4 // include/linux/sched/signal.h
#define PTRACE_TRACEME 0

struct process_key {
	u64 start;
	u64 pid;
};

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	if (BPF_CORE_READ(child, pid) != BPF_CORE_READ(child, tgid))
		return 0; // a thread
	struct fork_record r = {};
	if (!wanted(PROCESS_FORK, child) || !begin(&r.header, PROCESS_FORK, 0, child))
		return 0;
	fill_parent(&r.parent, child);
	finish(&r, sizeof(r), PROCESS_FORK);
	return 0;
}

// append_memory appends at most max bytes, a constant, of the new image's memory and returns how many. Bit cut is
// flagged when there were more, or none could be read.
static __always_inline u32 append_memory(struct scratch *s, u64 start, u64 total, const u32 max, u16 cut)
{
	u8 *to = room(s);
	if (!to)
		return 0;
	u32 n = total;
	if (total > max) {
		n = max;
		flag(s, cut);
	}
	barrier_var(n);
	if (n > max)
		return 0;
	if (bpf_probe_read_user(to, n, (void *)start) != 0) {
		flag(s, cut);
		return 0;
	}
	s->used += n;
	return n;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	// What waited in case that the exec fails. A thread that execs has taken over the first thread's number.
	u64 thread = bpf_get_current_pid_tgid() >> 32 << 32 | (u32)old_pid;
	bpf_map_delete_elem(&pending_large, &thread);
	if (!wanted(PROCESS_EXEC, task))
		return 0;
	struct scratch *s = get_scratch(TRACEPOINT, PROCESS_EXEC);
	if (!s)
		return 0;
	struct exec_record *r = (void *)s->bytes;
	s->used = sizeof(*r);
	if (!begin(&r->header, PROCESS_EXEC, 0, task))
		return 0;
	fill_parent(&r->parent, task);

	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	u64 args = BPF_CORE_READ(mm, arg_start), total = BPF_CORE_READ(mm, arg_end) - args;
	r->args_total = total;
	r->args_len = append_memory(s, args, total, ARGS_MAX, FLAG_ARGS_CUT);
	// User space keeps two variables. To look for them here took 4 us an exec, for which every process on the host
	// waited; to copy them all takes a tenth of it.
	u64 env = BPF_CORE_READ(mm, env_start);
	r->env_len = append_memory(s, env, BPF_CORE_READ(mm, env_end) - env, ENV_MAX, FLAG_ENV_CUT);
	r->reserved = 0;

	struct file *file = BPF_CORE_READ(bprm, file);
	fill_file(&r->file, BPF_CORE_READ(file, f_inode));
	fill_version(&r->version, file);
	append_file_path(s, &r->exe, file);
	if (unlinked(BPF_CORE_READ(file, f_path.dentry)))
		flag(s, FLAG_DELETED);
	if (upper(BPF_CORE_READ(file, f_inode)))
		flag(s, FLAG_UPPER);
	struct fs_struct *fs = BPF_CORE_READ(task, fs);
	append_path_of(s, &r->cwd, &fs->pwd);

	const char *filename = BPF_CORE_READ(bprm, filename);
	if (filename != BPF_CORE_READ(bprm, interp))
		append_string(s, &r->script, filename);
	else
		no_text(&r->script);
	finish_scratch(TRACEPOINT, s, PROCESS_EXEC);
	return 0;
}

// ended holds the processes of several threads whose end was recorded: those of them that end at once may each find that
// all others are gone already. Older kernels tell of a thread when it has given back its memory, which may be long after
// that. One that is alone on its process's list need only look whether there was another one.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct process_key);
	__type(value, u8);
} ended SEC(".maps");

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	drop_pending();
	if (!wanted(PROCESS_EXIT, task))
		return 0;
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	if (BPF_CORE_READ(signal, live.counter) != 0)
		return 0; // not the last thread
	struct process_key key = {
		.start = BPF_CORE_READ(task, group_leader, start_boottime),
		.pid = BPF_CORE_READ(task, tgid),
	};
	u8 one = 1;
	if (BPF_CORE_READ(signal, nr_threads) > 1) {
		// To older kernels it is an int, and the upper half of the register may be anything.
		int error = bpf_map_update_elem(&ended, &key, &one, BPF_NOEXIST);
		if (error == -EEXIST)
			return 0;
	} else if (bpf_map_lookup_elem(&ended, &key)) {
		return 0;
	}
	struct exit_record r = {};
	if (!begin(&r.header, PROCESS_EXIT, 0, task))
		return 0;
	if (BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT)
		r.status = BPF_CORE_READ(signal, group_exit_code);
	else
		r.status = BPF_CORE_READ(task, group_leader, exit_code);
	finish(&r, sizeof(r), PROCESS_EXIT);
	return 0;
}

SYSCALL(ptrace)
{
	u32 request = arg(0);
	return targeted(PROCESS_PTRACE, ret, request == PTRACE_TRACEME ? 0 : arg(1), request);
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
	if (BPF_CORE_READ(cgroup, root, hierarchy_id) != cgroup_hierarchy)
		return 0;
	struct scratch *s = get_scratch(TRACEPOINT, CGROUP_MKDIR);
	if (!s)
		return 0;
	struct cgroup_record *r = (void *)s->bytes;
	__builtin_memset(r, 0, sizeof(*r));
	count(CGROUP_MKDIR, attempted);
	r->header.kind = CGROUP_MKDIR;
	r->header.task.cgroup = BPF_CORE_READ(cgroup, kn, id);
	s->used = sizeof(*r);
	append_string(s, &r->path, path);
	finish_scratch(TRACEPOINT, s, CGROUP_MKDIR);
	return 0;
}
