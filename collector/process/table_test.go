package process

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskguard/taskguard/collector/event"
)

// places is a locator that knows the containers of cgroups above 100 and of paths below /docker.
type places map[uint64]*event.Container

func (p places) Locate(cgroup uint64, path string) *event.Container {
	id := strings.TrimPrefix(path, "/docker/")
	if cgroup > 100 {
		id = fmt.Sprint(cgroup)
	} else if id == path {
		return nil
	}
	var n uint64
	fmt.Sscan(id, &n)
	if p[n] == nil {
		p[n] = &event.Container{ID: id}
	}
	return p[n]
}

// epoch is when the tests' events happen.
var epoch = time.Unix(1_700_000_000, 0)

func newTable(t testing.TB, cfg Config) *Table {
	t.Helper()
	if cfg.ProcRoot == "" {
		cfg.ProcRoot = t.TempDir() // nothing runs
	}
	cfg.Locator = places{}
	return NewTable(cfg)
}

// enrich has the table complete an event of a process at a time.
func enrich(t *Table, kind event.Kind, at time.Time, p event.Process) *event.Process {
	e := event.Event{Kind: kind, Time: at, Process: &p}
	t.Enrich(&e)
	return e.Process
}

// told is what an event says of a process, without what tells snapshots apart.
type told struct {
	PID, NSPID           uint32
	Start                uint64
	Name, Exe            string
	Args                 event.Argv
	UID, EUID, GID, EGID uint32
	Cgroup               uint64
	Container            *event.Container
	Exit                 event.Exit
	Partial              bool
	Ancestors            []ancestor
}

type ancestor struct {
	PID   uint32
	Start uint64
	Exe   string
}

func tell(p *event.Process) told {
	said := told{
		p.PID, p.NSPID, p.Start, p.Name, p.Exe, p.Args, p.UID, p.EUID, p.GID, p.EGID, p.Cgroup, p.Container,
		p.Exit, p.Partial, nil,
	}
	for a := p.Parent; a != nil && len(said.Ancestors) < event.MaxAncestors; a = a.Parent {
		said.Ancestors = append(said.Ancestors, ancestor{a.PID, a.Start, a.Exe})
	}
	return said
}

// model is the table as it would be without bounds: every snapshot is a value that nobody forgets.
type model struct {
	random  *rand.Rand
	now     uint64 // ns since boot
	running []*modelled
	pids    uint32
	free    []uint32 // pids that may be used again
}

type modelled struct {
	said   told
	parent *modelled // as it was at the fork
	kernel event.Process
}

// step makes one thing happen and returns it as the kernel tells it, with what the table is to make of it.
func (m *model) step() (event.Kind, event.Process, told) {
	m.now += uint64(m.random.IntN(30_000_000))
	i := m.random.IntN(len(m.running))
	p := m.running[i]
	switch n := m.random.IntN(10); {
	case n < 4 && len(m.running) < 60 || len(m.running) == 1:
		child := m.fork(p)
		return event.ProcessFork, child.kernel, child.told()
	case n < 6:
		p = m.replace(i)
		p.said.Exe = fmt.Sprintf("/bin/%d", m.random.IntN(1000))
		p.said.Name = p.said.Exe[5:]
		p.said.Args = event.NewArgv([]string{p.said.Exe, strings.Repeat("x", m.random.IntN(300))})
		k := p.kernel
		k.Exe, k.Name, k.Args = p.said.Exe, p.said.Name, p.said.Args
		return event.ProcessExec, k, p.told()
	case n < 7 && i > 0:
		m.running = append(m.running[:i], m.running[i+1:]...)
		m.free = append(m.free, p.said.PID)
		k := p.kernel
		k.Exit = event.ExitFromStatus(uint32(m.random.IntN(256)) << 8)
		said := p.told()
		said.Exit = k.Exit
		return event.ProcessExit, k, said
	case n < 8:
		p = m.replace(i)
		p.kernel.UID, p.kernel.EGID = uint32(m.random.IntN(3)), uint32(m.random.IntN(3))
		p.said.UID, p.said.EGID = p.kernel.UID, p.kernel.EGID
	case n < 9:
		p = m.replace(i)
		p.kernel.Cgroup = uint64(95 + m.random.IntN(10))
		p.said.Cgroup, p.said.Container = p.kernel.Cgroup, nil
	}
	return event.NetConnect, p.kernel, p.told()
}

