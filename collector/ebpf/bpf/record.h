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

// The kinds of records: those of event.Kind, and at the end those that are no kind of event by themselves.
enum kind {
	PROCESS_EXEC = 1,
	PROCESS_FORK = 2,
	PROCESS_EXIT = 3,
	FILE_OPEN = 4,
	NET_CONNECT = 5,
	DNS_QUERY = 6,
	DNS_RESPONSE = 7,
	PROCESS_SETID = 11,
	PROCESS_PTRACE = 12,
	PROCESS_DUP = 13,
	PROCESS_NAMESPACE = 14,
	FILE_RENAME = 15,
	FILE_LINK = 16,
	FILE_SYMLINK = 17,
	FILE_UNLINK = 18,
	FILE_CHMOD = 19,
	FILE_CHOWN = 20,
	FS_MOUNT = 21,
	FS_UMOUNT = 22,
	MEMORY_MAP = 23,
	MEMORY_PROTECT = 24,
	MEMORY_VM_READ = 25,
	MEMORY_VM_WRITE = 26,
	MEMORY_MEMFD = 27,
	MEMORY_USERFAULTFD = 28,
	MODULE_LOAD = 29,
	BPF_LOAD = 30,
	IOURING_SETUP = 31,
	NET_SOCKET = 32,
	NET_ACCEPT = 33,
	NET_BIND = 34,
	NET_LISTEN = 35,
	NET_SEND = 36,
	EVENT_KINDS = 37,
	CGROUP_MKDIR = 38,
	KIND_COUNT = 39,
};

// Bits of header.flags.
enum record_flag {
	FLAG_ARGS_CUT = 1 << 0,
	FLAG_ENV_CUT = 1 << 1,
	FLAG_PAYLOAD_CUT = 1 << 2,
	FLAG_DELETED = 1 << 3,     // the file had no name any more
	FLAG_UPPER = 1 << 4,       // the file is in the upper layer of an overlay
	FLAG_UNVERIFIED = 1 << 5,  // something outside of texts was read from the caller's memory
};

// Bits of text.flags.
enum text_flag {
	TEXT_PATH = 1 << 0,        // components, each ended by a NUL byte, from the last one up to the root; else a string
	TEXT_CUT = 1 << 1,         // there is more than len
	TEXT_UNVERIFIED = 1 << 2,  // read from the caller's memory
	TEXT_AT = 1 << 3,          // a string, a NUL byte, and as components the directory that it is relative to
};

// text is a section that may be cut: a string without its NUL byte, or a path.
struct text {
	u16 len;
	u16 flags;
	u32 total;  // length before it was cut; 0 is unknown. Of a path, that of its components with a byte for each
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
	u32 size;  // of the record, where it is kept before it is handed on
	s32 result;  // errno
	u16 kind;
	u16 flags;
	u32 call;  // the system call, where a kind has several: see each kind
	u32 reserved;
	struct task task;
};

struct parent {
	u64 start;
	u32 pid;
	u32 reserved;
};

// file_id identifies a file.
struct file_id {
	u64 inode;
	u32 device;
	u32 reserved;
};

// file_version identifies what a file holds: of an overlay's file, by the file in one of its layers. inode 0 is unknown.
struct file_version {
	u64 inode;
	u64 size;
	u64 changed;  // its time of change, ns since 1970
	u32 device;
	u32 reserved;
};

// socket_info is what is known of a socket. Addresses are in network order; of AF_INET the first four bytes count.
struct socket_info {
	u16 family;
	u16 type;
	u16 protocol;
	u16 remote_port;
	u16 local_port;
	u16 reserved[3];
	u8 remote[16];
	u8 local[16];
};

