package event

import "encoding/json"

// RenameFlags are those of renameat2(2). The JSON form of these and all flags below is an array of their names; a bit
// without a name is given in hexadecimal.
type RenameFlags uint32

// MountFlags are those of mount(2).
type MountFlags uint32

// UmountFlags are those of umount2(2).
type UmountFlags uint32

// NamespaceFlags say which kinds of namespaces, with the values of clone(2).
type NamespaceFlags uint32

// Protection is what may be done with memory (mmap(2)).
type Protection uint32

// MapFlags are those of mmap(2). The two bits that say whether the map is shared come first.
type MapFlags uint32

// MemfdFlags are those of memfd_create(2).
type MemfdFlags uint32

// UserfaultfdFlags are those of userfaultfd(2).
type UserfaultfdFlags uint32

// ModuleFlags are those of finit_module(2).
type ModuleFlags uint32

// IOUringFlags are those of io_uring_setup(2).
type IOUringFlags uint32

// The tables are indexed by bit and taken from the kernel's include/uapi/linux: fs.h, mount.h, sched.h, mman.h,
// memfd.h, userfaultfd.h, module.h, io_uring.h.
var (
	renameFlagNames = []string{"RENAME_NOREPLACE", "RENAME_EXCHANGE", "RENAME_WHITEOUT"}
	mountFlagNames  = []string{
		0: "MS_RDONLY", 1: "MS_NOSUID", 2: "MS_NODEV", 3: "MS_NOEXEC", 4: "MS_SYNCHRONOUS", 5: "MS_REMOUNT",
		6: "MS_MANDLOCK", 7: "MS_DIRSYNC", 8: "MS_NOSYMFOLLOW", 10: "MS_NOATIME", 11: "MS_NODIRATIME", 12: "MS_BIND",
		13: "MS_MOVE", 14: "MS_REC", 15: "MS_SILENT", 16: "MS_POSIXACL", 17: "MS_UNBINDABLE", 18: "MS_PRIVATE",
		19: "MS_SLAVE", 20: "MS_SHARED", 21: "MS_RELATIME", 22: "MS_KERNMOUNT", 23: "MS_I_VERSION",
		24: "MS_STRICTATIME", 25: "MS_LAZYTIME",
	}
	umountFlagNames    = []string{"MNT_FORCE", "MNT_DETACH", "MNT_EXPIRE", "UMOUNT_NOFOLLOW"}
	namespaceFlagNames = []string{
		7: "CLONE_NEWTIME", 17: "CLONE_NEWNS", 25: "CLONE_NEWCGROUP", 26: "CLONE_NEWUTS", 27: "CLONE_NEWIPC",
		28: "CLONE_NEWUSER", 29: "CLONE_NEWPID", 30: "CLONE_NEWNET",
	}
	protectionNames = []string{0: "PROT_READ", 1: "PROT_WRITE", 2: "PROT_EXEC", 3: "PROT_SEM",
		4: "PROT_BTI", 5: "PROT_MTE", 24: "PROT_GROWSDOWN", 25: "PROT_GROWSUP"}
	mapFlagNames = []string{
		0: "MAP_SHARED", 1: "MAP_PRIVATE", 4: "MAP_FIXED", 5: "MAP_ANONYMOUS", 6: "MAP_32BIT", 8: "MAP_GROWSDOWN",
		11: "MAP_DENYWRITE", 12: "MAP_EXECUTABLE", 13: "MAP_LOCKED", 14: "MAP_NORESERVE", 15: "MAP_POPULATE",
		16: "MAP_NONBLOCK", 17: "MAP_STACK", 18: "MAP_HUGETLB", 19: "MAP_SYNC", 20: "MAP_FIXED_NOREPLACE",
	}
	memfdFlagNames       = []string{"MFD_CLOEXEC", "MFD_ALLOW_SEALING", "MFD_HUGETLB", "MFD_NOEXEC_SEAL", "MFD_EXEC"}
	userfaultfdFlagNames = []string{0: "UFFD_USER_MODE_ONLY", 11: "O_NONBLOCK", 19: "O_CLOEXEC"}
	moduleFlagNames      = []string{
		"MODULE_INIT_IGNORE_MODVERSIONS", "MODULE_INIT_IGNORE_VERMAGIC", "MODULE_INIT_COMPRESSED_FILE",
	}
	iouringFlagNames = []string{
		"IORING_SETUP_IOPOLL", "IORING_SETUP_SQPOLL", "IORING_SETUP_SQ_AFF", "IORING_SETUP_CQSIZE", "IORING_SETUP_CLAMP",
		"IORING_SETUP_ATTACH_WQ", "IORING_SETUP_R_DISABLED", "IORING_SETUP_SUBMIT_ALL", "IORING_SETUP_COOP_TASKRUN",
		"IORING_SETUP_TASKRUN_FLAG", "IORING_SETUP_SQE128", "IORING_SETUP_CQE32", "IORING_SETUP_SINGLE_ISSUER",
		"IORING_SETUP_DEFER_TASKRUN", "IORING_SETUP_NO_MMAP", "IORING_SETUP_REGISTERED_FD_ONLY", "IORING_SETUP_NO_SQARRAY",
		"IORING_SETUP_HYBRID_IOPOLL", "IORING_SETUP_CQE_MIXED",
	}
)

