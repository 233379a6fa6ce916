// Package process is the process table: it says of every event which process caused it, with its image, its
// ancestors and its container.
//
// It promises: a process is a pid together with its start time, so a reused pid is another process; what is known
// of a process outlives its exit as long as it has descendants, and for a while after; memory is bounded whatever
// the host does; and in the steady state completing an event allocates nothing.
//
// It must not: wait, or read /proc for a process that the kernel has reported in full. It reads /proc at start; for
// what a source without start times and cgroups does not tell of an execution; and, at a bounded rate, for a process
// whose creation was not seen, which is marked partial, and to find those whose end was not seen when there is no room.
package process

import (
	"slices"
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
	MaxProcesses     int           // 16,384: processes known at once
	MaxExited        int           // 4,096: of these, those that have ended
	Retain           time.Duration // 10 s: how long one that has ended is known, if there is room
	MaxArgsBytes     int           // 16 MiB: command lines kept; beyond, only a beginning of each
	ReadsPerSecond   int           // 200: processes looked for in /proc after the start
	Locator          Locator       // required
	// Mask returns a command line, each argument ended by a NUL byte, without the secrets in it; nil leaves them.
	Mask func(args string) (masked string, any bool)
	// Note is told of every process that has a new image, on loan; nil is nobody.
	Note func(*event.Process)
}

// Stats counts what a Table did.
type Stats struct {
	Processes int    // known now
	Exited    int    // of these, those that have ended
	Partial   uint64 // events of processes whose creation was not seen
	Untracked uint64 // processes that there was no room for: their events are complete but for their ancestors' sake
	Vanished  uint64 // processes forgotten to make room: their end was not seen, and /proc has them no more
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
	exited fifo                 // those of live that have ended, oldest first, and some whose pid has been used again
	ended  int                  // how many of live have ended
	exits  uint64               // how many ends there were
	pool   pool
	loans  []*snapshot // what the last event tells of and the table does not hold, or no more
	ending *snapshot   // the last event's snapshot when it told of the end
	shrink []*snapshot // those of the last event whose command line is to be shortened
	proc   proc
	reads  budget
}

