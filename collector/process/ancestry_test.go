package process

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// preload gives a table's pool so many snapshots that it makes none of its own.
func preload(table *Table, n int) {
	for range n {
		table.pool.free = append(table.pool.free, new(snapshot))
	}
}

// kept returns the snapshots that a table can come to, and how many there are of each asked for.
func kept(t testing.TB, table *Table) map[*snapshot]*[event.MaxAncestors]int32 {
	t.Helper()
	asked := map[*snapshot]*[event.MaxAncestors]int32{}
	var visit func(s *snapshot)
	visit = func(s *snapshot) {
		if asked[s] != nil {
			return
		}
		asked[s] = new([event.MaxAncestors]int32)
		if s.parent == nil {
			if s.Parent != nil {
				t.Fatalf("process %d tells of a parent that it does not hold", s.PID)
			}
			return
		}
		if s.Parent != &s.parent.Process {
			t.Fatalf("process %d tells of another parent than it holds", s.PID)
		}
		visit(s.parent)
		reach := s.reach()
		if reach < 1 {
			t.Fatalf("process %d holds a parent that nobody asks for", s.PID)
		}
		asked[s.parent][reach-1]++
	}
	for pid, s := range table.live {
		if s.PID != pid || !s.held {
			t.Fatalf("process %d has the place of %d, held %v", s.PID, pid, s.held)
		}
		visit(s)
	}
	for _, s := range table.loans {
		if !s.held || table.live[s.PID] == s {
			t.Fatalf("process %d is lent, held %v, and in the table", s.PID, s.held)
		}
		visit(s)
	}
	return asked
}

// lawHolds checks that a table keeps what it must and nothing else, and that its counts are right. total is how many
// snapshots there are.
func lawHolds(t testing.TB, table *Table, total int) {
	t.Helper()
	asked := kept(t, table)
	held, args, ended := 0, 0, 0
	numbers := map[uint64]bool{}
	for s, counts := range asked {
		if s.asked != *counts {
			t.Fatalf("process %d is asked for %v, want %v", s.PID, s.asked, *counts)
		}
		if s.held {
			held++
		}
		if s.Snapshot == 0 || numbers[s.Snapshot] {
			t.Fatalf("process %d has snapshot number %d, as another one has", s.PID, s.Snapshot)
		}
		numbers[s.Snapshot] = true
		args += len(s.Args)
	}
	for _, s := range table.live {
		if s.ended != 0 {
			ended++
		}
	}
	if held != len(table.live)+len(table.loans) {
		t.Fatalf("%d held, %d in the table, %d lent", held, len(table.live), len(table.loans))
	}
	if args != table.pool.argsBytes {
		t.Fatalf("%d bytes of arguments, %d accounted for", args, table.pool.argsBytes)
	}
	if ended != table.ended || table.ended > table.exited.n {
		t.Fatalf("%d have ended, %d counted, %d queued", ended, table.ended, table.exited.n)
	}
	if len(table.live) > table.cfg.MaxProcesses || table.exited.n > table.cfg.MaxExited {
		t.Fatalf("%d processes of %d, %d queued of %d", len(table.live), table.cfg.MaxProcesses,
			table.exited.n, table.cfg.MaxExited)
	}
	for _, s := range table.pool.free {
		if asked[s] != nil {
			t.Fatalf("a snapshot of process %d is in use and in the pool", s.PID)
		}
		if s.held || s.ended != 0 || s.parent != nil || s.PID != 0 || s.Snapshot != 0 || s.Name != "" || s.Exe != "" ||
			s.Args != "" || s.Container != nil || s.Parent != nil || s.Exit.Ended || s.asked != [event.MaxAncestors]int32{} {
			t.Fatalf("a snapshot in the pool is not empty: %+v", *s)
		}
	}
	if len(asked)+len(table.pool.free) != total {
		t.Fatalf("%d snapshots in use and %d in the pool, of %d", len(asked), len(table.pool.free), total)
	}
}

// chaos makes events out of bytes that no kernel would report in that order: few pids, used again and again, with and
// without start times, ends that never come, come twice or too late.
type chaos struct {
	rest []byte
	at   time.Time
}

func (c *chaos) next(n int) int {
	if len(c.rest) == 0 {
		return 0
	}
	b := c.rest[0]
	c.rest = c.rest[1:]
	return int(b) % n
}

func (c *chaos) start() uint64 {
	if c.next(4) == 0 {
		return 0
	}
	return uint64(1+c.next(5))*tick + uint64(c.next(2))
}

func (c *chaos) event() event.Event {
	c.at = c.at.Add(time.Duration(c.next(3)))
	p := &event.Process{
		PID: uint32(1 + c.next(12)), Start: c.start(), UID: uint32(c.next(2)), Cgroup: uint64(100 * c.next(3)), Name: "x",
	}
	kinds := []event.Kind{
		event.ProcessFork, event.ProcessFork, event.ProcessExec, event.ProcessExec, event.ProcessExit, event.NetConnect,
		event.ProcessSetID,
	}
	e := event.Event{Time: c.at, Kind: kinds[c.next(len(kinds))], Process: p}
	if c.next(3) == 0 {
		e.Target = &event.Process{PID: uint32(c.next(12)), Start: c.start(), Name: "y"}
	}
	switch e.Kind {
	case event.ProcessSetID:
		e.SetID = &event.SetID{Call: "setresuid", UID: event.Some(uint32(c.next(2)))}
	case event.ProcessExec:
		p.Args, p.Exe = event.Argv(strings.Repeat("a", 100*c.next(4))), "/x"
		fallthrough
	case event.ProcessFork:
		p.PPID, p.ParentStart = uint32(c.next(12)), c.start()
	case event.ProcessExit:
		p.Exit = event.Exit{Ended: true, Code: uint8(c.next(3))}
	}
	return e
}

