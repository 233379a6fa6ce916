// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// file.open. Where kernel functions can be probed it is do_filp_open, which every way to open by name ends in, that of
// 32-bit callers and of io_uring too: it has the kernel's copy of the name and of the flags. Else it is the exits of
// the system calls: the file is taken from the descriptor that was made; only a failed open's name and flags are
// read from the caller.
#pragma once

#include "request.h"
#include "watch.h"

// opening is what is known of an open: the file, or when it failed its name, in the kernel's memory or the caller's.
struct opening {
	s32 errno;
	u32 flags;
	struct file *file;
	const char *kernel;
	u64 user;
};

// opened records an open.
static __noinline int opened(enum rung rung, struct opening *o)
{
	struct task_struct *task = actor();
	struct file *file = o->file;
	u32 flags = o->flags;
	if (!wanted(FILE_OPEN, task) || (file && boring(BPF_CORE_READ(file, f_inode))))
		return 0;
	struct scratch *s = get_scratch(rung, FILE_OPEN);
	if (!s)
		return 0;
	struct file_record *r = (void *)s->bytes;
	__builtin_memset(r, 0, sizeof(*r));
	s->used = sizeof(*r);
	head(&r->header, FILE_OPEN, o->errno);
	fill_task(&r->header.task, task);
	bool reads = !writes(flags);
	if (!reads && throttled(FILE_OPEN, r->header.task.cgroup)) {
		put_scratch(rung, s);
		return 0;
	}
	r->open_flags = flags & ~NOT_OF_THE_FILE;
	if (file) {
		struct inode *inode = BPF_CORE_READ(file, f_inode);
		fill_file(&r->file, inode);
		if (upper(inode))
			flag(s, FLAG_UPPER);
		append_file_path(s, &r->path, file);
	} else if (o->kernel) {
		append_string(s, &r->path, o->kernel);
	} else if (o->user) {
		append_user(s, &r->path, o->user);
	}
	if (reads && !watched_text(s, &r->path)) {
		count(FILE_OPEN, filtered);
		put_scratch(rung, s);
		return 0;
	}
	if (reads && throttled(FILE_OPEN, r->header.task.cgroup)) {
		put_scratch(rung, s);
		return 0;
	}
	finish_scratch(rung, s, FILE_OPEN);
	return 0;
}

static __always_inline bool filp_open_wants(unsigned long long *args)
{
	return looked_at(BPF_CORE_READ((struct open_flags *)args[2], open_flag));
}

// without_waiting tells whether an open is of io_uring's, which tries first without waiting, with a flag of its own; if
// that is not enough a worker does it all again.
static __always_inline bool without_waiting(u32 flags)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	return flags & O_NONBLOCK && (call_number() == NR_io_uring_enter || BPF_CORE_READ(task, flags) & PF_IO_WORKER);
}

CALL(filp_open, FILE_OPEN, 3)
{
	struct filename *name = (void *)args[1];
	u32 flags = BPF_CORE_READ((struct open_flags *)args[2], open_flag);
	if (!looked_at(flags))
		return 0;
	if (without_waiting(flags)) {
		if (ret == -EAGAIN)
			return 0;
		flags &= ~O_NONBLOCK;
	}
	struct opening o = {.errno = errno_of(ret), .flags = flags, .kernel = BPF_CORE_READ(name, name)};
	if (o.errno == 0)
		o.file = (void *)ret;
	return opened(rung, &o);
}

// by_result records an open by what it returned. The flags of openat2 are in the caller's memory, which may have
// changed: the file that was made knows better.
static __always_inline int by_result(long ret, u64 path, u32 flags)
{
	struct file *file = ret >= 0 ? file_of(ret) : 0;
	if (file && BPF_CORE_READ(file, f_mode) & FMODE_WRITE && !(flags & O_ACCMODE))
		flags |= BPF_CORE_READ(file, f_flags) & O_ACCMODE;
	struct opening o = {.errno = errno_of(ret), .flags = flags, .file = file, .user = path};
	return looked_at(flags) ? opened(TRACEPOINT, &o) : 0;
}

TRACED(open)
{
	return by_result(ret, arg(0), arg(1));
}

TRACED(creat)
{
	return by_result(ret, arg(0), O_CREAT | O_TRUNC | O_WRONLY);
}

TRACED(openat)
{
	return by_result(ret, arg(1), arg(2));
}

TRACED(openat2)
{
	u64 flags = 0;
	bpf_probe_read_user(&flags, sizeof(flags), (void *)arg(2));
	return by_result(ret, arg(1), flags);
}

// The file of a handle has no name that the caller gave.
SYSCALL(open_by_handle_at)
{
	u32 flags = arg(2);
	struct opening o = {.errno = errno_of(ret), .flags = flags, .file = ret >= 0 ? file_of(ret) : 0};
	return looked_at(flags) ? opened(rung, &o) : 0;
}

SEC("tp_btf/io_uring_submit_req")
int uring_openat(unsigned long long *ctx)
{
	struct io_open *op = (void *)ctx[0];
	struct change c = {.kind = FILE_OPEN, .open_flags = BPF_CORE_READ(op, how.flags)};
	c.open_flags &= ~NOT_OF_THE_FILE;
	c.mode = BPF_CORE_READ(op, file_slot); // until the file is found
	c.path.at = BPF_CORE_READ(op, dfd);
	return looked_at(c.open_flags) && named(&c.path, BPF_CORE_READ(op, filename)) ? requested(&c, (void *)op) : 0;
}
