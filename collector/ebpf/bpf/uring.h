// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// What io_uring does, on the tracepoint rung. A record is built when a request is submitted, with the kernel's copy of
// what the caller gave, waits by the request's address, and is handed on when the request is completed.
#pragma once

#include "syscall.h"

#define REQ_F_CQE_SKIP (1 << 6) // IOSQE_CQE_SKIP_SUCCESS: its completion is told of only when it failed

// uring_calls holds the handlers by opcode.
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 256);
	__type(key, u32);
	__type(value, u32);
} uring_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u64); // request
	__type(value, u8[PENDING_SMALL]);
} uring_small SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, u64); // request
	__type(value, u8[PENDING_LARGE]);
} uring_large SEC(".maps");

// under_way hands on a record whose request was used anew, and so was completed without being told of, as it is when
// the caller takes no completions.
static __always_inline void under_way(struct header *h, u32 max)
{
	if (!h)
		return;
	u64 kind = h->kind;
	u32 size = h->size;
	barrier_var(kind);
	barrier_var(size);
	if (kind >= KIND_COUNT || size > max)
		return;
	count(kind, attempted);
	h->result = EINPROGRESS;
	if (!throttled(kind, h->task.cgroup))
		finish(h, size, kind);
}

// submit has a record wait for the completion of its request. The result of one that will be told of only if it fails
// is that it is under way. Else the attempt is counted at the completion.
static __noinline int submit(struct scratch *s, struct io_kiocb *req)
{
	if (!s)
		return 0;
	struct header *h = (void *)s->bytes;
	u64 kind = h->kind, key = (u64)req;
	barrier_var(kind);
	if (kind >= KIND_COUNT)
		return 0;
	under_way(bpf_map_lookup_elem(&uring_small, &key), PENDING_SMALL);
	bpf_map_delete_elem(&uring_small, &key);
	under_way(bpf_map_lookup_elem(&uring_large, &key), PENDING_LARGE);
	bpf_map_delete_elem(&uring_large, &key);
	if (BPF_CORE_READ(req, flags) & REQ_F_CQE_SKIP) {
		count(kind, attempted);
		h->result = EINPROGRESS;
		if (!throttled(kind, h->task.cgroup))
			finish_scratch(TRACEPOINT, s, kind);
		return 0;
	}
	h->size = s->used;
	h->time = bpf_ktime_get_boot_ns(); // by which user space finds those that wait too long
	long failed = s->used <= PENDING_SMALL ? bpf_map_update_elem(&uring_small, &key, s->bytes, BPF_ANY)
					       : bpf_map_update_elem(&uring_large, &key, s->bytes, BPF_ANY);
	if (failed) {
		count(kind, attempted);
		count(kind, state_full);
	}
	return 0;
}
