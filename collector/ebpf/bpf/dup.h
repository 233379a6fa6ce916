// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// process.dup: a socket becomes standard input, output or error, as a reverse shell has it.
#pragma once

#include "activity.h"

#define STDERR 2
#define F_DUPFD 0
#define F_DUPFD_CLOEXEC 1030

// header.call
enum dup_call { CALL_DUP, CALL_DUP2, CALL_DUP3, CALL_FCNTL };

// duped is a descriptor that was to become another one too.
struct duped {
	u32 call;
	s32 old_fd, new_fd; // as asked for, when it failed
	s32 errno;
	struct sock *sk;
};

static __noinline int duplicated(enum rung rung, struct duped *d)
{
	struct task_struct *task = actor();
	if (d->new_fd < 0 || d->new_fd > STDERR || d->new_fd == d->old_fd || !d->sk || !wanted(PROCESS_DUP, task))
		return 0;
	struct scratch *s = get_scratch(rung, PROCESS_DUP);
	if (!s)
		return 0;
	struct dup_record *r = (void *)s->bytes;
	s->used = sizeof(*r);
	if (!begin(&r->header, PROCESS_DUP, d->errno, task)) {
		put_scratch(rung, s);
		return 0;
	}
	r->header.call = d->call;
	r->old_fd = d->old_fd;
	r->new_fd = d->new_fd;
	no_text(&r->path);
	struct sock *sk = d->sk;
	fill_socket(&r->socket, sk);
	if (r->socket.family == AF_UNIX) {
		struct sock *peer = BPF_CORE_READ((struct unix_sock *)sk, peer);
		append_name_of(s, &r->path, peer);
		if (r->path.len == 0)
			append_name_of(s, &r->path, sk);
	}
	finish_scratch(rung, s, PROCESS_DUP);
	return 0;
}

// dup_exit records a call that was given a descriptor and, but for dup(2), a number for the new one.
static __always_inline int dup_exit(const enum rung rung, u32 call, s32 asked, long ret)
{
	struct duped d = {.call = call, .old_fd = arg(0), .new_fd = ret >= 0 ? ret : asked, .errno = errno_of(ret)};
	if (d.new_fd < 0 || d.new_fd > STDERR)
		return 0;
	d.sk = sock_of(d.errno ? d.old_fd : d.new_fd);
	return duplicated(rung, &d);
}

SYSCALL(dup)
{
	return dup_exit(rung, CALL_DUP, -1, ret);
}

SYSCALL(dup2)
{
	return dup_exit(rung, CALL_DUP2, arg(1), ret);
}

SYSCALL(dup3)
{
	return dup_exit(rung, CALL_DUP3, arg(1), ret);
}

// fcntl(2) is called for much else: where kernel functions can be probed, it is the one for this.
static __always_inline bool dupfd_wants(unsigned long long *args)
{
	return (u32)args[0] <= STDERR;
}

CALL(dupfd, PROCESS_DUP, 3)
{
	struct duped d = {
		.call = CALL_FCNTL, .old_fd = arg(0), .new_fd = (int)ret >= 0 ? ret : (s32)args[0],
		.errno = errno_of((int)ret),
		.sk = sock_in((void *)args[1]),
	};
	return duplicated(rung, &d);
}

static __always_inline int fcntl_exit(long ret)
{
	u32 command = arg(1);
	if (command != F_DUPFD && command != F_DUPFD_CLOEXEC)
		return 0;
	return dup_exit(TRACEPOINT, CALL_FCNTL, arg(2), ret);
}

TRACED(fcntl)
{
	return fcntl_exit(ret);
}

TRACED(fcntl64)
{
	return fcntl_exit(ret);
}
