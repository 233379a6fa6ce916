package event

import (
	"fmt"
	"strconv"
	"strings"
)

// Kind says what happened. Its number is part of the wire format (sender/batch/batch.proto) and never changes;
// its text, "<group>.<what>", is part of the JSON form.
type Kind uint8

// The kinds. The zero Kind is no kind.
const (
	ProcessExec    Kind = 1  // a process replaced its image
	ProcessFork    Kind = 2  // a process was created; Event.Process is the child
	ProcessExit    Kind = 3  // the last thread of a process ended; Event.Process.Exit says how
	FileOpen       Kind = 4  // a file was opened for writing, or one that is watched, or the attempt failed
	NetConnect     Kind = 5  // connect(2) on an IPv4, IPv6 or AF_UNIX socket
	DNSQuery       Kind = 6  // a DNS message left this host for port 53
	DNSResponse    Kind = 7  // a DNS message arrived from port 53
	AgentStart     Kind = 8  // the agent started to observe
	AgentHeartbeat Kind = 9  // the agent is alive; says the health of every source
	AgentLoss      Kind = 10 // events were lost, or an interval was not observed

	ProcessSetID     Kind = 11 // setuid(2), setgid(2) and their relatives
	ProcessPtrace    Kind = 12 // ptrace(2); Event.Target is the process it was done to
	ProcessDup       Kind = 13 // a socket became descriptor 0, 1 or 2: dup(2) and its relatives
	ProcessNamespace Kind = 14 // setns(2), unshare(2), clone(2) into new namespaces

	FileRename  Kind = 15 // rename(2) and its relatives
	FileLink    Kind = 16 // link(2), linkat(2)
	FileSymlink Kind = 17 // symlink(2), symlinkat(2)
	FileUnlink  Kind = 18 // unlink(2), unlinkat(2), rmdir(2)
	FileChmod   Kind = 19 // chmod(2) and its relatives
	FileChown   Kind = 20 // chown(2) and its relatives
	FSMount     Kind = 21 // mount(2), fsopen(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2)
	FSUmount    Kind = 22 // umount(2), umount2(2)

	MemoryMap         Kind = 23 // mmap(2) of executable memory
	MemoryProtect     Kind = 24 // mprotect(2), pkey_mprotect(2) that makes memory executable
	MemoryVMRead      Kind = 25 // process_vm_readv(2); Event.Target is the process that was read
	MemoryVMWrite     Kind = 26 // process_vm_writev(2); Event.Target is the process that was written to
	MemoryMemfd       Kind = 27 // memfd_create(2)
	MemoryUserfaultfd Kind = 28 // userfaultfd(2)

	ModuleLoad   Kind = 29 // init_module(2), finit_module(2)
	BPFLoad      Kind = 30 // bpf(2) with BPF_PROG_LOAD
	IOUringSetup Kind = 31 // io_uring_setup(2)

	NetSocket Kind = 32 // socket(2), of any family but AF_UNIX and AF_NETLINK
	NetAccept Kind = 33 // accept(2), accept4(2)
	NetBind   Kind = 34 // bind(2) of an IPv4, IPv6, AF_UNIX or AF_PACKET socket
	NetListen Kind = 35 // listen(2)
	NetSend   Kind = 36 // a datagram to an address that its socket is not connected to, or TCP Fast Open

	AgentThrottle Kind = 37 // a cgroup began, or ceased, to make more events than it may

	ContainerCreate Kind = 38 // the container engine made a container
	ContainerStart  Kind = 39 // the container engine started a container, the first time or again
	ContainerExec   Kind = 40 // the container engine was told to start a program in a container that runs
	ContainerStop   Kind = 41 // a container ended, whoever ended it

	// KindCount is one more than the highest Kind: the length of an array indexed by Kind.
	KindCount = 42
)

var kindNames = [KindCount]string{
	ProcessExec: "process.exec", ProcessFork: "process.fork", ProcessExit: "process.exit",
	FileOpen: "file.open", NetConnect: "net.connect",
	DNSQuery: "dns.query", DNSResponse: "dns.response",
	AgentStart: "agent.start", AgentHeartbeat: "agent.heartbeat", AgentLoss: "agent.loss",
	ProcessSetID: "process.setid", ProcessPtrace: "process.ptrace", ProcessDup: "process.dup",
	ProcessNamespace: "process.namespace",
	FileRename:       "file.rename", FileLink: "file.link", FileSymlink: "file.symlink", FileUnlink: "file.unlink",
	FileChmod: "file.chmod", FileChown: "file.chown", FSMount: "fs.mount", FSUmount: "fs.umount",
	MemoryMap: "memory.map", MemoryProtect: "memory.protect", MemoryVMRead: "memory.vm_read",
	MemoryVMWrite: "memory.vm_write", MemoryMemfd: "memory.memfd", MemoryUserfaultfd: "memory.userfaultfd",
	ModuleLoad: "module.load", BPFLoad: "bpf.load", IOUringSetup: "iouring.setup",
	NetSocket: "net.socket", NetAccept: "net.accept", NetBind: "net.bind", NetListen: "net.listen", NetSend: "net.send",
	AgentThrottle:   "agent.throttle",
	ContainerCreate: "container.create", ContainerStart: "container.start", ContainerExec: "container.exec",
	ContainerStop: "container.stop",
}

// Kinds returns every kind in the order of their numbers.
func Kinds() []Kind {
	kinds := make([]Kind, 0, KindCount-1)
	for k := Kind(1); k < KindCount; k++ {
		kinds = append(kinds, k)
	}
	return kinds
}

// String returns the kind's name, or "kind(N)" for a number this version does not know.
func (k Kind) String() string {
	if k > 0 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind returns the kind with that name.
func ParseKind(name string) (Kind, error) {
	for k, n := range kindNames {
		if n == name && k > 0 {
			return Kind(k), nil
		}
	}
	return 0, fmt.Errorf("unknown event kind %q: want one of %v", name, Kinds())
}

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It also reads "kind(N)": what a newer version recorded.
func (k *Kind) UnmarshalText(text []byte) error {
	if number, ok := strings.CutPrefix(string(text), "kind("); ok {
		n, err := strconv.ParseUint(strings.TrimSuffix(number, ")"), 10, 8)
		if err == nil && Kind(n).String() == string(text) {
			*k = Kind(n)
			return nil
		}
	}
	parsed, err := ParseKind(string(text))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}
