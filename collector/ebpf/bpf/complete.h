// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Completions of io_uring's requests.
#pragma once

#include "uring.h"
#include "watch.h"

#define FILE_PTR_MASK (~7ul) // io_uring/rsrc.h, filetable.h: the lowest bits of file_ptr are flags
#define ALLOC_SLOT ~0u       // IORING_FILE_INDEX_ALLOC

// opened_file gives the file that an open made, for a descriptor or for a slot of the ring's.
static __always_inline struct file *opened_file(struct io_kiocb *req, u32 slot, u32 result)
{
	if (!slot)
		return file_of(result);
	u64 at = slot == ALLOC_SLOT ? result : slot - 1;
	if (bpf_core_field_exists(struct io_rsrc_data, nodes)) {
		struct io_rsrc_node *node = 0;
		bpf_probe_read_kernel(&node, sizeof(node), BPF_CORE_READ(req, ctx, file_table.data.nodes) + at);
		return (void *)(BPF_CORE_READ(node, file_ptr) & FILE_PTR_MASK);
	}
	if (!bpf_core_field_exists(struct io_file_table___old, files))
		return 0;
	struct io_file_table___old *table = (void *)BPF_CORE_READ(req, ctx) +
					    bpf_core_field_offset(struct io_ring_ctx, file_table);
	struct io_fixed_file *files = BPF_CORE_READ(table, files);
	return (void *)(BPF_CORE_READ(files + at, file_ptr) & FILE_PTR_MASK);
}

// found puts the file that an open made in the place of the name it was asked for by. Since it was opened another
// thread may have put another file there. false when the open is not to be recorded.
static __always_inline bool found(struct scratch *s, struct io_kiocb *req, u32 result)
{
	struct file_record *r = (void *)s->bytes;
	struct task_struct *task = (void *)bpf_get_current_task();
	if (BPF_CORE_READ(task, tgid) != r->header.task.pid)
		return true;
	struct file *file = opened_file(req, r->mode, result);
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	if (!inode)
		return true;
	if (boring(inode))
		return false;
	s->used = sizeof(*r);
	fill_file(&r->file, inode);
	if (upper(inode))
		flag(s, FLAG_UPPER);
	append_file_path(s, &r->path, file);
	r->path.flags |= TEXT_UNVERIFIED;
	return true;
}

// completed hands on the record that waits for a request, if there is one.
static __noinline int completed(struct io_kiocb *req)
{
	u64 key = (u64)req;
	struct header *waits = bpf_map_lookup_elem(&uring_small, &key);
	if (!waits)
		waits = bpf_map_lookup_elem(&uring_large, &key);
	struct scratch *s = waits ? get_scratch(TRACEPOINT, 0) : 0;
	if (!s)
		return 0;
	u32 size = waits->size;
	barrier_var(size);
	if (size > PENDING_LARGE)
		size = PENDING_LARGE;
	bpf_probe_read_kernel(s->bytes, size, waits);
	s->used = size;
	if (bpf_map_delete_elem(&uring_small, &key) != 0 && bpf_map_delete_elem(&uring_large, &key) != 0)
		return 0; // user space was faster
	struct header *h = (void *)s->bytes;
	s32 result = BPF_CORE_READ(req, cqe.res);
	u64 kind = h->kind;
	barrier_var(kind);
	if (kind >= KIND_COUNT)
		return 0;
	h->result = errno_of(result);
	if (kind == FILE_OPEN && result >= 0 && !found(s, req, result))
		return 0;
	count(kind, attempted);
	struct file_record *r = (void *)s->bytes;
	if (kind == FILE_OPEN && !writes(r->open_flags) && !watched_text(s, &r->path)) {
		count(kind, filtered);
		return 0;
	}
	if (!throttled(kind, h->task.cgroup))
		finish_scratch(TRACEPOINT, s, kind);
	return 0;
}
