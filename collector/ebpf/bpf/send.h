// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// net.send: what is sent to an address that the socket is not connected to, and TCP Fast Open. Where kernel functions
// can be probed, it is those by which UDP, raw and ping sockets send: they have the kernel's copy of the address, also
// of what io_uring sends and of each message of sendmmsg(2). Else it is the copy of a cgroup hook, which UDP and TCP
// call; of raw and ping sockets sendto(2) alone tells, with the address in the caller's memory.
#pragma once

#include "copies.h"

#define SIN6_LEN_RFC2133 24 // include/uapi/linux/in6.h: an IPv6 address is no shorter

// sent records what was sent to the address of a message.
static __always_inline int sent(const enum rung rung, struct sock *sk, struct msghdr *msg, long ret)
{
	u64 name = (u64)BPF_CORE_READ(msg, msg_name);
	struct activity a = {
		.kind = NET_SEND, .errno = errno_of(ret), .sk = sk, .address = name, .length = BPF_CORE_READ(msg, msg_namelen),
	};
	union address address = {};
	if (!name || !read_address(&address, &a))
		return 0;
	struct socket_info to = {.family = family_of(sk), .type = BPF_CORE_READ(sk, sk_type)};
	place(&to, &address, false);
	return connected(sk, &to) ? 0 : record(rung, &a);
}

static __always_inline bool sendmsg_wants(unsigned long long *args)
{
	return BPF_CORE_READ((struct msghdr *)args[1], msg_name) != 0;
}

CALL(sendmsg, NET_SEND, 3)
{
	return sent(rung, (void *)args[0], (void *)args[1], (int)ret);
}

static __always_inline bool sendmsg6_wants(unsigned long long *args)
{
	return sendmsg_wants(args);
}

// What goes to an IPv4 address, UDP hands on to the function for that, on old kernels with an
// address of that length from then on.
CALL(sendmsg6, NET_SEND, 3)
{
	struct msghdr *msg = (void *)args[1];
	union address to = {};
	bpf_probe_read_kernel(&to, SIN6_LEN_RFC2133, BPF_CORE_READ(msg, msg_name));
	if (to.family != AF_INET6 || BPF_CORE_READ(msg, msg_namelen) < SIN6_LEN_RFC2133)
		return 0;
	u8 mapped[16];
	map_ipv4(mapped, *(u32 *)(to.v6.ip + 12));
	if (__builtin_memcmp(mapped, to.v6.ip, sizeof(mapped)) == 0 &&
	    BPF_CORE_READ((struct sock *)args[0], sk_type) != SOCK_RAW)
		return 0;
	return sent(rung, (void *)args[0], msg, (int)ret);
}

// Its last argument tells that it is for a message.
static __always_inline bool fastopen_wants(unsigned long long *args)
{
	return (int)args[4] && args[1];
}

CALL(fastopen, NET_SEND, 5)
{
	if (!fastopen_wants(args))
		return 0;
	struct sock *sk = BPF_CORE_READ((struct socket *)args[0], sk);
	struct activity a = {
		.kind = NET_SEND, .errno = errno_of((int)ret), .sk = sk, .address = args[1], .length = args[2],
	};
	return record(rung, &a);
}

// send_exit records what a system call sent last, if a hook saw an address.
static __always_inline bool send_exit(u32 fd, long ret)
{
	struct copy *copy = copied(NET_SEND);
	if (!copy)
		return false;
	struct sock *sk = sock_of(fd);
	if (copy->sk == (u64)sk) // TCP has chosen its port since
		fill_local(&copy->socket, sk);
	record_copy(TRACEPOINT, NET_SEND, copy, errno_of(ret));
	drop_copy(NET_SEND);
	return true;
}

static __always_inline int sendto_exit(u32 fd, u64 address, u32 length, long ret)
{
	if (send_exit(fd, ret) || !address)
		return 0;
	struct sock *sk = sock_of(fd);
	u16 family = family_of(sk), protocol = BPF_CORE_READ(sk, sk_protocol);
	if (!sk || (family != AF_INET && family != AF_INET6) || unreadable(ret, address, length))
		return 0;
	if (BPF_CORE_READ(sk, sk_type) != SOCK_RAW && protocol != IPPROTO_ICMP && protocol != IPPROTO_ICMPV6)
		return 0;
	struct activity a = {
		.kind = NET_SEND, .errno = errno_of(ret), .sk = sk, .address = address, .length = length, .user = true,
	};
	return record(TRACEPOINT, &a);
}

TRACED(sendto)
{
	return sendto_exit(arg(0), arg(4), arg(5), ret);
}

TRACED(sendmsg)
{
	send_exit(arg(0), ret);
	return 0;
}

TRACED(sendmmsg)
{
	send_exit(arg(0), ret);
	return 0;
}
