// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// file.rename, file.link, file.symlink and file.unlink.
#pragma once

#include "request.h"

PROBE(rename_begin, int old_at, struct filename *old, int new_at, struct filename *new, unsigned int flags)
{
	struct change c = {.kind = FILE_RENAME, .rename_flags = flags};
	return named(&c.path, old) && named(&c.target, new) ? hold(rung, &c) : 0;
}

PROBE(path_rename, const struct path *old_dir, struct dentry *old, const struct path *new_dir, struct dentry *new,
      unsigned int flags)
{
	struct change c = {.kind = FILE_RENAME, .rename_flags = flags, .inode = BPF_CORE_READ(old, d_inode)};
	place(&c.path, old_dir, old);
	place(&c.target, new_dir, new);
	return hold(rung, &c);
}

EXIT(rename_end, 5)
{
	return worked(FILE_RENAME, ret);
}

static __noinline int renamed(enum rung rung, long ret, u32 args)
{
	struct change c = {.kind = FILE_RENAME, .errno = errno_of(ret)};
	c.path.at = c.target.at = AT_FDCWD;
	if (args == 2) {
		c.path.user = argument(0);
		c.target.user = argument(1);
		return ended(rung, &c);
	}
	c.path.at = argument(0);
	c.path.user = argument(1);
	c.target.at = argument(2);
	c.target.user = argument(3);
	if (args == 5)
		c.rename_flags = argument(4);
	return ended(rung, &c);
}

SYSCALL(rename)
{
	return renamed(rung, ret, 2);
}

SYSCALL(renameat)
{
	return renamed(rung, ret, 4);
}

SYSCALL(renameat2)
{
	return renamed(rung, ret, 5);
}

SEC("tp_btf/io_uring_submit_req")
int uring_renameat(unsigned long long *ctx)
{
	struct io_rename *op = (void *)ctx[0];
	struct change c = {.kind = FILE_RENAME, .rename_flags = BPF_CORE_READ(op, flags)};
	c.path.at = BPF_CORE_READ(op, old_dfd);
	c.target.at = BPF_CORE_READ(op, new_dfd);
	bool copied = named(&c.path, BPF_CORE_READ(op, oldpath)) && named(&c.target, BPF_CORE_READ(op, newpath));
	return copied ? requested(&c, (void *)op) : 0;
}

PROBE(link_begin, int old_at, struct filename *old, int new_at, struct filename *new)
{
	struct change c = {.kind = FILE_LINK};
	return named(&c.target, old) && named(&c.path, new) ? hold(rung, &c) : 0;
}

PROBE(path_link, struct dentry *old, const struct path *new_dir, struct dentry *new)
{
	struct change c = {.kind = FILE_LINK, .inode = BPF_CORE_READ(old, d_inode)};
	place(&c.target, new_dir, old); // a link is in the same mount
	place(&c.path, new_dir, new);
	return hold(rung, &c);
}

EXIT(link_end, 5)
{
	return worked(FILE_LINK, ret);
}

SYSCALL(link)
{
	struct change c = {.kind = FILE_LINK, .errno = errno_of(ret)};
	c.path.at = c.target.at = AT_FDCWD;
	c.target.user = argument(0);
	c.path.user = argument(1);
	return ended(rung, &c);
}

SYSCALL(linkat)
{
	struct change c = {.kind = FILE_LINK, .errno = errno_of(ret)};
	c.target.at = argument(0);
	c.target.user = argument(1);
	c.path.at = argument(2);
	c.path.user = argument(3);
	if (argument(4) & AT_EMPTY_PATH && empty(c.target.user)) {
		by_descriptor(&c, &c.target, c.target.at);
		c.target.doubtful = true;
	}
	return ended(rung, &c);
}

SEC("tp_btf/io_uring_submit_req")
int uring_linkat(unsigned long long *ctx)
{
	struct io_link *op = (void *)ctx[0];
	struct change c = {.kind = FILE_LINK};
	c.target.at = BPF_CORE_READ(op, old_dfd);
	c.path.at = BPF_CORE_READ(op, new_dfd);
	bool copied = named(&c.target, BPF_CORE_READ(op, oldpath)) && named(&c.path, BPF_CORE_READ(op, newpath));
	return copied ? requested(&c, (void *)op) : 0;
}

