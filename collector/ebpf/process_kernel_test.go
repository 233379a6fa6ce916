package ebpf

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

func TestSetID(t *testing.T) {
	id := event.Some[uint32]
	none := event.Some(^uint32(0))
	tests := []struct {
		name  string
		call  rawCall
		at    place
		errno unix.Errno
		want  event.SetID
	}{
		{"setuid", native(unix.SYS_SETUID, nums(4001)...), onHost, 0, event.SetID{Call: "setuid", UID: id(4001)}},
		{"setuid in a container", native(unix.SYS_SETUID, nums(4001)...), inContainer, 0,
			event.SetID{Call: "setuid", UID: id(4001)}},
		{"setuid refused", native(unix.SYS_SETUID, nums(0)...), place{uid: 2001, gid: 2002}, unix.EPERM,
			event.SetID{Call: "setuid", UID: id(0)}},
		{"setuid to the same", native(unix.SYS_SETUID, nums(0)...), onHost, 0, event.SetID{Call: "setuid", UID: id(0)}},
		{"setgid", native(unix.SYS_SETGID, nums(4002)...), onHost, 0, event.SetID{Call: "setgid", GID: id(4002)}},
		{"setgid refused", native(unix.SYS_SETGID, nums(1)...), place{uid: 2001, gid: 2002}, unix.EPERM,
			event.SetID{Call: "setgid", GID: id(1)}},
		{"setreuid", native(unix.SYS_SETREUID, nums(-1, 4003)...), onHost, 0,
			event.SetID{Call: "setreuid", UID: none, EUID: id(4003)}},
		{"setregid", native(unix.SYS_SETREGID, nums(4004, -1)...), onHost, 0,
			event.SetID{Call: "setregid", GID: id(4004), EGID: none}},
		{"setresuid", native(unix.SYS_SETRESUID, nums(4005, 4006, 4007)...), onHost, 0,
			event.SetID{Call: "setresuid", UID: id(4005), EUID: id(4006), SUID: id(4007)}},
		{"setresgid", native(unix.SYS_SETRESGID, nums(4005, 4006, 4007)...), onHost, 0,
			event.SetID{Call: "setresgid", GID: id(4005), EGID: id(4006), SGID: id(4007)}},
		{"setresuid refused", native(unix.SYS_SETRESUID, nums(-1, -1, 0)...), place{uid: 2001, gid: 2002}, unix.EPERM,
			event.SetID{Call: "setresuid", UID: none, EUID: none, SUID: id(0)}},
		{"setfsuid", native(unix.SYS_SETFSUID, nums(4008)...), onHost, 0, event.SetID{Call: "setfsuid", FSUID: id(4008)}},
		{"setfsgid", native(unix.SYS_SETFSGID, nums(4009)...), onHost, 0, event.SetID{Call: "setfsgid", FSGID: id(4009)}},
		{"setfsuid, which never fails", native(unix.SYS_SETFSUID, nums(0)...), place{uid: 2001, gid: 2002}, 0,
			event.SetID{Call: "setfsuid", FSUID: id(0)}},

		{"32-bit setuid", compatible32(213, nums(4001)...), onHost, 0, event.SetID{Call: "setuid", UID: id(4001)}},
		{"32-bit setgid", compatible32(214, nums(4002)...), onHost, 0, event.SetID{Call: "setgid", GID: id(4002)}},
		{"32-bit setresuid refused", compatible32(208, nums(1, 2, 3)...), place{uid: 2001, gid: 2002}, unix.EPERM,
			event.SetID{Call: "setresuid", UID: id(1), EUID: id(2), SUID: id(3)}},
		{"16-bit setuid", compatible32(23, nums(0x14001)...), onHost, 0, event.SetID{Call: "setuid", UID: id(0x4001)}},
		{"16-bit setregid", compatible32(71, nums(0xffff, 4005)...), onHost, 0,
			event.SetID{Call: "setregid", GID: none, EGID: id(4005)}},
		{"16-bit setresgid refused", compatible32(170, nums(1, 0xffff, 3)...), place{uid: 2001, gid: 2002}, unix.EPERM,
			event.SetID{Call: "setresgid", GID: id(1), EGID: none, SGID: id(3)}},
	}
	forRungs(t, []event.Kind{event.ProcessSetID}, func(t *testing.T, o *observer) {
		for _, test := range tests {
			if test.call.Compat && !hasCompatible {
				continue
			}
			t.Run(test.name, func(t *testing.T) {
				tr, did, p := o.calls(t, test.at, calling{Calls: []rawCall{test.call}, Thread: true})
				if did.Errnos[0] != test.errno && test.want.FSUID.IsZero() && test.want.FSGID.IsZero() {
					t.Fatalf("the kernel said %v, want %v", did.Errnos[0], test.errno)
				}
				got := tr.only(t, event.ProcessSetID, func(e *event.Event) bool {
					return e.SetID.Call == test.want.Call && (e.Process.UID == test.at.uid || test.call.Compat)
				})
				if test.call.Compat && test.errno == 0 && o.rung == rungTracepoint { // see event.SetID
					p.UID, p.EUID, p.GID, p.EGID = got.Process.UID, got.Process.EUID, got.Process.GID, got.Process.EGID
				}
				tr.equal(t, event.Event{
					Kind: event.ProcessSetID, Result: int32(test.errno), Process: p, SetID: &test.want,
				}, got)
			})
		}
	})
}