// replace puts a copy of a process in its place, for children that it has from now on.
func (m *model) replace(i int) *modelled {
	changed := *m.running[i]
	m.running[i] = &changed
	return &changed
}

func (m *model) fork(parent *modelled) *modelled {
	pid := m.pids
	if len(m.free) > 0 && m.random.IntN(2) == 0 {
		pid, m.free = m.free[0], m.free[1:]
	} else {
		m.pids++
	}
	child := &modelled{said: parent.said, parent: parent, kernel: parent.kernel}
	child.said.PID, child.said.Start = pid, m.now
	child.kernel.PID, child.kernel.Start = pid, m.now
	child.kernel.PPID, child.kernel.ParentStart = parent.said.PID, parent.said.Start
	m.running = append(m.running, child)
	return child
}

func (p *modelled) told() told {
	said := p.said
	said.Ancestors = nil
	for a := p.parent; a != nil && len(said.Ancestors) < event.MaxAncestors; a = a.parent {
		said.Ancestors = append(said.Ancestors, ancestor{a.said.PID, a.said.Start, a.said.Exe})
	}
	return said
}

func newModel(seed uint64, table *Table) *model {
	first := &modelled{said: told{PID: 1, Start: 1, Exe: "/init", Name: "init"}}
	first.kernel = event.Process{PID: 1, Start: 1, Exe: "/init", Name: "init"}
	enrich(table, event.ProcessExec, epoch, first.kernel)
	return &model{random: rand.New(rand.NewPCG(seed, 0)), running: []*modelled{first}, now: 1e9, pids: 2}
}

// Law: whatever processes do, and in whatever order, the table says of them what an unbounded one would.
func TestTableIsItsModel(t *testing.T) {
	for seed := range uint64(6) {
		// Ended processes are soon forgotten: their descendants must not notice.
		table := newTable(t, Config{MaxExited: 2, Retain: time.Millisecond})
		locator := places{}
		m := newModel(seed, table)
		snapshots := map[uint64]told{}
		for n := range 2000 {
			kind, kernel, want := m.step()
			if want.Cgroup != 0 {
				want.Container = locator.Locate(want.Cgroup, "")
			}
			p := enrich(table, kind, epoch.Add(time.Duration(m.now)), kernel)
			got := tell(p)
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(told{}, "Name")); diff != "" {
				t.Fatalf("seed %d, event %d, %s (-want +got):\n%s", seed, n, kind, diff)
			}
			got.Exit = event.Exit{}
			if before, seen := snapshots[p.Snapshot]; seen {
				if diff := cmp.Diff(before, got); diff != "" {
					t.Fatalf("seed %d, event %d: snapshot %d changed (-was +is):\n%s", seed, n, p.Snapshot, diff)
				}
			}
			snapshots[p.Snapshot] = got
		}
		if stats := table.Stats(); stats.Partial+stats.Untracked+stats.Unread+stats.ArgsCut != 0 || stats.Exited > 2 {
			t.Errorf("seed %d: %+v", seed, stats)
		}
	}
}

