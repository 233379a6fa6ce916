// Package audit turns the kernel's audit records into events: a second source, for kinds that eBPF cannot collect on a
// host. Kinds says which it can tell of, 32-bit programs included; which of them are collected may change at any time.
//
// Its rules carry the key "taskguard". Where no audit daemon runs it registers as the one (unicast). Beside a daemon,
// of whatever make, it listens to the copies that the kernel multicasts, and drops when a listener is slow.
// Where the configuration is locked (auditctl -e 2) it listens only, changes nothing, and collects those kinds that
// rules which are there record all of: its own of a run before, or somebody else's. The others are off, as half a kind
// would look healthy. When it is locked while it runs, what is collected goes on, and the rules stay until the next
// boot. Such rules leave out the process that made them by its pid, and so whoever has that pid later.
//
// It promises: an event says what the kernel recorded, read from copies in kernel memory; what a record leaves open
// is absent or flagged as cut. An event that was recorded is emitted once, or counted as lost. No rule, setting or
// daemon that is not its own is changed: beside a daemon only rules are added, behind those that are there; alone,
// the enabled flag, the backlog wait time and the default backlog limit are changed, and put back at the end unless
// somebody else has set them meanwhile. When an audit daemon wants to start it makes way: that start fails, the next
// one succeeds. A host that is set to stop when audit loses a record is left alone. Reading never waits for anything
// but records.
//
// What audit costs: while any rule on system calls is loaded, every system call of every process walks the list, of 10
// rules for 64-bit programs and 19 for 32-bit ones when all kinds are wanted. Attempts that failed are recorded too.
// Where the kernel can, it filters before it makes a record: by flags of open(2), protection of memory, kinds of
// namespaces, families of sockets and addresses, and accept(2) that found nobody. Of ptrace(2) it cannot: a debugger
// makes an event of every step.
//
// What audit does not tell, and nobody should expect of it:
//   - process.fork: clone(2) returns a pid of the caller's pid namespace, and clone3(2) keeps the flag that tells
//     threads from processes in user memory; so process.namespace lacks clone3(2), too.
//   - process.exit other than by exit_group(2): not death by a signal, and not exit(2), whose records do not tell
//     a thread from a process.
//   - process.dup: whether a descriptor is a socket. dns.*: what is sent and received.
//   - process.exec that failed: its arguments. Environments.
//   - process.setid: the credentials from before; Process has those from after the call.
//   - process.ptrace: the target, but for PTRACE_ATTACH and PTRACE_SEIZE, where it has a pid, a name and a real user
//     id; memory.vm_*: the target other than by the pid that was given.
//   - file.rename: flags other than the exchange, which shows; of one that failed, more than the common directory.
//     fchmod(2), fchown(2): the path, but for device and inode.
//   - fs.mount: the type of the file system, a source that is no path, what fsopen(2) opens; which of two names is
//     the target of move_mount(2).
//   - memory.map: the file, and mmap(2) of i386, whose arguments are in user memory; memory.memfd: the name;
//     module.load: the path; bpf.load: all but the program's id; iouring.setup: the flags.
//   - Sockets: type, protocol and the local address, but for net.socket and net.bind; of net.listen and an accept(2)
//     that did not ask for the address, even the family. net.send is for IPv4 and IPv6, of sendmmsg(2) the last
//     address, and needs Linux 5.3.
//   - the final path of a link, the directory that a relative path of openat(2) and its like starts from (the path is
//     given as it was, and flagged), and the flags of openat2(2) before Linux 5.16 (counted as lost).
//   - what io_uring and x32 programs do, what a "never" rule of somebody else hides, and what processes do that
//     were started before audit was first switched on since boot (audit=1 on the kernel command line avoids it).
package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/elastic/go-libaudit/v2"

	"github.com/taskguard/taskguard/collector"
	"github.com/taskguard/taskguard/collector/event"
)

// The causes of loss. Where the kind is not known it is 0.
const (
	stageKernel = "kernel"
	stageDecode = "decode"

	causeBacklog    = "audit_backlog"   // the kernel dropped records, by its own count: of records, not of events
	causeOverrun    = "netlink_overrun" // events of which no record arrived, by their serial numbers
	causeIncomplete = "incomplete"      // events of which an essential record did not arrive
	causeInFlight   = "in_flight_full"  // too many events without an end at one time
)

