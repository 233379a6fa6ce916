// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// module.load. The kernel tells the name when it has read it, in the thread that loads the module. The file is, where
// kernel functions can be probed, the one that is read; else the one behind the descriptor when the call ends.
#pragma once

#include "syscall.h"

// names holds the name of the module that a thread is loading.
struct module_name {
	char bytes[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 256);
	__type(key, u64); // thread
	__type(value, struct module_name);
} module_names SEC(".maps");

SEC("tp_btf/module_load")
int module_named(unsigned long long *ctx)
{
	if (!wanted(MODULE_LOAD, actor()))
		return 0;
	struct module *module = (void *)ctx[0];
	u64 thread = bpf_get_current_pid_tgid();
	struct module_name name = {};
	bpf_probe_read_kernel_str(name.bytes, sizeof(name.bytes), &module->name);
	bpf_map_update_elem(&module_names, &thread, &name, BPF_ANY);
	return 0;
}

// loading is what is known of a call.
struct loading {
	struct file *file;
	u32 call;
	u32 flags;
	s32 errno;
	u32 waits; // for its result
};

// take_name moves the name that the kernel told meanwhile into a record.
static __always_inline void take_name(struct module_record *r)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct module_name *name = bpf_map_lookup_elem(&module_names, &thread);
	if (!name)
		return;
	__builtin_memcpy(r->name, name->bytes, sizeof(r->name));
	bpf_map_delete_elem(&module_names, &thread);
}

// module_loaded records a call, or has its record wait.
static __noinline int module_loaded(enum rung rung, struct loading *l)
{
	if (!l)
		return 0;
	struct task_struct *task = actor();
	struct file *file = l->file;
	if (!wanted(MODULE_LOAD, task))
		return 0;
	struct scratch *s = get_scratch(rung, MODULE_LOAD);
	if (!s)
		return 0;
	struct module_record *r = (void *)s->bytes;
	__builtin_memset(r, 0, sizeof(*r));
	s->used = sizeof(*r);
	if (!begin(&r->header, MODULE_LOAD, l->errno, task)) {
		put_scratch(rung, s);
		return 0;
	}
	r->header.call = l->call;
	r->flags = l->flags;
	if (file) {
		struct inode *inode = BPF_CORE_READ(file, f_inode);
		fill_file(&r->file, inode);
		fill_version(&r->version, file);
		if (upper(inode))
			flag(s, FLAG_UPPER);
		append_file_path(s, &r->path, file);
		if (!l->waits)
			flag(s, FLAG_UNVERIFIED); // the descriptor may be another one by now
	}
	if (l->waits) {
		keep(rung, s, pending_large, MODULE_LOAD);
		return 0;
	}
	take_name(r);
	finish_scratch(rung, s, MODULE_LOAD);
	return 0;
}

PROBE(read_file, struct file *file, enum kernel_read_file_id id)
{
	if (id != bpf_core_enum_value(enum kernel_read_file_id, READING_MODULE))
		return 0;
	struct loading l = {.file = file, .call = CALL_FINIT_MODULE, .flags = arg(2), .waits = 1};
	return module_loaded(rung, &l);
}

SYSCALL(finit_module)
{
	struct header *h = kept(pending_large, MODULE_LOAD);
	if (h) {
		take_name((void *)h);
		complete(pending_large, h, PENDING_LARGE, errno_of(ret));
		return 0;
	}
	struct loading l = {.file = file_of(arg(0)), .call = CALL_FINIT_MODULE, .flags = arg(2), .errno = errno_of(ret)};
	return module_loaded(rung, &l);
}

SYSCALL(init_module)
{
	struct loading l = {.call = CALL_INIT_MODULE, .errno = errno_of(ret)};
	return module_loaded(rung, &l);
}
