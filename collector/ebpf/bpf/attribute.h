// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// file.chmod and file.chown. chmod_common and chown_common are what all of their system calls end in; that there is a
// security_path_chown with user and group as structs keeps fentry from it on kernels that are in use.
#pragma once

#include "change.h"

#define S_IALLUGO 07777

static __always_inline int attribute(enum rung rung, struct change *c, const struct path *path)
{
	struct dentry *dentry = BPF_CORE_READ(path, dentry);
	place(&c->path, path, dentry);
	c->inode = BPF_CORE_READ(dentry, d_inode);
	return hold(rung, c);
}

// attributed records a change at the exit of its system call: of the file that a descriptor stands for, or of a name.
static __always_inline int of_descriptor(enum rung rung, struct change *c)
{
	by_descriptor(c, &c->path, argument(0));
	return ended(rung, c);
}

static __noinline int of_name(enum rung rung, struct change *c, s32 at, u64 name, u32 flags)
{
	if (!c)
		return 0;
	c->path.at = at;
	c->path.user = name;
	if (flags & AT_EMPTY_PATH && empty(name)) {
		by_descriptor(c, &c->path, at);
		c->path.doubtful = true;
	}
	return ended(rung, c);
}

PROBE(chmod_common, const struct path *path, unsigned int mode)
{
	struct change c = {.kind = FILE_CHMOD, .mode = mode & S_IALLUGO};
	return attribute(rung, &c, path);
}

SYSCALL(chmod)
{
	struct change c = {.kind = FILE_CHMOD, .errno = errno_of(ret), .mode = argument(1) & S_IALLUGO};
	return of_name(rung, &c, AT_FDCWD, argument(0), 0);
}

SYSCALL(fchmod)
{
	struct change c = {.kind = FILE_CHMOD, .errno = errno_of(ret), .mode = argument(1) & S_IALLUGO};
	return of_descriptor(rung, &c);
}

SYSCALL(fchmodat)
{
	struct change c = {.kind = FILE_CHMOD, .errno = errno_of(ret), .mode = argument(2) & S_IALLUGO};
	return of_name(rung, &c, argument(0), argument(1), 0);
}

SYSCALL(fchmodat2)
{
	struct change c = {.kind = FILE_CHMOD, .errno = errno_of(ret), .mode = argument(2) & S_IALLUGO};
	return of_name(rung, &c, argument(0), argument(1), argument(3));
}

PROBE(chown_common, const struct path *path, unsigned int uid, unsigned int gid)
{
	struct change c = {.kind = FILE_CHOWN, .uid = uid, .gid = gid};
	return attribute(rung, &c, path);
}

// wide gives an id of 16 bits its 32: -1 stays -1.
static __always_inline u32 wide(u64 id)
{
	return (u16)id == (u16)-1 ? -1 : (u16)id;
}

SYSCALL(chown)
{
	struct change c = {.kind = FILE_CHOWN, .errno = errno_of(ret), .uid = argument(1), .gid = argument(2)};
	return of_name(rung, &c, AT_FDCWD, argument(0), 0);
}

SYSCALL(lchown)
{
	struct change c = {.kind = FILE_CHOWN, .errno = errno_of(ret), .uid = argument(1), .gid = argument(2)};
	return of_name(rung, &c, AT_FDCWD, argument(0), 0);
}

SYSCALL(fchown)
{
	struct change c = {.kind = FILE_CHOWN, .errno = errno_of(ret), .uid = argument(1), .gid = argument(2)};
	return of_descriptor(rung, &c);
}

SYSCALL(fchownat)
{
	struct change c = {.kind = FILE_CHOWN, .errno = errno_of(ret), .uid = argument(2), .gid = argument(3)};
	return of_name(rung, &c, argument(0), argument(1), argument(4));
}

// Those with ids of 16 bits, which 32-bit callers on amd64 have. Not every kernel's types have their functions: where
// functions are probed they are seen at the end of what they call.
#define NR_lchown16 16 // arch/x86/entry/syscalls/syscall_32.tbl
#define NR_fchown16 95
#define NR_chown16 182

static __noinline int chowned16(enum rung rung, int ret, bool descriptor)
{
	struct change c = {.kind = FILE_CHOWN, .errno = errno_of(ret), .uid = wide(argument(1)), .gid = wide(argument(2))};
	return descriptor ? of_descriptor(rung, &c) : of_name(rung, &c, AT_FDCWD, argument(0), 0);
}

EXIT(chown16_end, 5)
{
	bool old = compat() && (call_number() == NR_chown16 || call_number() == NR_lchown16);
	return old ? chowned16(rung, ret, false) : 0;
}

EXIT(fchown16_end, 3)
{
	return compat() && call_number() == NR_fchown16 ? chowned16(rung, ret, true) : 0;
}

TRACED(chown16)
{
	return chowned16(TRACEPOINT, ret, false);
}

TRACED(lchown16)
{
	return chowned16(TRACEPOINT, ret, false);
}

TRACED(fchown16)
{
	return chowned16(TRACEPOINT, ret, true);
}
