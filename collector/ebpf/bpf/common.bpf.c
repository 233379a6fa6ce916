//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The maps and types that all programs share, and what runs the handlers of system calls on the tracepoint rung.

#include "complete.h"

// native_calls and compat_calls hold the handlers of system calls by number, of 64-bit callers and of 32-bit ones.
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 512);
	__type(key, u32);
	__type(value, u32);
} native_calls SEC(".maps"), compat_calls SEC(".maps");

// current_flags gives what tells 32-bit callers, without a helper where the kernel allows that.
static __always_inline u64 current_flags(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		struct task_struct *task = (void *)bpf_get_current_task_btf();
		return task->thread_info.CALLER_FLAGS;
	}
	struct task_struct *task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, thread_info.CALLER_FLAGS);
}

// call_exit runs at the exit of every system call of the host, so it calls nothing but the handler.
SEC("tp_btf/sys_exit")
int call_exit(unsigned long long *ctx)
{
	struct pt_regs *regs = (void *)ctx[0];
	if (!(current_flags() & CALLER_COMPAT))
		bpf_tail_call(ctx, &native_calls, regs->CALL_NUMBER);
#ifdef __TARGET_ARCH_x86
	else
		bpf_tail_call(ctx, &compat_calls, regs->CALL_NUMBER);
#endif
	return 0;
}

// uring_submit finds the handler of a request.
SEC("tp_btf/io_uring_submit_req")
int uring_submit(unsigned long long *ctx)
{
	bpf_tail_call(ctx, &uring_calls, BPF_CORE_READ((struct io_kiocb *)ctx[0], opcode));
	return 0;
}

// uring_complete hands on the record of a request, whatever its kind.
SEC("tp_btf/io_uring_complete")
int uring_complete(unsigned long long *ctx)
{
	return completed((void *)ctx[1]);
}

// The Go types are generated from these.
const struct text *text_type __attribute__((unused));
const struct task *task_type __attribute__((unused));
const struct header *header_type __attribute__((unused));
const struct parent *parent_type __attribute__((unused));
const struct file_id *file_id_type __attribute__((unused));
const struct socket_info *socket_info_type __attribute__((unused));
const struct exec_record *exec_record_type __attribute__((unused));
const struct fork_record *fork_record_type __attribute__((unused));
const struct exit_record *exit_record_type __attribute__((unused));
const struct file_record *file_record_type __attribute__((unused));
const struct setid_record *setid_record_type __attribute__((unused));
const struct target_record *target_record_type __attribute__((unused));
const struct dup_record *dup_record_type __attribute__((unused));
const struct namespace_record *namespace_record_type __attribute__((unused));
const struct mount_record *mount_record_type __attribute__((unused));
const struct memory_record *memory_record_type __attribute__((unused));
const struct module_record *module_record_type __attribute__((unused));
const struct bpf_record *bpf_record_type __attribute__((unused));
const struct iouring_record *iouring_record_type __attribute__((unused));
const struct net_record *net_record_type __attribute__((unused));
const struct dns_record *dns_record_type __attribute__((unused));
const struct cgroup_record *cgroup_record_type __attribute__((unused));
const struct kind_counters *kind_counters_type __attribute__((unused));
const struct settings *settings_type __attribute__((unused));
const struct watched_key *watched_key_type __attribute__((unused));
const struct throttle_state *throttle_state_type __attribute__((unused));
const enum kind *kind_type __attribute__((unused));
const enum record_flag *record_flag_type __attribute__((unused));
const enum text_flag *text_flag_type __attribute__((unused));
const enum id_index *id_index_type __attribute__((unused));
const enum region *region_type __attribute__((unused));
const enum slots *slots_type __attribute__((unused));
const enum layer_file *layer_file_type __attribute__((unused));