struct exec_record {
	struct header header;  // FLAG_DELETED and FLAG_UPPER are of the executable
	struct parent parent;
	u32 args_total;  // length before it was cut
	u32 args_len;    // NUL-ended arguments
	u32 env_len;     // NUL-ended NAME=value, all of them
	u32 reserved;
	struct file_id file;
	struct file_version version;
	struct text exe;
	struct text cwd;
	struct text script;  // as execve(2) was given it; empty when no script
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

// file_record is of all file.* kinds, and of an exec that failed.
struct file_record {
	struct header header;
	struct file_id file;
	u32 open_flags;
	u32 rename_flags;
	u32 mode;      // file.chmod
	u32 uid, gid;  // file.chown: -1 leaves it
	u32 directory; // file.unlink: it is one
	struct text path;
	struct text target;
};

// Indices of setid_record.ids, and bits of known.
enum id_index { ID_UID, ID_EUID, ID_SUID, ID_FSUID, ID_GID, ID_EGID, ID_SGID, ID_FSGID, ID_COUNT };

struct setid_record {
	struct header header;
	u32 known;  // bits by index: what was asked for
	u32 ids[ID_COUNT];
	u32 reserved;
};

// target_record is of process.ptrace, memory.vm_read and memory.vm_write.
struct target_record {
	struct header header;
	struct task target;  // pid 0: not found
	u64 request;         // ptrace's request, process_vm_*'s flags
	u32 pid;             // as the caller gave it
	u32 reserved;
};

struct dup_record {
	struct header header;
	s32 old_fd, new_fd;
	struct socket_info socket;
	struct text path;
};

struct namespace_record {
	struct header header;
	u64 inode;
	u32 flags;
	u32 reserved;
};

// Values of header.call for fs.mount and fs.umount.
enum mount_call {
	CALL_MOUNT,
	CALL_FSOPEN,
	CALL_FSMOUNT,
	CALL_OPEN_TREE,
	CALL_MOVE_MOUNT,
	CALL_MOUNT_SETATTR,
	CALL_UMOUNT,
};

// mount_record is of fs.mount, with the flags of mount(2), and fs.umount, with those of umount2(2).
struct mount_record {
	struct header header;
	u32 flags;
	u32 reserved;
	struct text source;
	struct text target;
	struct text type;
};

enum region { REGION_UNKNOWN, REGION_FILE, REGION_ANONYMOUS, REGION_STACK, REGION_HEAP };

// memory_record is of memory.map, memory.protect, memory.memfd and memory.userfaultfd.
struct memory_record {
	struct header header;
	struct file_id file;
	struct file_version version;
	u64 address, length;
	u32 protection;
	u32 flags;
	u32 region;
	u32 reserved;
	struct text path;  // memory.memfd: its name
};

// Values of header.call for module.load.
enum module_call { CALL_INIT_MODULE, CALL_FINIT_MODULE };

struct module_record {
	struct header header;
	struct file_id file;
	struct file_version version;
	u32 flags;
	u32 reserved;
	char name[64];  // longer than the kernel allows
	struct text path;
};

struct bpf_record {
	struct header header;
	u32 type;
	u32 instructions;
	u32 id;
	u32 reserved;
	char name[16];
};

struct iouring_record {
	struct header header;
	u32 entries;
	u32 flags;
};

// net_record is of all net.* kinds.
struct net_record {
	struct header header;
	struct socket_info socket;
	u32 backlog;  // net.listen
	u32 reserved;
	struct text path;  // AF_UNIX: bytes of sun_path; a leading NUL byte is the abstract namespace
};

struct dns_record {
	struct header header;
	struct socket_info socket;
	u32 payload_len; // over TCP: messages with their length prefixes
	u32 reserved;
};

struct cgroup_record {
	struct header header;  // task.cgroup is the new cgroup
	struct text path;      // relative to the hierarchy's root
};

// kind_counters are of one kind, per CPU. What is attempted is either delivered or in one of the others.
struct kind_counters {
	u64 attempted;
	u64 ring_full;    // no room in the ring buffer
	u64 state_full;   // no room to remember a system call until its exit
	u64 throttled;    // its cgroup made too many
	u64 filtered;     // the settings leave it out
};

// settings may change while the programs run.
struct settings {
	u64 kinds;           // bits by kind: what is wanted
	u64 connect_window;  // ns in which a connect to the same address is left out; 0: never
	u32 open_all;        // file.open also for reading
	u32 watched;         // how many prefixes are in the map of that name
	u32 ignored;         // how many executables are in the map of that name
	u32 throttle;        // events that a cgroup may make in a second; 0: any number
};

// What the loader has to know of the maps.
enum slots {
	CLAIMED = 3,  // scratch: of each CPU, besides the one that is not claimed
};

// layer_file says what the private data of an overlay's open file is: the file in the layer, or what has it first.
enum layer_file { LAYER_FILE_UNKNOWN, LAYER_FILE_IS, LAYER_FILE_HELD };

#define WATCHED_MAX 127

// watched_key is a path's beginning, for a trie of prefixes.
struct watched_key {
	u32 bits;
	u8 path[WATCHED_MAX + 1];
};

// throttle_state is of one cgroup.
struct throttle_state {
	u64 window;  // when the second began
	u64 count;   // events since
	u64 dropped[KIND_COUNT];
};