// targetOf is what an event must say of the child that the calls action started.
func targetOf(t *testing.T, tr traced, did called, at place) *event.Process {
	t.Helper()
	for _, e := range tr.of(event.ProcessFork) {
		p := *e.Process
		if at.contained && p.NSPID != uint32(did.Child) || !at.contained && p.PID != uint32(did.Child) {
			continue
		}
		p.PPID, p.ParentStart, p.Start, p.Name = 0, 0, p.Start/tick*tick, "exe"
		return &p
	}
	t.Fatalf("no fork of pid %d", did.Child)
	return nil
}

func TestPtrace(t *testing.T) {
	child := callArg{Child: true}
	numbers := map[bool]uintptr{false: unix.SYS_PTRACE, true: 26}
	tests := []struct {
		name   string
		args   []callArg
		errno  unix.Errno
		target bool
		want   event.Ptrace
	}{
		{"attach", []callArg{{Value: unix.PTRACE_ATTACH}, child}, 0, true, event.Ptrace{Request: unix.PTRACE_ATTACH}},
		{"seize", []callArg{{Value: unix.PTRACE_SEIZE}, child}, 0, true, event.Ptrace{Request: unix.PTRACE_SEIZE}},
		{"not traced", []callArg{{Value: unix.PTRACE_POKETEXT}, child}, unix.ESRCH, true,
			event.Ptrace{Request: unix.PTRACE_POKETEXT}},
		{"no process", nums(unix.PTRACE_ATTACH, 0x3ffffff), unix.ESRCH, false,
			event.Ptrace{Request: unix.PTRACE_ATTACH, PID: 0x3ffffff}},
		{"trace me", nums(unix.PTRACE_TRACEME, 77), 0, false, event.Ptrace{Request: unix.PTRACE_TRACEME}},
	}
	forRungs(t, []event.Kind{event.ProcessPtrace}, func(t *testing.T, o *observer) {
		for _, test := range tests {
			for _, at := range []place{onHost, inContainer} {
				for compat, number := range numbers {
					if compat && !hasCompatible {
						continue
					}
					t.Run(fmt.Sprintf("%s, %s, compat %v", test.name, at.name, compat), func(t *testing.T) {
						tr, did, p := o.calls(t, at, calling{
							Calls: []rawCall{{Number: number, Compat: compat, Args: test.args}},
							Child: test.target, // one that is traced itself would stop at a child's end
						})
						if did.Errnos[0] != test.errno {
							t.Fatalf("the kernel said %v, want %v", did.Errnos[0], test.errno)
						}
						want := event.Event{Kind: event.ProcessPtrace, Result: int32(test.errno), Process: p, Ptrace: &test.want}
						if test.target {
							want.Target = targetOf(t, tr, did, at)
							test.want.PID = uint32(did.Child)
						}
						tr.equal(t, want, tr.only(t, event.ProcessPtrace, nil))
					})
				}
			}
		}
	})
}

// A target is found among many, whatever the depth of the tree that the kernel keeps them in.
func TestTargetOfAnyPid(t *testing.T) {
	forRungs(t, []event.Kind{event.ProcessPtrace}, func(t *testing.T, o *observer) {
		var calls []rawCall
		pids := []int{1, 2, os.Getpid()}
		for _, pid := range pids {
			calls = append(calls, native(unix.SYS_PTRACE, nums(unix.PTRACE_PEEKTEXT, int64(pid), 0, 0)...))
		}
		tr, _, _ := o.calls(t, onHost, calling{Calls: calls})
		for i, e := range tr.of(event.ProcessPtrace) {
			if e.Target == nil || e.Target.PID != uint32(pids[i]) || e.Target.Start/tick*tick != startOf(t, pids[i]) {
				t.Errorf("target of pid %d: %+v", pids[i], e.Target)
			}
		}
	})
}

