// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// dns.query and dns.response: packets to and from port 53, of any socket on the host. A packet may be seen in an
// interrupt, where no process is current; so a process is remembered by socket when it connects or sends to port
// 53. All these programs let pass what they see.
#pragma once

#include "common.h"

#define PASS 1
#define DNS_PORT 53
#define DNS_HEADER 12
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64); // socket cookie
	__type(value, struct task);
} dns_owners SEC(".maps");

static __always_inline void own_dns_socket(struct bpf_sock_addr *ctx)
{
	if (bpf_ntohs(ctx->user_port) != DNS_PORT)
		return;
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct task task = {};
	fill_task(&task, (void *)bpf_get_current_task());
	bpf_map_update_elem(&dns_owners, &cookie, &task, BPF_ANY);
}

// connecting finds the connect that is under way, to put the kernel's copy of its address in place of the caller's.
static __always_inline struct syscall_state *connecting(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	u64 id = (u64)(u32)BPF_CORE_READ(task, tgid) << 32 | (u32)BPF_CORE_READ(task, pid);
	struct syscall_state *state = bpf_map_lookup_elem(&syscalls, &id);
	return state && state->kind == NET_CONNECT ? state : 0;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	own_dns_socket(ctx);
	struct syscall_state *state = connecting();
	if (!state)
		return PASS;
	*(u16 *)state->address = AF_INET;
	*(u16 *)(state->address + 2) = ctx->user_port;
	*(u32 *)(state->address + 4) = ctx->user_ip4;
	state->verified = 1;
	return PASS;
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	own_dns_socket(ctx);
	struct syscall_state *state = connecting();
	if (!state)
		return PASS;
	*(u16 *)state->address = AF_INET6;
	*(u16 *)(state->address + 2) = ctx->user_port;
	u32 *ip = (u32 *)(state->address + 8);
	ip[0] = ctx->user_ip6[0];
	ip[1] = ctx->user_ip6[1];
	ip[2] = ctx->user_ip6[2];
	ip[3] = ctx->user_ip6[3];
	state->verified = 1;
	return PASS;
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	own_dns_socket(ctx);
	return PASS;
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	own_dns_socket(ctx);
	return PASS;
}

// packet is what is read of a packet's headers.
struct packet {
	u8 ip[40];
	u8 transport[20];
};

// message finds what DNS sent in a packet: its offset, or 0. Over TCP it begins with the message's length prefix, and
// more messages may follow.
static __always_inline u32 message(struct __sk_buff *skb, struct dns_record *r, bool query)
{
	struct packet p = {};
	u32 at;
	if (bpf_skb_load_bytes(skb, 0, p.ip, 20) != 0)
		return 0;
	if (p.ip[0] >> 4 == 4) {
		if ((*(u16 *)(p.ip + 6) & bpf_htons(0x1fff)) != 0)
			return 0; // a later fragment
		r->family = AF_INET;
		r->protocol = p.ip[9];
		at = (p.ip[0] & 0xf) * 4;
	} else {
		if (bpf_skb_load_bytes(skb, 0, p.ip, 40) != 0)
			return 0;
		r->family = AF_INET6;
		r->protocol = p.ip[6];
		at = 40;
	}
	u32 need = r->protocol == IPPROTO_TCP ? 20 : 8;
	if (r->protocol != IPPROTO_TCP && r->protocol != IPPROTO_UDP)
		return 0;
	if (bpf_skb_load_bytes(skb, at, p.transport, 8) != 0)
		return 0;
	u16 source = bpf_ntohs(*(u16 *)p.transport), destination = bpf_ntohs(*(u16 *)(p.transport + 2));
	u16 remote = query ? destination : source;
	if (remote != DNS_PORT)
		return 0;
	r->remote_port = remote;
	r->local_port = query ? source : destination;
	if (r->family == AF_INET) {
		__builtin_memcpy(r->remote, p.ip + (query ? 16 : 12), 4);
		__builtin_memcpy(r->local, p.ip + (query ? 12 : 16), 4);
	} else {
		__builtin_memcpy(r->remote, p.ip + (query ? 24 : 8), 16);
		__builtin_memcpy(r->local, p.ip + (query ? 8 : 24), 16);
	}
	r->type = 2;
	if (need == 20) {
		r->type = 1;
		if (bpf_skb_load_bytes(skb, at, p.transport, 20) != 0)
			return 0;
		at += (p.transport[12] >> 4) * 4;
	} else {
		at += 8;
	}
	// A segment that does not begin with a message has none of the marks below: the rest of a long one, or an
	// acknowledgement.
	u8 head[DNS_HEADER];
	if (bpf_skb_load_bytes(skb, need == 20 ? at + 2 : at, head, sizeof(head)) != 0)
		return 0;
	bool response = head[2] & 0x80;
	u16 questions = (u16)head[4] << 8 | head[5];
	if (response == query || (need == 20 && questions != 1))
		return 0;
	return at;
}

// emit_dns reserves room for a payload of at most max bytes, a constant, and fills it.
static __always_inline void emit_dns(struct __sk_buff *skb, struct dns_record *r, u32 at, u32 len, const u32 max)
{
	struct dns_record *to = bpf_ringbuf_reserve(&ring, sizeof(*r) + max, 0);
	if (!to) {
		struct kind_counters *c = get_counters(r->header.kind);
		if (c)
			__sync_fetch_and_add(&c->ring_full, 1);
		return;
	}
	if (len > max) {
		len = max;
		r->header.flags |= FLAG_PAYLOAD_CUT;
	}
	barrier_var(len);
	if (len > max || len == 0)
		len = 1;
	r->payload_len = len;
	__builtin_memcpy(to, r, sizeof(*r));
	if (bpf_skb_load_bytes(skb, at, (void *)(to + 1), len) != 0)
		to->payload_len = 0;
	bpf_ringbuf_submit(to, wakeup());
}

static __always_inline int dns(struct __sk_buff *skb, u16 kind)
{
	struct dns_record r = {};
	u32 at = message(skb, &r, kind == DNS_QUERY);
	if (at == 0)
		return PASS;
	u64 cookie = bpf_get_socket_cookie(skb);
	struct task *owner = bpf_map_lookup_elem(&dns_owners, &cookie);
	if (owner) {
		if (owner->pid == self_pid)
			return PASS;
		r.header.task = *owner;
	}
	begin(&r.header, kind, 0);
	u32 len = skb->len - at;
	// Few sizes, so that the ring buffer holds little more than the message.
	if (len <= 128)
		emit_dns(skb, &r, at, len, 128);
	else if (len <= 512)
		emit_dns(skb, &r, at, len, 512);
	else
		emit_dns(skb, &r, at, len, PAYLOAD_MAX);
	return PASS;
}

SEC("cgroup_skb/egress")
int dns_egress(struct __sk_buff *skb)
{
	return dns(skb, DNS_QUERY);
}

SEC("cgroup_skb/ingress")
int dns_ingress(struct __sk_buff *skb)
{
	return dns(skb, DNS_RESPONSE);
}
