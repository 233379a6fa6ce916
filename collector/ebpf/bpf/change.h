// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// What the kinds that change names and attributes of files share. Where kernel functions can be probed, a record is
// built when the call enters the kernel's work with its own copy of the names, built anew where the file has been
// found, and waits for the result. Else, and for what failed before that, it is built at the exit of the system call
// from what the caller gave.
//
// An attempt is counted when its result is known: a record that is built twice, or that waits for nothing, is none.
#pragma once

#include "syscall.h"

#define AT_FDCWD -100
#define AT_REMOVEDIR 0x200
#define AT_EMPTY_PATH 0x1000

// name is a file's place: found by the kernel, or as the caller gave it, in the kernel's memory or the caller's, and
// the descriptor of the directory it is looked up in.
struct name {
	struct vfsmount *mount;
	struct dentry *dentry;
	const char *kernel;
	u64 user;
	s32 at;
	bool doubtful; // the caller may have put another file in its place meanwhile
};

// change is what a record is built from.
struct change {
	u16 kind;
	bool directory;
	bool joined; // names that were not looked up get the directory that they are relative to
	s32 errno;
	u32 open_flags, rename_flags, mode, uid, gid;
	struct inode *inode;
	struct name path, target;
};

// argument is arg for one that is not a constant, and much smaller.
static __noinline u64 argument(u32 i)
{
	switch (i) {
	case 0: return arg(0);
	case 1: return arg(1);
	case 2: return arg(2);
	case 3: return arg(3);
	default: return arg(4);
	}
}

// directory_of has n be where its name, which must be the text appended last, is looked up from.
static __always_inline bool directory_of(struct scratch *s, struct text *text, struct name *n)
{
	u32 from = s->used - text->len;
	barrier_var(from);
	u8 *to = room(s);
	if (!to || from >= SCRATCH_MAX || !text->len)
		return false;
	struct task_struct *task = actor();
	const struct path *directory = 0;
	if (s->bytes[from] == '/')
		directory = (void *)BPF_CORE_READ(task, fs) + bpf_core_field_offset(struct fs_struct, root);
	else if (n->at == AT_FDCWD)
		directory = (void *)BPF_CORE_READ(task, fs) + bpf_core_field_offset(struct fs_struct, pwd);
	else
		directory = (void *)file_of(n->at) + bpf_core_field_offset(struct file, f_path);
	n->mount = BPF_CORE_READ(directory, mnt);
	n->dentry = BPF_CORE_READ(directory, dentry);
	*to = 0; // between the name and its directory
	s->used++;
	return true;
}

// append_name appends a name. There is one walk along a path in it, for the verifier of old kernels.
static __noinline int append_name(struct scratch *s, struct text *text, struct name *n, bool joined)
{
	if (!s || !text || !n)
		return 0;
	u16 len = 0, flags = n->doubtful ? TEXT_UNVERIFIED : 0;
	if (!n->dentry) {
		if (n->kernel)
			append_string(s, text, n->kernel);
		else if (n->user)
			append_user(s, text, n->user);
		else
			no_text(text);
		len = text->len + 1;
		flags = text->flags | TEXT_AT;
		if (!joined || !directory_of(s, text, n))
			return 0;
	}
	append_path(s, text, n->mount, n->dentry);
	text->len += len;
	text->flags = len ? flags | (text->flags & TEXT_CUT) : flags | text->flags;
	return 0;
}

// build makes a record, but for its result's count.
static __noinline int build(struct scratch *s, struct change *c)
{
	if (!s || !c)
		return 0;
	struct file_record *r = (void *)s->bytes;
	__builtin_memset(r, 0, sizeof(*r));
	s->used = sizeof(*r);
	r->header.kind = c->kind;
	r->header.result = c->errno;
	r->header.call = call_number();
	fill_task(&r->header.task, actor());
	r->open_flags = c->open_flags;
	r->rename_flags = c->rename_flags;
	r->mode = c->mode;
	r->uid = c->uid;
	r->gid = c->gid;
	r->directory = c->directory;
	if (c->inode) {
		fill_file(&r->file, c->inode);
		if (upper(c->inode))
			flag(s, FLAG_UPPER);
	}
	append_name(s, &r->path, &c->path, c->joined);
	append_name(s, &r->target, &c->target, c->joined && c->kind != FILE_SYMLINK); // what a link says is text
	return 0;
}