const (
	tick          = 250 * time.Millisecond // how often deadlines are looked at
	watchInterval = 5 * time.Second        // how often the kernel's audit status is looked at
	drainPause    = 50 * time.Millisecond  // a silence that means that nothing more is under way
	drainTime     = time.Second            // how long to read what was under way, at most
	// defaultBuffer holds about 3,000 records: the kernel accounts twice the bytes given, and 2 KiB a record.
	defaultBuffer = 8 << 20
)

// Config says what to collect. The zero Config collects all it can.
type Config struct {
	// Kinds are the kinds wanted, until SetKinds changes them; nil means all that audit can tell of.
	Kinds []event.Kind
	// ProcRoot is where the host's procfs is; "" means /proc.
	ProcRoot string
	// ReceiveBuffer is the size of the socket's receive buffer in bytes; 0 means 8 MiB.
	ReceiveBuffer int
	// Records, unless nil, gets a copy of every record in the form of auditd's log, one a line.
	Records io.Writer
	// Logger gets what an operator should know; nil means none.
	Logger *slog.Logger

	key string // marks the rules; Key but for tests
}

func (c Config) withDefaults() Config {
	if c.Kinds == nil {
		c.Kinds = Kinds()
	}
	if c.ProcRoot == "" {
		c.ProcRoot = "/proc"
	}
	if c.ReceiveBuffer == 0 {
		c.ReceiveBuffer = defaultBuffer
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.key == "" {
		c.key = Key
	}
	return c
}

// Source collects events from kernel audit. Make one with New; it holds rules and sockets until Run or Close
// returns.
type Source struct {
	config Config
	kernel *kernel
	calls  *atomic.Pointer[calls] // of the kinds that are collected
	opened time.Time              // before the first rule
	close  sync.Once

	setting sync.Mutex // held while the kinds change; before mu
	mu      sync.Mutex
	kinds   []event.Kind          // guarded by mu; those wanted
	refused map[event.Kind]string // guarded by mu; why a wanted kind is off
	mode    mode                  // guarded by mu
	trouble string                // guarded by mu; why nothing can be collected at the moment
	note    string                // guarded by mu; what else an operator should know of how it is collected
}

// New puts the rules into the kernel; records wait in the socket's buffer until Run. The error wraps one of this
// package's when audit cannot be used here. A kind that audit cannot tell of, or whose rule the kernel refuses,
// is off, as State tells.
func New(config Config) (*Source, error) {
	config = config.withDefaults()
	return open(config, &kernel{
		procRoot: config.ProcRoot, key: config.key, buffer: config.ReceiveBuffer, self: os.Getpid(),
		dial:   func() (*libaudit.AuditClient, error) { return libaudit.NewAuditClient(nil) },
		listen: openSocket,
	})
}

func open(config Config, k *kernel) (*Source, error) {
	opened := time.Now()
	kinds := slices.Clone(config.Kinds)
	if err := k.acquire(expressible(kinds)); err != nil {
		return nil, fmt.Errorf("open audit: %w", err)
	}
	s := &Source{config: config, kernel: k, calls: tableOf(nil), opened: opened, mode: k.mode}
	s.adopt(kinds)
	if status, err := k.status(); err == nil {
		s.describe(status)
	}
	return s, nil
}

// expressible are those of kinds that audit can tell of.
func expressible(kinds []event.Kind) []event.Kind {
	all := Kinds()
	return slices.DeleteFunc(slices.Clone(kinds), func(kind event.Kind) bool { return !slices.Contains(all, kind) })
}

// SetKinds changes the wanted kinds; an empty list wants none. Rules are added before others are removed, so that a
// kind that stays wanted misses nothing. When it fails, the kinds stay as they were. It may be called at any time, also
// while Run runs, and by several goroutines.
func (s *Source) SetKinds(kinds []event.Kind) error {
	s.setting.Lock()
	defer s.setting.Unlock()
	kinds = slices.Clone(kinds)
	before := s.collected()
	// Records of a new kind may come as soon as there are rules.
	s.decode(append(slices.Clone(before), expressible(kinds)...))
	if err := s.kernel.want(expressible(kinds)); err != nil {
		s.decode(before)
		return fmt.Errorf("change the kinds of audit: %w", err)
	}
	s.adopt(kinds)
	return nil
}

// adopt makes kinds those that are wanted, as far as the kernel took their rules.
func (s *Source) adopt(kinds []event.Kind) {
	refused := map[event.Kind]string{}
	for kind, err := range s.kernel.refusals() {
		refused[kind] = err.Error()
		s.config.Logger.Warn("audit cannot collect a kind", "kind", kind, "error", err)
	}
	s.mu.Lock()
	s.kinds, s.refused = kinds, refused
	s.mu.Unlock()
	s.decode(s.collected())
}

// collected returns the kinds that are wanted and not off.
func (s *Source) collected() []event.Kind {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(expressible(s.kinds), func(kind event.Kind) bool { return s.refused[kind] != "" })
}

// decode makes events of kinds, and of no others.
func (s *Source) decode(kinds []event.Kind) {
	table := callTable(kinds)
	s.calls.Store(&table)
}

// Close removes the rules and puts everything back. It is not for use while Run runs, which does it itself.
func (s *Source) Close() (err error) {
	s.close.Do(func() {
		s.trip("closed")
		if err = s.kernel.release(); err != nil {
			err = fmt.Errorf("close audit: %w", err)
		}
		if s.kernel.locked {
			s.config.Logger.Warn("the audit configuration is locked: its rules and settings stay until the next boot")
		}
	})
	return err
}

// State tells how each wanted kind is collected, in the order in which they were given.
func (s *Source) State() []event.SourceState {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]event.SourceState, 0, len(s.kinds))
	told := Kinds()
	for _, kind := range s.kinds {
		state := event.SourceState{Kind: kind, Via: string(s.mode), Healthy: s.trouble == "", Reason: s.trouble}
		if state.Healthy {
			state.Reason = s.note
		}
		if !slices.Contains(told, kind) {
			state = event.SourceState{Kind: kind, Via: "off", Reason: untold(kind)}
		} else if reason := s.refused[kind]; reason != "" {
			state = event.SourceState{Kind: kind, Via: "off", Reason: reason}
		}
		states = append(states, state)
	}
	return states
}

