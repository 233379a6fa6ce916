// Package process is the process table: it says of every event which process caused it, with its image, its
// ancestors and its container.
//
// It promises: a process is a pid together with its start time, so a reused pid is another process; what is known
// of a process outlives its exit as long as it has descendants, and for a while after; memory is bounded whatever
// the host does; and in the steady state completing an event allocates nothing.
//
// It must not: wait, or read /proc for a process that the kernel has reported. It reads /proc at start and for a
// process whose creation was not seen, at a bounded rate; such a process is marked partial.
package process

import (
	"sync"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// Locator tells containers apart.
type Locator interface {
	// Locate returns the container of a cgroup, by its id or, when that is 0, by its path; nil for the host. The
	// result is immutable.
	Locate(cgroup uint64, path string) *event.Container
}

// Config bounds a Table. A zero field has the default given with it.
type Config struct {
	ProcRoot         string        // /proc
	CgroupController string        // the v1 controller whose line of /proc/PID/cgroup counts; empty is cgroup v2
	MaxProcesses     int           // 65,536: processes known at once
	MaxExited        int           // 4,096: of these, those that have ended
	Retain           time.Duration // 10 s: how long one that has ended is known, if there is room
	MaxArgsBytes     int           // 16 MiB: command lines kept; beyond, only a beginning of each
	ReadsPerSecond   int           // 200: processes read from /proc after the start
	Locator          Locator       // required
}

// Stats counts what a Table did.
type Stats struct {
	Processes int    // known now
	Exited    int    // of these, those that have ended
	Partial   uint64 // events of processes whose creation was not seen
	Untracked uint64 // processes that there was no room for: their events are complete but for their ancestors' sake
	Unread    uint64 // processes not read from /proc because too many were asked for
	ArgsCut   uint64 // command lines that were shortened to bound memory
}

// Table is the process table. It implements collector.Enricher. Enrich and Bootstrap are called by one goroutine at a
// time, Stats by any.
type Table struct {
	cfg Config

	mu    sync.Mutex // guards stats against readers
	stats Stats

	live   map[uint32]*snapshot // the current snapshot of each pid
	exited fifo                 // those of live that have ended, oldest first
	pool   pool
	loose  *snapshot // the last event's snapshot when the table does not hold it
	shrink *snapshot // the last event's snapshot when its command line is to be shortened
	proc   proc
	reads  budget
}

// snapshot is a process between two changes. It is released when neither the table nor a child's snapshot holds it.
type snapshot struct {
	event.Process
	parent *snapshot // holds a reference
	refs   int
}

// NewTable returns an empty table.
func NewTable(cfg Config) *Table {
	setDefault(&cfg.ProcRoot, "/proc")
	setDefault(&cfg.MaxProcesses, 65536)
	setDefault(&cfg.MaxExited, 4096)
	setDefault(&cfg.Retain, 10*time.Second)
	setDefault(&cfg.MaxArgsBytes, 16<<20)
	setDefault(&cfg.ReadsPerSecond, 200)
	return &Table{
		cfg:   cfg,
		live:  make(map[uint32]*snapshot),
		proc:  proc{root: cfg.ProcRoot, controller: cfg.CgroupController},
		reads: budget{perSecond: cfg.ReadsPerSecond},
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Stats returns the table's counters.
func (t *Table) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stats
}

// Enrich replaces the event's process, as its source reported it, by what the table knows. The result is valid until
// the next call. A process with Start 0 is taken for the one that has its pid now.
func (t *Table) Enrich(e *event.Event) {
	if e.Process == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settle()
	var s *snapshot
	switch e.Kind {
	case event.ProcessFork:
		s = t.fork(e.Process)
	case event.ProcessExec:
		s = t.exec(e.Process)
	default:
		s = t.current(e.Process)
	}
	if e.Kind == event.ProcessExit {
		s.Exit = e.Process.Exit
		t.exit(s, e.Time)
	}
	if s.Partial {
		t.stats.Partial++
	}
	e.Process = &s.Process
	t.stats.Processes, t.stats.Exited = len(t.live), t.exited.n
}

// settle ends the loan of the event before.
func (t *Table) settle() {
	if s := t.shrink; s != nil {
		t.shrink = nil
		t.shorten(s)
	}
	if s := t.loose; s != nil {
		t.loose = nil
		t.release(s)
	}
}

// fork makes the child, with its parent's image.
func (t *Table) fork(p *event.Process) *snapshot {
	parent := t.find(p.PPID, p.ParentStart)
	if parent == nil {
		parent = t.read(p.PPID, p.ParentStart)
	}
	s := t.pool.get()
	if parent != nil {
		t.inherit(s, parent)
	}
	t.identify(s, p)
	t.adopt(s, parent)
	t.put(s)
	return s
}

// exec gives a process its new image.
func (t *Table) exec(p *event.Process) *snapshot {
	if p.Start == 0 { // a source that knows no more than the pid
		p.Start, p.NSPID = t.proc.start(p.PID), t.proc.nsPID(p.PID)
	}
	was := t.find(p.PID, p.Start)
	s := t.pool.get()
	number := s.Snapshot
	s.Process = *p
	s.Snapshot, s.Parent = number, nil
	t.locate(s, was)
	switch {
	case was != nil:
		if s.NSPID == 0 {
			s.NSPID = was.NSPID
		}
		s.Start = max(s.Start, was.Start)
		t.adopt(s, was.parent)
	default:
		parent := t.find(p.PPID, p.ParentStart)
		if parent == nil {
			parent = t.read(p.PPID, p.ParentStart)
		}
		t.adopt(s, parent)
	}
	t.put(s)
	t.boundArgs(s)
	return s
}

// current returns the snapshot of a process, a new one if its credentials or its cgroup have changed.
func (t *Table) current(p *event.Process) *snapshot {
	s := t.find(p.PID, p.Start)
	if s == nil {
		if s = t.read(p.PID, p.Start); s == nil {
			s = t.pool.get()
			s.Name, s.Partial = p.Name, true
			t.identify(s, p)
			t.put(s)
			return s
		}
	}
	if s.UID == p.UID && s.EUID == p.EUID && s.GID == p.GID && s.EGID == p.EGID &&
		(p.Cgroup == 0 || s.Cgroup == p.Cgroup) {
		return s
	}
	changed := t.pool.get()
	t.inherit(changed, s)
	start, nsPID, cgroup := s.Start, s.NSPID, s.Cgroup
	changed.Partial = s.Partial
	t.identify(changed, p)
	changed.Start = max(start, p.Start)
	if changed.NSPID == 0 {
		changed.NSPID = nsPID
	}
	if p.Cgroup == 0 {
		changed.Cgroup, changed.Container = cgroup, s.Container
	}
	t.adopt(changed, s.parent)
	t.put(changed)
	return changed
}

// inherit copies an image.
func (t *Table) inherit(s, from *snapshot) {
	number := s.Snapshot
	s.Process = from.Process
	s.Snapshot, s.Parent, s.Exit, s.Partial = number, nil, event.Exit{}, false
	t.pool.argsBytes += len(s.Args)
}

// identify sets what tells a process from another one with the same image.
func (t *Table) identify(s *snapshot, p *event.Process) {
	s.PID, s.NSPID, s.Start = p.PID, p.NSPID, p.Start
	s.UID, s.EUID, s.GID, s.EGID = p.UID, p.EUID, p.GID, p.EGID
	s.PPID, s.ParentStart = p.PPID, p.ParentStart
	if p.Cgroup != 0 && p.Cgroup != s.Cgroup {
		s.Cgroup = p.Cgroup
		s.Container = t.cfg.Locator.Locate(p.Cgroup, "")
	}
}

// locate finds the container of a new image.
func (t *Table) locate(s, was *snapshot) {
	switch {
	case s.Cgroup != 0 && was != nil && was.Cgroup == s.Cgroup:
		s.Container = was.Container
	case s.Cgroup != 0:
		s.Container = t.cfg.Locator.Locate(s.Cgroup, "")
	default: // a source that knows no cgroups
		if path := t.proc.cgroup(s.PID); path != "" {
			s.Container = t.cfg.Locator.Locate(0, path)
		} else if was != nil {
			s.Container = was.Container
		} else if parent := t.find(s.PPID, s.ParentStart); parent != nil {
			s.Container = parent.Container
		}
	}
}

// adopt makes parent the parent of s, and bounds the length of the chain of those that have ended.
func (t *Table) adopt(s, parent *snapshot) {
	if parent == nil {
		return
	}
	parent.refs++
	s.parent, s.Parent = parent, &parent.Process
	last := parent
	for range event.MaxAncestors - 1 {
		if last.parent == nil {
			return
		}
		last = last.parent
	}
	if last.Exit.Ended && last.parent != nil {
		cut := last.parent
		last.parent, last.Parent = nil, nil
		t.release(cut)
	}
}

// find returns the current snapshot of a process. Start times compare by the tick, which is what /proc gives.
func (t *Table) find(pid uint32, start uint64) *snapshot {
	s := t.live[pid]
	if s == nil || start != 0 && s.Start != 0 && s.Start/tick != start/tick {
		return nil
	}
	return s
}

const tick = uint64(10 * time.Millisecond)

// put makes s the current snapshot of its pid, or, when there is no room, a loan until the next event.
func (t *Table) put(s *snapshot) {
	s.refs++
	was := t.live[s.PID]
	if was == nil && len(t.live) >= t.cfg.MaxProcesses && !t.evict() {
		t.stats.Untracked++
		t.loose = s
		return
	}
	t.live[s.PID] = s
	if was != nil {
		t.release(was)
	}
}

// exit marks a process as ended; it stays known for a while.
func (t *Table) exit(s *snapshot, now time.Time) {
	if t.live[s.PID] != s {
		return
	}
	t.exited.push(exitedProcess{pid: s.PID, snapshot: s.Snapshot, at: now})
	for t.exited.n > t.cfg.MaxExited || now.Sub(t.exited.oldest().at) > t.cfg.Retain {
		t.evict()
	}
}

// evict forgets the process that ended first, unless its pid has been used again. It reports whether there was one.
func (t *Table) evict() bool {
	if t.exited.n == 0 {
		return false
	}
	gone := t.exited.pop()
	if s := t.live[gone.pid]; s != nil && s.Snapshot == gone.snapshot {
		delete(t.live, gone.pid)
		t.release(s)
	}
	return true
}

// release gives up one reference.
func (t *Table) release(s *snapshot) {
	for s != nil {
		if s.refs--; s.refs > 0 {
			return
		}
		parent := s.parent
		t.pool.put(s)
		s = parent
	}
}

// read makes a snapshot from /proc; nil when the process is gone or too many were asked for.
func (t *Table) read(pid uint32, start uint64) *snapshot {
	if pid == 0 {
		return nil
	}
	if !t.reads.take(time.Now()) {
		t.stats.Unread++
		return nil
	}
	p, path, ok := t.proc.read(pid)
	if !ok || start != 0 && p.Start/tick != start/tick {
		return nil
	}
	return t.found(p, path)
}

// found puts a process that was read from /proc into the table.
func (t *Table) found(p event.Process, cgroup string) *snapshot {
	s := t.pool.get()
	number := s.Snapshot
	s.Process = p
	s.Snapshot, s.Partial = number, true
	s.Container = t.cfg.Locator.Locate(0, cgroup)
	t.adopt(s, t.find(p.PPID, 0))
	t.put(s)
	t.boundArgs(s)
	return s
}

// shortArgs is what is kept of a command line when MaxArgsBytes is used up.
const shortArgs = 128

// boundArgs accounts for a new command line, and has it shortened after this event if there are too many.
func (t *Table) boundArgs(s *snapshot) {
	t.pool.argsBytes += len(s.Args)
	if t.pool.argsBytes > t.cfg.MaxArgsBytes && len(s.Args) > shortArgs {
		t.shrink = s
	}
}

func (t *Table) shorten(s *snapshot) {
	if len(s.Args) <= shortArgs {
		return
	}
	t.stats.ArgsCut++
	t.pool.argsBytes -= len(s.Args) - shortArgs
	if s.ArgsLength == 0 {
		s.ArgsLength = uint32(len(s.Args))
	}
	s.Args = event.Argv(append([]byte(nil), s.Args[:shortArgs]...))
	s.Truncated |= event.FieldArgs
	// What has been told of this snapshot before was more.
	s.Snapshot = t.pool.number()
}
