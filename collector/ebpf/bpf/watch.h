// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Which opens are recorded.
#pragma once

#include "path.h"

#define O_ACCMODE 3
#define O_WRONLY 1
#define O_CREAT 0100
#define O_TRUNC 01000
#define O_TMPFILE_BIT 020000000
#define O_PATH 010000000
#define O_NONBLOCK 04000
#define O_CLOEXEC 02000000
#define FMODE_EXEC 0x20 // include/linux/fs.h: among the flags when a program is opened to be run
#ifdef __TARGET_ARCH_x86
#define O_LARGEFILE 0100000
#else
#define O_LARGEFILE 0400000
#endif

// Flags that say nothing of the file: do_filp_open is not told of the second one.
#define NOT_OF_THE_FILE (O_LARGEFILE | O_CLOEXEC)

// writes tells flags that may change a file or make one.
static __always_inline bool writes(u32 flags)
{
	return !(flags & O_PATH) && ((flags & O_ACCMODE) || (flags & (O_CREAT | O_TRUNC | O_TMPFILE_BIT)));
}

// boring tells the character devices null, zero and full: opened for writing all the time, and to no effect.
static __always_inline bool boring(struct inode *inode)
{
	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFCHR)
		return false;
	u32 device = BPF_CORE_READ(inode, i_rdev), minor = device & 0xfffff;
	return device >> 20 == 1 && (minor == 3 || minor == 5 || minor == 7);
}

// looked_at tells whether an open with such flags may be one to record. One for reading is decided by its path.
static __always_inline bool looked_at(u32 flags)
{
	if (flags & (O_PATH | FMODE_EXEC))
		return false;
	struct settings *set = get_settings();
	return writes(flags) || (set && (set->open_all || set->watched));
}

// watched_text tells whether a text, which must be the one appended last, begins with a watched prefix.
static __noinline int watched_text(struct scratch *s, struct text *text)
{
	if (!s || !text)
		return 0;
	struct settings *set = get_settings();
	if (!set || set->open_all)
		return 1;
	struct watched_key *key = (void *)s->key;
	u32 at = 0;
	if (!(text->flags & TEXT_PATH)) {
		u32 from = s->used - text->len;
		barrier_var(from);
		if (from >= SCRATCH_MAX)
			return 0;
		at = text->len;
		if (at > WATCHED_MAX)
			at = WATCHED_MAX;
		bpf_probe_read_kernel(key->path, WATCHED_MAX, s->bytes + from);
	} else {
		for (u32 i = 1; i <= COMPONENTS_KEPT && i <= s->components && at < WATCHED_MAX; i++) {
			u32 from = s->begins[(s->components - i) % COMPONENTS_KEPT];
			barrier_var(from);
			if (from >= SCRATCH_MAX)
				return 0;
			key->path[at & WATCHED_MAX] = '/';
			at = (at + 1) & WATCHED_MAX;
			long n = bpf_probe_read_kernel_str(&key->path[at], WATCHED_MAX, s->bytes + from);
			if (n <= 0)
				return 0;
			at += n - 1;
			barrier_var(at);
			if (at > WATCHED_MAX)
				at = WATCHED_MAX;
		}
	}
	key->bits = at * 8;
	return bpf_map_lookup_elem(&watched, key) != 0;
}
