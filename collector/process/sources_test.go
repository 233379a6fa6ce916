package process

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskguard/taskguard/collector/event"
)

// A source that knows neither start times nor cgroups has its processes told apart by their pids, with what /proc adds.
func TestSourceThatKnowsPidsOnly(t *testing.T) {
	proc := newProc(t)
	proc.add(event.Process{PID: 7, Start: 5e9, NSPID: 2}, "/docker/5")
	table := newTable(t, Config{ProcRoot: proc.root})
	enrich(table, event.ProcessExec, epoch, event.Process{PID: 1, Exe: "/init"})
	image := event.Process{PID: 7, PPID: 1, Exe: "/a", Args: "a\x00"}
	first := *enrich(table, event.ProcessExec, epoch, image)
	if first.Start != 5e9 || first.NSPID != 2 || first.Container == nil || first.Container.ID != "5" || first.Partial ||
		first.Parent == nil || first.Parent.Exe != "/init" {
		t.Errorf("execution: %+v", first)
	}
	if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7}); got.Snapshot != first.Snapshot {
		t.Errorf("connection of another snapshot: %+v", got)
	}

	// It executes something else and is gone before anybody looks.
	proc.remove(7)
	image.Exe = "/b"
	second := *enrich(table, event.ProcessExec, epoch, image)
	if second.Exe != "/b" || second.Start != 5e9 || second.NSPID != 2 || second.Container != first.Container ||
		second.Parent != first.Parent {
		t.Errorf("second execution: %+v", second)
	}
	end := event.Process{PID: 7, Exit: event.Exit{Ended: true, Code: 3}}
	if got := enrich(table, event.ProcessExit, epoch, end); got.Snapshot != second.Snapshot || got.Exit.Code != 3 {
		t.Errorf("end: %+v", got)
	}

	// Whoever has the pid then is another process, also when nobody tells since when.
	image.Exe, image.PPID = "/c", 0
	third := enrich(table, event.ProcessExec, epoch, image)
	if third.Exe != "/c" || third.Start != 0 || third.NSPID != 0 || third.Container != nil || third.Parent != nil {
		t.Errorf("execution in a reused pid: %+v", third)
	}
	if stats := table.Stats(); stats.Processes != 2 || stats.Exited != 0 {
		t.Errorf("%+v, want 2 processes, none ended", stats)
	}
}

// A start time that is told later is taken over.
func TestStartTimeThatComesLater(t *testing.T) {
	table := newTable(t, Config{})
	enrich(table, event.ProcessExec, epoch, event.Process{PID: 7, Exe: "/a"})
	got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7, Start: 5e9})
	if got.Start != 5e9 || got.Exe != "/a" {
		t.Errorf("start %d of %q", got.Start, got.Exe)
	}
	if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7, Start: 6e9}); got.Exe == "/a" {
		t.Error("another start is still the same process")
	}
}

// Of a process that nobody knows, its event and its parent tell what they can.
func TestUnknownProcess(t *testing.T) {
	table := newTable(t, Config{})
	enrich(table, event.ProcessExec, epoch, event.Process{PID: 3, Exe: "/bin/sh", Cgroup: 105})
	got := enrich(table, event.NetConnect, epoch, event.Process{
		PID: 7, PPID: 3, Name: "x", Exe: "/tmp/x", ExeDeleted: true, Truncated: event.FieldExe, UID: 5,
	})
	if got.Name != "x" || got.Exe != "/tmp/x" || !got.ExeDeleted || got.Truncated != event.FieldExe || got.UID != 5 ||
		!got.Partial {
		t.Errorf("process %+v", got)
	}
	if got.Parent == nil || got.Parent.Exe != "/bin/sh" || got.Container == nil || got.Container.ID != "105" {
		t.Errorf("parent %+v, container %+v", got.Parent, got.Container)
	}
}

