// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The kernel's copies of addresses for the tracepoint rung: cgroup hooks see them before the kernel uses them, and the
// exit of the system call finds them.
#pragma once

#include "activity.h"
#include "owner.h"

// What a cgroup hook records it does as the fentry rung: it can be preempted too.
#define HOOK FENTRY

// copy is an address that a thread gave, and the socket it gave it for.
struct copy {
	u64 sk;
	struct socket_info socket;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct call_key);
	__type(value, struct copy);
} copies SEC(".maps");

static __always_inline struct copy *copied(u16 kind)
{
	struct call_key key = {bpf_get_current_pid_tgid(), kind};
	return bpf_map_lookup_elem(&copies, &key);
}

static __always_inline void drop_copy(u16 kind)
{
	struct call_key key = {bpf_get_current_pid_tgid(), kind};
	bpf_map_delete_elem(&copies, &key);
}

// record_copy records what is known of a copy.
static __always_inline void record_copy(const enum rung rung, u16 kind, struct copy *copy, s32 errno)
{
	struct activity a = {.kind = kind, .errno = errno, .known = &copy->socket};
	record(rung, &a);
}

// connected tells whether a socket is connected to where something is sent.
static __always_inline bool connected(struct sock *sk, struct socket_info *to)
{
	struct socket_info i;
	if (BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_ESTABLISHED)
		return false;
	fill_socket(&i, sk);
	return i.remote_port == to->remote_port && __builtin_memcmp(i.remote, to->remote, sizeof(i.remote)) == 0;
}

// fast_open tells whether TCP connects in order to send what the caller gave with the address.
static __always_inline bool fast_open(struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP && BPF_CORE_READ((struct tcp_sock *)sk, fastopen_req);
}

// keep_copy keeps the address that a hook sees. Of what io_uring does, no system call's exit tells: it is recorded at
// once, as begun.
static __always_inline int keep_copy(struct bpf_sock_addr *ctx, u16 kind, const bool v6)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct call_key key = {(u64)BPF_CORE_READ(task, tgid) << 32 | (u32)BPF_CORE_READ(task, pid), kind};
	if (BPF_CORE_READ(task, tgid) == self_pid)
		return PASS;
	struct copy *copy = bpf_map_lookup_elem(&copies, &key);
	if (copy && kind == NET_SEND) // sendmmsg(2) goes on only after one that was sent
		record_copy(HOOK, kind, copy, 0);
	if (!copy) {
		static const struct copy none;
		bpf_map_update_elem(&copies, &key, &none, BPF_ANY);
		copy = bpf_map_lookup_elem(&copies, &key);
	}
	if (!copy)
		return PASS;
	copy->sk = ctx->sk;
	// From memory it is a number to the verifier, which then lets us read there.
	struct sock *sk = (void *)*(volatile u64 *)&copy->sk;
	struct socket_info *i = &copy->socket;
	fill_socket(i, sk);
	i->remote_port = bpf_ntohs(ctx->user_port);
	if (v6) {
		u32 ip[4] = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]};
		__builtin_memcpy(i->remote, ip, sizeof(ip));
	} else if (i->family == AF_INET6) {
		map_ipv4(i->remote, ctx->user_ip4);
	} else {
		u32 ip = ctx->user_ip4;
		__builtin_memcpy(i->remote, &ip, sizeof(ip));
	}
	if (kind == NET_CONNECT && fast_open(sk)) {
		struct call_key send = {key.thread, NET_SEND};
		bpf_map_update_elem(&copies, &send, copy, BPF_ANY);
		bpf_map_delete_elem(&copies, &key);
		copy = bpf_map_lookup_elem(&copies, &send);
		if (!copy)
			return PASS;
		key.kind = kind = NET_SEND;
	}
	bool again = kind == NET_SEND && connected(sk, i);
	if (!again && !by_iouring())
		return PASS;
	if (!again)
		record_copy(HOOK, kind, copy, EINPROGRESS);
	bpf_map_delete_elem(&copies, &key);
	return PASS;
}

SEC("cgroup/connect4")
int copy_connect4(struct bpf_sock_addr *ctx)
{
	return keep_copy(ctx, NET_CONNECT, false);
}

SEC("cgroup/connect6")
int copy_connect6(struct bpf_sock_addr *ctx)
{
	return keep_copy(ctx, NET_CONNECT, true);
}

SEC("cgroup/sendmsg4")
int copy_sendmsg4(struct bpf_sock_addr *ctx)
{
	return keep_copy(ctx, NET_SEND, false);
}

SEC("cgroup/sendmsg6")
int copy_sendmsg6(struct bpf_sock_addr *ctx)
{
	return keep_copy(ctx, NET_SEND, true);
}
