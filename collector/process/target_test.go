package process

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
)

// done has the table complete an event of a process that did something to another one.
func done(t *Table, p, target event.Process) event.Event {
	e := event.Event{Kind: event.ProcessPtrace, Time: epoch, Process: &p, Target: &target, Ptrace: &event.Ptrace{}}
	t.Enrich(&e)
	return e
}

// A target that is known is told of as the table knows it, whatever its source leaves out; and that changes nothing.
func TestTargetIsKnown(t *testing.T) {
	table := newTable(t, Config{})
	debugger := event.Process{PID: 5, Start: 5e9, Exe: "/bin/gdb", UID: 9}
	enrich(table, event.ProcessExec, epoch, event.Process{PID: 2, Start: 2e9, Exe: "/bin/sh"})
	enrich(table, event.ProcessExec, epoch, debugger)
	victim := event.Process{
		PID: 7, Start: 7e9, NSPID: 3, Exe: "/bin/cat", Args: "cat\x00", UID: 4, EUID: 4, Cgroup: 105, PPID: 2,
		ParentStart: 2e9,
	}
	known := *enrich(table, event.ProcessExec, epoch, victim)
	for _, given := range []event.Process{
		{PID: 7, Start: 7e9}, {PID: 7}, {PID: 7, Start: 7e9 + 5, Name: "x", Exe: "/y", UID: 1, Cgroup: 102},
	} {
		e := done(table, debugger, given)
		if e.Process.Exe != "/bin/gdb" || e.Process.UID != 9 {
			t.Errorf("process %+v, want the debugger", e.Process)
		}
		if diff := cmp.Diff(tell(&known), tell(e.Target)); diff != "" || e.Target.Snapshot != known.Snapshot {
			t.Errorf("target, given %+v (-want +got):\n%s", given, diff)
		}
	}
	if again := enrich(table, event.NetConnect, epoch, victim); again.Snapshot != known.Snapshot {
		t.Error("who was a target is told of anew")
	}
	if e := done(table, debugger, debugger); e.Target != e.Process {
		t.Errorf("process %p, target %p: want the same", e.Process, e.Target)
	}
}

// A target that is not known is read, or else is what its source says; nothing is kept of one that is not there.
func TestTargetIsNotKnown(t *testing.T) {
	proc := newProc(t)
	proc.add(event.Process{PID: 7, Start: 7e9, Exe: "/bin/cat", UID: 4}, "/docker/9")
	table := newTable(t, Config{ProcRoot: proc.root})
	debugger := event.Process{PID: 5, Start: 5e9, Exe: "/bin/gdb"}
	enrich(table, event.ProcessExec, epoch, debugger)
	if got := done(table, debugger, event.Process{PID: 7, Start: 7e9}).Target; got.Exe != "/bin/cat" || got.UID != 4 ||
		got.Container == nil || got.Container.ID != "9" || !got.Partial {
		t.Errorf("target %+v, want it as /proc has it", got)
	}
	given := event.Process{
		PID: 8, Start: 8e9, Name: "x", Exe: "/x", ExeUpperLayer: true, ExeLength: 5000, UID: 3, Cgroup: 105,
	}
	got := done(table, debugger, given).Target
	if got.Start != 8e9 || got.Name != "x" || got.Exe != "/x" || !got.ExeUpperLayer || got.ExeLength != 5000 ||
		got.UID != 3 || got.Container == nil || got.Container.ID != "105" || !got.Partial || got.Snapshot == 0 {
		t.Errorf("target %+v, want it as it was given", got)
	}
	for pid := range uint32(1000) {
		done(table, debugger, event.Process{PID: 1000 + pid})
	}
	if got := done(table, debugger, event.Process{}).Target; got != nil {
		t.Errorf("target %+v, want none for pid 0", got)
	}
	if n := table.Stats().Processes; n != 2 {
		t.Errorf("%d processes known, want the debugger and the one that was read", n)
	}
	e := event.Event{Kind: event.MemoryVMRead, Target: &event.Process{PID: 7, Start: 7e9}}
	if table.Enrich(&e); e.Process != nil || e.Target.Exe != "/bin/cat" {
		t.Errorf("without a process: %+v, target %+v", e.Process, e.Target)
	}
}

// What an event tells of its process stays, whatever has to make room for its target.
func TestTargetTakesNoPlaceFromItsEvent(t *testing.T) {
	proc := newProc(t)
	for pid := uint32(100); pid < 200; pid++ {
		proc.add(event.Process{PID: pid, Start: uint64(pid) * 1e9, Exe: fmt.Sprint("/", pid)}, "")
	}
	table := newTable(t, Config{ProcRoot: proc.root, MaxProcesses: 1, ReadsPerSecond: 1 << 30})
	for pid := uint32(100); pid < 200; pid++ {
		// The process has no place, or one that its target takes, as /proc does not have it any more.
		p := event.Process{PID: pid - 99, Start: uint64(pid) * 1e9, Exe: fmt.Sprint("/old/", pid)}
		enrich(table, event.ProcessExec, epoch, p)
		e := done(table, p, event.Process{PID: pid, Start: uint64(pid) * 1e9})
		if e.Process.PID != pid-99 || e.Target.PID != pid || e.Target.Exe != fmt.Sprint("/", pid) {
			t.Fatalf("process %+v, target %+v", e.Process, e.Target)
		}
	}
}

