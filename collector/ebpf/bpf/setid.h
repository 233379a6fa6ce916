// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// process.setid. What was asked for are integers, told at the system calls' exits. Who asked is remembered before:
// where kernel functions can be probed, when the kernel has made the new credentials and does not use them yet; else at
// the system calls' entries, but for 32-bit callers, who have none that are traced.
#pragma once

#include "draft.h"

// The calls, in the order of setidCalls in decode_process.go.
enum setid_call { SETUID, SETGID, SETREUID, SETREGID, SETRESUID, SETRESGID, SETFSUID, SETFSGID };

// Without room to remember it, who asked is told as who it is after the call.
static __always_inline int remember_ids(const enum rung rung)
{
	struct scratch *s = get_scratch(rung, PROCESS_SETID);
	if (!s)
		return 0;
	(void)draft(s, PROCESS_SETID, sizeof(struct header));
	(void)stash(rung, s, pending_small);
	return 0;
}

PROBE(fix_setid)
{
	return remember_ids(rung);
}

SEC("tracepoint")
int enter_setid(void *ctx)
{
	return remember_ids(TRACEPOINT);
}

// id widens what the first 32-bit system calls take: 16 bits, all of them set to leave the id as it is.
static __always_inline u32 id_of(u32 id)
{
#ifdef __TARGET_ARCH_x86
	if (compat() && call_number() <= 171)
		return (id & 0xffff) == 0xffff ? -1 : id & 0xffff;
#endif
	return id;
}

// setid_ended records a call that asked for n ids, of which the first is ids[first].
static __noinline int setid_ended(long ret, u32 call, u32 first, u32 n)
{
	struct task before = {};
	struct header *h = kept(pending_small, PROCESS_SETID);
	if (h) {
		before = h->task;
		discard(pending_small);
	}
	struct task_struct *task = actor();
	struct setid_record r = {};
	if (!wanted(PROCESS_SETID, task) || !begin(&r.header, PROCESS_SETID, errno_of(ret), task))
		return 0;
	r.header.call = call;
	if (h) {
		r.header.task.uid = before.uid;
		r.header.task.euid = before.euid;
		r.header.task.gid = before.gid;
		r.header.task.egid = before.egid;
	}
	u32 ids[] = {id_of(arg(0)), id_of(arg(1)), id_of(arg(2))};
	for (u32 i = 0; i < 3; i++) {
		if (i >= n)
			break;
		r.ids[first + i] = ids[i];
		r.known |= 1 << (first + i);
	}
	finish(&r, sizeof(r), PROCESS_SETID);
	return 0;
}

SYSCALL(setuid) { return setid_ended(ret, SETUID, ID_UID, 1); }
SYSCALL(setgid) { return setid_ended(ret, SETGID, ID_GID, 1); }
SYSCALL(setreuid) { return setid_ended(ret, SETREUID, ID_UID, 2); }
SYSCALL(setregid) { return setid_ended(ret, SETREGID, ID_GID, 2); }
SYSCALL(setresuid) { return setid_ended(ret, SETRESUID, ID_UID, 3); }
SYSCALL(setresgid) { return setid_ended(ret, SETRESGID, ID_GID, 3); }
SYSCALL(setfsuid) { return setid_ended(ret, SETFSUID, ID_FSUID, 1); }
SYSCALL(setfsgid) { return setid_ended(ret, SETFSGID, ID_FSGID, 1); }
