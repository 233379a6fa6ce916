// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The record of a net.* kind: at once, or kept until its result is known. An address is the kernel's copy or what the
// socket has; the caller's memory is read where there is neither, and then the record says so.
#pragma once

#include "socket.h"

// activity is what a handler knows of what was done to a socket.
struct activity {
	u16 kind;
	bool user;  // the address is in the caller's memory
	bool unverified;
	s32 errno;
	u32 length;                // of the address
	u32 backlog;
	struct sock *sk;           // NULL: not known
	struct sock *named;        // AF_UNIX: the socket whose address to tell
	struct socket_info *known; // told in place of what sk has
	u64 address;               // of a struct sockaddr; 0: what sk has
};

union address {
	u8 bytes[28];
	u16 family;
	struct {
		u16 family;
		u16 port;
		u32 ip;
	} v4;
	struct {
		u16 family;
		u16 port;
		u32 flow;
		u8 ip[16];
	} v6;
};

#define UNIX_ADDRESS 2 // where the name begins

// unreadable tells results that come before the kernel has the caller's address.
static __always_inline bool unreadable(long ret, u64 address, u32 length)
{
	return ret == -EFAULT || !address || length > SOCKADDR_MAX;
}

static __always_inline long read_from(const bool user, void *to, u32 n, u64 from)
{
	return user ? bpf_probe_read_user(to, n, (void *)from) : bpf_probe_read_kernel(to, n, (void *)from);
}

// read_address reads the beginning of an activity's address; false when the kernel could not either, or when it is of
// no kind that is told of.
static __always_inline bool read_address(union address *to, struct activity *a)
{
	u32 n = a->length;
	if (n > sizeof(*to))
		n = sizeof(*to);
	barrier_var(n);
	if (n < sizeof(u16) || n > sizeof(*to) || read_from(a->user, to, n, a->address) != 0)
		return false;
	// What bind(2) and sendto(2) take for AF_INET.
	if (to->family == AF_UNSPEC && a->kind != NET_CONNECT && family_of(a->sk) == AF_INET)
		to->family = AF_INET;
	if (to->family == AF_PACKET)
		return a->kind == NET_BIND;
	return to->family == AF_UNIX || to->family == AF_INET || to->family == AF_INET6;
}

// place puts an address on one side of a socket. The family is the socket's: a v4 address of a v6 socket is mapped.
// When the two do not match, the attempt has failed, and all there is to tell is the address.
static __always_inline void place(struct socket_info *i, union address *from, const bool local)
{
	u8 *ip = local ? i->local : i->remote;
	bool map = from->family == AF_INET && i->family == AF_INET6;
	if (from->family != i->family && !map) {
		i->family = from->family;
		__builtin_memset(i->remote, 0, sizeof(i->remote) + sizeof(i->local));
		i->remote_port = i->local_port = 0;
	}
	if (from->family != AF_INET && from->family != AF_INET6)
		return;
	u16 port = i->type == SOCK_RAW ? 0 : bpf_ntohs(from->v4.port);
	if (local)
		i->local_port = port;
	else
		i->remote_port = port;
	if (map)
		map_ipv4(ip, from->v4.ip);
	else if (from->family == AF_INET)
		__builtin_memcpy(ip, &from->v4.ip, 4);
	else
		__builtin_memcpy(ip, from->v6.ip, 16);
}

// append_name appends the name in an AF_UNIX address of a length.
static __always_inline void append_name(struct scratch *s, struct text *text, bool user, u64 address, u32 length)
{
	u8 *to = room(s);
	u32 n = length - UNIX_ADDRESS;
	if (!to || !address || length <= UNIX_ADDRESS)
		return;
	if (n > UNIX_PATH_MAX)
		n = UNIX_PATH_MAX;
	barrier_var(n);
	if (n > UNIX_PATH_MAX || read_from(user, to, n, address + UNIX_ADDRESS) != 0)
		return;
	text->len = text->total = n;
	s->used += n;
}

// append_name_of appends the address of an AF_UNIX socket, if it has one: it never changes.
static __always_inline void append_name_of(struct scratch *s, struct text *text, struct sock *sk)
{
	struct unix_address *address = BPF_CORE_READ((struct unix_sock *)sk, addr);
	if (address)
		append_name(s, text, false, (u64)address + bpf_core_field_offset(struct unix_address, name),
			    BPF_CORE_READ(address, len));
}

