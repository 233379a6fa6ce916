// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// fs.mount and fs.umount. Where kernel functions can be probed, mount(2), move_mount(2) and umount2(2) are observed
// at the security hooks, which are given the kernel's copies of the names and the places they led to. What the new calls
// return is a descriptor, and the mount or the context behind it is the kernel's on every rung. What fails before the
// hooks, and mount(2) and umount2(2) on the tracepoint rung, is told by the names in the caller's memory: which mount
// was made cannot be found afterwards, as the newest one of the namespace may be another thread's.
#pragma once

#include "syscall.h"
#include "anonymous.h"

#define AT_EMPTY_PATH 0x1000
#define OPEN_TREE_CLONE 1
#define MOVE_MOUNT_F_EMPTY_PATH 0x4
#define MOVE_MOUNT_T_EMPTY_PATH 0x40
#define FMODE_NEED_UNMOUNT 0x10000000 // include/linux/fs.h: of the files that fsmount and open_tree make
#define MS_REMOUNT 32
#define MS_REC 16384
#define AT_RECURSIVE 0x8000
#define TYPE_MAX 255

// naming is where a text comes from: a place, the kernel's memory, or else the caller's.
struct naming {
	struct vfsmount *mnt;
	struct dentry *dentry;
	const char *kernel;
	u64 user;
};

// mounting is what is known of a call.
struct mounting {
	u32 call;
	u32 flags;
	s32 errno;
	u16 header_flags;
	u16 waits; // for its result
	struct naming source, target, type;
};

// append_name appends what is no place. To look at each way to a path takes old kernels long when a program is loaded.
static __always_inline void append_name(struct scratch *s, struct text *text, struct naming *n)
{
	if (n->kernel)
		append_string(s, text, n->kernel);
	else if (n->user)
		append_user(s, text, n->user);
	else
		no_text(text);
}

static __always_inline void append_naming(struct scratch *s, struct text *text, struct naming *n)
{
	if (n->mnt)
		append_path(s, text, n->mnt, n->dentry);
	else
		append_name(s, text, n);
}

// mounted records a call, or has its record wait.
static __noinline int mounted(enum rung rung, struct mounting *m)
{
	if (!m)
		return 0;
	struct task_struct *task = actor();
	u16 kind = m->call == CALL_UMOUNT ? FS_UMOUNT : FS_MOUNT;
	if (!wanted(kind, task))
		return 0;
	struct scratch *s = get_scratch(rung, kind);
	if (!s)
		return 0;
	struct mount_record *r = (void *)s->bytes;
	s->used = sizeof(*r);
	if (!begin(&r->header, kind, m->errno, task)) {
		put_scratch(rung, s);
		return 0;
	}
	r->header.call = m->call;
	r->header.flags = m->header_flags;
	r->flags = m->flags;
	r->reserved = 0;
	append_naming(s, &r->source, &m->source);
	append_naming(s, &r->target, &m->target);
	append_name(s, &r->type, &m->type);
	if (r->type.len > TYPE_MAX) { // no file system's name is that long; a waiting record must be of bounded length
		s->used -= r->type.len - TYPE_MAX;
		r->type.len = TYPE_MAX;
		r->type.flags |= TEXT_CUT;
	}
	if (m->waits)
		keep(rung, s, pending_large, kind);
	else
		finish_scratch(rung, s, kind);
	return 0;
}

// completed hands on the record that waits, if there is one.
static __always_inline bool completed(u16 kind, long ret)
{
	struct header *h = kept(pending_large, kind);
	if (!h)
		return false;
	complete(pending_large, h, PENDING_LARGE, errno_of(ret));
	return true;
}

// of_mount takes source and type from a mount.
static __always_inline void of_mount(struct mounting *m, struct vfsmount *vfs)
{
	struct mount *mnt = (void *)vfs - bpf_core_field_offset(struct mount, mnt);
	m->source.kernel = BPF_CORE_READ(mnt, mnt_devname);
	m->type.kernel = BPF_CORE_READ(vfs, mnt_sb, s_type, name);
}

// of_context takes source and type from the context that fsopen made.
static __always_inline bool of_context(struct mounting *m, struct file *file)
{
	if (!anonymous(file, "[fscontext]"))
		return false;
	struct fs_context *context = BPF_CORE_READ(file, private_data);
	m->source.kernel = BPF_CORE_READ(context, source);
	m->type.kernel = BPF_CORE_READ(context, fs_type, name);
	return true;
}

static __always_inline void at_path(struct naming *n, const struct path *path)
{
	n->mnt = BPF_CORE_READ(path, mnt);
	n->dentry = BPF_CORE_READ(path, dentry);
}

// at_name is a name that the caller gave, or the descriptor's file when that is empty and may be.
static __always_inline void at_name(struct mounting *m, struct naming *n, u32 fd, u64 name, bool empty)
{
	u8 first = 0;
	n->user = name;
	if (!empty || (bpf_probe_read_user(&first, 1, (void *)name), first))
		return;
	struct file *file = file_of(fd);
	if (!file)
		return;
	m->header_flags = FLAG_UNVERIFIED; // it may be another one by now
	at_path(n, &file->f_path);
}

// attributes turns those of a mount into the flags of mount(2). The first four are the same.
static __always_inline u32 attributes(u64 attr)
{
	u32 flags = attr & 0xf;
	if ((attr & 0x70) == 0x10)
		flags |= 1 << 10; // MS_NOATIME
	if ((attr & 0x70) == 0x20)
		flags |= 1 << 24; // MS_STRICTATIME
	if (attr & 0x80)
		flags |= 1 << 11; // MS_NODIRATIME
	if (attr & 0x200000)
		flags |= 1 << 8; // MS_NOSYMFOLLOW
	return flags;
}

