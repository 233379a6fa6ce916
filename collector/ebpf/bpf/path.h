// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Paths by walking dentries and mounts: no helper that an older or patched kernel may refuse.
#pragma once

#include "common.h"

#define NAME_MAX 255
#define COMPONENTS_MAX 160

// append_path appends a path's components to the record, the last one first, and returns their length. The path is
// the one in the mount namespace the mount belongs to. Bit cut is flagged when the path has more components or bytes
// than there is room for.
static __noinline u32 append_path(struct scratch *s, struct path *path, u16 cut)
{
	if (!s || !path)
		return 0;
	struct vfsmount *vfs = BPF_CORE_READ(path, mnt);
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	struct mount *mnt = (void *)vfs - bpf_core_field_offset(struct mount, mnt);
	struct dentry *root = BPF_CORE_READ(vfs, mnt_root);
	u32 begin = s->used;

	for (int i = 0; i < COMPONENTS_MAX; i++) {
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
		if (dentry == root) {
			struct mount *up = BPF_CORE_READ(mnt, mnt_parent);
			if (up != mnt) {
				dentry = BPF_CORE_READ(mnt, mnt_mountpoint);
				mnt = up;
				root = BPF_CORE_READ(mnt, mnt.mnt_root);
				continue;
			}
			if (s->used != begin || parent == dentry)
				return s->used - begin;
			// A file that is a whole mount, with no place in a tree, as runc runs itself: show where its
			// file system has it.
			root = 0;
		}
		if (!root && parent == dentry)
			return s->used - begin;
		u8 *to = room(s);
		if (!to || s->used - begin > PATH_MAX - NAME_MAX)
			break;
		long n = bpf_probe_read_kernel_str(to, NAME_MAX + 1, BPF_CORE_READ(dentry, d_name.name));
		if (n <= 0)
			break;
		s->used += n;
		if (parent == dentry)
			return s->used - begin; // a file without a place in a tree, such as a memfd
		dentry = parent;
	}
	flag(s, cut);
	return s->used - begin;
}

static __always_inline bool unlinked(struct dentry *dentry)
{
	return BPF_CORE_READ(dentry, d_hash.pprev) == 0;
}
