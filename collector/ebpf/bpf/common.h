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
volatile const u32 cpus = 1;             // possible CPUs
volatile const bool preemptible;         // the kernel may preempt a task that runs kernel code
volatile const u32 overlay_file;         // enum layer_file

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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct settings);
} current_settings SEC(".maps");

// watched holds the beginnings of paths that are recorded also when they are opened for reading.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 256);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct watched_key);
	__type(value, u8);
} watched SEC(".maps");

// ignored holds the executables whose processes are not recorded.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct file_id);
	__type(value, u8);
} ignored SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, u64); // cgroup
	__type(value, struct throttle_state);
} throttles SEC(".maps");

// scratch is where records too large for the stack are built. It is larger than a per-CPU map's value may be.
//
// used is how many bytes the record has so far. It is kept here and not in a register because a value from memory
// looks the same to the verifier in every round of a loop. The tail is room for the verifier's sake too: a section
// may begin at SCRATCH_MAX and have its full length.
#define SCRATCH_MAX 49152
#define COMPONENTS_KEPT 8
struct scratch {
	u8 bytes[SCRATCH_MAX + ARGS_MAX];
	u32 used;
	u32 slot;
	// Where the walk along a path is, where in bytes its text begins, and what that is so far.
	u64 dentry, mount, root;
	u32 begin;
	struct text path;
	// Where the components of the path that was appended last begin, in a ring: the last ones are next to the root.
	u32 components;
	u32 begins[COMPONENTS_KEPT];
	// A struct watched_key, and room for the verifier's sake.
	u8 key[sizeof(struct watched_key) + WATCHED_MAX + 1];
};

// The rungs of the ladder, as handlers are told them.
enum rung { FENTRY, KPROBE, TRACEPOINT };

// Kernel code that is probed by fentry can be preempted, on kernels that preempt kernel code at all; that of the
// other rungs cannot. So each CPU has one slot for those, and CLAIMED more for fentry, which are claimed.

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); // set by the loader: 1 + CLAIMED for each possible CPU
	__type(key, u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); // set by the loader, as scratch
	__type(key, u32);
	__type(value, u8);
} claims SEC(".maps");

// flag sets a bit of record_flag in the record's header.
static __always_inline void flag(struct scratch *s, u16 bit)
{
	((struct header *)s->bytes)->flags |= bit;
}

// room gives the place for the next section; there is room for ARGS_MAX bytes at least. NULL when the record is full.
static __always_inline u8 *room(struct scratch *s)
{
	u64 used = s->used;
	if (used >= SCRATCH_MAX)
		return 0;
	barrier_var(used);
	return s->bytes + used;
}

static __always_inline struct kind_counters *get_counters(u32 kind)
{
	return bpf_map_lookup_elem(&counters, &kind);
}

// count adds one to a field of kind_counters.
#define count(kind, field) do { \
	struct kind_counters *c_ = get_counters(kind); \
	if (c_) \
		__sync_fetch_and_add(&c_->field, 1); \
} while (0)

// get_scratch gives a place for a record of a kind, NULL, and a loss counted, when all are taken. finish_scratch, keep
// or put_scratch give it back.
static __always_inline struct scratch *get_scratch(const enum rung rung, u16 kind)
{
	u32 slot = bpf_get_smp_processor_id();
	if (rung == FENTRY)
		slot += cpus;
	if (rung == FENTRY && preemptible) {
		u8 taken = 1;
		int i = 0;
		for (; i < CLAIMED; i++, slot += cpus)
			if (bpf_map_update_elem(&claims, &slot, &taken, BPF_NOEXIST) == 0)
				break;
		if (i == CLAIMED) {
			count(kind, attempted);
			count(kind, state_full);
			return 0;
		}
	}
	struct scratch *s = bpf_map_lookup_elem(&scratch, &slot);
	if (s)
		s->slot = slot;
	return s;
}

