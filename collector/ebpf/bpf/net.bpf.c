//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The net.* kinds.

#include "syscall.h"
#include "owner.h"
