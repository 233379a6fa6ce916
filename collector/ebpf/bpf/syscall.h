// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// file.open and net.connect on the tracepoints of single system calls. At the entry the arguments are remembered,
// at the exit the file or the socket is taken from the descriptor the kernel made or used. The caller's memory is
// only read where the kernel holds nothing: a failed open's path, a failed AF_UNIX connect's address.
#pragma once

#include "path.h"

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define EINTR 4
#define EINPROGRESS 115
#define ERESTARTSYS 512           // include/linux/errno.h: what the kernel returns inside when a
#define ERESTART_RESTARTBLOCK 516 // signal interrupts it; the caller sees EINTR, or the call made anew

#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define S_IFCHR 0020000
#define FMODE_WRITE 2
#define O_ACCMODE 3
#define O_CREAT 0100
#define O_TRUNC 01000
#define O_PATH 010000000
#define O_TMPFILE_BIT 020000000

// remember keeps a system call until its exit.
static __always_inline void remember(struct syscall_state *state, u16 kind)
{
	u64 id = bpf_get_current_pid_tgid();
	if (bpf_map_update_elem(&syscalls, &id, state, BPF_ANY) == 0)
		return;
	struct kind_counters *c = get_counters(kind);
	if (c) {
		__sync_fetch_and_add(&c->attempted, 1);
		__sync_fetch_and_add(&c->state_full, 1);
	}
}

// recall gives back what remember kept, if it was for kind.
static __always_inline struct syscall_state *recall(u16 kind)
{
	u64 id = bpf_get_current_pid_tgid();
	struct syscall_state *state = bpf_map_lookup_elem(&syscalls, &id);
	return state && state->kind == kind ? state : 0;
}

static __always_inline void forget(void)
{
	u64 id = bpf_get_current_pid_tgid();
	bpf_map_delete_elem(&syscalls, &id);
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

// errno_of turns what a system call returned into an errno, 0 for success.
static __always_inline s32 errno_of(long ret)
{
	if (ret >= 0)
		return 0;
	return ret <= -ERESTARTSYS && ret >= -ERESTART_RESTARTBLOCK ? EINTR : -ret;
}

// --- file.open

// writes tells flags that may change a file or make one.
static __always_inline bool writes(u32 flags)
{
	return !(flags & O_PATH) && ((flags & O_ACCMODE) || (flags & (O_CREAT | O_TRUNC | O_TMPFILE_BIT)));
}

static __always_inline int open_enter(const void *path, u32 flags)
{
	if (is_self())
		return 0;
	struct syscall_state state = {.kind = FILE_OPEN, .open_flags = flags, .path = (u64)path};
	remember(&state, FILE_OPEN);
	return 0;
}

// boring tells the character devices null, zero and full: opened for writing all the time, and to no effect.
static __always_inline bool boring(struct inode *inode)
{
	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFCHR)
		return false;
	u32 device = BPF_CORE_READ(inode, i_rdev), minor = device & 0xfffff;
	return device >> 20 == 1 && (minor == 3 || minor == 5 || minor == 7);
}