// Law: when everything has ended and been forgotten, every snapshot is in the pool: the same history costs nothing
// the second time.
func TestSnapshotsComeBack(t *testing.T) {
	table := newTable(t, Config{Retain: time.Second})
	began := epoch
	history := func() {
		m := newModel(1, table)
		for range 2000 {
			kind, kernel, _ := m.step()
			enrich(table, kind, began.Add(time.Duration(m.now)), kernel)
		}
		for _, p := range m.running {
			enrich(table, event.ProcessExit, began.Add(time.Duration(m.now)), p.kernel)
		}
		// The end of one more, long after, has all others forgotten.
		began = began.Add(time.Hour)
		last := event.Process{PID: 99999, Start: m.now}
		enrich(table, event.ProcessExec, began, last)
		enrich(table, event.ProcessExit, began, last)
		table.settle()
	}
	history()
	made := len(table.pool.free) + len(table.live)
	for range 3 {
		history()
		if len(table.live) != 1 {
			t.Fatalf("%d processes are still known", len(table.live))
		}
		if now := len(table.pool.free) + len(table.live); now != made {
			t.Fatalf("%d snapshots, %d before", now, made)
		}
	}
	if table.pool.argsBytes != 0 {
		t.Errorf("%d bytes of arguments are still accounted for", table.pool.argsBytes)
	}
	for _, s := range table.pool.free {
		if s.parent != nil || s.Args != "" {
			t.Fatalf("a snapshot in the pool holds something: %+v", s)
		}
	}
}

// A daemon that forks its successor and ends, a hundred thousand times over, costs the memory of its ancestors that an
// event names; whether each one executes a program, and whether it ends before or long after its successor's.
func TestChainIsBounded(t *testing.T) {
	for _, lag := range []int{0, 1, 10, 100} {
		t.Run(fmt.Sprintf("ends %d generations later", lag), func(t *testing.T) {
			table := newTable(t, Config{MaxExited: 16})
			pid := func(n int) uint32 { return uint32(10 + n%30000) }
			start := func(n int) uint64 { return uint64(n) * 10_000_000 }
			now := func(n int) time.Time { return epoch.Add(time.Duration(start(n))) }
			var e event.Event
			var p event.Process
			one := func(kind event.Kind, n int, exe string) {
				e = event.Event{Kind: kind, Time: now(n), Process: &p}
				p = event.Process{PID: pid(n), Start: start(n), PPID: pid(n - 1), ParentStart: start(n - 1), Exe: exe, Cgroup: 1}
				table.Enrich(&e)
			}
			generation := func(n int) {
				one(event.ProcessFork, n, "")
				one(event.ProcessExec, n, "/x")
				if n > lag {
					one(event.ProcessExit, n-1-lag, "")
				}
			}
			enrich(table, event.ProcessExec, epoch, event.Process{PID: pid(0), Start: 1, Exe: "/x"})
			n := 0
			for range 2000 {
				n++
				generation(n)
			}
			if allocs := testing.AllocsPerRun(98_000, func() { n++; generation(n) }); allocs != 0 {
				t.Errorf("%v allocations for each generation", allocs)
			}
			last := enrich(table, event.NetConnect, now(n), event.Process{PID: pid(n), Start: start(n)})
			said := tell(last)
			if len(said.Ancestors) != event.MaxAncestors {
				t.Errorf("%d ancestors, want %d", len(said.Ancestors), event.MaxAncestors)
			}
			for i, a := range said.Ancestors {
				if want := (ancestor{pid(n - 1 - i), start(n - 1 - i), "/x"}); a != want {
					t.Errorf("ancestor %d is %+v, want %+v", i, a, want)
				}
			}
			chain := 0
			for a := last.Parent; a != nil; a = a.Parent {
				chain++
			}
			// Those that the table still holds have their ancestors too.
			if most := event.MaxAncestors + 16 + lag + 1; chain > most {
				t.Errorf("a chain of %d, want %d at most", chain, most)
			}
		})
	}
}

