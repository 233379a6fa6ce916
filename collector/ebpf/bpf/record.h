// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// What the programs hand to user space: a record is a header, the kind's own struct, and the bytes whose lengths
// these give, in the order in which they are named. The Go types are generated from these structs.
#pragma once

// Longest sections, in bytes.
#define ARGS_MAX 20480
#define PATH_MAX 4096
#define ENV_MAX 16384
#define PAYLOAD_MAX 4096
#define UNIX_PATH_MAX 108

// The kinds of records: those of event.Kind, and CGROUP for the agent's own use.
enum kind {
	PROCESS_EXEC = 1,
	PROCESS_FORK = 2,
	PROCESS_EXIT = 3,
	FILE_OPEN = 4,
	NET_CONNECT = 5,
	DNS_QUERY = 6,
	DNS_RESPONSE = 7,
	CGROUP_MKDIR = 8,
	KIND_COUNT = 9,
};

// Bits of header.flags.
enum record_flag {
	FLAG_ARGS_CUT = 1 << 0,
	FLAG_CWD_CUT = 1 << 1,
	FLAG_ENV_CUT = 1 << 2,
	FLAG_EXE_CUT = 1 << 3,
	FLAG_SCRIPT_CUT = 1 << 4,
	FLAG_PATH_CUT = 1 << 5,
	FLAG_PAYLOAD_CUT = 1 << 6,
	FLAG_DELETED = 1 << 8,     // the file had no name any more
	FLAG_UNVERIFIED = 1 << 9,  // read from the caller's memory
};

// task says which process did it, and as whom.
struct task {
	u64 start;   // of the process, ns since boot
	u64 cgroup;  // id in the hierarchy that containers are told apart by
	u32 pid;     // of the process (tgid)
	u32 ns_pid;  // in the process's own pid namespace
	u32 uid, euid, gid, egid;
	char comm[16];
};

struct header {
	u64 time;      // ns since boot
	u64 sequence;  // 1, 2, … of the records this CPU made, those that were dropped included
	u32 cpu;
	u16 kind;
	u16 flags;
	s32 result;  // errno
	u32 reserved;
	struct task task;
};

struct parent {
	u64 start;
	u32 pid;
	u32 reserved;
};

// Paths are sequences of components, each ended by a NUL byte, from the last one up to the root.
struct exec_record {
	struct header header;
	struct parent parent;
	u32 args_total;  // length before it was cut
	u32 args_len;    // NUL-ended arguments
	u32 env_len;     // NUL-ended NAME=value, all of them
	u16 exe_len;     // components
	u16 cwd_len;     // components
	u16 script_len;  // one string with its NUL byte, as execve(2) was given it; 0 when no script
	u16 reserved[3];
};

struct fork_record {
	struct header header;
	struct parent parent;
};

struct exit_record {
	struct header header;
	u32 status;  // wait(2)
	u32 reserved;
};

struct open_record {
	struct header header;
	u64 inode;
	u32 device;
	u32 open_flags;
	u16 path_len;  // components; with FLAG_UNVERIFIED, one string with its NUL byte
	u16 reserved[3];
};

struct connect_record {
	struct header header;
	u16 family;
	u16 type;
	u16 protocol;
	u16 remote_port;
	u16 local_port;
	u16 path_len;  // AF_UNIX: bytes of sun_path; a leading NUL byte is the abstract namespace
	u16 reserved[2];
	u8 remote[16];
	u8 local[16];
};

struct dns_record {
	struct header header;
	u16 family;
	u16 type;
	u16 protocol;
	u16 remote_port;
	u16 local_port;
	u16 payload_len; // over TCP: messages with their length prefixes
	u16 reserved[2];
	u8 remote[16];
	u8 local[16];
};

struct cgroup_record {
	struct header header;  // task.cgroup is the new cgroup
	u16 path_len;          // one string with its NUL byte, relative to the hierarchy's root
	u16 reserved[3];
};

// counters of one kind, per CPU. What is attempted is either delivered or in one of the others.
struct kind_counters {
	u64 attempted;
	u64 ring_full;   // no room in the ring buffer
	u64 state_full;  // no room to remember a system call until its exit
};