// law lets chaos loose on a table, then checks after each event that it was told of its own process, and that nothing
// leaks, is used after its release, or exceeds a bound; and in the end that nothing is left.
func (c *chaos) law(t testing.TB, procRoot string) {
	const total = 600
	table := newTable(t, Config{
		ProcRoot: procRoot, ReadsPerSecond: 1 << 30,
		MaxProcesses: 1 + c.next(12), MaxExited: 1 + c.next(5), Retain: time.Duration(1 + c.next(20)), MaxArgsBytes: 500,
	})
	preload(table, total)
	for range 400 {
		if len(c.rest) == 0 {
			break
		}
		e := c.event()
		was, target := *e.Process, e.Target
		table.Enrich(&e)
		got := e.Process
		if got.PID != was.PID || got.UID != was.UID && e.Kind != event.ProcessSetID ||
			was.Start != 0 && got.Start/tick != was.Start/tick {
			t.Fatalf("%s of process %d/%d, uid %d is told of %d/%d, uid %d", e.Kind, was.PID, was.Start, was.UID, got.PID,
				got.Start, got.UID)
		}
		if e.Kind == event.ProcessExec && (got.Args != was.Args || got.Exe != was.Exe || got.Partial) {
			t.Fatalf("exec of %q %q is told of %q %q, partial %v", was.Exe, was.Args, got.Exe, got.Args, got.Partial)
		}
		if got.Exit != was.Exit {
			t.Fatalf("%s with exit %+v is told of %+v", e.Kind, was.Exit, got.Exit)
		}
		if got := e.Target; target != nil && (got == nil) != (target.PID == 0) || got != nil && (got.PID != target.PID ||
			target.Start != 0 && got.Start/tick != target.Start/tick) {
			t.Fatalf("%s with target %+v is told of %+v", e.Kind, target, got)
		}
		lawHolds(t, table, total)
	}
	table.settle()
	for _, s := range table.live {
		delete(table.live, s.PID)
		table.letGo(s)
		table.exited = fifo{}
	}
	table.settle()
	if len(table.pool.free) != total || table.pool.argsBytes != 0 || table.ended != 0 {
		t.Fatalf("%d snapshots of %d came back, %d bytes, %d ended", len(table.pool.free), total, table.pool.argsBytes,
			table.ended)
	}
}

// running is a /proc in which some of chaos' pids are in use.
func running(t testing.TB) string {
	proc := newProc(t)
	for pid := uint32(1); pid <= 12; pid += 2 {
		proc.add(event.Process{PID: pid, PPID: (pid + 2) % 12, Start: uint64(1+pid%5) * tick, Exe: "/y",
			Args: event.Argv(strings.Repeat("y", 200))}, "/docker/9")
	}
	return proc.root
}

func TestTableInChaos(t *testing.T) {
	root := running(t)
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 7))
		c := chaos{rest: make([]byte, 3000), at: epoch}
		for i := range c.rest {
			c.rest[i] = byte(random.Uint32())
		}
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { c.law(t, root) })
	}
}

// Law: no order of events breaks the table.
func FuzzTable(f *testing.F) {
	root := running(f)
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := chaos{rest: data, at: epoch}
		c.law(t, root)
	})
}

// A process keeps the ancestors that an event names, however many of them have ended, and although another descendant
// of theirs is much farther away; those beyond are let go as soon as nobody is near enough.
func TestAncestorsOfSiblings(t *testing.T) {
	const total = 200
	table := newTable(t, Config{MaxExited: 1})
	preload(table, total)
	process := func(pid uint32) event.Process {
		return event.Process{PID: pid, Start: uint64(pid) * 1e9, PPID: pid - 1, ParentStart: uint64(pid-1) * 1e9}
	}
	end := func(pid uint32) {
		enrich(table, event.ProcessExit, epoch.Add(time.Duration(pid)*time.Hour), process(pid))
	}
	chain := func(pid uint32, p *event.Process) {
		t.Helper()
		n := 0
		for a := p.Parent; a != nil && n < event.MaxAncestors; a = a.Parent {
			if n++; a.PID != pid-uint32(n) {
				t.Fatalf("ancestor %d of process %d is %d", n, pid, a.PID)
			}
		}
		if want := min(int(pid)-1, event.MaxAncestors); n != want {
			t.Fatalf("%d ancestors of process %d, want %d", n, pid, want)
		}
	}
	first := process(1)
	first.PPID, first.ParentStart = 0, 0
	enrich(table, event.ProcessExec, epoch, first)
	for pid := uint32(2); pid <= 40; pid++ {
		chain(pid, enrich(table, event.ProcessFork, epoch, process(pid)))
	}
	// All end but the first, the tenth and the last.
	for pid := uint32(2); pid < 40; pid++ {
		if pid != 10 {
			end(pid)
		}
	}
	chain(10, enrich(table, event.NetConnect, epoch, process(10)))
	chain(40, enrich(table, event.NetConnect, epoch, process(40)))
	lawHolds(t, table, total)
	// 1 and 10 with 9 ancestors, 40 and 39 with 16 each: the latter's twenty-third is out of reach.
	if n := len(kept(t, table)); n != 10+(40-39+1)+16 {
		t.Errorf("%d snapshots are kept", n)
	}
	end(10)
	end(40) // forgets the tenth
	table.settle()
	if n := len(kept(t, table)); n != 1+17 {
		t.Errorf("%d snapshots are kept, want the first, the last and what it names", n)
	}
	lawHolds(t, table, total)
}