// A pid is another process when it started in another tick, and the same within one: /proc tells no more.
func TestStartTimesCompareByTick(t *testing.T) {
	table := newTable(t, Config{})
	first := event.Process{PID: 5, Start: 1_001_000_000, Exe: "/first"}
	enrich(table, event.ProcessExec, epoch, first)
	for start, exe := range map[uint64]string{
		0: "/first", 1_000_000_000: "/first", 1_009_999_999: "/first", 1_010_000_000: "", 990_000_000: "",
	} {
		fresh := newTable(t, Config{})
		enrich(fresh, event.ProcessExec, epoch, first)
		got := enrich(fresh, event.NetConnect, epoch, event.Process{PID: 5, Start: start})
		if got.Exe != exe || got.Partial != (exe == "") {
			t.Errorf("start %d: %q, partial %v, want %q", start, got.Exe, got.Partial, exe)
		}
	}
	second := event.Process{PID: 5, Start: 9_000_000_000, Exe: "/second"}
	enrich(table, event.ProcessExec, epoch, second)
	if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 5, Start: second.Start}); got.Exe != "/second" {
		t.Errorf("a reused pid is %q", got.Exe)
	}
	if got := enrich(table, event.ProcessExit, epoch, event.Process{PID: 5, Start: first.Start}); got.Exe != "" {
		t.Errorf("the late end of the first one was told of %q", got.Exe)
	}
	if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 5, Start: second.Start}); got.Exe != "/second" {
		t.Errorf("after the late end of the first one the pid is %q", got.Exe)
	}
}

// What arrives of a process after its end is told with its image, but is not the end again.
func TestAfterTheEnd(t *testing.T) {
	table := newTable(t, Config{})
	p := event.Process{PID: 5, Start: 1e9, Exe: "/x", UID: 3, Cgroup: 7}
	enrich(table, event.ProcessExec, epoch, p)
	ended := p
	ended.Exit = event.Exit{Ended: true, Code: 9}
	if got := enrich(table, event.ProcessExit, epoch, ended); got.Exit != ended.Exit {
		t.Fatalf("exit %+v, want %+v", got.Exit, ended.Exit)
	}
	p.UID = 0 // as it was when the socket was made
	got := enrich(table, event.DNSResponse, epoch, p)
	if got.Exe != "/x" || got.Exit.Ended {
		t.Errorf("after the end: %q, exit %+v", got.Exe, got.Exit)
	}
	enrich(table, event.ProcessExit, epoch, ended)
	if stats := table.Stats(); stats.Processes != 1 || stats.Exited != 1 {
		t.Errorf("%+v, want one that has ended", stats)
	}
	other := event.Process{PID: 6, Start: 2e9}
	enrich(table, event.ProcessExec, epoch.Add(time.Minute), other)
	enrich(table, event.ProcessExit, epoch.Add(time.Minute), other)
	if stats := table.Stats(); stats.Processes != 1 || stats.Exited != 1 {
		t.Errorf("%+v, want the last one only", stats)
	}
}

func TestEventWithoutProcess(t *testing.T) {
	table := newTable(t, Config{})
	e := event.Event{Kind: event.DNSQuery}
	table.Enrich(&e)
	if e.Process != nil {
		t.Errorf("process %+v", e.Process)
	}
}

func TestRetain(t *testing.T) {
	table := newTable(t, Config{MaxExited: 3, Retain: time.Second})
	at := epoch
	end := func(pid uint32) {
		p := event.Process{PID: pid, Start: uint64(pid) * 1e9, Exe: "/x"}
		enrich(table, event.ProcessExec, at, p)
		enrich(table, event.ProcessExit, at, p)
	}
	known := func(pid uint32) bool {
		s := table.live[pid]
		return s != nil
	}
	for pid := uint32(1); pid <= 5; pid++ {
		end(pid)
	}
	if known(2) || !known(3) || table.Stats().Exited != 3 {
		t.Errorf("%+v, want the last three", table.Stats())
	}
	at = at.Add(time.Second)
	end(6)
	if known(3) || !known(4) {
		t.Errorf("%+v, want the last three", table.Stats())
	}
	at = at.Add(time.Millisecond)
	end(7)
	if known(5) || !known(6) || table.Stats().Exited != 2 {
		t.Errorf("%+v, want those of the last second", table.Stats())
	}
}

