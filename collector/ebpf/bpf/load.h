// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// bpf.load. What was loaded is told by the kernel's struct bpf_prog: that behind the descriptor, or, where kernel
// functions can be probed, as it was loaded, by a BPF program that loads others (BPF_PROG_TYPE_SYSCALL) too. What was
// not loaded is told by the kernel's copy of the request where that can be probed, else by the caller's memory.
#pragma once

#include "syscall.h"
#include "anonymous.h"

#define BPF_PROG_LOAD 5

// load_request is the beginning of union bpf_attr for BPF_PROG_LOAD: include/uapi/linux/bpf.h.
struct load_request {
	u32 type;
	u32 instructions;
	u64 unused[5];
	char name[16];
};

// requests tells whether the system call under way is one to load a program, and not one that has a program loaded by
// another one.
static __always_inline bool requests(void)
{
	return (u32)arg(0) == BPF_PROG_LOAD;
}

static __always_inline void fill_request(struct bpf_record *r, const struct load_request *request)
{
	r->type = request->type;
	r->instructions = request->instructions;
	r->id = 0;
	r->reserved = 0;
	__builtin_memcpy(r->name, request->name, sizeof(r->name));
}

static __always_inline void fill_program(struct bpf_record *r, struct bpf_prog *program)
{
	r->type = BPF_CORE_READ(program, type);
	r->instructions = BPF_CORE_READ(program, len);
	r->id = BPF_CORE_READ(program, aux, id);
	r->reserved = 0;
	BPF_CORE_READ_INTO(&r->name, program, aux, name);
}

PROBE(bpf_requested, int cmd, const struct load_request *attr)
{
	struct task_struct *task = actor();
	if (cmd != BPF_PROG_LOAD || !requests() || !wanted(BPF_LOAD, task))
		return 0;
	struct scratch *s = get_scratch(rung, BPF_LOAD);
	if (!s)
		return 0;
	struct bpf_record *r = (void *)s->bytes;
	s->used = sizeof(*r);
	if (!begin(&r->header, BPF_LOAD, 0, task)) {
		put_scratch(rung, s);
		return 0;
	}
	struct load_request request = {};
	bpf_probe_read_kernel(&request, sizeof(request), attr); // of its full size, the rest of which is zero
	fill_request(r, &request);
	keep(rung, s, pending_small, BPF_LOAD);
	return 0;
}

// bpf_loaded sees a program that was given its id; the functions of one have none of their own.
PROBE(bpf_loaded, struct bpf_prog *program)
{
	struct task_struct *task = actor();
	if (!BPF_CORE_READ(program, aux, id) || !wanted(BPF_LOAD, task))
		return 0;
	struct header *h = kept(pending_small, BPF_LOAD);
	if (h) {
		fill_program((void *)h, program);
		return 0;
	}
	struct bpf_record r;
	if (requests() || !begin(&r.header, BPF_LOAD, 0, task))
		return 0;
	fill_program(&r, program);
	finish(&r, sizeof(r), BPF_LOAD);
	return 0;
}

SYSCALL(bpf)
{
	if (!requests())
		return 0;
	struct header *h = kept(pending_small, BPF_LOAD);
	if (h) {
		complete(pending_small, h, PENDING_SMALL, errno_of(ret));
		return 0;
	}
	struct task_struct *task = actor();
	struct bpf_record r;
	if (!wanted(BPF_LOAD, task) || !begin(&r.header, BPF_LOAD, errno_of(ret), task))
		return 0;
	struct file *file = ret < 0 ? 0 : file_of(ret);
	if (anonymous(file, "bpf-prog")) {
		fill_program(&r, BPF_CORE_READ(file, private_data));
	} else {
		struct load_request request = {};
		u64 size = (u32)arg(2);
		if (size > sizeof(request))
			size = sizeof(request);
		barrier_var(size);
		if (size <= sizeof(request))
			bpf_probe_read_user(&request, size, (void *)arg(1));
		fill_request(&r, &request);
		r.header.flags = FLAG_UNVERIFIED;
	}
	finish(&r, sizeof(r), BPF_LOAD);
	return 0;
}
