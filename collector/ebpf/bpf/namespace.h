// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// process.namespace: setns and unshare at their exits, as all they are given are integers and a descriptor; and new
// processes that have other namespaces than the one that made them.
#pragma once

#include "syscall.h"

#define CLONE_NEWTIME 0x00000080
#define CLONE_NEWNS 0x00020000
#define CLONE_NEWCGROUP 0x02000000
#define CLONE_NEWUTS 0x04000000
#define CLONE_NEWIPC 0x08000000
#define CLONE_NEWUSER 0x10000000
#define CLONE_NEWPID 0x20000000
#define CLONE_NEWNET 0x40000000
#define NAMESPACES (CLONE_NEWTIME | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | \
		    CLONE_NEWPID | CLONE_NEWNET)
#define NSFS_MAGIC 0x6e736673

// The calls, in the order of namespaceCalls in decode_process.go.
enum namespace_call { SETNS, UNSHARE, CLONE };

static __noinline int namespaces(u32 call, s32 errno, u32 flags, u64 inode, struct task_struct *task)
{
	struct namespace_record r = {};
	if (!wanted(PROCESS_NAMESPACE, task) || !begin(&r.header, PROCESS_NAMESPACE, errno, task))
		return 0;
	r.header.call = call;
	r.flags = flags;
	r.inode = inode;
	finish(&r, sizeof(r), PROCESS_NAMESPACE);
	return 0;
}

// type_of gives a namespace's kind as the flag of clone.
static __always_inline u32 type_of(struct ns_common *ns)
{
	if (bpf_core_field_exists(ns->ns_type))
		return BPF_CORE_READ(ns, ns_type);
	return BPF_CORE_READ(ns, ops, type);
}

SYSCALL(setns)
{
	u32 flags = arg(1);
	u64 number = 0;
	struct file *file = file_of(arg(0));
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	if (BPF_CORE_READ(inode, i_sb, s_magic) == NSFS_MAGIC) {
		number = BPF_CORE_READ(inode, i_ino);
		if (flags == 0)
			flags = type_of(BPF_CORE_READ(inode, i_private));
	}
	return namespaces(SETNS, errno_of(ret), flags, number, actor());
}

SYSCALL(unshare)
{
	u32 flags = arg(0) & NAMESPACES;
	return flags ? namespaces(UNSHARE, errno_of(ret), flags, 0, actor()) : 0;
}

// differs gives a flag if a member, by the way to it, is not the same for both.
#define differs(a, b, flag, member...) (BPF_CORE_READ(a, member) != BPF_CORE_READ(b, member) ? (flag) : 0)

SEC("tp_btf/sched_process_fork")
int BPF_PROG(namespace_fork, struct task_struct *parent, struct task_struct *child)
{
	struct nsproxy *a = BPF_CORE_READ(parent, nsproxy), *b = BPF_CORE_READ(child, nsproxy);
	u32 flags = differs(parent, child, CLONE_NEWUSER, cred, user_ns);
	if (a != b)
		flags |= differs(a, b, CLONE_NEWUTS, uts_ns) | differs(a, b, CLONE_NEWIPC, ipc_ns) |
			 differs(a, b, CLONE_NEWNS, mnt_ns) | differs(a, b, CLONE_NEWPID, pid_ns_for_children) |
			 differs(a, b, CLONE_NEWNET, net_ns) | differs(a, b, CLONE_NEWCGROUP, cgroup_ns) |
			 differs(a, b, CLONE_NEWTIME, time_ns_for_children);
	return flags ? namespaces(CLONE, 0, flags, 0, child) : 0;
}