// At the cap a new process is told of in full, and counted as one that is not kept.
func TestMaxProcesses(t *testing.T) {
	proc := newProc(t)
	table := newTable(t, Config{MaxProcesses: 3, ProcRoot: proc.root})
	process := func(pid uint32) event.Process {
		p := event.Process{PID: pid, Start: uint64(pid) * 1e9, Exe: fmt.Sprint("/", pid)}
		if pid > 1 {
			p.PPID, p.ParentStart = 1, 1e9
		}
		return p
	}
	for pid := uint32(1); pid <= 6; pid++ {
		proc.add(process(pid), "")
	}
	for pid := uint32(1); pid <= 5; pid++ {
		got := enrich(table, event.ProcessExec, epoch, process(pid))
		if got.Exe != fmt.Sprint("/", pid) || pid > 1 && (got.Parent == nil || got.Parent.Exe != "/1") {
			t.Errorf("process %d: %q, parent %+v", pid, got.Exe, got.Parent)
		}
	}
	if stats := table.Stats(); stats.Processes != 3 || stats.Untracked != 2 {
		t.Errorf("%+v, want 3 processes, 2 untracked", stats)
	}
	// One that has ended makes room.
	enrich(table, event.ProcessExit, epoch, process(2))
	enrich(table, event.ProcessExec, epoch, process(6))
	if stats := table.Stats(); stats.Processes != 3 || stats.Untracked != 2 || stats.Exited != 0 {
		t.Errorf("%+v, want 3 processes, none ended", stats)
	}
	// So does one whose end was lost.
	proc.remove(3)
	enrich(table, event.ProcessExec, epoch, process(7))
	if stats := table.Stats(); stats.Processes != 3 || stats.Untracked != 2 || stats.Vanished != 1 {
		t.Errorf("%+v, want 3 processes, 1 vanished", stats)
	}
}

// Untracked processes leave nothing behind.
func TestUntrackedLeavesNothing(t *testing.T) {
	proc := newProc(t)
	proc.add(event.Process{PID: 1, Start: 1e9, Exe: "/1"}, "")
	proc.add(event.Process{PID: 2, Start: 2e9, PPID: 1, Exe: "/2", Args: "two\x00"}, "")
	table := newTable(t, Config{MaxProcesses: 1, ProcRoot: proc.root, ReadsPerSecond: 1 << 30})
	enrich(table, event.ProcessExec, epoch, event.Process{PID: 1, Start: 1e9, Exe: "/1"})
	for n := range uint32(1000) {
		p := event.Process{PID: 10 + n, Start: uint64(10+n) * 1e9, PPID: 2, ParentStart: 2e9, Args: "x\x00"}
		if got := enrich(table, event.ProcessExec, epoch, p); got.Parent == nil || got.Parent.Exe != "/2" {
			t.Fatalf("parent %+v", got.Parent)
		}
		enrich(table, event.NetConnect, epoch, event.Process{PID: 2, Start: 2e9, UID: 9})
	}
	table.settle()
	if len(table.live) != 1 || len(table.pool.free) > 5 || table.pool.argsBytes != 0 {
		t.Errorf("%d known, %d snapshots in the pool, %d bytes", len(table.live), len(table.pool.free), table.pool.argsBytes)
	}
}

