//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The file.* kinds.

#include "syscall.h"
#include "open.h"
#include "name.h"
#include "attribute.h"