func TestNamespace(t *testing.T) {
	inodeOf := func(kind string) uint64 { return inode(t, "/proc/self/ns/"+kind) }
	zero := resultOf(0)
	tests := []struct {
		name  string
		calls []rawCall // the last is the one
		at    place
		errno unix.Errno
		want  event.Namespace
	}{
		{"setns", []rawCall{openAt("/proc/self/ns/uts"), native(unix.SYS_SETNS, zero, callArg{Value: unix.CLONE_NEWUTS})},
			onHost, 0, event.Namespace{Call: "setns", Flags: unix.CLONE_NEWUTS, Inode: inodeOf("uts")}},
		{"setns of any kind", []rawCall{openAt("/proc/self/ns/net"), native(unix.SYS_SETNS, zero, callArg{})}, onHost, 0,
			event.Namespace{Call: "setns", Flags: unix.CLONE_NEWNET, Inode: inodeOf("net")}},
		{"setns in a container", []rawCall{openAt("/proc/self/ns/ipc"), native(unix.SYS_SETNS, zero, callArg{})},
			inContainer, 0, event.Namespace{Call: "setns", Flags: unix.CLONE_NEWIPC, Inode: inodeOf("ipc")}},
		{"setns refused", []rawCall{openAt("/proc/self/ns/uts"), native(unix.SYS_SETNS, zero, callArg{})},
			place{uid: 2001, gid: 2002}, unix.EPERM,
			event.Namespace{Call: "setns", Flags: unix.CLONE_NEWUTS, Inode: inodeOf("uts")}},
		{"setns of another kind", []rawCall{openAt("/proc/self/ns/uts"),
			native(unix.SYS_SETNS, zero, callArg{Value: unix.CLONE_NEWNET})}, onHost, unix.EINVAL,
			event.Namespace{Call: "setns", Flags: unix.CLONE_NEWNET, Inode: inodeOf("uts")}},
		{"setns of no namespace", []rawCall{openAt("/dev/null"), native(unix.SYS_SETNS, zero, callArg{})}, onHost,
			unix.EINVAL, event.Namespace{Call: "setns"}},
		{"setns without descriptor", []rawCall{native(unix.SYS_SETNS, nums(-1, 0)...)}, onHost, unix.EBADF,
			event.Namespace{Call: "setns"}},
		{"setns to a process", []rawCall{native(unix.SYS_PIDFD_OPEN, callArg{Child: true}, callArg{}),
			native(unix.SYS_SETNS, zero, callArg{Value: unix.CLONE_NEWUTS | unix.CLONE_NEWIPC})}, onHost, 0,
			event.Namespace{Call: "setns", Flags: unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}},
		{"unshare", []rawCall{native(unix.SYS_UNSHARE, nums(unix.CLONE_NEWUTS|unix.CLONE_FILES)...)}, onHost, 0,
			event.Namespace{Call: "unshare", Flags: unix.CLONE_NEWUTS}},
		{"unshare refused", []rawCall{native(unix.SYS_UNSHARE, nums(unix.CLONE_NEWNS)...)}, place{uid: 2001, gid: 2002},
			unix.EPERM, event.Namespace{Call: "unshare", Flags: unix.CLONE_NEWNS}},
		{"32-bit setns", []rawCall{openAt("/proc/self/ns/uts"), compatible32(346, zero, callArg{})}, onHost, 0,
			event.Namespace{Call: "setns", Flags: unix.CLONE_NEWUTS, Inode: inodeOf("uts")}},
		{"32-bit unshare", []rawCall{compatible32(310, nums(unix.CLONE_NEWIPC)...)}, onHost, 0,
			event.Namespace{Call: "unshare", Flags: unix.CLONE_NEWIPC}},
	}
	forRungs(t, []event.Kind{event.ProcessNamespace}, func(t *testing.T, o *observer) {
		for _, test := range tests {
			last := len(test.calls) - 1
			if test.calls[last].Compat && !hasCompatible {
				continue
			}
			t.Run(test.name, func(t *testing.T) {
				tr, did, p := o.calls(t, test.at, calling{Calls: test.calls, Thread: true, Child: true})
				if did.Errnos[last] != test.errno {
					t.Fatalf("the kernel said %v, want %v", did.Errnos[last], test.errno)
				}
				got := tr.only(t, event.ProcessNamespace, func(e *event.Event) bool { return e.Namespace.Call != "clone" })
				tr.equal(t, event.Event{
					Kind: event.ProcessNamespace, Result: int32(test.errno), Process: p, Namespace: &test.want,
				}, got)
			})
		}
	})
}

// A process that is made with namespaces of its own tells so; one that is made without does not, also when its parent
// has unshared.
func TestNamespaceOfClone(t *testing.T) {
	const all = unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
		unix.CLONE_NEWCGROUP | unix.CLONE_NEWUSER
	forRungs(t, []event.Kind{event.ProcessNamespace}, func(t *testing.T, o *observer) {
		for _, flags := range []uintptr{unix.CLONE_NEWPID, unix.CLONE_NEWUTS, unix.CLONE_NEWUSER, all, 0} {
			t.Run(fmt.Sprintf("%#x", flags), func(t *testing.T) {
				cmd := action("calls", `{}`)
				cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: flags}
				tr := o.trace(t, cmd)
				if flags == 0 {
					if got := tr.of(event.ProcessNamespace); len(got) != 0 {
						t.Errorf("%+v", *got[0].Namespace)
					}
					return
				}
				got := tr.only(t, event.ProcessNamespace, nil)
				want := tr.process(got.Process.Name) // the test's own, cut to what the kernel keeps
				if want.Name == "" {
					t.Error("no name")
				}
				want.NSPID = got.Process.NSPID
				if (flags&unix.CLONE_NEWPID != 0) != (want.NSPID == 1) {
					t.Errorf("pid %d in its namespace", want.NSPID)
				}
				tr.equal(t, event.Event{
					Kind: event.ProcessNamespace, Process: want,
					Namespace: &event.Namespace{Call: "clone", Flags: event.NamespaceFlags(flags)},
				}, got)
			})
		}
	})
}
