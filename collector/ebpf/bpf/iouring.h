// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// iouring.setup. The kernel tells of a ring it made, with the flags as it took them. The flags of one it refused are in
// the caller's memory.
#pragma once

#include "syscall.h"

static __always_inline int ring_asked(s32 errno, u32 flags, u16 header_flags)
{
	struct task_struct *task = actor();
	struct iouring_record r;
	if (!wanted(IOURING_SETUP, task) || !begin(&r.header, IOURING_SETUP, errno, task))
		return 0;
	r.header.flags = header_flags;
	r.entries = arg(0);
	r.flags = flags;
	finish(&r, sizeof(r), IOURING_SETUP);
	return 0;
}

SEC("tp_btf/io_uring_create")
int ring_created(unsigned long long *ctx)
{
	return ring_asked(0, ctx[4], 0);
}

SYSCALL(io_uring_setup)
{
	u32 flags = 0;
	if (ret >= 0)
		return 0;
	bpf_probe_read_user(&flags, sizeof(flags), (void *)(arg(1) + 8)); // struct io_uring_params: include/uapi/linux/io_uring.h
	return ring_asked(errno_of(ret), flags, FLAG_UNVERIFIED);
}