// recent holds when something was last recorded that is left out if it is done again soon.
struct recent_key {
	u64 start;
	u32 pid;
	s32 result;
	u16 kind, family, protocol, port;
	u8 address[UNIX_PATH_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct recent_key);
	__type(value, u64);
} recent SEC(".maps");

// repeated tells, and counts, whether a record, whose name begins at path, is to be left out.
static __noinline int repeated(struct net_record *r, const u8 *path, s32 errno)
{
	struct settings *set = get_settings();
	if (!r || !set || !set->connect_window)
		return 0;
	if (r->header.kind != NET_CONNECT && r->header.kind != NET_SEND)
		return 0;
	struct recent_key key = {
		.start = r->header.task.start, .pid = r->header.task.pid, .result = errno, .kind = r->header.kind,
		.family = r->socket.family, .protocol = r->socket.protocol, .port = r->socket.remote_port,
	};
	u32 n = r->path.len;
	if (r->socket.family != AF_UNIX)
		__builtin_memcpy(key.address, r->socket.remote, sizeof(r->socket.remote));
	else if (n <= UNIX_PATH_MAX)
		bpf_probe_read_kernel(key.address, n, path);
	u64 now = bpf_ktime_get_boot_ns(), *last = bpf_map_lookup_elem(&recent, &key);
	if (last && now - *last < set->connect_window) {
		count(r->header.kind, filtered);
		return 1;
	}
	bpf_map_update_elem(&recent, &key, &now, BPF_ANY);
	return 0;
}

// build makes the record of an activity; NULL when there is to be none.
static __noinline struct scratch *build(enum rung rung, struct activity *a)
{
	struct task_struct *task = actor();
	u16 kind = a->kind;
	union address address = {};
	if (!wanted(kind, task) || (a->address && !read_address(&address, a)))
		return 0;
	struct scratch *s = get_scratch(rung, kind);
	if (!s)
		return 0;
	struct net_record *r = (void *)s->bytes;
	s->used = sizeof(*r);
	if (!begin(&r->header, kind, a->errno, task)) {
		put_scratch(rung, s);
		return 0;
	}
	r->backlog = a->backlog;
	r->reserved = 0;
	no_text(&r->path);
	if (a->user || a->unverified)
		flag(s, FLAG_UNVERIFIED);
	struct socket_info *known = a->known;
	if (known)
		r->socket = *known;
	else
		fill_socket(&r->socket, a->sk);
	if (!a->address) {
		if (r->socket.family == AF_UNIX && a->named)
			append_name_of(s, &r->path, a->named);
		return s;
	}
	if (kind == NET_BIND)
		place(&r->socket, &address, true);
	else
		place(&r->socket, &address, false);
	if (address.family == AF_UNIX)
		append_name(s, &r->path, a->user, a->address, a->length);
	return s;
}

// record records an activity whose result is known.
static __noinline int record(enum rung rung, struct activity *a)
{
	struct scratch *s = build(rung, a);
	if (!s)
		return 0;
	if (repeated((void *)s->bytes, s->bytes + sizeof(struct net_record), a->errno))
		put_scratch(rung, s);
	else
		finish_scratch(rung, s, a->kind);
	return 0;
}

// await records an activity when settle tells its result.
static __noinline int await(enum rung rung, struct activity *a)
{
	struct scratch *s = build(rung, a);
	if (!s)
		return 0;
	((struct header *)s->bytes)->time = (u64)a->sk; // until it is stamped
	keep(rung, s, pending_small, a->kind);
	return 0;
}

// waiting gives the socket of this thread's waiting record of a kind.
static __always_inline struct sock *waiting(u16 kind)
{
	struct header *h = kept(pending_small, kind);
	return h ? (void *)h->time : 0;
}

// settle hands on this thread's waiting record of a kind. sk is the socket that the caller named, as far as that is
// known now: if it is still the same one, it knows its local side.
static __noinline int settle(u16 kind, struct sock *sk, long ret)
{
	struct net_record *r = (void *)kept(pending_small, kind);
	if (!r)
		return 0;
	s32 errno = errno_of(ret);
	if (sk && r->header.time == (u64)sk && (kind == NET_CONNECT || errno == 0))
		fill_local(&r->socket, sk);
	if (repeated(r, (u8 *)(r + 1), errno)) {
		u64 thread = bpf_get_current_pid_tgid();
		bpf_map_delete_elem(&pending_small, &thread);
		return 0;
	}
	complete(pending_small, &r->header, PENDING_SMALL, errno);
	return 0;
}
