// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Texts: paths by walking dentries and mounts, with no helper that an older or patched kernel may refuse; strings of
// the kernel's; and strings of the caller's, which are marked so.
#pragma once

#include "common.h"

#define NAME_MAX 255
// How many components and mounts a path is followed through: as many as a path of PATH_MAX bytes can have, and before
// Linux 5.17, where the verifier looks at each round of a loop, fewer.
#define COMPONENTS_MAX 2048
#define COMPONENTS_OLD 64

// enter notes the file system that a walk is in.
static __always_inline void enter(struct scratch *s, struct mount *mnt)
{
	s->mount = (u64)mnt;
	s->root = (u64)BPF_CORE_READ(mnt, mnt.mnt_root);
}

// walk is what the steps of a walk work on.
struct walk {
	struct scratch *s;
};

// step goes from one component of a path to the one above it, and tells whether that was the last.
//
// Where the walk is, is kept in the scratch and not in registers, as is how far the record got: what comes from memory
// looks the same to the verifier in every round, so that it need not look at each way through each round.
static __noinline long step(u32 i, struct walk *w)
{
	struct scratch *s = w->s;
	struct dentry *at = (void *)s->dentry, *parent = BPF_CORE_READ(at, d_parent);
	if (s->dentry == s->root) {
		struct mount *mnt = (void *)s->mount, *up = BPF_CORE_READ(mnt, mnt_parent);
		if (up != mnt) {
			s->dentry = (u64)BPF_CORE_READ(mnt, mnt_mountpoint);
			enter(s, up);
			return 0;
		}
		if (s->components || parent == at)
			return 1;
		// A file that is a whole mount, with no place in a tree, as runc runs itself: show where its file system
		// has it.
		s->root = 0;
	}
	if (!s->root && parent == at)
		return 1;
	s->path.total += BPF_CORE_READ(at, d_name.len) + 1;
	u8 *to = room(s);
	if (!to || s->used - s->begin > PATH_MAX - NAME_MAX)
		s->path.flags |= TEXT_CUT;
	if (to && !(s->path.flags & TEXT_CUT)) {
		long n = bpf_probe_read_kernel_str(to, NAME_MAX + 1, BPF_CORE_READ(at, d_name.name));
		if (n > 0) {
			s->begins[s->components % COMPONENTS_KEPT] = s->used;
			s->used += n;
			s->path.len += n;
		}
	}
	s->components++;
	s->dentry = (u64)parent;
	return parent == at; // a file without a place in a tree, such as a memfd
}

// follow appends the path that the scratch of a slot is at. It is a global function, which the verifier looks at once,
// and not again at each call of it.
__noinline int follow(u32 slot)
{
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);
	if (!s)
		return 0;
	struct walk w = {s};
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_loop)) {
		if (bpf_loop(COMPONENTS_MAX, step, &w, 0) < COMPONENTS_MAX)
			return 0;
	} else {
		for (int i = 0; i < COMPONENTS_OLD; i++)
			if (step(i, &w))
				return 0;
	}
	s->path.flags |= TEXT_CUT;
	s->path.total = 0; // deeper than we go
	return 0;
}

// append_path appends a path, given as its mount and dentry, to the record. The path is the one in the mount namespace
// the mount belongs to.
static __always_inline void append_path(struct scratch *s, struct text *text, struct vfsmount *vfs,
					struct dentry *dentry)
{
	enter(s, (void *)vfs - bpf_core_field_offset(struct mount, mnt));
	s->dentry = (u64)dentry;
	s->components = 0;
	s->begin = s->used;
	s->path = (struct text){.flags = TEXT_PATH};
	follow(s->slot);
	*text = s->path;
}

static __always_inline void append_path_of(struct scratch *s, struct text *text, const struct path *path)
{
	append_path(s, text, BPF_CORE_READ(path, mnt), BPF_CORE_READ(path, dentry));
}

static __always_inline void append_file_path(struct scratch *s, struct text *text, struct file *file)
{
	append_path(s, text, BPF_CORE_READ(file, f_path.mnt), BPF_CORE_READ(file, f_path.dentry));
}

// append_string appends a string of the kernel's.
static __noinline int append_string(struct scratch *s, struct text *text, const char *from)
{
	if (!s || !text)
		return 0;
	text->flags = 0;
	text->len = 0;
	text->total = 0;
	u8 *to = room(s);
	long n = to && from ? bpf_probe_read_kernel_str(to, PATH_MAX, from) : 0;
	if (n <= 0 || n > PATH_MAX)
		return 0;
	text->len = text->total = n - 1;
	s->used += n - 1;
	if (n == PATH_MAX) {
		text->flags = TEXT_CUT;
		text->total = 0;
	}
	return 0;
}

