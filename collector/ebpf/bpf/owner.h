// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Who uses a socket for DNS. A packet may be seen in an interrupt, where no process is current; so a process is
// remembered by socket when it connects or sends to port 53.
#pragma once

#include "common.h"

#define PASS 1
#define DNS_PORT 53
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