// The event of a call that changed credentials has those from before, what comes later those from after it, also as a
// target; and what later events say themselves counts.
func TestSetIDUpdatesTheTable(t *testing.T) {
	const failed = 1
	type ids = event.SetID
	id := event.Some[uint32]
	for _, test := range []struct {
		name   string
		before credentials
		result int32
		asked  ids
		after  credentials
	}{
		{"root's setuid", credentials{}, 0, ids{Call: "setuid", UID: id(5)}, credentials{5, 5, 0, 0}},
		{"a user's setuid", credentials{5, 6, 0, 0}, 0, ids{Call: "setuid", UID: id(5)}, credentials{5, 5, 0, 0}},
		{"back to the saved id", credentials{5, 5, 7, 7}, 0, ids{Call: "setuid", UID: id(0)}, credentials{5, 0, 7, 7}},
		{"root's setgid", credentials{0, 0, 1, 2}, 0, ids{Call: "setgid", GID: id(5)}, credentials{0, 0, 5, 5}},
		{"a user's setgid", credentials{4, 4, 1, 2}, 0, ids{Call: "setgid", GID: id(1)}, credentials{4, 4, 1, 1}},
		{"effective only", credentials{5, 5, 5, 5}, 0, ids{Call: "setreuid", EUID: id(0)}, credentials{5, 0, 5, 5}},
		{"all", credentials{}, 0, ids{Call: "setresgid", GID: id(1), EGID: id(2), SGID: id(3)}, credentials{0, 0, 1, 2}},
		{"file system only", credentials{}, 0, ids{Call: "setfsuid", FSUID: id(5)}, credentials{}},
		{"refused", credentials{5, 5, 5, 5}, failed, ids{Call: "setuid", UID: id(0)}, credentials{5, 5, 5, 5}},
	} {
		for _, reports := range []string{"before", "after"} {
			t.Run(test.name+", "+reports, func(t *testing.T) {
				table := newTable(t, Config{})
				process := func(c credentials) event.Process {
					return event.Process{
						PID: 7, Start: 7e9, Exe: "/x", Args: "x\x00", Cgroup: 105, UID: c.uid, EUID: c.euid, GID: c.gid, EGID: c.egid,
					}
				}
				image := *enrich(table, event.ProcessExec, epoch, process(test.before))
				p := process(test.before)
				if reports == "after" {
					p = process(test.after)
				}
				e := event.Event{Kind: event.ProcessSetID, Result: test.result, Process: &p, SetID: &test.asked}
				table.Enrich(&e)
				if got := credentialsOf(e.Process); got != test.before || e.Process.Snapshot != image.Snapshot {
					t.Errorf("the event has %+v, want %+v of the image", got, test.before)
				}
				got := done(table, event.Process{PID: 8, Start: 8e9}, event.Process{PID: 7, Start: 7e9}).Target
				if credentialsOf(got) != test.after || got.Exe != "/x" || got.Args != "x\x00" || got.Container != image.Container {
					t.Errorf("later it is %+v, want the image with %+v", got, test.after)
				}
				if changed := test.before != test.after; changed == (got.Snapshot == image.Snapshot) {
					t.Errorf("snapshot %d after %d, changed: %v", got.Snapshot, image.Snapshot, changed)
				}
				other := credentials{1, 2, 3, 4}
				if got := enrich(table, event.NetConnect, epoch, process(other)); credentialsOf(got) != other {
					t.Errorf("an event with %+v is told of with %+v", other, credentialsOf(got))
				}
			})
		}
	}
}

// Nobody knows the process: there is no image to keep, and its event tells what it can.
func TestSetIDOfUnknown(t *testing.T) {
	table := newTable(t, Config{})
	p := event.Process{PID: 7, Start: 7e9, Name: "x"}
	asked := event.SetID{Call: "setuid", UID: event.Some[uint32](5)}
	e := event.Event{Kind: event.ProcessSetID, Process: &p, SetID: &asked}
	table.Enrich(&e)
	if e.Process.Name != "x" || e.Process.UID != 0 || !e.Process.Partial {
		t.Errorf("process %+v", e.Process)
	}
	if got := done(table, event.Process{PID: 8}, event.Process{PID: 7}).Target; got.UID != 5 || got.Name != "x" {
		t.Errorf("later it is %+v", got)
	}
}

// An exec that failed replaced nothing.
func TestExecThatFailed(t *testing.T) {
	table := newTable(t, Config{})
	shell := event.Process{
		PID: 7, Start: 7e9, Exe: "/bin/sh", Args: "sh\x00", Cwd: "/", ExeUpperLayer: true, ExeLength: 1, CwdLength: 2,
	}
	image := *enrich(table, event.ProcessExec, epoch, shell)
	attempt := event.Process{PID: 7, Start: 7e9, Exe: "/nowhere", Args: "nowhere\x00"}
	e := event.Event{Kind: event.ProcessExec, Result: 2, Process: &attempt, File: &event.File{Path: "/nowhere"}}
	table.Enrich(&e)
	if diff := cmp.Diff(tell(&image), tell(e.Process)); diff != "" || e.Process.Snapshot != image.Snapshot {
		t.Errorf("(-shell +told of the attempt):\n%s", diff)
	}
	if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7, Start: 7e9}); got.Exe != "/bin/sh" {
		t.Errorf("later it is %q", got.Exe)
	}
	child := enrich(table, event.ProcessFork, epoch, event.Process{PID: 8, Start: 8e9, PPID: 7, ParentStart: 7e9})
	if child.Exe != "/bin/sh" || !child.ExeUpperLayer || child.ExeLength != 1 || child.CwdLength != 2 {
		t.Errorf("its child is %+v, want the shell's image", child)
	}
	stranger := event.Process{PID: 9, Start: 9e9, Name: "x"}
	e = event.Event{Kind: event.ProcessExec, Result: 13, Process: &stranger}
	if table.Enrich(&e); e.Process.Name != "x" || !e.Process.Partial {
		t.Errorf("of a process that nobody knows: %+v", e.Process)
	}
}