// append_user appends a string of the caller's.
static __noinline int append_user(struct scratch *s, struct text *text, u64 from)
{
	if (!s || !text)
		return 0;
	text->flags = TEXT_UNVERIFIED;
	text->len = 0;
	text->total = 0;
	u8 *to = room(s);
	long n = to && from ? bpf_probe_read_user_str(to, PATH_MAX, (void *)from) : 0;
	if (n < 0 || n > PATH_MAX) {
		text->flags |= TEXT_CUT;
		return 0;
	}
	if (n == 0) // none, or an empty string on some kernels
		return 0;
	text->len = text->total = n - 1;
	s->used += n - 1;
	if (n == PATH_MAX) { // the kernel takes no longer one either
		text->flags |= TEXT_CUT;
		text->total = 0;
	}
	return 0;
}

static __always_inline void no_text(struct text *text)
{
	text->len = 0;
	text->flags = 0;
	text->total = 0;
}

static __always_inline bool unlinked(struct dentry *dentry)
{
	return BPF_CORE_READ(dentry, d_hash.pprev) == 0;
}

static __always_inline void fill_file(struct file_id *id, struct inode *inode)
{
	id->inode = BPF_CORE_READ(inode, i_ino);
	id->device = BPF_CORE_READ(inode, i_sb, s_dev);
	id->reserved = 0;
}

#define OVERLAYFS_SUPER_MAGIC 0x794c7630

static __always_inline bool overlaid(struct inode *inode)
{
	return BPF_CORE_READ(inode, i_sb, s_magic) == OVERLAYFS_SUPER_MAGIC;
}

// upper_dentry returns the file in the upper layer of an overlay's inode. struct ovl_inode, which may be a module's and
// so without relocations, has it behind its struct inode (fs/overlayfs/ovl_entry.h).
static __always_inline struct dentry *upper_dentry(struct inode *inode)
{
	struct dentry *dentry = 0;
	bpf_probe_read_kernel(&dentry, sizeof(dentry), (void *)inode + bpf_core_type_size(struct inode));
	return dentry;
}

// upper tells whether an inode of an overlay has a file in the upper layer.
static __always_inline bool upper(struct inode *inode)
{
	return overlaid(inode) && upper_dentry(inode);
}

// real_inode returns the inode that holds a file's bytes: of an overlay's file that in a layer, if it can be told.
static __always_inline struct inode *real_inode(struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	if (!overlaid(inode))
		return inode;
	struct dentry *dentry = upper_dentry(inode);
	if (dentry)
		return BPF_CORE_READ(dentry, d_inode);
	struct file *below = BPF_CORE_READ(file, private_data);
	if (overlay_file == LAYER_FILE_HELD)
		bpf_probe_read_kernel(&below, sizeof(below), below);
	struct inode *real = overlay_file == LAYER_FILE_UNKNOWN ? 0 : BPF_CORE_READ(below, f_inode);
	return real ? real : inode;
}

#define I_CTIME_QUERIED (1u << 31) // include/linux/fs.h: a bit that is no part of the time

static __always_inline u64 changed(struct inode *inode)
{
	if (bpf_core_field_exists(inode->i_ctime_sec)) {
		u64 ns = BPF_CORE_READ(inode, i_ctime_nsec) & ~I_CTIME_QUERIED;
		return BPF_CORE_READ(inode, i_ctime_sec) * 1000000000ull + ns;
	}
	if (bpf_core_field_exists(inode->__i_ctime))
		return BPF_CORE_READ(inode, __i_ctime.tv_sec) * 1000000000ull + BPF_CORE_READ(inode, __i_ctime.tv_nsec);
	return BPF_CORE_READ(inode, i_ctime.tv_sec) * 1000000000ull + BPF_CORE_READ(inode, i_ctime.tv_nsec);
}

static __always_inline void fill_version(struct file_version *version, struct file *file)
{
	struct inode *inode = real_inode(file);
	version->inode = BPF_CORE_READ(inode, i_ino);
	version->size = BPF_CORE_READ(inode, i_size);
	version->changed = changed(inode);
	version->device = BPF_CORE_READ(inode, i_sb, s_dev);
	version->reserved = 0;
}
