// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Execs that fail, told at the system calls' exits. Where kernel functions can be probed, what was to be run is what
// do_filp_open was given and has found; else, and when the kernel did not get that far, it is what the caller says.
#pragma once

#include "draft.h"

#define FMODE_EXEC 0x20 // include/linux/fs.h: among the flags when a program is opened to be run
#define AT_EMPTY_PATH 0x1000

// exec_open_wants tells the opening of what the caller named from that of an interpreter, whose name is the kernel's.
static __always_inline bool exec_open_wants(unsigned long long *args)
{
	struct filename *name = (void *)args[1];
	return BPF_CORE_READ((struct open_flags *)args[2], open_flag) & FMODE_EXEC && BPF_CORE_READ(name, uptr);
}

CALL(exec_open, PROCESS_EXEC, 3)
{
	if (!exec_open_wants(args))
		return 0;
	struct scratch *s = get_scratch(rung, PROCESS_EXEC);
	if (!s)
		return 0;
	struct file_record *r = draft(s, PROCESS_EXEC, sizeof(*r));
	r->header.call = call_number();
	if ((u64)ret >= (u64)-MAX_ERRNO) { // compared only: to the verifier it is a pointer
		struct filename *name = (void *)args[1];
		append_string(s, &r->path, BPF_CORE_READ(name, name));
	} else {
		struct file *file = (void *)ret;
		struct inode *inode = BPF_CORE_READ(file, f_inode);
		fill_file(&r->file, inode);
		if (upper(inode))
			flag(s, FLAG_UPPER);
		append_file_path(s, &r->path, file);
	}
	stash(rung, s, pending_large);
	return 0;
}

// refused_exec records an exec that failed without a draft. at is the descriptor whose file is meant by an empty name,
// or -1.
static __noinline int refused_exec(enum rung rung, s32 errno, u64 name, s32 at)
{
	struct task_struct *task = actor();
	if (!wanted(PROCESS_EXEC, task))
		return 0;
	struct scratch *s = get_scratch(rung, PROCESS_EXEC);
	if (!s)
		return 0;
	struct file_record *r = (void *)s->bytes;
	__builtin_memset(r, 0, sizeof(*r));
	s->used = sizeof(*r);
	if (!begin(&r->header, PROCESS_EXEC, errno, task)) {
		put_scratch(rung, s);
		return 0;
	}
	append_user(s, &r->path, name);
	struct file *file = at >= 0 && r->path.len == 0 ? file_of(at) : 0;
	if (file) { // which the descriptor stood for a moment ago, unless the caller has changed that
		append_file_path(s, &r->path, file);
		r->path.flags |= TEXT_UNVERIFIED;
	}
	finish_scratch(rung, s, PROCESS_EXEC);
	return 0;
}

static __noinline int exec_ended(enum rung rung, long ret, u64 name, s32 at)
{
	s32 errno = errno_of(ret);
	struct header *h = kept(pending_large, PROCESS_EXEC);
	if (h && (!errno || h->call != call_number() || !wanted(PROCESS_EXEC, actor()))) {
		discard(pending_large);
		h = 0;
	}
	if (h)
		settle(pending_large, h, PROCESS_EXEC, PENDING_LARGE, errno);
	else if (errno)
		refused_exec(rung, errno, name, at);
	return 0;
}

SYSCALL(execve)
{
	return exec_ended(rung, ret, arg(0), -1);
}

SYSCALL(execveat)
{
	return exec_ended(rung, ret, arg(1), arg(4) & AT_EMPTY_PATH ? (s32)arg(0) : -1);
}
