// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// How handlers are put on the rungs of the ladder, what a system call was given, and how a record waits for its result.
#pragma once

#include "path.h"

#pragma GCC diagnostic ignored "-Wint-conversion"

// PROBE defines a handler at the entry of a kernel function that is given the kernel's copy of what the caller gave,
// as the programs fentry_NAME and kprobe_NAME.
#define PROBE(name, args...)                                                                \
	static __always_inline int name(const enum rung rung, void *ctx, ##args);           \
	SEC("fentry")                                                                       \
	int fentry_##name(unsigned long long *ctx)                                          \
	{                                                                                   \
		return name(FENTRY, ___bpf_ctx_cast(args));                                 \
	}                                                                                   \
	SEC("kprobe")                                                                       \
	int kprobe_##name(struct pt_regs *ctx)                                              \
	{                                                                                   \
		return name(KPROBE, ___bpf_kprobe_args(args));                              \
	}                                                                                   \
	static __always_inline int name(const enum rung rung, void *ctx, ##args)

// EXIT defines a handler at the exit of a kernel function of nargs arguments, given what it returned, as the programs
// fexit_NAME and kretprobe_NAME.
#define EXIT(name, nargs)                                                                   \
	static __always_inline int name(const enum rung rung, long ret);                    \
	SEC("fexit")                                                                        \
	int fexit_##name(unsigned long long *ctx)                                           \
	{                                                                                   \
		return name(FENTRY, ctx[nargs]);                                            \
	}                                                                                   \
	SEC("kretprobe")                                                                    \
	int kretprobe_##name(struct pt_regs *ctx)                                           \
	{                                                                                   \
		return name(KPROBE, PT_REGS_RC(ctx));                                       \
	}                                                                                   \
	static __always_inline int name(const enum rung rung, long ret)

// calls holds the arguments of kernel functions from their entry until their exit, for the kprobe rung.
struct call_key {
	u64 thread;
	u64 kind;
};

struct call {
	unsigned long long args[5];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct call_key);
	__type(value, struct call);
} calls SEC(".maps");

// number_at reads what may be a pointer or an errno: the verifier knows only the pointer, and lets nobody calculate with
// one.
static __always_inline long number_at(const unsigned long long *at)
{
	long n = 0;
	bpf_probe_read_kernel(&n, sizeof(n), at);
	return n;
}

// CALL defines a handler at the exit of a kernel function of nargs arguments, given the first five of them and what it
// returned, as the programs fexit_NAME, kprobe_NAME and kretprobe_NAME. NAME_wants tells by the arguments whether
// the exit is of interest; kind is what is lost when there is no room to remember them.
#define CALL(name, kind, nargs)                                                             \
	enum { name##_call = __COUNTER__ }; /* one may be called by another of its kind */  \
	static __always_inline int name(const enum rung rung, unsigned long long *args, long ret); \
	SEC("fexit")                                                                        \
	int fexit_##name(unsigned long long *ctx)                                           \
	{                                                                                   \
		return name(FENTRY, ctx, number_at(&ctx[nargs]));                           \
	}                                                                                   \
	SEC("kprobe")                                                                       \
	int kprobe_##name(struct pt_regs *ctx)                                              \
	{                                                                                   \
		struct call_key key = {bpf_get_current_pid_tgid(), (u64)(kind) << 32 | name##_call}; \
		struct call call = {{PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), \
				     PT_REGS_PARM4(ctx), PT_REGS_PARM5(ctx)}};              \
		if (!name##_wants(call.args))                                               \
			return 0;                                                           \
		if (bpf_map_update_elem(&calls, &key, &call, BPF_ANY) != 0) {               \
			count(kind, attempted);                                             \
			count(kind, state_full);                                            \
		}                                                                           \
		return 0;                                                                   \
	}                                                                                   \
	SEC("kretprobe")                                                                    \
	int kretprobe_##name(struct pt_regs *ctx)                                           \
	{                                                                                   \
		struct call_key key = {bpf_get_current_pid_tgid(), (u64)(kind) << 32 | name##_call}; \
		struct call *call = bpf_map_lookup_elem(&calls, &key);                      \
		if (!call)                                                                  \
			return 0;                                                           \
		name(KPROBE, call->args, PT_REGS_RC(ctx));                                  \
		bpf_map_delete_elem(&calls, &key);                                          \
		return 0;                                                                   \
	}                                                                                   \
	static __always_inline int name(const enum rung rung, unsigned long long *args, long ret)

// TRACED defines a handler at the exit of a system call for the tracepoint rung alone, as the program exit_NAME, which
// call_exit runs.
#define TRACED(name)                                                                        \
	static __always_inline int traced_##name(long ret);                                 \
	SEC("tp_btf/sys_exit")                                                              \
	int exit_##name(unsigned long long *ctx)                                            \
	{                                                                                   \
		return traced_##name(ctx[1]);                                               \
	}                                                                                   \
	static __always_inline int traced_##name(long ret)

// SYSCALL defines a handler at the exit of a system call, given what it returned, as the programs fexit_NAME,
// kretprobe_NAME, and exit_NAME, which call_exit runs. There is nothing at the entry: arg tells the arguments until the
// end.
#define SYSCALL(name)                                                                       \
	static __always_inline int call_##name(const enum rung rung, long ret);             \
	SEC("fexit")                                                                        \
	int fexit_##name(unsigned long long *ctx)                                           \
	{                                                                                   \
		return call_##name(FENTRY, ctx[1]);                                         \
	}                                                                                   \
	SEC("kretprobe")                                                                    \
	int kretprobe_##name(struct pt_regs *ctx)                                           \
	{                                                                                   \
		return call_##name(KPROBE, PT_REGS_RC(ctx));                                \
	}                                                                                   \
	SEC("tp_btf/sys_exit")                                                              \
	int exit_##name(unsigned long long *ctx)                                            \
	{                                                                                   \
		return call_##name(TRACEPOINT, ctx[1]);                                     \
	}                                                                                   \
	static __always_inline int call_##name(const enum rung rung, long ret)

#define STACK_SIZE 16384 // of the kernel, where its types do not tell

// user_regs gives the registers the caller entered the kernel with.
static __always_inline struct pt_regs *user_regs(void)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_task_pt_regs))
		return (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 size = STACK_SIZE;
	if (bpf_core_type_exists(union thread_union))
		size = bpf_core_type_size(union thread_union);
	return BPF_CORE_READ(task, stack) + size - bpf_core_type_size(struct pt_regs);
}

// Where a thread's flags and registers tell that it is in a system call of the 32-bit kind, and in which.
#ifdef __TARGET_ARCH_x86
#define CALLER_FLAGS status
#define CALLER_COMPAT 2 // TS_COMPAT, arch/x86/include/asm/thread_info.h
#define CALL_NUMBER orig_ax
#else
#define CALLER_FLAGS flags
#define CALLER_COMPAT (1 << 22) // TIF_32BIT, arch/arm64/include/asm/thread_info.h
#define CALL_NUMBER syscallno
#endif

// compat tells whether the arguments of the system call are those of the 32-bit kind: 32-bit Arm has them in the same
// registers.
static __always_inline bool compat(void)
{
#ifdef __TARGET_ARCH_x86
	struct task_struct *task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, thread_info.CALLER_FLAGS) & CALLER_COMPAT;
#else
	return false;
#endif
}

// call_number gives the number of the system call.
static __always_inline u32 call_number(void)
{
	return BPF_CORE_READ(user_regs(), CALL_NUMBER);
}

// arg gives an argument of the system call, a constant 0 to 5.
static __always_inline u64 arg(const int i)
{
	struct pt_regs *regs = user_regs();
#ifdef __TARGET_ARCH_x86
	if (compat()) {
		switch (i) {
		case 0: return (u32)BPF_CORE_READ(regs, bx);
		case 1: return (u32)BPF_CORE_READ(regs, cx);
		case 2: return (u32)BPF_CORE_READ(regs, dx);
		case 3: return (u32)BPF_CORE_READ(regs, si);
		case 4: return (u32)BPF_CORE_READ(regs, di);
		default: return (u32)BPF_CORE_READ(regs, bp);
		}
	}
	switch (i) {
	case 0: return BPF_CORE_READ(regs, di);
	case 1: return BPF_CORE_READ(regs, si);
	case 2: return BPF_CORE_READ(regs, dx);
	case 3: return BPF_CORE_READ(regs, r10);
	case 4: return BPF_CORE_READ(regs, r8);
	default: return BPF_CORE_READ(regs, r9);
	}
#else
	u64 value = 0;
	if (i == 0)
		return BPF_CORE_READ((struct pt_regs___arm64 *)regs, orig_x0);
	bpf_probe_read_kernel(&value, sizeof(value), (void *)regs + i * sizeof(u64)); // the array is at the beginning
	return value;
#endif
}

// errno_of turns what a system call returned into an errno, 0 for success.
static __always_inline s32 errno_of(long ret)
{
	if (ret >= 0 || ret < -MAX_ERRNO)
		return 0;
	return ret <= -ERESTARTSYS && ret >= -ERESTART_RESTARTBLOCK ? EINTR : -ret;
}

// A record that waits for its result: built where the kernel holds what the caller gave, completed when it returns. A
// thread has one at a time.
#define PENDING_SMALL 512
#define PENDING_LARGE (PENDING_SMALL + 2 * PATH_MAX)

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, u64); // thread
	__type(value, u8[PENDING_SMALL]);
} pending_small SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, u64); // thread
	__type(value, u8[PENDING_LARGE]);
} pending_large SEC(".maps");