// hold has a record wait for its result. Without room for it, the exit builds another one.
static __noinline int hold(enum rung rung, struct change *c)
{
	struct task_struct *task = actor();
	if (!c || !on(c->kind, task) || ignores(c->kind, task))
		return 0;
	struct scratch *s = get_scratch(rung, c->kind);
	if (!s)
		return 0;
	build(s, c);
	u64 thread = bpf_get_current_pid_tgid();
	((struct header *)s->bytes)->size = s->used;
	bpf_map_update_elem(&pending_large, &thread, s->bytes, BPF_ANY);
	put_scratch(rung, s);
	return 0;
}

// release hands on a record that waited, with its result.
static __always_inline void release(struct header *h, s32 errno)
{
	u16 kind = h->kind;
	count(kind, attempted);
	if (!throttled(kind, h->task.cgroup)) {
		u32 size = h->size;
		barrier_var(size);
		if (size > PENDING_LARGE)
			size = PENDING_LARGE;
		h->result = errno;
		finish(h, size, kind);
	}
	u64 thread = bpf_get_current_pid_tgid();
	bpf_map_delete_elem(&pending_large, &thread);
}

// ended records a change at the exit of its system call: as it was held, or else as the caller gave it. What is held
// from another system call, in which the kernel changed files of its own, is dropped.
static __noinline int ended(enum rung rung, struct change *c)
{
	struct task_struct *task = actor();
	if (!c || !wanted(c->kind, task))
		return 0;
	struct header *h = rung == TRACEPOINT ? 0 : kept(pending_large, c->kind);
	if (h && h->call == call_number()) {
		release(h, c->errno);
		return 0;
	}
	struct scratch *s = get_scratch(rung, c->kind);
	if (!s)
		return 0;
	c->joined = c->errno == 0;
	build(s, c);
	count(c->kind, attempted);
	if (throttled(c->kind, ((struct header *)s->bytes)->task.cgroup))
		put_scratch(rung, s);
	else
		finish_scratch(rung, s, c->kind);
	return 0;
}

// worked records a change that a worker of io_uring made, which is in no system call.
static __always_inline int worked(u16 kind, int ret)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	if (!(BPF_CORE_READ(task, flags) & (PF_IO_WORKER | PF_KTHREAD)))
		return 0;
	struct header *h = kept(pending_large, kind);
	if (h)
		release(h, errno_of(ret));
	return 0;
}

// named tells whether the kernel has copied the names that a function was given. Before Linux 5.11 some functions did
// that themselves, and when it failed the pointer is an error.
static __always_inline bool named(struct name *n, struct filename *name)
{
	n->kernel = BPF_CORE_READ(name, name);
	return n->kernel;
}

// place is where the kernel found a name, or would make it.
static __always_inline void place(struct name *n, const struct path *directory, struct dentry *dentry)
{
	n->mount = BPF_CORE_READ(directory, mnt);
	n->dentry = dentry;
}

// by_descriptor has a change be of the file that a descriptor stands for. Another thread may have put another file
// there by the time the call ends.
static __always_inline void by_descriptor(struct change *c, struct name *n, u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct file *file = file_of(fd);
	if (!file)
		return;
	n->mount = BPF_CORE_READ(file, f_path.mnt);
	n->dentry = BPF_CORE_READ(file, f_path.dentry);
	n->doubtful = BPF_CORE_READ(task, files, count.counter) > 1;
	c->inode = BPF_CORE_READ(file, f_inode);
}

// empty tells whether a name in the caller's memory is the empty one.
static __always_inline bool empty(u64 user)
{
	char first = 0;
	return bpf_probe_read_user(&first, 1, (void *)user) != 0 || !first;
}