static __always_inline int open_exit(long ret)
{
	struct syscall_state *state = recall(FILE_OPEN);
	if (!state)
		return 0;
	u32 open_flags = state->open_flags;
	u64 user_path = state->path;
	forget();
	struct file *file = ret >= 0 ? file_of(ret) : 0;
	if (file && boring(BPF_CORE_READ(file, f_inode)))
		return 0;
	if (file && BPF_CORE_READ(file, f_mode) & FMODE_WRITE && !(open_flags & O_ACCMODE))
		open_flags |= BPF_CORE_READ(file, f_flags) & O_ACCMODE; // openat2's flags have changed meanwhile
	if (!writes(open_flags))
		return 0;

	struct scratch *s = get_scratch();
	if (!s)
		return 0;
	struct open_record *r = (void *)s->bytes;
	s->used = sizeof(*r);
	begin(&r->header, FILE_OPEN, errno_of(ret));
	fill_task(&r->header.task, (void *)bpf_get_current_task());
	r->open_flags = open_flags;
	__builtin_memset(r->reserved, 0, sizeof(r->reserved));
	if (file) {
		struct inode *inode = BPF_CORE_READ(file, f_inode);
		r->inode = BPF_CORE_READ(inode, i_ino);
		r->device = BPF_CORE_READ(inode, i_sb, s_dev);
		r->path_len = append_path(s, &file->f_path, FLAG_PATH_CUT);
	} else {
		r->inode = 0;
		r->device = 0;
		flag(s, FLAG_UNVERIFIED);
		long n = bpf_probe_read_user_str(s->bytes + sizeof(*r), PATH_MAX, (void *)user_path);
		r->path_len = n > 0 ? n : 0;
		s->used += r->path_len;
		if (n == PATH_MAX || n <= 0)
			flag(s, FLAG_PATH_CUT);
	}
	finish_scratch(s, FILE_OPEN);
	return 0;
}

SEC("tracepoint/syscalls/sys_enter_open")
int enter_open(struct trace_event_raw_sys_enter *ctx)
{
	return writes(ctx->args[1]) ? open_enter((void *)ctx->args[0], ctx->args[1]) : 0;
}

SEC("tracepoint/syscalls/sys_exit_open")
int exit_open(struct trace_event_raw_sys_exit *ctx)
{
	return open_exit(ctx->ret);
}

SEC("tracepoint/syscalls/sys_enter_creat")
int enter_creat(struct trace_event_raw_sys_enter *ctx)
{
	return open_enter((void *)ctx->args[0], O_CREAT | O_TRUNC | 1);
}

SEC("tracepoint/syscalls/sys_exit_creat")
int exit_creat(struct trace_event_raw_sys_exit *ctx)
{
	return open_exit(ctx->ret);
}

SEC("tracepoint/syscalls/sys_enter_openat")
int enter_openat(struct trace_event_raw_sys_enter *ctx)
{
	return writes(ctx->args[2]) ? open_enter((void *)ctx->args[1], ctx->args[2]) : 0;
}

SEC("tracepoint/syscalls/sys_exit_openat")
int exit_openat(struct trace_event_raw_sys_exit *ctx)
{
	return open_exit(ctx->ret);
}

// openat2 has its flags in the caller's memory, which may change until the kernel copies them: the file it made
// decides.
SEC("tracepoint/syscalls/sys_enter_openat2")
int enter_openat2(struct trace_event_raw_sys_enter *ctx)
{
	u64 flags = 0;
	bpf_probe_read_user(&flags, sizeof(flags), (void *)ctx->args[2]);
	return open_enter((void *)ctx->args[1], flags);
}

SEC("tracepoint/syscalls/sys_exit_openat2")
int exit_openat2(struct trace_event_raw_sys_exit *ctx)
{
	return open_exit(ctx->ret);
}

// --- net.connect

SEC("tracepoint/syscalls/sys_enter_connect")
int enter_connect(struct trace_event_raw_sys_enter *ctx)
{
	if (is_self())
		return 0;
	struct syscall_state state = {.kind = NET_CONNECT, .fd = ctx->args[0]};
	u32 len = ctx->args[2];
	if (len > sizeof(state.address))
		len = sizeof(state.address);
	barrier_var(len);
	if (len > sizeof(state.address))
		return 0;
	state.address_len = len;
	bpf_probe_read_user(state.address, len, (void *)ctx->args[1]);
	remember(&state, NET_CONNECT);
	return 0;
}

