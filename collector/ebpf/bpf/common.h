// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// What every program uses: configuration, the ring buffer, counters, who is calling.
#pragma once

#include "kernel.h"
#include "record.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

// Set by the loader.
volatile const u32 self_pid;             // the agent: never recorded
volatile const s32 cgroup_subsys = -1;   // index of the v1 controller that tells containers apart; -1: cgroup v2
volatile const s32 cgroup_hierarchy;     // hierarchy id of the same
volatile const u64 wakeup_bytes = 65536; // wake the reader when this much is waiting; it also looks by a timer

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KIND_COUNT);
	__type(key, u32);
	__type(value, struct kind_counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} sequence SEC(".maps");

// scratch is where the programs on tracepoints build records too large for the stack. Tracepoints run with
// preemption off and never in an interrupt, so one per CPU is enough. It is larger than a per-CPU map's value may be.
//
// used is how many bytes the record has so far. It is kept here and not in a register because a value from memory
// looks the same to the verifier in every round of a loop. The tail is room for the verifier's sake too: a section
// may begin at SCRATCH_MAX and have its full length.
#define SCRATCH_MAX 49152
struct scratch {
	u8 bytes[SCRATCH_MAX + ARGS_MAX];
	u32 used;
};

// flag sets a bit of record_flag in the record's header.
static __always_inline void flag(struct scratch *s, u16 bit)
{
	((struct header *)s->bytes)->flags |= bit;
}

// room gives the place for the next section; there is room for ARGS_MAX bytes at least. NULL when the record is full.
static __always_inline u8 *room(struct scratch *s)
{
	u32 used = s->used;
	barrier_var(used);
	return used < SCRATCH_MAX ? s->bytes + used : 0;
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); // set by the loader: one for each possible CPU
	__type(key, u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

// syscall_state is what is remembered of a system call between its entry and its exit.
struct syscall_state {
	u16 kind;
	u16 verified;  // address is the kernel's copy, not the caller's memory
	u32 open_flags;
	u64 path;      // of the caller
	u32 fd;
	u32 address_len;
	u8 address[2 + UNIX_PATH_MAX + 2];  // a sockaddr, in a multiple of eight bytes
};

// syscalls is keyed by thread. A thread is in one system call at a time.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u64);
	__type(value, struct syscall_state);
} syscalls SEC(".maps");

static __always_inline struct scratch *get_scratch(void)
{
	u32 cpu = bpf_get_smp_processor_id();
	return bpf_map_lookup_elem(&scratch, &cpu);
}

static __always_inline struct kind_counters *get_counters(u32 kind)
{
	return bpf_map_lookup_elem(&counters, &kind);
}

static __always_inline u64 cgroup_of(struct task_struct *task)
{
	struct css_set *cgroups = BPF_CORE_READ(task, cgroups);
	if (cgroup_subsys < 0)
		return BPF_CORE_READ(cgroups, dfl_cgrp, kn, id);
	struct cgroup_subsys_state *css = 0;
	void *slot = (void *)cgroups + bpf_core_field_offset(struct css_set, subsys) + cgroup_subsys * sizeof(css);
	bpf_probe_read_kernel(&css, sizeof(css), slot);
	return BPF_CORE_READ(css, cgroup, kn, id);
}

static __always_inline u32 ns_pid_of(struct task_struct *leader)
{
	struct pid *pid = BPF_CORE_READ(leader, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	if (level == 0 || level > 32)
		return 0;
	int nr = 0;
	void *number = (void *)pid + bpf_core_field_offset(struct pid, numbers) +
		       level * bpf_core_type_size(struct upid) + bpf_core_field_offset(struct upid, nr);
	bpf_probe_read_kernel(&nr, sizeof(nr), number);
	return nr;
}

static __always_inline void fill_task(struct task *t, struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	const struct cred *cred = BPF_CORE_READ(task, cred);
	t->start = BPF_CORE_READ(leader, start_boottime);
	t->cgroup = cgroup_of(task);
	t->pid = BPF_CORE_READ(task, tgid);
	t->ns_pid = ns_pid_of(leader);
	t->uid = BPF_CORE_READ(cred, uid.val);
	t->euid = BPF_CORE_READ(cred, euid.val);
	t->gid = BPF_CORE_READ(cred, gid.val);
	t->egid = BPF_CORE_READ(cred, egid.val);
	bpf_probe_read_kernel(t->comm, sizeof(t->comm), &leader->comm);
}

static __always_inline void fill_parent(struct parent *p, struct task_struct *task)
{
	struct task_struct *parent = BPF_CORE_READ(task, group_leader, real_parent, group_leader);
	p->start = BPF_CORE_READ(parent, start_boottime);
	p->pid = BPF_CORE_READ(parent, tgid);
	p->reserved = 0;
}

// next_sequence counts a record that this CPU makes. An interrupt between the two lines gives two records the same
// number; the highest number is still the count of all, and that is what user space relies on.
static __always_inline u64 next_sequence(void)
{
	u32 zero = 0;
	u64 *n = bpf_map_lookup_elem(&sequence, &zero);
	if (!n)
		return 0;
	__sync_fetch_and_add(n, 1);
	return *n;
}

// begin counts an attempt of a kind and fills the header but for its task.
static __always_inline void begin(struct header *h, u16 kind, s32 result)
{
	struct kind_counters *c = get_counters(kind);
	if (c)
		__sync_fetch_and_add(&c->attempted, 1);
	h->time = bpf_ktime_get_boot_ns();
	h->sequence = next_sequence();
	h->cpu = bpf_get_smp_processor_id();
	h->kind = kind;
	h->flags = 0;
	h->result = result;
	h->reserved = 0;
}

static __always_inline u64 wakeup(void)
{
	return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) >= wakeup_bytes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

// finish puts a record into the ring buffer, or counts it as dropped.
static __always_inline void finish(void *record, u64 size, u16 kind)
{
	if (bpf_ringbuf_output(&ring, record, size, wakeup()) == 0)
		return;
	struct kind_counters *c = get_counters(kind);
	if (c)
		__sync_fetch_and_add(&c->ring_full, 1);
}

static __always_inline void finish_scratch(struct scratch *s, u16 kind)
{
	u32 size = s->used;
	barrier_var(size);
	if (size > SCRATCH_MAX)
		size = SCRATCH_MAX;
	finish(s->bytes, size, kind);
}

static __always_inline bool is_self(void)
{
	return (u32)(bpf_get_current_pid_tgid() >> 32) == self_pid;
}