PROBE(sb_mount, const char *source, const struct path *path, const char *type, unsigned long flags)
{
	struct mounting m = {.call = CALL_MOUNT, .flags = flags, .waits = 1};
	m.source.kernel = source;
	m.type.kernel = type;
	at_path(&m.target, path);
	return mounted(rung, &m);
}

SYSCALL(mount)
{
	if (completed(FS_MOUNT, ret))
		return 0;
	struct mounting m = {.call = CALL_MOUNT, .flags = arg(3), .errno = errno_of(ret)};
	if (m.flags >> 16 == 0xc0ed) // a magic number that the kernel drops too
		m.flags &= 0xffff;
	m.source.user = arg(0);
	m.target.user = arg(1);
	m.type.user = arg(2);
	return mounted(rung, &m);
}

SYSCALL(fsopen)
{
	struct mounting m = {.call = CALL_FSOPEN, .errno = errno_of(ret)};
	if (m.errno || !of_context(&m, file_of(ret)))
		m.type.user = arg(0);
	return mounted(rung, &m);
}

SYSCALL(fsmount)
{
	struct mounting m = {.call = CALL_FSMOUNT, .errno = errno_of(ret), .flags = attributes(arg(2))};
	struct file *file = m.errno ? 0 : file_of(ret);
	if (file && BPF_CORE_READ(file, f_mode) & FMODE_NEED_UNMOUNT)
		of_mount(&m, BPF_CORE_READ(file, f_path.mnt));
	else if (of_context(&m, file_of(arg(0))))
		m.header_flags = FLAG_UNVERIFIED;
	return mounted(rung, &m);
}

static __noinline int tree_opened(enum rung rung, long ret)
{
	struct mounting m = {.call = CALL_OPEN_TREE, .errno = errno_of(ret)};
	u32 flags = arg(2);
	if (!(flags & OPEN_TREE_CLONE))
		return 0; // nothing is mounted, it is a way to open a file
	struct file *file = m.errno ? 0 : file_of(ret);
	if (file && BPF_CORE_READ(file, f_mode) & FMODE_NEED_UNMOUNT)
		m.type.kernel = BPF_CORE_READ(file, f_path.mnt, mnt_sb, s_type, name);
	at_name(&m, &m.source, arg(0), arg(1), flags & AT_EMPTY_PATH);
	return mounted(rung, &m);
}

SYSCALL(open_tree)
{
	return tree_opened(rung, ret);
}

SYSCALL(open_tree_attr)
{
	return tree_opened(rung, ret);
}

PROBE(sb_move, const struct path *from, const struct path *to)
{
	struct mounting m = {.call = CALL_MOVE_MOUNT, .waits = 1};
	of_mount(&m, BPF_CORE_READ(from, mnt));
	at_path(&m.target, to);
	return mounted(rung, &m);
}

SYSCALL(move_mount)
{
	if (completed(FS_MOUNT, ret))
		return 0;
	struct mounting m = {.call = CALL_MOVE_MOUNT, .errno = errno_of(ret)};
	u32 flags = arg(4);
	at_name(&m, &m.source, arg(0), arg(1), flags & MOVE_MOUNT_F_EMPTY_PATH);
	struct vfsmount *moved = m.source.mnt;
	if (moved) {
		m.source.mnt = 0;
		of_mount(&m, moved);
	}
	if (moved && !m.errno) { // it is where it was moved to
		m.target.mnt = moved;
		m.target.dentry = BPF_CORE_READ(moved, mnt_root);
	} else {
		at_name(&m, &m.target, arg(2), arg(3), flags & MOVE_MOUNT_T_EMPTY_PATH);
	}
	return mounted(rung, &m);
}

// mount_attr is what mount_setattr(2) is given: include/uapi/linux/mount.h.
struct mount_attr {
	u64 set, clear, propagation;
};

SYSCALL(mount_setattr)
{
	struct mount_attr attr = {};
	bpf_probe_read_user(&attr, sizeof(attr), (void *)arg(3));
	u32 flags = arg(2);
	struct mounting m = {
		.call = CALL_MOUNT_SETATTR, .errno = errno_of(ret), .header_flags = FLAG_UNVERIFIED,
		.flags = MS_REMOUNT | attributes(attr.set) | attr.propagation | (flags & AT_RECURSIVE ? MS_REC : 0),
	};
	at_name(&m, &m.target, arg(0), arg(1), flags & AT_EMPTY_PATH);
	return mounted(rung, &m);
}

PROBE(sb_umount, struct vfsmount *mnt, int flags)
{
	struct mounting m = {.call = CALL_UMOUNT, .flags = flags, .waits = 1};
	of_mount(&m, mnt);
	m.target.mnt = mnt;
	m.target.dentry = BPF_CORE_READ(mnt, mnt_root);
	return mounted(rung, &m);
}

static __noinline int unmounted(enum rung rung, long ret, u32 flags)
{
	if (completed(FS_UMOUNT, ret))
		return 0;
	struct mounting m = {.call = CALL_UMOUNT, .flags = flags, .errno = errno_of(ret)};
	m.target.user = arg(0);
	return mounted(rung, &m);
}

// This is umount2(2).
SYSCALL(umount)
{
	return unmounted(rung, ret, arg(1));
}

SYSCALL(oldumount)
{
	return unmounted(rung, ret, 0);
}
