// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// memory.map: memory that is mapped to be run. Where kernel functions can be probed it is vm_mmap_pgoff, which all
// system calls end in and an exec's own mappings too. Else it is the system calls' exits: the file is that of the
// mapping that was made where the kernel can tell (Linux 5.17), or what the descriptor stands for by then.
#pragma once

#include "syscall.h"

#define PROT_EXEC 4
#define MAP_ANONYMOUS 0x20

// library is what is told once: a version of a file in a cgroup.
struct library {
	u64 cgroup;
	struct file_version version;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct library);
	__type(value, u8);
} libraries SEC(".maps");

// mapping is what is known of an attempt.
struct mapping {
	struct file *file;
	u64 address, length;
	u32 protection, flags, fd;
	s32 errno;
	u16 unverified;  // FLAG_UNVERIFIED
};

static __noinline int mapped(enum rung rung, struct mapping *m)
{
	struct task_struct *task = actor();
	if (!m || !wanted(MEMORY_MAP, task))
		return 0;
	struct file *file = m->flags & MAP_ANONYMOUS ? 0 : m->file;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	bool library = file && m->errno == 0;
	struct library key = {};
	if (library) {
		key.cgroup = cgroup_of(task);
		fill_version(&key.version, file);
		if (bpf_map_lookup_elem(&libraries, &key)) {
			count(MEMORY_MAP, attempted);
			count(MEMORY_MAP, filtered);
			return 0;
		}
	}
	struct scratch *s = get_scratch(rung, MEMORY_MAP);
	if (!s)
		return 0;
	struct memory_record *r = (void *)s->bytes;
	__builtin_memset(r, 0, sizeof(*r));
	s->used = sizeof(*r);
	if (!begin(&r->header, MEMORY_MAP, m->errno, task)) {
		put_scratch(rung, s);
		return 0;
	}
	r->header.flags = m->unverified;
	r->address = m->address;
	r->length = m->length;
	r->protection = m->protection;
	r->flags = m->flags;
	r->region = m->flags & MAP_ANONYMOUS ? REGION_ANONYMOUS : file ? REGION_FILE : REGION_UNKNOWN;
	if (file) {
		fill_file(&r->file, inode);
		r->version = key.version;
		if (upper(inode))
			flag(s, FLAG_UPPER);
		append_file_path(s, &r->path, file);
	}
	finish_scratch(rung, s, MEMORY_MAP);
	if (library) {
		u8 one = 1;
		bpf_map_update_elem(&libraries, &key, &one, BPF_ANY);
	}
	return 0;
}

static __always_inline bool mmap_wants(unsigned long long *args)
{
	return args[3] & PROT_EXEC;
}

CALL(mmap, MEMORY_MAP, 6)
{
	if (!mmap_wants(args))
		return 0;
	struct mapping m = {
		.file = (void *)args[0], .address = args[1], .length = args[2], .protection = args[3], .flags = args[4],
		.errno = errno_of(ret),
	};
	if (!m.errno)
		m.address = ret;
	return mapped(rung, &m);
}

// made records a mapping by what was made, or when that is not known by the descriptor. It is called by name too, as
// old kernels take no function that is only given to others.
static __noinline long made(struct task_struct *task, struct vm_area_struct *area, struct mapping *m)
{
	if (area) {
		// Of an overlay it is the file in a layer. What the descriptor stands for tells more, if it is that very file.
		struct file *file = BPF_CORE_READ(area, vm_file), *given = file_of(m->fd);
		bool same = given && real_inode(given) == BPF_CORE_READ(file, f_inode);
		m->file = same ? given : file;
	} else {
		m->file = file_of(m->fd);
		m->unverified = m->file ? FLAG_UNVERIFIED : 0;
	}
	mapped(TRACEPOINT, m);
	return 0;
}

static __noinline int traced_mapping(struct mapping *m)
{
	if (!m || !(m->protection & PROT_EXEC))
		return 0;
	if (m->flags & MAP_ANONYMOUS)
		return mapped(TRACEPOINT, m);
	if (m->errno == 0 && bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_find_vma) &&
	    bpf_find_vma(bpf_get_current_task_btf(), m->address, made, m, 0) == 0)
		return 0;
	return made(0, 0, m);
}

static __always_inline int traced_mmap_call(long ret)
{
	struct mapping m = {
		.address = arg(0), .length = arg(1), .protection = arg(2), .flags = arg(3), .fd = arg(4),
		.errno = errno_of(ret),
	};
	if (!m.errno)
		m.address = ret;
	return traced_mapping(&m);
}

TRACED(mmap)
{
	return traced_mmap_call(ret);
}

TRACED(mmap2)
{
	return traced_mmap_call(ret);
}
