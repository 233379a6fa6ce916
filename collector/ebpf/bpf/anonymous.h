// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Files that are no file's, but the kernel's objects behind a descriptor.
#pragma once

#include "common.h"

#define ANON_INODE_FS_MAGIC 0x09041934

// anonymous tells whether a file is of the kind that has a name, a constant: what it points to is of a type that only
// this tells. A file system of nobody's has these names.
#define anonymous(file, want) ({ \
	struct file *file_ = (file); \
	char name_[sizeof(want)] = {}; \
	if (file_ && BPF_CORE_READ(file_, f_inode, i_sb, s_magic) == ANON_INODE_FS_MAGIC) \
		bpf_probe_read_kernel(name_, sizeof(name_), BPF_CORE_READ(file_, f_path.dentry, d_name.name)); \
	__builtin_memcmp(name_, want, sizeof(want)) == 0; \
})