// keep has a record wait in one of the maps above, and gives the scratch back. A record that is larger is cut by its
// last section; PENDING_LARGE is enough for two paths.
#define keep(rung, s, map, kind) do { \
	u64 thread_ = bpf_get_current_pid_tgid(); \
	((struct header *)(s)->bytes)->size = (s)->used; \
	if (bpf_map_update_elem(&(map), &thread_, (s)->bytes, BPF_ANY) != 0) \
		count(kind, state_full); \
	put_scratch(rung, s); \
} while (0)

// kept gives this thread's waiting record if it is of a kind.
#define kept(map, want) ({ \
	u64 thread_ = bpf_get_current_pid_tgid(); \
	struct header *h_ = bpf_map_lookup_elem(&(map), &thread_); \
	h_ && h_->kind == (want) ? h_ : 0; \
})

// complete hands on a waiting record that kept has found, with its result.
#define complete(map, h, max, errno) do { \
	u64 thread_ = bpf_get_current_pid_tgid(); \
	u32 size_ = (h)->size; \
	barrier_var(size_); \
	if (size_ > (max)) \
		size_ = (max); \
	(h)->result = (errno); \
	finish(h, size_, (h)->kind); \
	bpf_map_delete_elem(&(map), &thread_); \
} while (0)

// drop_pending is called when a thread ends: one that is killed in a system call never reaches its exit.
static __always_inline void drop_pending(void)
{
	u64 thread = bpf_get_current_pid_tgid();
	bpf_map_delete_elem(&pending_small, &thread);
	bpf_map_delete_elem(&pending_large, &thread);
}

static __always_inline struct file *file_of(u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	if (fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	struct file *file = 0;
	bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(table, fd) + fd);
	return file;
}