func marshalFlags[T ~uint32](f T, names []string) ([]byte, error) {
	return json.Marshal(bitNames(uint32(f), names))
}

func unmarshalFlags[T ~uint32](f *T, data []byte, names []string) error {
	bits, err := parseBitNames(data, names)
	*f = T(bits)
	return err
}

// Names returns the flags' names.
func (f RenameFlags) Names() []string { return bitNames(uint32(f), renameFlagNames) }

// MarshalJSON implements json.Marshaler.
func (f RenameFlags) MarshalJSON() ([]byte, error) { return marshalFlags(f, renameFlagNames) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *RenameFlags) UnmarshalJSON(data []byte) error {
	return unmarshalFlags(f, data, renameFlagNames)
}

// Names returns the flags' names.
func (f MountFlags) Names() []string { return bitNames(uint32(f), mountFlagNames) }

// MarshalJSON implements json.Marshaler.
func (f MountFlags) MarshalJSON() ([]byte, error) { return marshalFlags(f, mountFlagNames) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *MountFlags) UnmarshalJSON(data []byte) error {
	return unmarshalFlags(f, data, mountFlagNames)
}

// Names returns the flags' names.
func (f UmountFlags) Names() []string { return bitNames(uint32(f), umountFlagNames) }

// MarshalJSON implements json.Marshaler.
func (f UmountFlags) MarshalJSON() ([]byte, error) { return marshalFlags(f, umountFlagNames) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *UmountFlags) UnmarshalJSON(data []byte) error {
	return unmarshalFlags(f, data, umountFlagNames)
}

// Names returns the flags' names.
func (f NamespaceFlags) Names() []string { return bitNames(uint32(f), namespaceFlagNames) }

// MarshalJSON implements json.Marshaler.
func (f NamespaceFlags) MarshalJSON() ([]byte, error) { return marshalFlags(f, namespaceFlagNames) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *NamespaceFlags) UnmarshalJSON(data []byte) error {
	return unmarshalFlags(f, data, namespaceFlagNames)
}

// Names returns the flags' names.
func (f Protection) Names() []string { return bitNames(uint32(f), protectionNames) }

// MarshalJSON implements json.Marshaler.
func (f Protection) MarshalJSON() ([]byte, error) { return marshalFlags(f, protectionNames) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *Protection) UnmarshalJSON(data []byte) error {
	return unmarshalFlags(f, data, protectionNames)
}

// Names returns the flags' names.
func (f MapFlags) Names() []string { return bitNames(uint32(f), mapFlagNames) }

// MarshalJSON implements json.Marshaler.
func (f MapFlags) MarshalJSON() ([]byte, error) { return marshalFlags(f, mapFlagNames) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *MapFlags) UnmarshalJSON(data []byte) error {
	return unmarshalFlags(f, data, mapFlagNames)
}

// Names returns the flags' names.
func (f MemfdFlags) Names() []string { return bitNames(uint32(f), memfdFlagNames) }

// MarshalJSON implements json.Marshaler.
func (f MemfdFlags) MarshalJSON() ([]byte, error) { return marshalFlags(f, memfdFlagNames) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *MemfdFlags) UnmarshalJSON(data []byte) error {
	return unmarshalFlags(f, data, memfdFlagNames)
}

// Names returns the flags' names.
func (f UserfaultfdFlags) Names() []string { return bitNames(uint32(f), userfaultfdFlagNames) }

// MarshalJSON implements json.Marshaler.
func (f UserfaultfdFlags) MarshalJSON() ([]byte, error) { return marshalFlags(f, userfaultfdFlagNames) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *UserfaultfdFlags) UnmarshalJSON(data []byte) error {
	return unmarshalFlags(f, data, userfaultfdFlagNames)
}

// Names returns the flags' names.
func (f ModuleFlags) Names() []string { return bitNames(uint32(f), moduleFlagNames) }

// MarshalJSON implements json.Marshaler.
func (f ModuleFlags) MarshalJSON() ([]byte, error) { return marshalFlags(f, moduleFlagNames) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *ModuleFlags) UnmarshalJSON(data []byte) error {
	return unmarshalFlags(f, data, moduleFlagNames)
}

// Names returns the flags' names.
func (f IOUringFlags) Names() []string { return bitNames(uint32(f), iouringFlagNames) }

// MarshalJSON implements json.Marshaler.
func (f IOUringFlags) MarshalJSON() ([]byte, error) { return marshalFlags(f, iouringFlagNames) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *IOUringFlags) UnmarshalJSON(data []byte) error {
	return unmarshalFlags(f, data, iouringFlagNames)
}

// PtraceRequest is the first argument of ptrace(2). Its JSON form is the kernel's name for it, or its number.
type PtraceRequest uint32