// NewTable returns an empty table.
func NewTable(cfg Config) *Table {
	setDefault(&cfg.ProcRoot, "/proc")
	setDefault(&cfg.MaxProcesses, 16384)
	setDefault(&cfg.MaxExited, 4096)
	setDefault(&cfg.Retain, 10*time.Second)
	setDefault(&cfg.MaxArgsBytes, 16<<20)
	setDefault(&cfg.ReadsPerSecond, 200)
	if cfg.Mask == nil {
		cfg.Mask = func(args string) (string, bool) { return args, false }
	}
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

// Enrich replaces the event's process and its target, as the source reported them, by what the table knows. The result
// is valid until the next call. A process with Start 0 is taken for the one that has its pid now. A target with PID 0
// is none.
func (t *Table) Enrich(e *event.Event) {
	if e.Process == nil && e.Target == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.settle()
	if e.Process != nil {
		s := t.actor(e)
		if s.Partial {
			t.stats.Partial++
		}
		e.Process = &s.Process
	}
	if e.Target != nil {
		e.Target = t.target(e.Target)
	}
	t.stats.Processes, t.stats.Exited = len(t.live), t.ended
}

// actor returns the snapshot of the process that did it.
func (t *Table) actor(e *event.Event) *snapshot {
	switch {
	case e.Kind == event.ProcessFork:
		return t.fork(e.Process)
	case e.Kind == event.ProcessExec && e.Result == 0: // one that failed replaced nothing
		return t.exec(e.Process)
	case e.Kind == event.ProcessSetID && e.Result == 0 && e.SetID != nil:
		return t.setID(e.Process, e.SetID)
	}
	s := t.current(e.Process)
	if e.Kind == event.ProcessExit {
		t.exit(s, e)
	}
	return s
}

// target returns the process that something was done to. What the source tells of it, which may be less than all, is
// used only where nothing else is known; and as nobody will tell of the end of such a process, it is not kept.
func (t *Table) target(p *event.Process) *event.Process {
	if p.PID == 0 {
		return nil
	}
	s := t.find(p.PID, p.Start)
	if s == nil {
		s = t.read(p.PID, p.Start, event.MaxAncestors)
	}
	switch {
	case s == nil:
		s = t.partial(p)
		t.lend(s)
	case s.Start == 0 && p.Start != 0: // who it is was known by its pid only
		s = t.update(s, p.Start, credentialsOf(&s.Process))
	}
	return &s.Process
}

// settle ends the loan of the event before.
func (t *Table) settle() {
	if s := t.ending; s != nil {
		t.ending = nil
		s.Exit = event.Exit{}
	}
	for _, s := range t.shrink {
		t.shorten(s)
	}
	for _, s := range t.loans {
		t.pool.release(s)
	}
	clear(t.shrink)
	clear(t.loans)
	t.shrink, t.loans = t.shrink[:0], t.loans[:0]
}

// fork makes the child, with its parent's image.
func (t *Table) fork(p *event.Process) *snapshot {
	parent := t.parentOf(p)
	s := t.pool.get()
	if parent != nil {
		t.inherit(s, parent)
	}
	if p.Name != "" { // the child is called as the thread that made it
		s.Name = p.Name
	}
	t.identify(s, p)
	s.adopt(parent)
	t.put(s)
	return s
}

// parentOf returns the parent that the kernel reported; nil when nothing is known of it.
func (t *Table) parentOf(p *event.Process) *snapshot {
	if parent := t.find(p.PPID, p.ParentStart); parent != nil {
		return parent
	}
	return t.read(p.PPID, p.ParentStart, event.MaxAncestors-1)
}

// exec gives a process its new image.
func (t *Table) exec(p *event.Process) *snapshot {
	if p.Start == 0 { // a source that knows no more than the pid
		p.Start, p.NSPID = t.proc.start(p.PID), t.proc.nsPID(p.PID)
		t.proc.version(p)
	}
	was := t.find(p.PID, p.Start)
	if was != nil && was.ended != 0 { // the pid has been used again: what has ended executes nothing
		was = nil
	}
	s := t.pool.get()
	number := s.Snapshot
	s.Process = *p
	s.Snapshot, s.Parent = number, nil
	t.locate(s, was)
	var parent *snapshot
	if was != nil {
		parent = was.parent
		s.Start = max(s.Start, was.Start)
		if s.NSPID == 0 {
			s.NSPID = was.NSPID
		}
	}
	if parent == nil {
		parent = t.parentOf(p)
	}
	s.adopt(parent)
	t.put(s)
	t.boundArgs(s)
	t.note(s)
	return s
}

// note tells who wants to know of a process with a new image.
func (t *Table) note(s *snapshot) {
	if t.cfg.Note != nil {
		t.cfg.Note(&s.Process)
	}
}

// current returns the snapshot of a process, a new one if its credentials or its place have changed.
func (t *Table) current(p *event.Process) *snapshot {
	s := t.find(p.PID, p.Start)
	if s == nil {
		s = t.read(p.PID, p.Start, event.MaxAncestors)
	}
	if s == nil {
		return t.unknown(p)
	}
	if credentialsOf(&s.Process) == credentialsOf(p) &&
		(s.Start != 0 || p.Start == 0) && !t.moved(s, p.Cgroup) {
		return s
	}
	changed := t.pool.get()
	t.inherit(changed, s)
	changed.Partial, changed.ended = s.Partial, s.ended
	t.identify(changed, p)
	changed.Start = max(s.Start, p.Start)
	if changed.NSPID == 0 {
		changed.NSPID = s.NSPID
	}
	if p.PPID == 0 {
		changed.PPID, changed.ParentStart = s.PPID, s.ParentStart
	}
	changed.adopt(s.parent)
	t.put(changed)
	if i := slices.Index(t.shrink, s); i >= 0 {
		t.shrink[i] = changed
	}
	return changed
}

// update gives a snapshot in the table a start time and credentials.
func (t *Table) update(s *snapshot, start uint64, c credentials) *snapshot {
	return t.current(&event.Process{PID: s.PID, Start: start, UID: c.uid, EUID: c.euid, GID: c.gid, EGID: c.egid})
}

// unknown keeps a process of which nobody tells more than its event does.
func (t *Table) unknown(p *event.Process) *snapshot {
	s := t.partial(p)
	t.put(s)
	return s
}

// partial makes a snapshot of what an event tells of a process, which must be put or lent.
func (t *Table) partial(p *event.Process) *snapshot {
	parent := t.find(p.PPID, p.ParentStart)
	s := t.pool.get()
	s.Name, s.Exe, s.ExeDeleted, s.Truncated = p.Name, p.Exe, p.ExeDeleted, p.Truncated
	s.ExeUpperLayer, s.ExeLength = p.ExeUpperLayer, p.ExeLength
	s.Partial = true
	t.identify(s, p)
	if p.Cgroup == 0 && parent != nil {
		s.Container = parent.Container
	}
	s.adopt(parent)
	return s
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
	if t.moved(s, p.Cgroup) {
		t.settleIn(s, p.Cgroup)
	}
}

// moved reports whether a process's cgroup, 0 for unknown, says something new. Of a cgroup that nobody knew yet the
// locator may know more now.
func (t *Table) moved(s *snapshot, cgroup uint64) bool {
	return cgroup != 0 && (s.Cgroup != cgroup || s.Container == nil && t.cfg.Locator.Locate(cgroup, "") != nil)
}

// settleIn moves a process to a cgroup. That the locator does not know the cgroup is no news of a process that was
// located by its path before.
func (t *Table) settleIn(s *snapshot, cgroup uint64) {
	container := t.cfg.Locator.Locate(cgroup, "")
	if container != nil || s.Cgroup != 0 {
		s.Container = container
	}
	s.Cgroup = cgroup
}

// locate finds the container of a new image.
func (t *Table) locate(s, was *snapshot) {
	cgroup := s.Cgroup
	if s.Cgroup = 0; was != nil {
		s.Cgroup, s.Container = was.Cgroup, was.Container
	}
	if cgroup != 0 {
		if t.moved(s, cgroup) {
			t.settleIn(s, cgroup)
		}
		return
	}
	// A source that knows no cgroups.
	if path := t.proc.cgroup(s.PID); path != "" {
		s.Container = t.cfg.Locator.Locate(0, path)
	} else if was == nil {
		if parent := t.find(s.PPID, s.ParentStart); parent != nil {
			s.Container = parent.Container
		}
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

// put makes s the current snapshot of its pid. When there is no room, or a later process has the pid already, it is a
// loan until the next event.
func (t *Table) put(s *snapshot) {
	was := t.live[s.PID]
	switch {
	case was != nil && s.Start != 0 && s.Start/tick < was.Start/tick:
		t.lend(s)
	case was == nil && !t.makeRoom():
		t.stats.Untracked++
		t.lend(s)
	default:
		t.live[s.PID] = s
		if s.ended != 0 {
			t.ended++
		}
		if was != nil {
			t.letGo(was)
		}
	}
}

// lend has s held until the next event.
func (t *Table) lend(s *snapshot) { t.loans = append(t.loans, s) }

// letGo gives up a snapshot that was in the table. The event under way may tell of it: it is lent till the next one.
func (t *Table) letGo(s *snapshot) {
	if s.ended != 0 {
		t.ended--
	}
	t.lend(s)
}

// exit notes how a process ended; it stays known for a while.
func (t *Table) exit(s *snapshot, e *event.Event) {
	s.Exit = e.Process.Exit
	s.Exit.Ended = true
	t.ending = s
	if s.ended != 0 {
		return
	}
	t.exits++
	s.ended = t.exits
	if t.live[s.PID] != s {
		return
	}
	t.ended++
	t.exited.push(exitedProcess{pid: s.PID, number: s.ended, at: e.Time})
	for t.exited.n > 1 && (t.exited.n > t.cfg.MaxExited || e.Time.Sub(t.exited.oldest().at) > t.cfg.Retain) {
		t.evict()
	}
}

// makeRoom reports whether there is room for one more process, having forgotten others for it if need be.
func (t *Table) makeRoom() bool {
	for len(t.live) >= t.cfg.MaxProcesses {
		if t.exited.n == 0 {
			return t.sweep()
		}
		t.evict()
	}
	return true
}

// evict forgets the process that ended first, unless its pid has been used again.
func (t *Table) evict() {
	gone := t.exited.pop()
	if s := t.live[gone.pid]; s != nil && s.ended == gone.number {
		delete(t.live, gone.pid)
		t.letGo(s)
	}
}

// sweepSample is how many processes are looked at to find one whose end was not seen: its event was lost, or the source
// does not tell of every end.
const sweepSample = 8

// sweep forgets those of a few processes that /proc has no more. It reports whether there was one.
func (t *Table) sweep() bool {
	looked, found := 0, false
	for pid, s := range t.live {
		if looked++; looked > sweepSample || !t.reads.take(time.Now()) {
			break
		}
		if start := t.proc.start(pid); start == 0 || s.Start != 0 && s.Start/tick != start/tick {
			delete(t.live, pid)
			t.letGo(s)
			t.stats.Vanished++
			found = true
		}
	}
	return found
}

// read makes a snapshot from /proc, and of up to so many of its ancestors that are missing; nil when the process is
// gone or too many were asked for.
func (t *Table) read(pid uint32, start uint64, ancestors int) *snapshot {
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
	return t.found(p, path, ancestors)
}

// found puts a process that was read from /proc into the table, and before it those of its ancestors that are missing.
func (t *Table) found(p event.Process, cgroup string, ancestors int) *snapshot {
	parent := t.find(p.PPID, 0)
	if parent != nil && parent.ended != 0 { // whoever has a child now has not ended
		parent = nil
	}
	if parent == nil && ancestors > 0 {
		parent = t.read(p.PPID, 0, ancestors-1)
	}
	if parent != nil && parent.Start/tick > p.Start/tick { // the pid has been used again meanwhile
		parent = nil
	}
	s := t.pool.get()
	number := s.Snapshot
	s.Process = p
	s.Snapshot, s.Partial = number, true
	s.Container = t.cfg.Locator.Locate(0, cgroup)
	s.adopt(parent)
	t.put(s)
	t.boundArgs(s)
	t.note(s)
	return s
}

// shortArgs is what is kept of a command line when MaxArgsBytes is used up.
const shortArgs = 128

// boundArgs takes the secrets out of a new command line and accounts for it; it has it shortened after this event if
// there are too many.
func (t *Table) boundArgs(s *snapshot) {
	if args, any := t.cfg.Mask(string(s.Args)); any {
		s.Args, s.ArgsMasked = event.Argv(args), true
	}
	t.pool.argsBytes += len(s.Args)
	if t.pool.argsBytes <= t.cfg.MaxArgsBytes || len(s.Args) <= shortArgs {
		return
	}
	t.shrink = append(t.shrink, s)
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
