package audit

import (
	"slices"
	"strings"

	"github.com/elastic/go-libaudit/v2/auparse"

	"github.com/taskguard/taskguard/collector/event"
)

// call is what a system call means to the decoder.
type call struct {
	kind  event.Kind
	name  string // as events have it
	flags source // file.open: where its open flags are
	at    int8   // 1 + the argument that is the directory a relative path starts from; 0: the working directory
	to    int8   // the same for a second path
	value int8   // the argument at which what is set begins
	short bool   // its user and group ids have 16 bits
}

// source says where a call's open flags are.
type source uint8

const (
	none      source = iota
	argument1        // open
	argument2        // openat
	record           // openat2: in a record of their own
	creates          // creat: implied
	cuts             // truncate: implied
)

// syscalls lists calls of a kind and, as the kernel can filter by them, conditions on their arguments. A condition must
// not be avoidable: registers have 64 bits, and the kernel ignores the upper half of an int, so "a0=5" can be.
type syscalls struct {
	call
	names  []string
	filter string // "a1&0x243"; several are separated by spaces, and must all hold
	width  string // "b64" or "b32"; empty for both
}

const (
	// writing are the open flags that change a file: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC.
	writing = 0x243
	// namespaces are the flags of unshare(2) that make one; CLONE_NEWTIME, the lowest, is part of a signal in clone(2).
	namespaces, newTime = 0x7e020080, 0x80
	executable          = 0x4 // PROT_EXEC
)

// watched is every system call that is collected, by kind, in the terms of the kernel's rules. A name that an
// architecture lacks is left out there.
func watched() []syscalls {
	open := func(from source, at int8) call { return call{kind: event.FileOpen, flags: from, at: at} }
	of := func(kind event.Kind, names ...string) syscalls { return syscalls{call: call{kind: kind}, names: names} }
	where := func(filter string, s syscalls) syscalls { s.filter = filter; return s }
	return []syscalls{
		of(event.ProcessExec, "execve"),
		{call: call{kind: event.ProcessExec, at: 1}, names: []string{"execveat"}},
		of(event.ProcessExit, "exit_group"),
		of(event.ProcessSetID, "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid",
			"setfsgid", "setuid32", "setgid32", "setreuid32", "setregid32", "setresuid32", "setresgid32", "setfsuid32",
			"setfsgid32"),
		of(event.ProcessPtrace, "ptrace"),
		of(event.ProcessNamespace, "setns"),
		where("a0&0x7e020080", of(event.ProcessNamespace, "unshare")),
		where("a0&0x7e020000", of(event.ProcessNamespace, "clone")),

		{call: open(argument1, 0), names: []string{"open"}, filter: "a1&0x243"},
		{call: open(argument2, 1), names: []string{"openat"}, filter: "a2&0x243"},
		{call: open(record, 1), names: []string{"openat2"}},
		{call: open(creates, 0), names: []string{"creat"}},
		{call: open(cuts, 0), names: []string{"truncate", "truncate64"}},
		of(event.FileRename, "rename"),
		{call: call{kind: event.FileRename, at: 1, to: 3}, names: []string{"renameat", "renameat2"}},
		of(event.FileLink, "link"),
		{call: call{kind: event.FileLink, at: 3, to: 1}, names: []string{"linkat"}},
		of(event.FileSymlink, "symlink"),
		{call: call{kind: event.FileSymlink, at: 2}, names: []string{"symlinkat"}},
		of(event.FileUnlink, "unlink", "rmdir"),
		{call: call{kind: event.FileUnlink, at: 1, value: 2}, names: []string{"unlinkat"}},
		{call: call{kind: event.FileChmod, value: 1}, names: []string{"chmod", "fchmod"}},
		{call: call{kind: event.FileChmod, at: 1, value: 2}, names: []string{"fchmodat", "fchmodat2"}},
		{call: call{kind: event.FileChown, value: 1},
			names: []string{"chown", "lchown", "fchown", "chown32", "lchown32", "fchown32"}},
		{call: call{kind: event.FileChown, at: 1, value: 2}, names: []string{"fchownat"}},
		of(event.FSMount, "mount", "fsopen", "fsmount"),
		{call: call{kind: event.FSMount, at: 1}, names: []string{"open_tree"}},
		{call: call{kind: event.FSMount, at: 3}, names: []string{"move_mount"}},
		of(event.FSUmount, "umount", "umount2"),

		// The 32-bit mmap(2) has its arguments in memory.
		{call: call{kind: event.MemoryMap}, names: []string{"mmap"}, filter: "a2&0x4", width: "b64"},
		{call: call{kind: event.MemoryMap}, names: []string{"mmap2"}, filter: "a2&0x4", width: "b32"},
		where("a2&0x4", of(event.MemoryProtect, "mprotect", "pkey_mprotect")),
		of(event.MemoryVMRead, "process_vm_readv"),
		of(event.MemoryVMWrite, "process_vm_writev"),
		of(event.MemoryMemfd, "memfd_create"),
		of(event.MemoryUserfaultfd, "userfaultfd"),
		of(event.ModuleLoad, "init_module", "finit_module"),
		where("a0&=0x5", of(event.BPFLoad, "bpf")),
		of(event.IOUringSetup, "io_uring_setup"),

		where("a0!=1 a0!=16", of(event.NetSocket, "socket")), // AF_UNIX, AF_NETLINK
		of(event.NetBind, "bind"),
		of(event.NetListen, "listen"),
		where("exit!=-11", of(event.NetAccept, "accept", "accept4")), // EAGAIN: nobody was there
		of(event.NetConnect, "connect"),
		// Without an address there is nothing to tell, and there are very many of these.
		where("saddr_fam>=2 saddr_fam<=10", of(event.NetSend, "sendto", "sendmsg", "sendmmsg")), // AF_INET, AF_INET6
	}
}