// A fork is told of with the child's own name, also when nothing is known of its parent; what is the parent's only is
// not inherited.
func TestForkInherits(t *testing.T) {
	table := newTable(t, Config{})
	parent := event.Process{
		PID: 3, Start: 1e9, NSPID: 2, Name: "java", Exe: "/bin/java", Args: "java\x00", Cwd: "/srv", Script: "/s",
		Env: "LD_PRELOAD=/x\x00", Truncated: event.FieldCwd, Cgroup: 105,
		ExeUpperLayer: true, ExeLength: 5000, CwdLength: 6000,
	}
	enrich(table, event.ProcessExec, epoch, parent)
	child := event.Process{PID: 4, Start: 2e9, NSPID: 9, PPID: 3, ParentStart: 1e9, Name: "worker", UID: 5, Cgroup: 105}
	got := *enrich(table, event.ProcessFork, epoch, child)
	want := parent
	want.PID, want.Start, want.NSPID, want.PPID, want.ParentStart = 4, 2e9, 9, 3, 1e9
	want.Name, want.UID, want.Container, want.Parent, want.Snapshot = "worker", 5, got.Container, got.Parent, got.Snapshot
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(event.Process{}, "Parent")); diff != "" {
		t.Errorf("child (-want +got):\n%s", diff)
	}
	if got.Parent == nil || got.Parent.PID != 3 || got.Container == nil {
		t.Errorf("parent %+v, container %+v", got.Parent, got.Container)
	}
	// What the next events do not tell stays.
	changed := enrich(table, event.NetConnect, epoch, event.Process{PID: 4, Start: 2e9, Cgroup: 105})
	if changed.NSPID != 9 || changed.Exe != "/bin/java" || changed.UID != 0 || changed.PPID != 3 ||
		changed.ParentStart != 1e9 || changed.Name != "worker" {
		t.Errorf("with other credentials %+v", changed)
	}
	image := event.Process{PID: 4, Start: 2e9, Exe: "/bin/ls", Cgroup: 105, UID: 5}
	if got := enrich(table, event.ProcessExec, epoch, image); got.NSPID != 9 || got.Parent == nil || got.Parent.PID != 3 {
		t.Errorf("image %+v", got)
	}
	orphan := enrich(table, event.ProcessFork, epoch, event.Process{PID: 8, Start: 3e9, PPID: 77, Name: "o"})
	if orphan.Name != "o" || orphan.Parent != nil || orphan.Exe != "" {
		t.Errorf("orphan %+v", orphan)
	}
}

// An event with other credentials after the end does not bring a process back to life.
func TestEndedStaysEnded(t *testing.T) {
	table := newTable(t, Config{})
	p := event.Process{PID: 5, Start: 1e9, Exe: "/x", UID: 3}
	enrich(table, event.ProcessExec, epoch, p)
	enrich(table, event.ProcessExit, epoch, p)
	p.UID = 0
	if got := enrich(table, event.DNSResponse, epoch, p); got.UID != 0 || got.Exe != "/x" || got.Exit.Ended {
		t.Errorf("after the end: %+v", got)
	}
	if stats := table.Stats(); stats.Processes != 1 || stats.Exited != 1 {
		t.Errorf("%+v, want one that has ended", stats)
	}
	other := event.Process{PID: 6, Start: 2e9}
	enrich(table, event.ProcessExec, epoch.Add(time.Hour), other)
	enrich(table, event.ProcessExit, epoch.Add(time.Hour), other)
	if stats := table.Stats(); stats.Processes != 1 || stats.Exited != 1 {
		t.Errorf("%+v, want the last one only", stats)
	}
}

// However little is to be retained, the event of the end itself is told in full.
func TestRetainNothing(t *testing.T) {
	table := newTable(t, Config{Retain: -1, MaxExited: -1})
	for pid := uint32(1); pid < 10; pid++ {
		p := event.Process{PID: pid, Start: 1e9, Exe: "/x", Exit: event.Exit{Ended: true, Code: 3}}
		if got := enrich(table, event.ProcessExit, epoch, p); got.PID != pid || got.Exit.Code != 3 {
			t.Errorf("end of %d: %+v", pid, got)
		}
	}
	if stats := table.Stats(); stats.Processes != 1 {
		t.Errorf("%+v, want the last one", stats)
	}
}

// learner is a locator that comes to know cgroups.
type learner map[uint64]*event.Container

func (l learner) Locate(cgroup uint64, path string) *event.Container {
	if path != "" {
		return &event.Container{ID: strings.TrimPrefix(path, "/docker/")}
	}
	return l[cgroup]
}