static __always_inline void put_scratch(const enum rung rung, struct scratch *s)
{
	if (rung != FENTRY || !preemptible)
		return;
	u32 slot = s->slot;
	bpf_map_delete_elem(&claims, &slot);
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

// actor gives the task on whose behalf the kernel runs: the current one, or for a worker of io_uring that is a kernel
// thread (before Linux 5.12) the owner of the memory it borrowed. NULL for the kernel's own work.
static __always_inline struct task_struct *actor(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	if (!(BPF_CORE_READ(task, flags) & PF_KTHREAD))
		return task;
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	if (!mm || !bpf_core_field_exists(struct mm_struct, owner))
		return 0;
	return BPF_CORE_READ(mm, owner);
}

static __always_inline struct settings *get_settings(void)
{
	u32 zero = 0;
	return bpf_map_lookup_elem(&current_settings, &zero);
}

// on tells whether what task does is to be recorded as kind.
static __always_inline bool on(u16 kind, struct task_struct *task)
{
	struct settings *set = get_settings();
	return task && set && set->kinds >> kind & 1 && BPF_CORE_READ(task, tgid) != self_pid;
}

// ignores tells whether it is left out because of the executable.
static __always_inline bool ignores(u16 kind, struct task_struct *task)
{
	struct settings *set = get_settings();
	if (!set || !set->ignored || kind <= PROCESS_EXIT)
		return false;
	struct inode *inode = BPF_CORE_READ(task, mm, exe_file, f_inode);
	struct file_id id = {.inode = BPF_CORE_READ(inode, i_ino), .device = BPF_CORE_READ(inode, i_sb, s_dev)};
	return bpf_map_lookup_elem(&ignored, &id);
}

// wanted is both, for the place where an attempt is counted.
static __always_inline bool wanted(u16 kind, struct task_struct *task)
{
	if (!on(kind, task))
		return false;
	if (!ignores(kind, task))
		return true;
	count(kind, attempted);
	count(kind, filtered);
	return false;
}

// share is how much of what a cgroup may make is for a kind and those that matter less, in eighths.
static __always_inline u64 share(u16 kind)
{
	if ((kind >= FILE_RENAME && kind <= FS_UMOUNT) || kind == FILE_OPEN)
		return 4;
	if (kind >= MEMORY_MAP && kind <= MEMORY_USERFAULTFD)
		return 5;
	if ((kind >= NET_SOCKET && kind <= NET_SEND) || kind == NET_CONNECT)
		return 6;
	return kind == DNS_QUERY || kind == DNS_RESPONSE ? 7 : 8;
}

// throttled counts what a cgroup makes, and tells, and counts, whether this is too much.
static __always_inline bool throttled(u16 kind, u64 cgroup)
{
	struct settings *set = get_settings();
	if (!set || set->throttle == 0)
		return false;
	u64 limit = set->throttle, now = bpf_ktime_get_boot_ns();
	struct throttle_state *t = bpf_map_lookup_elem(&throttles, &cgroup);
	if (!t) {
		static const struct throttle_state none;
		bpf_map_update_elem(&throttles, &cgroup, &none, BPF_NOEXIST);
		t = bpf_map_lookup_elem(&throttles, &cgroup);
		if (!t)
			return false;
	}
	if (now - t->window >= 1000000000) {
		t->window = now;
		t->count = 0;
	}
	if (t->count * 8 >= limit * share(kind)) {
		u64 index = kind; // for the verifier, where it is not a constant
		barrier_var(index);
		if (index < KIND_COUNT)
			__sync_fetch_and_add(&t->dropped[index], 1);
		count(kind, throttled);
		return true;
	}
	__sync_fetch_and_add(&t->count, 1);
	return false;
}

// head counts an attempt of a kind and fills the header but for its task.
static __always_inline void head(struct header *h, u16 kind, s32 result)
{
	count(kind, attempted);
	h->kind = kind;
	h->flags = 0;
	h->result = result;
	h->call = 0;
	h->size = 0;
	h->reserved = 0;
}

// begin counts an attempt of a kind and fills the header; false when there is to be no record of it.
static __always_inline bool begin(struct header *h, u16 kind, s32 result, struct task_struct *task)
{
	head(h, kind, result);
	fill_task(&h->task, task);
	return !throttled(kind, h->task.cgroup);
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

// stamp says when and where a record was completed.
static __always_inline void stamp(struct header *h)
{
	h->time = bpf_ktime_get_boot_ns();
	h->sequence = next_sequence();
	h->cpu = bpf_get_smp_processor_id();
}

static __always_inline u64 wakeup(void)
{
	return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) >= wakeup_bytes ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

// finish puts a record into the ring buffer, or counts it as dropped.
static __always_inline void finish(void *record, u64 size, u16 kind)
{
	stamp(record);
	if (bpf_ringbuf_output(&ring, record, size, wakeup()) != 0)
		count(kind, ring_full);
}

static __always_inline void finish_scratch(const enum rung rung, struct scratch *s, u16 kind)
{
	u32 size = s->used;
	barrier_var(size);
	if (size > SCRATCH_MAX)
		size = SCRATCH_MAX;
	finish(s->bytes, size, kind);
	put_scratch(rung, s);
}