// The event of an execution has the whole command line; later ones a beginning when there is no room for all of them.
func TestMaxArgsBytes(t *testing.T) {
	table := newTable(t, Config{MaxArgsBytes: 10_000})
	long := event.Argv(strings.Repeat("x", 3000))
	process := func(pid uint32) event.Process {
		return event.Process{PID: pid, Start: uint64(pid) * 1e9, Args: long}
	}
	for pid := uint32(1); pid <= 5; pid++ {
		if got := enrich(table, event.ProcessExec, epoch, process(pid)); got.Args != long || got.Truncated != 0 {
			t.Errorf("execution of %d: %d bytes, truncated %v", pid, len(got.Args), got.Truncated)
		}
	}
	for pid := uint32(1); pid <= 5; pid++ {
		got := enrich(table, event.NetConnect, epoch, event.Process{PID: pid, Start: uint64(pid) * 1e9})
		want := event.Process{PID: pid, Args: long}
		if pid > 3 {
			want = event.Process{PID: pid, Args: long[:shortArgs], ArgsLength: 3000, Truncated: event.FieldArgs}
		}
		if got.Args != want.Args || got.ArgsLength != want.ArgsLength || got.Truncated != want.Truncated {
			t.Errorf("%d: %d bytes of %d, truncated %v", pid, len(got.Args), got.ArgsLength, got.Truncated)
		}
	}
	if stats := table.Stats(); stats.ArgsCut != 2 || table.pool.argsBytes > 10_000 {
		t.Errorf("%+v, %d bytes", stats, table.pool.argsBytes)
	}
	// What was cut by the source keeps its length.
	cut := process(6)
	cut.ArgsLength, cut.Truncated = 50_000, event.FieldArgs
	enrich(table, event.ProcessExec, epoch, cut)
	if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 6, Start: 6e9}); got.ArgsLength != 50_000 {
		t.Errorf("length %d, want 50000", got.ArgsLength)
	}
	// Room comes back.
	for pid := uint32(1); pid <= 6; pid++ {
		enrich(table, event.ProcessExit, epoch.Add(time.Duration(pid)*time.Hour), process(pid))
	}
	enrich(table, event.ProcessExec, epoch.Add(10*time.Hour), process(7))
	if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7, Start: 7e9}); got.Args != long {
		t.Errorf("%d bytes", len(got.Args))
	}
}

// What is not known is read from /proc at a bounded rate, and then told with no more than its event has.
func TestReadsPerSecond(t *testing.T) {
	proc := newProc(t)
	for pid := uint32(1); pid <= 20; pid++ {
		proc.add(event.Process{PID: pid, Start: uint64(pid) * 1e9, Exe: "/x", Name: "x"}, "/docker/7")
	}
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, Config{ProcRoot: proc.root, ReadsPerSecond: 5})
		for pid := uint32(1); pid <= 8; pid++ {
			got := enrich(table, event.NetConnect, epoch, event.Process{PID: pid, Start: uint64(pid) * 1e9, Name: "y"})
			if read := pid <= 5; !got.Partial || (got.Exe == "/x") != read || (got.Container != nil) != read {
				t.Errorf("process %d: %q, %+v", pid, got.Exe, got.Container)
			}
		}
		if stats := table.Stats(); stats.Unread != 3 || stats.Partial != 8 {
			t.Errorf("%+v, want 3 unread", stats)
		}
		time.Sleep(time.Second)
		if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 9, Start: 9e9}); got.Exe != "/x" {
			t.Errorf("a second later: %q", got.Exe)
		}
	})
}

// A parent whose creation was not seen is read, with its own; it is partial, its child is not.
func TestMissingParent(t *testing.T) {
	proc := newProc(t)
	proc.add(event.Process{PID: 1, Start: 1e9, Exe: "/init", Name: "init"}, "/")
	shell := event.Process{
		PID: 7, PPID: 1, Start: 2e9, Exe: "/bin/sh", Name: "sh) 1 (", Args: "sh\x00-c\x00", Cwd: "/tmp",
		UID: 1, EUID: 2, GID: 3, EGID: 4, NSPID: 6,
	}
	proc.add(shell, "/docker/5")
	table := newTable(t, Config{ProcRoot: proc.root, CgroupController: proc.controller})
	child := event.Process{PID: 8, Start: 3e9 + 1, PPID: 7, ParentStart: 2e9 + 5, UID: 1}
	got := enrich(table, event.ProcessFork, epoch, child)
	if got.Partial || got.Exe != "/bin/sh" || got.Args != shell.Args || got.Container == nil || got.Container.ID != "5" {
		t.Errorf("child %+v", got)
	}
	parent := *got.Parent
	if parent.Parent == nil || parent.Parent.Exe != "/init" || !parent.Parent.Partial {
		t.Errorf("grandparent %+v", parent.Parent)
	}
	shell.Partial, shell.Container = true, parent.Container
	shell.ExeDevice, shell.ExeInode, shell.ExeVersion = parent.ExeDevice, parent.ExeInode, parent.ExeVersion
	parent.Snapshot, parent.Parent = 0, nil
	if diff := cmp.Diff(shell, parent); diff != "" {
		t.Errorf("parent (-want +got):\n%s", diff)
	}
	if stats := table.Stats(); stats.Partial != 0 || stats.Processes != 3 {
		t.Errorf("%+v", stats)
	}
}

