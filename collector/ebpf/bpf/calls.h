// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// net.socket, net.connect, net.bind, net.listen and net.accept.
//
// Where kernel functions can be probed, it is those that all system calls for it end in, those of 32-bit callers and
// socketcall(2) too; addresses are taken where the kernel's security hooks see them, and these and io_uring's functions
// tell of what io_uring does. Else it is the exits of the system calls: a connect's is the copy of a cgroup hook, and
// one that succeeded is what the socket has. Calls that are given no socket, or no readable address, are no attempts.
#pragma once

#include "send.h"

#define SOCK_TYPE 0xf // the rest are flags

// socket_made records a socket: as the kernel made it, or as the caller asked for it.
static __always_inline int socket_made(const enum rung rung, u32 family, u32 type, u32 protocol, struct sock *sk,
				       long ret, bool unverified)
{
	if (family == AF_UNIX || family == AF_NETLINK)
		return 0;
	if (family == AF_PACKET)
		protocol = bpf_ntohs(protocol);
	struct socket_info asked = {.family = family, .type = type & SOCK_TYPE, .protocol = protocol};
	struct activity a = {.kind = NET_SOCKET, .errno = errno_of(ret), .sk = sk};
	if (!sk) {
		a.known = &asked;
		a.unverified = unverified;
	}
	return record(rung, &a);
}

static __always_inline struct sock *made(long fd)
{
	return fd >= 0 ? sock_of(fd) : 0;
}

// always is for what every call of is of interest.
static __always_inline bool always(unsigned long long *args)
{
	return true;
}

#define called_socket_wants always
#define called_accept_wants always
#define called_listen_wants always
#define called_connect_wants always
#define called_bind_wants always

CALL(called_socket, NET_SOCKET, 3)
{
	return socket_made(rung, args[0], args[1], args[2], made((int)ret), (int)ret, false);
}

TRACED(socket)
{
	return socket_made(TRACEPOINT, arg(0), arg(1), arg(2), made(ret), ret, false);
}

static __always_inline bool iouring_socket_wants(unsigned long long *args)
{
	return by_iouring();
}

CALL(iouring_socket, NET_SOCKET, 3)
{
	if (!by_iouring())
		return 0;
	return socket_made(rung, args[0], args[1], args[2], errno_of(ret) ? 0 : sock_in((void *)ret), ret, false);
}

static __always_inline int accepted(const enum rung rung, struct sock *listener, struct sock *sk, long ret)
{
	s32 errno = errno_of(ret);
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	if (errno)
		sk = listener;
	struct activity a = {.kind = NET_ACCEPT, .errno = errno, .sk = sk, .named = sk};
	return sk ? record(rung, &a) : 0;
}

CALL(called_accept, NET_ACCEPT, 4)
{
	return accepted(rung, sock_of(args[0]), made((int)ret), (int)ret);
}

TRACED(accept)
{
	return accepted(TRACEPOINT, sock_of(arg(0)), made(ret), ret);
}

TRACED(accept4)
{
	return accepted(TRACEPOINT, sock_of(arg(0)), made(ret), ret);
}

static __always_inline bool iouring_accept_wants(unsigned long long *args)
{
	return by_iouring();
}

CALL(iouring_accept, NET_ACCEPT, 5)
{
	if (!by_iouring())
		return 0;
	return accepted(rung, sock_in((void *)args[0]), errno_of(ret) ? 0 : sock_in((void *)ret), ret);
}

static __always_inline int listened(const enum rung rung, struct sock *sk, u32 backlog, long ret, bool unverified)
{
	struct activity a = {
		.kind = NET_LISTEN, .errno = errno_of(ret), .sk = sk, .named = sk, .backlog = backlog, .unverified = unverified,
	};
	return sk ? record(rung, &a) : 0;
}

CALL(called_listen, NET_LISTEN, 2)
{
	return listened(rung, sock_of(args[0]), args[1], (int)ret, false);
}

TRACED(listen)
{
	return listened(TRACEPOINT, sock_of(arg(0)), arg(1), ret, false);
}

static __always_inline bool iouring_listen_wants(unsigned long long *args)
{
	return by_iouring();
}

CALL(iouring_listen, NET_LISTEN, 2)
{
	if (!by_iouring())
		return 0;
	return listened(rung, BPF_CORE_READ((struct socket *)args[0], sk), args[1], (int)ret, false);
}

static __always_inline bool connects(u16 family)
{
	return family == AF_UNIX || family == AF_INET || family == AF_INET6;
}

static __always_inline bool binds(u16 family)
{
	return connects(family) || family == AF_PACKET;
}

PROBE(socket_connect, struct socket *socket, struct sockaddr *address, int length)
{
	struct sock *sk = BPF_CORE_READ(socket, sk);
	struct activity a = {.kind = NET_CONNECT, .sk = sk, .address = (u64)address, .length = length};
	return connects(family_of(sk)) ? await(rung, &a) : 0;
}

