package audit

import (
	"slices"

	"github.com/elastic/go-libaudit/v2/auparse"

	"github.com/taskguard/taskguard/collector/event"
)

// call is what a system call means to the decoder.
type call struct {
	kind  event.Kind
	flags source // file.open: where its open flags are
	at    bool   // file.open: argument 0 is the directory that a relative path starts from
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

// syscalls lists the calls of a kind and, as the kernel can filter by them, a condition on their arguments.
type syscalls struct {
	call
	names  []string
	filter string // "a1&0x243"; empty for none
}

// writing are the open flags that change a file: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC.
const writing = 0x243

// watched is every system call that is collected, by kind, in the terms of the kernel's rules. A name that an
// architecture lacks is left out there.
func watched() []syscalls {
	open := func(from source) call { return call{kind: event.FileOpen, flags: from} }
	openat := func(from source) call { return call{kind: event.FileOpen, flags: from, at: true} }
	return []syscalls{
		// A failed execve(2) leaves the process as it was, and has no arguments recorded.
		{call: call{kind: event.ProcessExec}, names: []string{"execve", "execveat"}, filter: "success=1"},
		{call: call{kind: event.ProcessExit}, names: []string{"exit_group"}},
		{call: call{kind: event.NetConnect}, names: []string{"connect"}},
		{call: call{kind: event.NetConnect}, names: []string{"socketcall"}, filter: "a0=3"},
		{call: open(argument1), names: []string{"open"}, filter: "a1&0x243"},
		{call: openat(argument2), names: []string{"openat"}, filter: "a2&0x243"},
		{call: openat(record), names: []string{"openat2"}},
		{call: open(creates), names: []string{"creat"}},
		{call: open(cuts), names: []string{"truncate", "truncate64"}},
	}
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

// callKey is an architecture (AUDIT_ARCH_*) and a call's number in it.
type callKey struct{ arch, number uint32 }

// architectures are those whose records are decoded, with the names of the library's tables.
func architectures() map[auparse.AuditArch]string {
	return map[auparse.AuditArch]string{
		auparse.AUDIT_ARCH_X86_64: "x86_64", auparse.AUDIT_ARCH_I386: "i386",
		auparse.AUDIT_ARCH_AARCH64: "aarch64", auparse.AUDIT_ARCH_ARM: "arm",
	}
}

// callTable indexes the calls of the wanted kinds.
func callTable(wanted []event.Kind) map[callKey]call {
	byName := map[string]call{}
	for _, s := range watched() {
		for _, name := range s.names {
			if slices.Contains(wanted, s.kind) {
				byName[name] = s.call
			}
		}
	}
	table := map[callKey]call{}
	for arch, name := range architectures() {
		for number, syscall := range auparse.AuditSyscalls[name] {
			if c, ok := byName[syscall]; ok {
				table[callKey{uint32(arch), uint32(number)}] = c
			}
		}
	}
	return table
}
