//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The fs.* kinds, module.load, bpf.load and iouring.setup.

#include "mount.h"
#include "module.h"
#include "load.h"
#include "iouring.h"

// The Go types are generated from these.
const enum mount_call *mount_call_type __attribute__((unused));
const enum module_call *module_call_type __attribute__((unused));
