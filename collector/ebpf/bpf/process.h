// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// process.fork, process.exec, process.exit and new cgroups, all from the scheduler's and the cgroups' tracepoints:
// no pointer of the caller's is trusted.
#pragma once

#include "path.h"

#define SIGNAL_GROUP_EXIT 4 // include/linux/sched/signal.h
#define EEXIST 17

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
	begin(&r.header, PROCESS_FORK, 0);
	fill_task(&r.header.task, child);
	fill_parent(&r.parent, child);
	finish(&r, sizeof(r), PROCESS_FORK);
	return 0;
}

// append_user appends at most max bytes, a constant, of the new image's memory and returns how many. Bit cut is flagged
// when there were more, or none could be read.
static __always_inline u32 append_user(struct scratch *s, u64 start, u64 total, const u32 max, u16 cut)
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
	struct scratch *s = get_scratch();
	if (!s)
		return 0;
	struct exec_record *r = (void *)s->bytes;
	s->used = sizeof(*r);
	begin(&r->header, PROCESS_EXEC, 0);
	fill_task(&r->header.task, task);
	fill_parent(&r->parent, task);
	__builtin_memset((u8 *)r + sizeof(r->header) + sizeof(r->parent), 0,
			 sizeof(*r) - sizeof(r->header) - sizeof(r->parent));

	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	u64 args = BPF_CORE_READ(mm, arg_start), total = BPF_CORE_READ(mm, arg_end) - args;
	r->args_total = total;
	r->args_len = append_user(s, args, total, ARGS_MAX, FLAG_ARGS_CUT);
	// User space keeps two variables. To look for them here took 4 us an exec, for which every process on the host
	// waited; to copy them all takes a tenth of it.
	u64 env = BPF_CORE_READ(mm, env_start);
	r->env_len = append_user(s, env, BPF_CORE_READ(mm, env_end) - env, ENV_MAX, FLAG_ENV_CUT);

	struct file *file = BPF_CORE_READ(bprm, file);
	r->exe_len = append_path(s, &file->f_path, FLAG_EXE_CUT);
	if (unlinked(BPF_CORE_READ(file, f_path.dentry)))
		flag(s, FLAG_DELETED);
	struct fs_struct *fs = BPF_CORE_READ(task, fs);
	r->cwd_len = append_path(s, &fs->pwd, FLAG_CWD_CUT);

	const char *filename = BPF_CORE_READ(bprm, filename);
	u8 *to = room(s);
	if (to && filename != BPF_CORE_READ(bprm, interp)) {
		long n = bpf_probe_read_kernel_str(to, PATH_MAX, filename);
		if (n > 0) {
			r->script_len = n;
			s->used += n;
		}
		if (n == PATH_MAX)
			flag(s, FLAG_SCRIPT_CUT);
	}
	finish_scratch(s, PROCESS_EXEC);
	return 0;
}

// ended holds the processes whose end was recorded. Two last threads that end at once may each find that the other one
// is gone already; but then both are still on the process's list, so one that is alone there need not be looked up.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct process_key);
	__type(value, u8);
} ended SEC(".maps");

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	// A thread that is killed in a system call never reaches its exit.
	u64 id = bpf_get_current_pid_tgid();
	bpf_map_delete_elem(&syscalls, &id);

	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	if (BPF_CORE_READ(signal, live.counter) != 0)
		return 0; // not the last thread
	struct process_key key = {
		.start = BPF_CORE_READ(task, group_leader, start_boottime),
		.pid = BPF_CORE_READ(task, tgid),
	};
	u8 one = 1;
	if (BPF_CORE_READ(signal, nr_threads) > 1 &&
	    bpf_map_update_elem(&ended, &key, &one, BPF_NOEXIST) == -EEXIST)
		return 0;
	struct exit_record r = {};
	begin(&r.header, PROCESS_EXIT, 0);
	fill_task(&r.header.task, task);
	if (BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT)
		r.status = BPF_CORE_READ(signal, group_exit_code);
	else
		r.status = BPF_CORE_READ(task, group_leader, exit_code);
	finish(&r, sizeof(r), PROCESS_EXIT);
	return 0;
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(cgroup_mkdir, struct cgroup *cgroup, const char *path)
{
	if (BPF_CORE_READ(cgroup, root, hierarchy_id) != cgroup_hierarchy)
		return 0;
	struct scratch *s = get_scratch();
	if (!s)
		return 0;
	struct cgroup_record *r = (void *)s->bytes;
	begin(&r->header, CGROUP_MKDIR, 0);
	__builtin_memset(&r->header.task, 0, sizeof(r->header.task));
	r->header.task.cgroup = BPF_CORE_READ(cgroup, kn, id);
	__builtin_memset(r->reserved, 0, sizeof(r->reserved));
	long n = bpf_probe_read_kernel_str(s->bytes + sizeof(*r), PATH_MAX, path);
	r->path_len = n > 0 ? n : 0;
	s->used = sizeof(*r) + r->path_len;
	finish_scratch(s, CGROUP_MKDIR);
	return 0;
}
