// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The kernel's types, with only the fields that TaskGuard reads. Their offsets are those of the running kernel:
// the loader relocates every access (CO-RE), so order and completeness do not matter here, names do.
#pragma once

#include <stdbool.h>

#define __VMLINUX_H__ // bpf_tracing.h then takes the names of registers that the kernel has

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;

enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
};

#define BPF_F_NO_PREALLOC 1

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_RINGBUF = 27,
};

#define PF_IO_WORKER 0x00000010 // include/linux/sched.h, since Linux 5.12: a thread of io_uring's
#define PF_KTHREAD 0x00200000
#define NR_io_uring_enter 426 // for all callers

#define EINTR 4
#define EAGAIN 11
#define EFAULT 14
#define EEXIST 17
#define EINPROGRESS 115
#define ERESTARTSYS 512           // include/linux/errno.h: what the kernel returns inside when a
#define ERESTART_RESTARTBLOCK 516 // signal interrupts it; the caller sees EINTR, or the call made anew
#define MAX_ERRNO 4095

#define AF_UNSPEC 0
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_NETLINK 16
#define AF_PACKET 17

#define SOCK_STREAM 1
#define SOCK_RAW 3
#define SOCKADDR_MAX 128  // sizeof(struct sockaddr_storage)
#define TCP_ESTABLISHED 1 // include/net/tcp_states.h
#define TCP_CLOSE 7
#define IPPROTO_ICMP 1
#define IPPROTO_ICMPV6 58

#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define S_IFCHR 0020000
#define FMODE_WRITE 2

enum {
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
	BPF_RB_AVAIL_DATA = 0,
};

// include/uapi/linux/bpf.h, where the loader knows the layout and no relocation is made.
struct __sk_buff {
	__u32 len;
};

struct bpf_sock_addr {
	__u32 user_family;
	__u32 user_ip4;
	__u32 user_ip6[4];
	__u32 user_port;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u32 msg_src_ip4;
	__u32 msg_src_ip6[4];
	__u64 sk __attribute__((aligned(8)));
};

// Functions that BPF programs may call, asked for where old kernels lack them.
enum bpf_func_id {
	BPF_FUNC_get_current_task_btf = 158,
	BPF_FUNC_task_pt_regs = 175,
	BPF_FUNC_find_vma = 180,
	BPF_FUNC_loop = 181,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

#ifdef __TARGET_ARCH_x86
struct pt_regs {
	unsigned long bp, bx, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, sp;
};

struct thread_info {
	u32 status;
};
#else
struct user_pt_regs {
	u64 regs[31];
	u64 sp, pc, pstate;
};

struct pt_regs {
	u64 regs[31];
	u64 sp;
	s32 syscallno;
};

struct thread_info {
	unsigned long flags;
};
#endif

union thread_union {
	unsigned long stack[1];
};

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	unsigned int val;
} kuid_t;

typedef struct {
	unsigned int val;
} kgid_t;

struct qstr {
	u32 len;
	const unsigned char *name;
};

struct hlist_bl_node {
	struct hlist_bl_node **pprev;
};

struct file_system_type {
	const char *name;
};

struct super_block {
	u32 s_dev;
	unsigned long s_magic;
	struct file_system_type *s_type;
};

struct timespec64 {
	s64 tv_sec;
	long tv_nsec;
};

struct inode {
	u16 i_mode;
	u32 i_rdev;
	unsigned long i_ino;
	struct super_block *i_sb;
	void *i_private;
	s64 i_size;
	s64 i_ctime_sec; // since Linux 6.11
	u32 i_ctime_nsec;
	struct timespec64 __i_ctime; // since Linux 6.6
	struct timespec64 i_ctime;
};

struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};

struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	const char *mnt_devname;
};

struct fs_context {
	struct file_system_type *fs_type;
	const char *source;
};

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

struct file {
	unsigned int f_mode;
	unsigned int f_flags;
	struct inode *f_inode;
	struct path f_path;
	void *private_data;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	atomic_t count;
	struct fdtable *fdt;
};

struct fs_struct {
	struct path root, pwd;
};

struct task_struct;

struct mm_struct {
	unsigned long arg_start, arg_end, env_start, env_end;
	unsigned long start_brk, brk, start_stack;
	struct file *exe_file;
	struct task_struct *owner;
};

