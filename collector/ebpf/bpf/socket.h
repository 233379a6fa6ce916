// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// What is read of a socket, and who uses it.
#pragma once

#include "syscall.h"

#define IORING_ENTER 426 // io_uring_enter(2), on every architecture

// sock_in gives the socket behind a file, NULL when it is none.
static __always_inline struct sock *sock_in(struct file *file)
{
	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	struct socket *socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

static __noinline struct sock *sock_of(u32 fd)
{
	return sock_in(file_of(fd));
}

static __always_inline u16 family_of(struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_family);
}

// fill_socket tells what the kernel knows of a socket; of none, nothing.
static __noinline int fill_socket(struct socket_info *i, struct sock *sk)
{
	if (!i)
		return 0;
	__builtin_memset(i, 0, sizeof(*i));
	if (!sk)
		return 0;
	i->family = family_of(sk);
	i->type = BPF_CORE_READ(sk, sk_type);
	i->protocol = BPF_CORE_READ(sk, sk_protocol);
	if (i->family == AF_PACKET && bpf_core_field_exists(struct packet_sock, num))
		i->protocol = bpf_ntohs(BPF_CORE_READ((struct packet_sock *)sk, num));
	if (i->family != AF_INET && i->family != AF_INET6)
		return 0;
	if (i->type != SOCK_RAW) { // which has its protocol there
		i->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
		// The port that was connected from: a refused socket has given back its skc_num.
		i->local_port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	}
	if (i->family == AF_INET) {
		bpf_probe_read_kernel(i->remote, 4, &sk->__sk_common.skc_daddr);
		bpf_probe_read_kernel(i->local, 4, &sk->__sk_common.skc_rcv_saddr);
	} else {
		bpf_probe_read_kernel(i->remote, 16, &sk->__sk_common.skc_v6_daddr);
		bpf_probe_read_kernel(i->local, 16, &sk->__sk_common.skc_v6_rcv_saddr);
	}
	return 0;
}

// fill_local tells the local side alone.
static __always_inline void fill_local(struct socket_info *i, struct sock *sk)
{
	struct socket_info now;
	fill_socket(&now, sk);
	if (now.family != i->family)
		return;
	i->local_port = now.local_port;
	__builtin_memcpy(i->local, now.local, sizeof(now.local));
}

// map_ipv4 writes an IPv4 address as an IPv6 one, ::ffff:a.b.c.d.
static __always_inline void map_ipv4(u8 *to, u32 ip)
{
	__builtin_memset(to, 0, 10);
	to[10] = to[11] = 0xff;
	__builtin_memcpy(to + 12, &ip, 4);
}

// entered_by gives the number of the system call that a thread is in. Cgroup hooks may not call what call_number does.
static __always_inline u32 entered_by(struct task_struct *task)
{
	u64 size = STACK_SIZE;
	if (bpf_core_type_exists(union thread_union))
		size = bpf_core_type_size(union thread_union);
	struct pt_regs *regs = BPF_CORE_READ(task, stack) + size - bpf_core_type_size(struct pt_regs);
#ifdef __TARGET_ARCH_x86
	if ((BPF_CORE_READ(regs, cs) & 3) != 3) // kernels with FRED have 16 bytes above
		regs = (void *)regs - 16;
	return BPF_CORE_READ(regs, orig_ax);
#else
	return BPF_CORE_READ(regs, syscallno);
#endif
}

// by_iouring tells whether the kernel runs a request of io_uring.
static __noinline bool by_iouring(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, flags) & (PF_IO_WORKER | PF_KTHREAD) || entered_by(task) == IORING_ENTER;
}
