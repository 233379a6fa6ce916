// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// memory.protect: mprotect and pkey_mprotect that make memory run. All that they are given are integers, told at their
// exits. What the memory is, is what the kernel asks its security modules about; on the tracepoint rung it is looked up
// at the exit, where the kernel can tell (Linux 5.17).
#pragma once

#include "draft.h"
#include "map.h"

#define VM_GROWSDOWN 0x100

// region_of tells what memory without a file is: a stack is what grows downwards, or what the thread's stack pointer is
// in; the heap is what brk made.
static __always_inline u32 region_of(struct vm_area_struct *area)
{
	u64 start = BPF_CORE_READ(area, vm_start), end = BPF_CORE_READ(area, vm_end);
	struct mm_struct *mm = BPF_CORE_READ(area, vm_mm);
	u64 stack = BPF_CORE_READ(mm, start_stack), pointer = BPF_CORE_READ(user_regs(), sp);
	if (BPF_CORE_READ(area, vm_flags) & VM_GROWSDOWN || (start <= stack && stack < end) ||
	    (start <= pointer && pointer < end))
		return REGION_STACK;
	if (start < BPF_CORE_READ(mm, brk) && end > BPF_CORE_READ(mm, start_brk))
		return REGION_HEAP;
	return REGION_ANONYMOUS;
}

static __noinline int describe(struct scratch *s, struct vm_area_struct *area)
{
	if (!s)
		return 0;
	struct memory_record *r = (void *)s->bytes;
	struct file *file = BPF_CORE_READ(area, vm_file);
	if (!file) {
		r->region = region_of(area);
		return 0;
	}
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	r->region = REGION_FILE;
	fill_file(&r->file, inode);
	if (upper(inode))
		flag(s, FLAG_UPPER);
	append_file_path(s, &r->path, file);
	return 0;
}

static __always_inline void fill_protection(struct memory_record *r)
{
	r->address = arg(0);
	r->length = arg(1);
	r->protection = arg(2);
}

// The kernel asks for each of the areas that are to be changed; it is told of the one that the address is in.
PROBE(file_mprotect, struct vm_area_struct *area, unsigned long asked)
{
	u64 address = arg(0);
	if (!(asked & PROT_EXEC) || address < BPF_CORE_READ(area, vm_start) || address >= BPF_CORE_READ(area, vm_end))
		return 0;
	struct scratch *s = get_scratch(rung, MEMORY_PROTECT);
	if (!s)
		return 0;
	fill_protection(draft(s, MEMORY_PROTECT, sizeof(struct memory_record)));
	describe(s, area);
	stash(rung, s, pending_large);
	return 0;
}

struct protection {
	struct vm_area_struct *area;
	enum rung rung;
	s32 errno;
};

static __noinline int record_protection(struct protection *p)
{
	struct task_struct *task = actor();
	if (!p || !wanted(MEMORY_PROTECT, task))
		return 0;
	struct scratch *s = get_scratch(p->rung, MEMORY_PROTECT);
	if (!s)
		return 0;
	struct memory_record *r = (void *)s->bytes;
	__builtin_memset(r, 0, sizeof(*r));
	s->used = sizeof(*r);
	if (!begin(&r->header, MEMORY_PROTECT, p->errno, task)) {
		put_scratch(p->rung, s);
		return 0;
	}
	fill_protection(r);
	if (p->area)
		describe(s, p->area);
	finish_scratch(p->rung, s, MEMORY_PROTECT);
	return 0;
}

// changed_area is called by name too: see made.
static __noinline long changed_area(struct task_struct *task, struct vm_area_struct *area, struct protection *p)
{
	p->area = area;
	record_protection(p);
	return 0;
}

static __noinline int protected(enum rung rung, long ret)
{
	struct header *h = kept(pending_large, MEMORY_PROTECT);
	if (h && (((struct memory_record *)h)->address != arg(0) || !wanted(MEMORY_PROTECT, actor()))) {
		discard(pending_large);
		h = 0;
	}
	if (h) {
		settle(pending_large, h, MEMORY_PROTECT, PENDING_LARGE, errno_of(ret));
		return 0;
	}
	if (!(arg(2) & PROT_EXEC))
		return 0;
	struct protection p = {.rung = rung, .errno = errno_of(ret)};
	if (rung == TRACEPOINT && bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_find_vma) &&
	    bpf_find_vma(bpf_get_current_task_btf(), arg(0), changed_area, &p, 0) == 0)
		return 0;
	return changed_area(0, 0, &p);
}

SYSCALL(mprotect)
{
	return protected(rung, ret);
}

SYSCALL(pkey_mprotect)
{
	return protected(rung, ret);
}