// describe notes who shares audit with us.
func (s *Source) describe(status *libaudit.AuditStatus) {
	var notes []string
	if s.currentMode() == multicast && status.PID != 0 {
		notes = append(notes, fmt.Sprintf("copies of the records for the audit daemon (%s, pid %d)",
			s.kernel.nameOf(status.PID), status.PID))
	}
	if status.Enabled == immutable {
		notes = append(notes, "the configuration is locked until the next boot: no kind can be added")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note = strings.Join(notes, "; ")
}

// trip notes why nothing can be collected, or with "" that it can again, and logs the change.
func (s *Source) trip(reason string) {
	s.mu.Lock()
	changed := s.trouble != reason
	s.trouble = reason
	s.mu.Unlock()
	switch {
	case !changed || reason == "closed":
	case reason != "":
		s.config.Logger.Warn("audit collects nothing", "reason", reason)
	default:
		s.config.Logger.Info("audit collects again")
	}
}

// Run emits events to sink until ctx is done, then removes the rules, emits what was under way and puts everything
// back. Events are emitted by one goroutine, in the order in which the kernel ended them.
func (s *Source) Run(ctx context.Context, sink collector.Sink) (err error) {
	defer func() { err = errors.Join(err, s.Close()) }()
	r := newReader(s.config, s.calls, sink, s.opened)
	w := &watcher{source: s, sink: sink, lost: s.kernel.lost}

	watchCtx, stopWatch := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { w.run(watchCtx) })
	for ctx.Err() == nil && err == nil {
		if err = r.read(s.kernel.data, tick); errors.Is(err, errReplace) {
			err = s.yield(r)
		}
	}
	stopWatch()
	watching.Wait()
	if err != nil {
		return fmt.Errorf("read audit records: %w", err)
	}

	err = s.kernel.withdraw()
	r.drain(s.kernel.data, drainPause, drainTime)
	r.flush()
	_, statusErr := w.countLost()
	return errors.Join(err, statusErr)
}

// yield lets an audit daemon take our place.
func (s *Source) yield(r *reader) error {
	s.config.Logger.Warn("audit makes way for an audit daemon: if that failed to start, start it again")
	err := s.kernel.yield(func(data *socket) { r.drain(data, 0, drainTime) })
	s.mu.Lock()
	s.mode = s.kernel.mode
	s.mu.Unlock()
	return err
}

func (s *Source) currentMode() mode {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mode
}