// fill_inet takes the remote address that the kernel copied (verified), or the one it connected to, or else the
// caller's; and the local one from the socket.
static __always_inline void fill_inet(struct connect_record *r, struct syscall_state *state, struct sock *sk, long ret)
{
	u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	bool inet = family == AF_INET || family == AF_INET6;
	if (inet && !state->verified && (ret == 0 || ret == -EINPROGRESS)) {
		r->family = family;
		r->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
		if (family == AF_INET)
			bpf_probe_read_kernel(r->remote, 4, &sk->__sk_common.skc_daddr);
		else
			bpf_probe_read_kernel(r->remote, 16, &sk->__sk_common.skc_v6_daddr);
	} else {
		if (!state->verified)
			r->header.flags |= FLAG_UNVERIFIED;
		r->remote_port = bpf_ntohs(*(u16 *)(state->address + 2));
		if (r->family == AF_INET)
			__builtin_memcpy(r->remote, state->address + 4, 4);
		else
			__builtin_memcpy(r->remote, state->address + 8, 16);
	}
	if (!inet)
		return;
	// The port that was connected from: a refused socket has given back its skc_num.
	r->local_port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	if (r->family == AF_INET)
		bpf_probe_read_kernel(r->local, 4, &sk->__sk_common.skc_rcv_saddr);
	else
		bpf_probe_read_kernel(r->local, 16, &sk->__sk_common.skc_v6_rcv_saddr);
}

// unix_path writes the address of an AF_UNIX connect behind the record and returns its length.
static __always_inline u32 unix_path(struct scratch *s, struct syscall_state *state, struct sock *sk, long ret)
{
	struct connect_record *r = (void *)s->bytes;
	u8 *to = s->bytes + sizeof(*r);
	u32 len = 0;
	if (ret == 0) {
		// The peer of an accepted stream shares the listener's address, which never changes.
		struct unix_sock *peer = (void *)BPF_CORE_READ((struct unix_sock *)sk, peer);
		struct unix_address *address = BPF_CORE_READ(peer, addr);
		len = BPF_CORE_READ(address, len);
		if (len > 2 && len <= 2 + UNIX_PATH_MAX) {
			len -= 2;
			bpf_probe_read_kernel(to, len, (void *)address + bpf_core_field_offset(struct unix_address, name) + 2);
			return len;
		}
	}
	r->header.flags |= FLAG_UNVERIFIED;
	len = state->address_len;
	if (len <= 2)
		return 0;
	len -= 2;
	if (len > UNIX_PATH_MAX)
		len = UNIX_PATH_MAX;
	__builtin_memcpy(to, state->address + 2, UNIX_PATH_MAX);
	return len;
}

// sock_of gives the socket behind a descriptor, NULL when it is none.
static __always_inline struct sock *sock_of(u32 fd)
{
	struct file *file = file_of(fd);
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	struct socket *socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

SEC("tracepoint/syscalls/sys_exit_connect")
int exit_connect(struct trace_event_raw_sys_exit *ctx)
{
	struct syscall_state *state = recall(NET_CONNECT);
	if (!state)
		return 0;
	long ret = ctx->ret;
	struct sock *sk = sock_of(state->fd);
	u16 family = *(u16 *)state->address, of_socket = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (ret == 0 && (family == AF_UNIX) != (of_socket == AF_UNIX))
		family = of_socket; // the caller's memory said something else before the kernel copied it
	struct scratch *s = get_scratch();
	if (!s || (family != AF_UNIX && family != AF_INET && family != AF_INET6)) {
		forget();
		return 0;
	}
	struct connect_record *r = (void *)s->bytes;
	begin(&r->header, NET_CONNECT, errno_of(ret));
	fill_task(&r->header.task, (void *)bpf_get_current_task());
	__builtin_memset((u8 *)r + sizeof(r->header), 0, sizeof(*r) - sizeof(r->header));
	r->family = family;
	if (sk) {
		r->type = BPF_CORE_READ(sk, sk_type);
		r->protocol = BPF_CORE_READ(sk, sk_protocol);
	}
	if (family == AF_UNIX)
		r->path_len = unix_path(s, state, sk, ret);
	else
		fill_inet(r, state, sk, ret);
	forget();
	s->used = sizeof(*r) + r->path_len;
	finish_scratch(s, NET_CONNECT);
	return 0;
}