PROBE(socket_bind, struct socket *socket, struct sockaddr *address, int length)
{
	struct sock *sk = BPF_CORE_READ(socket, sk);
	struct activity a = {.kind = NET_BIND, .sk = sk, .address = (u64)address, .length = length};
	return binds(family_of(sk)) ? await(rung, &a) : 0;
}

CALL(called_connect, NET_CONNECT, 3)
{
	return settle(NET_CONNECT, sock_of(args[0]), (int)ret);
}

CALL(called_bind, NET_BIND, 3)
{
	return settle(NET_BIND, sock_of(args[0]), (int)ret);
}

// The functions in which io_uring and the system calls meet, if the compiler did not put them into the latter.
EXIT(connect_file, 4)
{
	return settle(NET_CONNECT, waiting(NET_CONNECT), (int)ret);
}

EXIT(bind_socket, 3)
{
	return settle(NET_BIND, waiting(NET_BIND), (int)ret);
}

// connect_exit records a connect by its exit.
static __always_inline int connect_exit(u32 fd, u64 address, u32 length, long ret)
{
	struct sock *sk = sock_of(fd);
	struct activity a = {.kind = NET_CONNECT, .errno = errno_of(ret), .sk = sk};
	struct copy *copy = copied(NET_CONNECT);
	if (copy) {
		a.known = &copy->socket;
		if (copy->sk == (u64)sk)
			fill_local(&copy->socket, sk);
		record(TRACEPOINT, &a);
		drop_copy(NET_CONNECT);
		return 0;
	}
	u16 family = family_of(sk);
	if (!sk || !connects(family) || unreadable(ret, address, length))
		return 0;
	if (ret == 0 && family == AF_UNIX) {
		// The peer of an accepted stream shares the listener's address.
		a.named = BPF_CORE_READ((struct unix_sock *)sk, peer);
		return a.named ? record(TRACEPOINT, &a) : 0;
	}
	if (ret != 0 && ret != -EINPROGRESS) {
		a.address = address;
		a.length = length;
		a.user = true;
	} else if (BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE && !BPF_CORE_READ(sk, __sk_common.skc_dport)) {
		return 0; // it was disconnected
	}
	return record(TRACEPOINT, &a);
}

TRACED(connect)
{
	return connect_exit(arg(0), arg(1), arg(2), ret);
}

static __always_inline int bind_exit(u32 fd, u64 address, u32 length, long ret)
{
	struct sock *sk = sock_of(fd);
	if (!sk || !binds(family_of(sk)) || unreadable(ret, address, length))
		return 0;
	struct activity a = {.kind = NET_BIND, .errno = errno_of(ret), .sk = sk, .named = sk};
	if (ret != 0) {
		a.address = address;
		a.length = length;
		a.user = true;
	}
	return record(TRACEPOINT, &a);
}

TRACED(bind)
{
	return bind_exit(arg(0), arg(1), arg(2), ret);
}

// include/uapi/linux/net.h
enum {
	SYS_SOCKET = 1, SYS_BIND = 2, SYS_CONNECT = 3, SYS_LISTEN = 4, SYS_ACCEPT = 5, SYS_SENDTO = 11, SYS_SENDMSG = 16,
	SYS_ACCEPT4 = 18, SYS_SENDMMSG = 20,
};

// socketcall is how 32-bit programs call all of these. The arguments are in the caller's memory: those that nothing
// confirms are flagged.
TRACED(socketcall)
{
	u32 args[6] = {};
	u64 from = arg(1);
	if (bpf_probe_read_user(args, 2 * sizeof(u32), (void *)from) != 0)
		return 0;
	bpf_probe_read_user(&args[2], sizeof(u32), (void *)from + 2 * sizeof(u32)); // of listen(2) it is none
	switch ((u32)arg(0)) {
	case SYS_SOCKET:
		return socket_made(TRACEPOINT, args[0], args[1], args[2], made(ret), ret, true);
	case SYS_ACCEPT:
	case SYS_ACCEPT4:
		return accepted(TRACEPOINT, sock_of(args[0]), made(ret), ret);
	case SYS_LISTEN:
		return listened(TRACEPOINT, sock_of(args[0]), args[1], ret, true);
	case SYS_CONNECT:
		return connect_exit(args[0], args[1], args[2], ret);
	case SYS_BIND:
		return bind_exit(args[0], args[1], args[2], ret);
	case SYS_SENDTO:
		bpf_probe_read_user(&args[4], 2 * sizeof(u32), (void *)from + 4 * sizeof(u32));
		return sendto_exit(args[0], args[4], args[5], ret);
	case SYS_SENDMSG:
	case SYS_SENDMMSG:
		send_exit(args[0], ret);
	}
	return 0;
}
