// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// System calls that do something to another process. Its number is an integer, so the exit tells it; who that is, is
// looked up as the kernel does.
#pragma once

#include "syscall.h"

#define TREE_DEPTH 6   // of a tree whose nodes have 64 slots, and indices 31 bits
#define TREE_SLOTS 64
#define NODE_MIN 4096  // include/linux/xarray.h: what is not above is no node

// found_pid gives what a pid namespace has under a number.
static __always_inline struct pid *found_pid(struct pid_namespace *ns, u32 number)
{
	u64 index = number - BPF_CORE_READ(ns, idr.idr_base), entry = (u64)BPF_CORE_READ(ns, idr.idr_rt.xa_head);
	for (int i = 0; i < TREE_DEPTH; i++) {
		if ((entry & 3) != 2)
			break;
		struct xa_node *node = (void *)(entry - 2);
		u64 slot = index >> BPF_CORE_READ(node, shift);
		if (entry <= NODE_MIN || (i == 0 && slot >= TREE_SLOTS))
			return 0;
		void *at = (void *)node + bpf_core_field_offset(struct xa_node, slots) + slot % TREE_SLOTS * sizeof(entry);
		entry = 0;
		bpf_probe_read_kernel(&entry, sizeof(entry), at);
	}
	return entry & 3 ? 0 : (void *)entry;
}

// found_task gives the task that the current one knows by a number.
static __noinline struct task_struct *found_task(u32 number)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	if (level > 32)
		return 0;
	struct pid_namespace *ns = 0;
	void *at = (void *)pid + bpf_core_field_offset(struct pid, numbers) + level * bpf_core_type_size(struct upid) +
		   bpf_core_field_offset(struct upid, ns);
	bpf_probe_read_kernel(&ns, sizeof(ns), at);
	pid = found_pid(ns, number);
	struct hlist_node *first = pid ? BPF_CORE_READ(pid, tasks[0].first) : 0;
	return first ? (void *)first - bpf_core_field_offset(struct task_struct, pid_links) : 0;
}

// targeted records a call that was made to a process; number 0 is none.
static __noinline int targeted(u16 kind, long ret, u32 number, u64 request)
{
	struct task_struct *task = actor();
	struct target_record r = {};
	if (!wanted(kind, task) || !begin(&r.header, kind, errno_of(ret), task))
		return 0;
	r.request = request;
	r.pid = number;
	struct task_struct *target = number ? found_task(number) : 0;
	if (target)
		fill_task(&r.target, target);
	finish(&r, sizeof(r), kind);
	return 0;
}
