// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Drafts: records begun inside of a system call of which only its exit tells whether there is to be one. They are not
// counted before.
#pragma once

#include "syscall.h"

// draft begins one: all of the record, of a size, is zero but for its kind and its task.
#define draft(s, what, bytes_) ({ \
	__builtin_memset((s)->bytes, 0, bytes_); \
	(s)->used = (bytes_); \
	struct header *h_ = (void *)(s)->bytes; \
	h_->kind = (what); \
	fill_task(&h_->task, (void *)bpf_get_current_task()); \
	(void *)h_; \
})

// stash has a draft wait in one of the pending maps, and gives the scratch back. It is 0 if there was room.
#define stash(rung, s, map) ({ \
	u64 thread_ = bpf_get_current_pid_tgid(); \
	((struct header *)(s)->bytes)->size = (s)->used; \
	long full_ = bpf_map_update_elem(&(map), &thread_, (s)->bytes, BPF_ANY); \
	put_scratch(rung, s); \
	full_; \
})

// discard drops what waits.
#define discard(map) do { \
	u64 thread_ = bpf_get_current_pid_tgid(); \
	bpf_map_delete_elem(&(map), &thread_); \
} while (0)

// settle makes a draft that kept has found a record, and hands it on.
#define settle(map, h, kind, max, errno) do { \
	count(kind, attempted); \
	if (throttled(kind, (h)->task.cgroup)) \
		discard(map); \
	else \
		complete(map, h, max, errno); \
} while (0)