// A process in a cgroup that the locator did not know is not taken for the host's for good, and neither are those it
// starts.
func TestContainerThatIsLearntLate(t *testing.T) {
	known := learner{}
	table := NewTable(Config{ProcRoot: t.TempDir(), Locator: known})
	p := event.Process{PID: 7, Start: 1e9, Cgroup: 200}
	child := event.Process{PID: 8, Start: 2e9, PPID: 7, ParentStart: 1e9, Cgroup: 200}
	for _, kind := range []event.Kind{event.ProcessExec, event.NetConnect} {
		if got := enrich(table, kind, epoch, p); got.Container != nil {
			t.Errorf("%s in container %+v", kind, got.Container)
		}
	}
	enrich(table, event.ProcessFork, epoch, child)
	known[200] = &event.Container{ID: "web"}
	for _, test := range []struct {
		kind event.Kind
		p    event.Process
	}{{event.NetConnect, child}, {event.NetConnect, p}, {event.ProcessExec, p}, {event.ProcessFork, child}} {
		if got := enrich(table, test.kind, epoch, test.p); got.Container != known[200] {
			t.Errorf("%s of %d in container %+v", test.kind, test.p.PID, got.Container)
		}
	}
	// One that leaves is seen to leave.
	p.Cgroup = 3
	if got := enrich(table, event.NetConnect, epoch, p); got.Container != nil || got.Cgroup != 3 {
		t.Errorf("on the host: container %+v, cgroup %d", got.Container, got.Cgroup)
	}
}

// What the path of a cgroup told stays true when the locator does not know its id.
func TestContainerKnownByPath(t *testing.T) {
	proc := newProc(t)
	proc.add(event.Process{PID: 7, Start: 1e9}, "/docker/web")
	table := NewTable(Config{ProcRoot: proc.root, Locator: learner{}})
	if err := table.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7, Start: 1e9, Cgroup: 200})
		if got.Container == nil || got.Container.ID != "web" || got.Cgroup != 200 {
			t.Errorf("container %+v, cgroup %d", got.Container, got.Cgroup)
		}
	}
}

// A process is given the parent that it has, and nobody else who had or has the pid.
func TestParentOfOneThatIsRead(t *testing.T) {
	t.Run("ended", func(t *testing.T) {
		proc := newProc(t)
		proc.add(event.Process{PID: 3, Start: 2e9, Exe: "/new"}, "/")
		proc.add(event.Process{PID: 7, Start: 3e9, PPID: 3}, "/")
		table := newTable(t, Config{ProcRoot: proc.root})
		old := event.Process{PID: 3, Start: 1e9, Exe: "/old"}
		enrich(table, event.ProcessExec, epoch, old)
		enrich(table, event.ProcessExit, epoch, old)
		if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7, Start: 3e9}); got.Parent == nil ||
			got.Parent.Exe != "/new" {
			t.Errorf("parent %+v", got.Parent)
		}
	})
	t.Run("started later", func(t *testing.T) {
		proc := newProc(t)
		proc.add(event.Process{PID: 3, Start: 9e9, Exe: "/later"}, "/")
		proc.add(event.Process{PID: 7, Start: 3e9, PPID: 3}, "/")
		table := newTable(t, Config{ProcRoot: proc.root})
		if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7, Start: 3e9}); got.Parent != nil {
			t.Errorf("parent %+v", got.Parent)
		}
	})
	t.Run("of itself", func(t *testing.T) {
		proc := newProc(t)
		proc.add(event.Process{PID: 3, Start: 1e9, PPID: 7}, "/")
		proc.add(event.Process{PID: 7, Start: 1e9, PPID: 3}, "/")
		table := newTable(t, Config{ProcRoot: proc.root})
		enrich(table, event.NetConnect, epoch, event.Process{PID: 7, Start: 1e9})
		if stats := table.Stats(); stats.Processes != 2 {
			t.Errorf("%+v, want both", stats)
		}
	})
}