// A process that has the pid of the one that was asked for is not taken for it.
func TestReadOfReusedPID(t *testing.T) {
	proc := newProc(t)
	proc.add(event.Process{PID: 7, Start: 9e9, Exe: "/other"}, "/")
	table := newTable(t, Config{ProcRoot: proc.root})
	if got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7, Start: 2e9, Name: "x"}); got.Exe != "" ||
		got.Name != "x" || !got.Partial || got.Start != 2e9 {
		t.Errorf("told of %q", got.Exe)
	}
}

// In the steady state completing an event allocates nothing.
func TestEnrichAllocatesNothing(t *testing.T) {
	table := newTable(t, Config{MaxExited: 64})
	step := newSteps(table)
	for range 20_000 {
		step()
	}
	round := func() {
		for range 4 {
			step()
		}
	}
	if n := testing.AllocsPerRun(10_000, round); n != 0 {
		t.Errorf("%v allocations for a fork, an exec, a connect and an exit", n)
	}
	shell, unknown := event.Process{PID: 2, Start: 1e9, Cgroup: 101}, event.Process{PID: 1 << 20, Start: 1}
	asked := event.SetID{Call: "setresuid", UID: event.Some[uint32](0)}
	var e event.Event
	change := func() {
		shell.UID, asked.UID.Value = asked.UID.Value, 1-asked.UID.Value
		e = event.Event{Kind: event.ProcessSetID, Process: &shell, Target: &shell, SetID: &asked}
		table.Enrich(&e)
		table.target(&shell)
		table.lend(table.partial(&unknown))
	}
	change()
	if n := testing.AllocsPerRun(1000, change); n != 0 {
		t.Errorf("%v allocations for a change of credentials and two targets", n)
	}
}

// newSteps returns what completes one event after another: a shell forks, its child executes a program, which connects,
// and ends.
func newSteps(table *Table) func() {
	enrich(table, event.ProcessExec, epoch, event.Process{PID: 2, Start: 1e9, Exe: "/bin/sh", Args: "sh\x00", Cgroup: 101})
	kinds := [...]event.Kind{event.ProcessFork, event.ProcessExec, event.NetConnect, event.ProcessExit}
	var n uint64
	var p event.Process
	var e event.Event
	return func() {
		kind, child := kinds[n%4], n/4
		n++
		p = event.Process{PID: uint32(10 + child%30000), Start: 1e9 + child*tick, Cgroup: 101, PPID: 2, ParentStart: 1e9}
		switch kind {
		case event.ProcessExec:
			p.Exe, p.Args = "/bin/true", "true\x00--help\x00"
		case event.ProcessExit:
			p.UID, p.Exit.Ended = uint32(child%2), true // half of them have changed their user
		}
		e = event.Event{Kind: kind, Time: epoch.Add(time.Duration(n) * time.Millisecond), Process: &p}
		table.Enrich(&e)
	}
}

// BenchmarkEnrich completes the events of short-lived processes: an operation is an event.
func BenchmarkEnrich(b *testing.B) {
	step := newSteps(newTable(b, Config{}))
	for range 100_000 {
		step() // until as many processes have ended as are kept
	}
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
}