struct vm_area_struct {
	unsigned long vm_start, vm_end, vm_flags;
	struct mm_struct *vm_mm;
	struct file *vm_file;
};

struct user_namespace;

struct cred {
	kuid_t uid, euid;
	kgid_t gid, egid;
	struct user_namespace *user_ns;
};

struct proc_ns_operations {
	int type; // until Linux 6.17
};

struct ns_common {
	u32 ns_type; // since Linux 6.18
	const struct proc_ns_operations *ops;
};

struct nsproxy {
	void *uts_ns, *ipc_ns, *mnt_ns, *pid_ns_for_children, *net_ns, *time_ns_for_children, *cgroup_ns;
};

struct xarray {
	void *xa_head;
};

struct xa_node {
	u8 shift;
	void *slots[64];
};

struct idr {
	struct xarray idr_rt;
	unsigned int idr_base;
};

struct pid_namespace {
	struct idr idr;
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	unsigned int level;
	struct hlist_head tasks[1];
	struct upid numbers[1];
};

struct signal_struct {
	atomic_t live;
	int nr_threads;
	int group_exit_code;
	unsigned int flags;
};

struct kernfs_node {
	u64 id;
};

struct cgroup_root {
	int hierarchy_id;
};

struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
};

struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	struct thread_info thread_info;
	void *stack;
	unsigned int flags;
	int exit_code;
	int pid, tgid;
	u64 start_boottime;
	struct task_struct *group_leader, *real_parent;
	struct pid *thread_pid;
	struct hlist_node pid_links[1];
	struct nsproxy *nsproxy;
	const struct cred *cred;
	char comm[16];
	struct mm_struct *mm;
	struct fs_struct *fs;
	struct files_struct *files;
	struct signal_struct *signal;
	struct css_set *cgroups;
};

struct filename {
	const char *name;
	const char *uptr; // where the caller has it
};

struct open_flags {
	int open_flag;
};

struct io_rsrc_node {
	unsigned long file_ptr;
};

struct io_rsrc_data {
	struct io_rsrc_node **nodes;
};

struct io_file_table {
	struct io_rsrc_data data;
};

struct io_fixed_file {
	unsigned long file_ptr;
};

// Before Linux 6.13.
struct io_file_table___old {
	struct io_fixed_file *files;
};

struct io_ring_ctx {
	struct io_file_table file_table;
};

struct io_cqe {
	s32 res;
};

struct io_kiocb {
	u8 opcode;
	u32 flags;
	struct io_cqe cqe;
	struct io_ring_ctx *ctx;
};

// What a request of io_uring asks for is at its beginning.
struct open_how {
	u64 flags;
};

struct io_open {
	int dfd;
	u32 file_slot;
	struct filename *filename;
	struct open_how how;
};

struct io_rename {
	int old_dfd, new_dfd;
	struct filename *oldpath, *newpath;
	int flags;
};

struct io_unlink {
	int dfd, flags;
	struct filename *filename;
};

struct io_link {
	int old_dfd, new_dfd;
	struct filename *oldpath, *newpath;
};

struct linux_binprm {
	struct file *file;
	const char *filename, *interp;
};

struct in6_addr {
	union {
		u8 u6_addr8[16];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr, skc_rcv_saddr;
	__be16 skc_dport;
	u16 skc_family;
	volatile unsigned char skc_state;
	struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
};

struct sock {
	struct sock_common __sk_common;
	u16 sk_type;
	u16 sk_protocol;
};

struct inet_sock {
	__be16 inet_sport;
};

struct tcp_sock {
	void *fastopen_req;
};

struct packet_sock {
	__be16 num;
};

struct socket {
	struct sock *sk;
};

struct msghdr {
	void *msg_name;
	int msg_namelen;
};

struct unix_address {
	int len;
	char name[1];
};

struct unix_sock {
	struct unix_address *addr;
	struct sock *peer;
};

struct module {
	char name[1];
};

enum kernel_read_file_id {
	READING_MODULE = 2,
};

enum bpf_prog_type {
	BPF_PROG_TYPE_UNSPEC,
};

struct bpf_prog_aux {
	u32 id;
	char name[16];
};

struct bpf_prog {
	enum bpf_prog_type type;
	u32 len;
	struct bpf_prog_aux *aux;
};

#pragma clang attribute pop
