package event

// SetID holds the fields of process.setid: what the call asked for, in the caller's user namespace and with all bits
// set for what is to stay; of what is absent it says nothing. setfsuid(2) and setfsgid(2) never fail, also when they
// change nothing. The event's Process has the credentials from before; but those from after when only the end of a call
// that succeeded was told: by audit, and of a 32-bit caller on the rung "ebpf/tracepoint".
type SetID struct {
	Call  string           `json:"call"` // "setuid", "setresgid", …
	UID   Optional[uint32] `json:"uid,omitzero"`
	EUID  Optional[uint32] `json:"euid,omitzero"`
	SUID  Optional[uint32] `json:"suid,omitzero"`
	FSUID Optional[uint32] `json:"fsuid,omitzero"`
	GID   Optional[uint32] `json:"gid,omitzero"`
	EGID  Optional[uint32] `json:"egid,omitzero"`
	SGID  Optional[uint32] `json:"sgid,omitzero"`
	FSGID Optional[uint32] `json:"fsgid,omitzero"`
}

// Ptrace holds the fields of process.ptrace.
type Ptrace struct {
	Request PtraceRequest `json:"request"`
	// PID is the target as the caller named it: in its own pid namespace. Event.Target is who that was.
	PID uint32 `json:"pid,omitempty"`
}

// Dup holds the fields of process.dup.
type Dup struct {
	Call  string `json:"call"` // "dup", "dup2", "dup3", "fcntl"
	OldFD int32  `json:"old_fd"`
	NewFD int32  `json:"new_fd"` // as asked for, when the call failed
	Socket
	Path string `json:"path,omitempty"` // AF_UNIX: the address of the peer, or else of the socket
}

// Namespace holds the fields of process.namespace.
type Namespace struct {
	Call  string         `json:"call"` // "setns", "unshare", "clone"
	Flags NamespaceFlags `json:"flags,omitempty"`
	Inode uint64         `json:"inode,omitempty"` // setns: which namespace, as /proc/PID/ns names it
}

// Mount holds the fields of the fs.* kinds.
type Mount struct {
	Call   string     `json:"call"` // "mount", "fsopen", "fsmount", "open_tree", "move_mount", "mount_setattr", "umount"
	Source string     `json:"source,omitempty"`
	Target string     `json:"target,omitempty"` // where it is mounted, absolute; as given when the attempt failed
	Type   string     `json:"type,omitempty"`   // the file system's
	Flags  MountFlags `json:"flags,omitempty"`
	// UmountFlags are those of umount2(2).
	UmountFlags UmountFlags `json:"umount_flags,omitempty"`
	// Unverified says that a name was read from the caller's memory, which the caller may have changed meanwhile.
	Unverified bool   `json:"unverified,omitempty"`
	Truncated  Fields `json:"truncated,omitempty"`
}

// Memory holds the fields of the memory.* kinds.
type Memory struct {
	Address    Address    `json:"address,omitzero"`
	Length     uint64     `json:"length,omitempty"` // bytes
	Protection Protection `json:"protection,omitempty"`
	Flags      MapFlags   `json:"flags,omitempty"` // memory.map
	// Region is what the memory is: "stack", "heap", "file" or "anonymous"; of several, that at Address.
	Region string `json:"region,omitempty"`
	// Path, Device, Inode and UpperLayer are of the file that is mapped there; see File. memory.memfd has the Device and
	// the Inode of what was made.
	Path       string `json:"path,omitempty"`
	Device     Device `json:"device,omitempty"`
	Inode      uint64 `json:"inode,omitempty"`
	UpperLayer bool   `json:"upper_layer,omitempty"`
	PathLength uint32 `json:"path_length,omitempty"` // bytes, when Path was cut and its length is known
	// Version is the file's, and Digest of that: of memory.map, when the file is in the upper layer of an overlay.
	Version FileVersion `json:"-"`
	Digest

	// PID is the target of memory.vm_* as the caller named it: in its own pid namespace. Event.Target is who that was.
	PID     uint32 `json:"pid,omitempty"`
	VMFlags uint64 `json:"vm_flags,omitempty"` // memory.vm_*: reserved by the kernel, 0 in a call that it accepts

	Name             string           `json:"name,omitempty"` // memory.memfd
	MemfdFlags       MemfdFlags       `json:"memfd_flags,omitempty"`
	UserfaultfdFlags UserfaultfdFlags `json:"userfaultfd_flags,omitempty"`

	// Unverified says that Name was read from the caller's memory, or that the file is the one that the caller's
	// descriptor stood for at the call's end: which the caller may have changed meanwhile.
	Unverified bool   `json:"unverified,omitempty"`
	Truncated  Fields `json:"truncated,omitempty"`
}

// Module holds the fields of module.load.
type Module struct {
	Call string `json:"call"`           // "init_module", "finit_module"
	Name string `json:"name,omitempty"` // when the kernel got as far as to read it
	// Path, Device, Inode and UpperLayer are of the file, for finit_module(2); see File.
	Path       string      `json:"path,omitempty"`
	Device     Device      `json:"device,omitempty"`
	Inode      uint64      `json:"inode,omitempty"`
	UpperLayer bool        `json:"upper_layer,omitempty"`
	Flags      ModuleFlags `json:"flags,omitempty"`
	// Version is the file's, and Digest of that.
	Version FileVersion `json:"-"`
	Digest
	// Unverified says that the file is the one behind the descriptor when the call ended, which another thread may have
	// changed meanwhile.
	Unverified bool   `json:"unverified,omitempty"`
	Truncated  Fields `json:"truncated,omitempty"`
}

// BPF holds the fields of bpf.load.
type BPF struct {
	Type         ProgramType `json:"type"`
	Name         string      `json:"name,omitempty"`
	Instructions uint32      `json:"instructions,omitempty"`
	ProgramID    uint32      `json:"program_id,omitempty"` // as bpftool-prog(8) shows it
	// Unverified says that it was read from the caller's memory, which the caller may have changed meanwhile.
	Unverified bool `json:"unverified,omitempty"`
}

// IOUring holds the fields of iouring.setup.
type IOUring struct {
	Entries uint32       `json:"entries"` // of the submission queue, as asked for
	Flags   IOUringFlags `json:"flags,omitempty"`
	// Unverified says that Flags was read from the caller's memory, which the caller may have changed meanwhile.
	Unverified bool `json:"unverified,omitempty"`
}