// socketcalls are the numbers that calls have in socketcall(2) (include/uapi/linux/net.h).
func socketcalls() map[string]uint32 {
	return map[string]uint32{"socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5, "sendto": 11,
		"sendmsg": 16, "accept4": 18, "sendmmsg": 20}
}

// Kinds returns the kinds that audit can tell of.
func Kinds() []event.Kind {
	var list []event.Kind
	for _, s := range watched() {
		if !slices.Contains(list, s.kind) {
			list = append(list, s.kind)
		}
	}
	return list
}

// untold says why audit cannot tell of a kind.
func untold(kind event.Kind) string {
	switch kind {
	case event.ProcessFork:
		return "audit records do not tell processes from threads, nor their pids outside of their namespace"
	case event.ProcessDup:
		return "audit records do not tell which descriptors are sockets"
	case event.DNSQuery, event.DNSResponse:
		return "audit records do not hold what is sent and received"
	}
	return "audit records do not tell of it"
}

// callKey is an architecture (AUDIT_ARCH_*) and a call's number in it, or inSocketcall and its number there.
type callKey struct{ arch, number uint32 }

const inSocketcall = 1 << 16

// architectures are those whose records are decoded, with the names of the library's tables.
func architectures() map[auparse.AuditArch]string {
	return map[auparse.AuditArch]string{
		auparse.AUDIT_ARCH_X86_64: "x86_64", auparse.AUDIT_ARCH_I386: "i386",
		auparse.AUDIT_ARCH_AARCH64: "aarch64", auparse.AUDIT_ARCH_ARM: "arm",
	}
}

// is64 tells by bit __AUDIT_ARCH_64BIT.
func is64(arch uint32) bool { return arch&0x80000000 != 0 }

// calls is the calls of the kinds that are decoded. A call without a kind is socketcall(2).
type calls map[callKey]call

func callTable(wanted []event.Kind) calls {
	table := calls{}
	for arch, name := range architectures() {
		numbers := map[string]uint32{}
		for number, name := range auparse.AuditSyscalls[name] {
			numbers[name] = uint32(number)
		}
		for _, s := range watched() {
			if slices.Contains(wanted, s.kind) && (s.width == "" || (s.width == "b64") == is64(uint32(arch))) {
				table.add(uint32(arch), s, numbers)
			}
		}
	}
	return table
}

// add adds the calls that an architecture has.
func (t calls) add(arch uint32, s syscalls, numbers map[string]uint32) {
	for _, name := range s.names {
		c := s.call
		c.name = callName(name)
		if number, ok := numbers[name]; ok {
			_, long := numbers[name+"32"]
			c.short = long
			t[callKey{arch, number}] = c
		}
		multiplexer, ok := numbers["socketcall"]
		if sub, known := socketcalls()[name]; ok && known {
			t[callKey{arch, multiplexer}] = call{}
			t[callKey{arch, inSocketcall | sub}] = c
		}
	}
}

// callName is the name that a call has on all architectures.
func callName(name string) string {
	if name == "umount2" {
		return "umount"
	}
	return strings.TrimSuffix(name, "32")
}