// ptraceRequests is from include/uapi/linux/ptrace.h and, from 12 to 33, the architectures': they agree on the names
// here.
var ptraceRequests = map[PtraceRequest]string{
	0: "PTRACE_TRACEME", 1: "PTRACE_PEEKTEXT", 2: "PTRACE_PEEKDATA", 3: "PTRACE_PEEKUSR", 4: "PTRACE_POKETEXT",
	5: "PTRACE_POKEDATA", 6: "PTRACE_POKEUSR", 7: "PTRACE_CONT", 8: "PTRACE_KILL", 9: "PTRACE_SINGLESTEP",
	12: "PTRACE_GETREGS", 13: "PTRACE_SETREGS", 14: "PTRACE_GETFPREGS", 15: "PTRACE_SETFPREGS", 16: "PTRACE_ATTACH",
	17: "PTRACE_DETACH", 24: "PTRACE_SYSCALL", 0x4200: "PTRACE_SETOPTIONS", 0x4201: "PTRACE_GETEVENTMSG",
	0x4202: "PTRACE_GETSIGINFO", 0x4203: "PTRACE_SETSIGINFO", 0x4204: "PTRACE_GETREGSET", 0x4205: "PTRACE_SETREGSET",
	0x4206: "PTRACE_SEIZE", 0x4207: "PTRACE_INTERRUPT", 0x4208: "PTRACE_LISTEN", 0x4209: "PTRACE_PEEKSIGINFO",
	0x420a: "PTRACE_GETSIGMASK", 0x420b: "PTRACE_SETSIGMASK", 0x420c: "PTRACE_SECCOMP_GET_FILTER",
	0x420d: "PTRACE_SECCOMP_GET_METADATA", 0x420e: "PTRACE_GET_SYSCALL_INFO", 0x420f: "PTRACE_GET_RSEQ_CONFIGURATION",
	0x4210: "PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG", 0x4211: "PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG",
	0x4212: "PTRACE_SET_SYSCALL_INFO",
}

// ProgramType is a type of BPF program (bpf(2)). Its JSON form is the kernel's name for it, or its number.
type ProgramType uint32

// programTypes is from include/uapi/linux/bpf.h.
var programTypes = map[ProgramType]string{
	0: "BPF_PROG_TYPE_UNSPEC", 1: "BPF_PROG_TYPE_SOCKET_FILTER", 2: "BPF_PROG_TYPE_KPROBE",
	3: "BPF_PROG_TYPE_SCHED_CLS", 4: "BPF_PROG_TYPE_SCHED_ACT", 5: "BPF_PROG_TYPE_TRACEPOINT",
	6: "BPF_PROG_TYPE_XDP", 7: "BPF_PROG_TYPE_PERF_EVENT", 8: "BPF_PROG_TYPE_CGROUP_SKB",
	9: "BPF_PROG_TYPE_CGROUP_SOCK", 10: "BPF_PROG_TYPE_LWT_IN", 11: "BPF_PROG_TYPE_LWT_OUT",
	12: "BPF_PROG_TYPE_LWT_XMIT", 13: "BPF_PROG_TYPE_SOCK_OPS", 14: "BPF_PROG_TYPE_SK_SKB",
	15: "BPF_PROG_TYPE_CGROUP_DEVICE", 16: "BPF_PROG_TYPE_SK_MSG", 17: "BPF_PROG_TYPE_RAW_TRACEPOINT",
	18: "BPF_PROG_TYPE_CGROUP_SOCK_ADDR", 19: "BPF_PROG_TYPE_LWT_SEG6LOCAL", 20: "BPF_PROG_TYPE_LIRC_MODE2",
	21: "BPF_PROG_TYPE_SK_REUSEPORT", 22: "BPF_PROG_TYPE_FLOW_DISSECTOR", 23: "BPF_PROG_TYPE_CGROUP_SYSCTL",
	24: "BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE", 25: "BPF_PROG_TYPE_CGROUP_SOCKOPT",
	26: "BPF_PROG_TYPE_TRACING", 27: "BPF_PROG_TYPE_STRUCT_OPS", 28: "BPF_PROG_TYPE_EXT",
	29: "BPF_PROG_TYPE_LSM", 30: "BPF_PROG_TYPE_SK_LOOKUP", 31: "BPF_PROG_TYPE_SYSCALL",
	32: "BPF_PROG_TYPE_NETFILTER",
}

// String returns the kernel's name, or the number.
func (v PtraceRequest) String() string { return nameOf(ptraceRequests, v) }

// MarshalText implements encoding.TextMarshaler.
func (v PtraceRequest) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *PtraceRequest) UnmarshalText(text []byte) (err error) {
	*v, err = valueOf(ptraceRequests, string(text))
	return err
}

// String returns the kernel's name, or the number.
func (v ProgramType) String() string { return nameOf(programTypes, v) }

// MarshalText implements encoding.TextMarshaler.
func (v ProgramType) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *ProgramType) UnmarshalText(text []byte) (err error) {
	*v, err = valueOf(programTypes, string(text))
	return err
}
