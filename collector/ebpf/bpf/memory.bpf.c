//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The memory.* kinds.

#include "map.h"
#include "protect.h"
#include "target.h"

SYSCALL(process_vm_readv)
{
	return targeted(MEMORY_VM_READ, ret, arg(0), arg(5));
}

SYSCALL(process_vm_writev)
{
	return targeted(MEMORY_VM_WRITE, ret, arg(0), arg(5));
}

// The name is that of the file that was made; only when none was made it is the caller's.
SYSCALL(memfd_create)
{
	struct task_struct *task = actor();
	if (!wanted(MEMORY_MEMFD, task))
		return 0;
	struct scratch *s = get_scratch(rung, MEMORY_MEMFD);
	if (!s)
		return 0;
	struct memory_record *r = (void *)s->bytes;
	__builtin_memset(r, 0, sizeof(*r));
	s->used = sizeof(*r);
	if (!begin(&r->header, MEMORY_MEMFD, errno_of(ret), task)) {
		put_scratch(rung, s);
		return 0;
	}
	r->flags = arg(1);
	if (ret >= 0) {
		struct file *file = file_of(ret);
		fill_file(&r->file, BPF_CORE_READ(file, f_inode));
		append_string(s, &r->path, (void *)BPF_CORE_READ(file, f_path.dentry, d_name.name));
	} else {
		append_user(s, &r->path, arg(0));
	}
	finish_scratch(rung, s, MEMORY_MEMFD);
	return 0;
}

SYSCALL(userfaultfd)
{
	struct task_struct *task = actor();
	struct memory_record r = {};
	if (!wanted(MEMORY_USERFAULTFD, task) || !begin(&r.header, MEMORY_USERFAULTFD, errno_of(ret), task))
		return 0;
	r.flags = arg(0);
	finish(&r, sizeof(r), MEMORY_USERFAULTFD);
	return 0;
}
