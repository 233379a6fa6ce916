// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Which files are looked at also when they are opened for reading.
#pragma once

#include "path.h"

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
