//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

#include "process.h"
#include "syscall.h"
#include "dns.h"

// The Go types are generated from these.
const struct exec_record *exec_record_type __attribute__((unused));
const struct fork_record *fork_record_type __attribute__((unused));
const struct exit_record *exit_record_type __attribute__((unused));
const struct open_record *open_record_type __attribute__((unused));
const struct connect_record *connect_record_type __attribute__((unused));
const struct dns_record *dns_record_type __attribute__((unused));
const struct cgroup_record *cgroup_record_type __attribute__((unused));
const enum record_flag *record_flag_type __attribute__((unused));
const enum kind *kind_type __attribute__((unused));
