//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// dns.query and dns.response: packets to and from port 53, of any socket on the host. These programs let pass what
// they see.

#include "owner.h"

#define DNS_HEADER 12

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
		r->socket.family = AF_INET;
		r->socket.protocol = p.ip[9];
		at = (p.ip[0] & 0xf) * 4;
	} else {
		if (bpf_skb_load_bytes(skb, 0, p.ip, 40) != 0)
			return 0;
		r->socket.family = AF_INET6;
		r->socket.protocol = p.ip[6];
		at = 40;
	}
	u32 need = r->socket.protocol == IPPROTO_TCP ? 20 : 8;
	if (r->socket.protocol != IPPROTO_TCP && r->socket.protocol != IPPROTO_UDP)
		return 0;
	if (bpf_skb_load_bytes(skb, at, p.transport, 8) != 0)
		return 0;
	u16 source = bpf_ntohs(*(u16 *)p.transport), destination = bpf_ntohs(*(u16 *)(p.transport + 2));
	u16 remote = query ? destination : source;
	if (remote != DNS_PORT)
		return 0;
	r->socket.remote_port = remote;
	r->socket.local_port = query ? source : destination;
	if (r->socket.family == AF_INET) {
		__builtin_memcpy(r->socket.remote, p.ip + (query ? 16 : 12), 4);
		__builtin_memcpy(r->socket.local, p.ip + (query ? 12 : 16), 4);
	} else {
		__builtin_memcpy(r->socket.remote, p.ip + (query ? 24 : 8), 16);
		__builtin_memcpy(r->socket.local, p.ip + (query ? 8 : 24), 16);
	}
	r->socket.type = 2;
	if (need == 20) {
		r->socket.type = 1;
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
	stamp(&r->header);
	if (!to) {
		count(r->header.kind, ring_full);
		return;
	}
	if (len > max) {
		len = max;
		r->header.flags |= FLAG_PAYLOAD_CUT;
	}
	r->payload_len = len;
	__builtin_memcpy(to, r, sizeof(*r));
	u64 last = (u64)len - 1; // so that the verifier knows both bounds
	barrier_var(last);
	if (last >= max || bpf_skb_load_bytes(skb, at, (void *)(to + 1), last + 1) != 0)
		to->payload_len = 0;
	bpf_ringbuf_submit(to, wakeup());
}

static __always_inline int dns(struct __sk_buff *skb, u16 kind)
{
	struct settings *set = get_settings();
	if (!set || !(set->kinds >> kind & 1))
		return PASS;
	struct dns_record r = {};
	u32 at = message(skb, &r, kind == DNS_QUERY);
	if (at == 0)
		return PASS;
	u64 cookie = bpf_get_socket_cookie(skb);
	struct task *owner = bpf_map_lookup_elem(&dns_owners, &cookie);
	if (owner && owner->pid == self_pid)
		return PASS;
	head(&r.header, kind, 0);
	if (owner)
		r.header.task = *owner;
	if (throttled(kind, r.header.task.cgroup))
		return PASS;
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
