// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Changes of files, and opens, that io_uring is asked for, on the tracepoint rung.
#pragma once

#include "change.h"
#include "uring.h"

// requested records a change when its request is submitted. The directory that a name is relative to is of that
// moment, and nobody has looked the name up yet.
static __noinline int requested(struct change *c, struct io_kiocb *req)
{
	if (!c || !wanted(c->kind, actor()))
		return 0;
	struct scratch *s = get_scratch(TRACEPOINT, c->kind);
	if (!s)
		return 0;
	c->joined = true;
	build(s, c);
	return submit(s, req);
}