// A process that ends, and whose pid is used again, while it is read is not told of as a mixture of both.
func TestPIDReusedWhileRead(t *testing.T) {
	proc := newProc(t)
	proc.add(event.Process{PID: 7, Start: 1e9, Exe: "/old"}, "/")
	cmdline := filepath.Join(proc.root, "7", "cmdline")
	if err := os.Remove(cmdline); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(cmdline, 0o600); err != nil {
		t.Fatal(err)
	}
	replaced := make(chan error, 1)
	go func() {
		w, err := os.OpenFile(cmdline, os.O_WRONLY, 0) // waits for the reader
		if err != nil {
			replaced <- err
			return
		}
		stat := "7 (new) S 1" + strings.Repeat(" 0", 17) + " 500 0\n"
		err = os.WriteFile(filepath.Join(proc.root, "7", "stat"), []byte(stat), 0o644)
		if closeErr := w.Close(); err == nil {
			err = closeErr
		}
		replaced <- err
	}()
	table := newTable(t, Config{ProcRoot: proc.root})
	got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7, Start: 1e9, Name: "x"})
	if err := <-replaced; err != nil {
		t.Fatal(err)
	}
	if got.Exe != "" || got.Name != "x" || !got.Partial {
		t.Errorf("told of %+v", got)
	}
}

// User namespaces have ids beyond 31 bits. An id that cannot be read is not taken for root's.
func TestIDs(t *testing.T) {
	proc := newProc(t)
	proc.add(event.Process{PID: 7, Start: 1e9, UID: 1<<32 - 2, EUID: 1 << 31, GID: 4_000_000_000, EGID: 7}, "/")
	proc.add(event.Process{PID: 8, Start: 1e9, Exe: "/x"}, "/")
	if err := os.WriteFile(filepath.Join(proc.root, "8", "status"), []byte("Name:\tx\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := procOf(proc)
	got, _, ok := p.read(7)
	if !ok || got.UID != 1<<32-2 || got.EUID != 1<<31 || got.GID != 4_000_000_000 || got.EGID != 7 {
		t.Errorf("ids %d %d %d %d", got.UID, got.EUID, got.GID, got.EGID)
	}
	if got, _, ok := p.read(8); ok {
		t.Errorf("a process without ids is %+v", got)
	}
}

// The cgroup is that of the hierarchy that tells containers apart.
func TestCgroupOfProcess(t *testing.T) {
	for _, test := range []struct{ name, controller, text, want string }{
		{"v2", "", "0::/system.slice/docker-1.scope\n", "/system.slice/docker-1.scope"},
		{"v1", "memory", "9:cpu,cpuacct:/a\n8:memory:/docker/1\n1:name=systemd:/b\n", "/docker/1"},
		{"v1, mounted together", "cpuacct", "9:cpu,cpuacct:/a\n8:memory:/docker/1\n", "/a"},
		{"hybrid", "", "8:memory:/docker/1\n1:name=systemd:/b\n0::/c\n", "/c"},
		{"colons", "", "0::/a:b:c\n", "/a:b:c"},
		{"no such controller", "memory", "0::/a\n", ""},
		{"no line end", "", "0::/a", "/a"},
		{"garbage", "", "\n:\n0:\nx", ""},
		{"empty", "", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			fake := newProc(t)
			fake.add(event.Process{PID: 7}, "/")
			if err := os.WriteFile(filepath.Join(fake.root, "7", "cgroup"), []byte(test.text), 0o644); err != nil {
				t.Fatal(err)
			}
			p := proc{root: fake.root, controller: test.controller}
			if got := p.cgroup(7); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// Command lines that are read are bounded as others are, whatever becomes of the snapshot that was made.
func TestMaxArgsBytesOfWhatIsRead(t *testing.T) {
	long := event.Argv(strings.Repeat("x", 3000))
	proc := newProc(t)
	proc.add(event.Process{PID: 3, Start: 1e9, Args: long}, "/")
	proc.add(event.Process{PID: 7, Start: 1e9, Args: long, UID: 1}, "/")
	table := newTable(t, Config{ProcRoot: proc.root, MaxArgsBytes: 100})
	if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7, Start: 1e9}); got.Args != long {
		t.Errorf("%d bytes, want all", len(got.Args))
	}
	child := event.Process{PID: 9, Start: 2e9, PPID: 3, ParentStart: 1e9, Args: long}
	if got := enrich(table, event.ProcessExec, epoch, child); got.Args != long || got.Parent == nil {
		t.Errorf("%d bytes, want all", len(got.Args))
	}
	table.settle()
	if got := table.pool.argsBytes; got != 3*shortArgs {
		t.Errorf("%d bytes are kept, want %d", got, 3*shortArgs)
	}
	if stats := table.Stats(); stats.ArgsCut != 3 {
		t.Errorf("%+v, want 3 cut", stats)
	}
}
