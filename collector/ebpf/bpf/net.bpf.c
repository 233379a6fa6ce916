//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The net.* kinds, process.dup, and whose sockets DNS uses.

#include "calls.h"
#include "dup.h"

// These remember who uses a socket for DNS. They let pass what they see.

SEC("cgroup/connect4")
int own_connect4(struct bpf_sock_addr *ctx)
{
	own_dns_socket(ctx);
	return PASS;
}

SEC("cgroup/connect6")
int own_connect6(struct bpf_sock_addr *ctx)
{
	own_dns_socket(ctx);
	return PASS;
}

SEC("cgroup/sendmsg4")
int own_sendmsg4(struct bpf_sock_addr *ctx)
{
	own_dns_socket(ctx);
	return PASS;
}

SEC("cgroup/sendmsg6")
int own_sendmsg6(struct bpf_sock_addr *ctx)
{
	own_dns_socket(ctx);
	return PASS;
}