PROBE(symlink_begin, struct filename *target, int at, struct filename *link)
{
	struct change c = {.kind = FILE_SYMLINK};
	return named(&c.target, target) && named(&c.path, link) ? hold(rung, &c) : 0;
}

PROBE(path_symlink, const struct path *directory, struct dentry *link, const char *target)
{
	struct change c = {.kind = FILE_SYMLINK};
	place(&c.path, directory, link);
	c.target.kernel = target;
	return hold(rung, &c);
}

EXIT(symlink_end, 3)
{
	return worked(FILE_SYMLINK, ret);
}

SYSCALL(symlink)
{
	struct change c = {.kind = FILE_SYMLINK, .errno = errno_of(ret)};
	c.target.user = argument(0);
	c.path.at = AT_FDCWD;
	c.path.user = argument(1);
	return ended(rung, &c);
}

SYSCALL(symlinkat)
{
	struct change c = {.kind = FILE_SYMLINK, .errno = errno_of(ret)};
	c.target.user = argument(0);
	c.path.at = argument(1);
	c.path.user = argument(2);
	return ended(rung, &c);
}

SEC("tp_btf/io_uring_submit_req")
int uring_symlinkat(unsigned long long *ctx)
{
	struct io_link *op = (void *)ctx[0];
	struct change c = {.kind = FILE_SYMLINK};
	c.path.at = BPF_CORE_READ(op, new_dfd);
	bool copied = named(&c.target, BPF_CORE_READ(op, oldpath)) && named(&c.path, BPF_CORE_READ(op, newpath));
	return copied ? requested(&c, (void *)op) : 0;
}

static __always_inline int unlinking(enum rung rung, struct filename *name, bool directory)
{
	struct change c = {.kind = FILE_UNLINK, .directory = directory};
	return named(&c.path, name) ? hold(rung, &c) : 0;
}

static __always_inline int unlink_found(enum rung rung, const struct path *parent, struct dentry *dentry,
					bool directory)
{
	struct change c = {.kind = FILE_UNLINK, .directory = directory, .inode = BPF_CORE_READ(dentry, d_inode)};
	place(&c.path, parent, dentry);
	return hold(rung, &c);
}

PROBE(unlink_begin, int at, struct filename *name)
{
	return unlinking(rung, name, false);
}

PROBE(path_unlink, const struct path *directory, struct dentry *dentry)
{
	return unlink_found(rung, directory, dentry, false);
}

PROBE(rmdir_begin, int at, struct filename *name)
{
	return unlinking(rung, name, true);
}

PROBE(path_rmdir, const struct path *directory, struct dentry *dentry)
{
	return unlink_found(rung, directory, dentry, true);
}

EXIT(unlink_end, 2)
{
	return worked(FILE_UNLINK, ret);
}

static __noinline int unlink_ended(enum rung rung, long ret, u32 name, u32 flags)
{
	struct change c = {.kind = FILE_UNLINK, .errno = errno_of(ret), .directory = flags & AT_REMOVEDIR};
	c.path.at = name ? argument(0) : AT_FDCWD;
	c.path.user = argument(name);
	return ended(rung, &c);
}

SYSCALL(unlink)
{
	return unlink_ended(rung, ret, 0, 0);
}

SYSCALL(rmdir)
{
	return unlink_ended(rung, ret, 0, AT_REMOVEDIR);
}

SYSCALL(unlinkat)
{
	return unlink_ended(rung, ret, 1, argument(2));
}

SEC("tp_btf/io_uring_submit_req")
int uring_unlinkat(unsigned long long *ctx)
{
	struct io_unlink *op = (void *)ctx[0];
	struct change c = {.kind = FILE_UNLINK, .directory = BPF_CORE_READ(op, flags) & AT_REMOVEDIR};
	c.path.at = BPF_CORE_READ(op, dfd);
	return named(&c.path, BPF_CORE_READ(op, filename)) ? requested(&c, (void *)op) : 0;
}
