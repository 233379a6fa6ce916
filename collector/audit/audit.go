// Package audit turns the kernel's audit records into events, for kinds that eBPF cannot collect on a host.
//
// It tells of process.exec, process.exit, net.connect and file.open for writing, by rules of its own that carry the
// key "taskguard". Where no audit daemon runs it registers as the one (unicast). Beside a daemon it listens to the
// copies that the kernel multicasts; the kernel drops those when a listener is slow.
//
// It promises: an event says what the kernel recorded, read from copies in kernel memory; what a record leaves open
// is absent or flagged as cut. An event that was recorded is emitted once, or counted as lost. No rule, setting or
// daemon that is not its own is changed: beside a daemon only rules are added, behind those that are there; alone,
// the enabled flag, the backlog wait time and the default backlog limit are changed, and put back at the end unless
// somebody else has set them meanwhile. When an audit daemon wants to start it makes way: that start fails, the next
// one succeeds. A host that is set to stop when audit loses a record is left alone. Reading never waits for anything
// but records.
//
// What audit costs: while any rule on system calls is loaded, every system call of every process walks the list.
//
// What audit does not tell, and nobody should expect of it:
//   - process.fork: clone(2) returns a pid of the caller's pid namespace, and clone3(2) keeps the flag that tells
//     threads from processes in user memory.
//   - process.exit other than by exit_group(2): not death by a signal, and not exit(2), whose records do not tell
//     a thread from a process.
//   - failed execs: their records hold no arguments. Sockets' types, protocols and local addresses; environments.
//   - the final path of a link, the directory that a relative path of openat(2) starts from (the path is given as
//     it was, and flagged), and the flags of openat2(2) before Linux 5.16 (counted as lost).
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
	"sync"
	"time"

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
	// Kinds are the kinds wanted; nil means all that audit can tell of.
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
	opened time.Time // before the first rule
	close  sync.Once

	mu      sync.Mutex
	mode    mode                  // guarded by mu
	trouble string                // guarded by mu; why nothing can be collected at the moment
	refused map[event.Kind]string // immutable
}

// New puts the rules into the kernel; records wait in the socket's buffer until Run. The error wraps one of this
// package's when audit cannot be used here. A kind that audit cannot tell of, or whose rule the kernel refuses,
// is off, as State tells.
func New(config Config) (*Source, error) {
	config = config.withDefaults()
	rules, err := buildRules(config.Kinds, config.key, os.Getpid())
	if err != nil {
		return nil, err
	}
	opened := time.Now()
	k := &kernel{procRoot: config.ProcRoot, key: config.key, buffer: config.ReceiveBuffer, rules: rules}
	if err := k.acquire(); err != nil {
		return nil, fmt.Errorf("open audit: %w", err)
	}
	s := &Source{config: config, kernel: k, opened: opened, mode: k.mode, refused: map[event.Kind]string{}}
	for kind, err := range k.refused {
		s.refused[kind] = err.Error()
		config.Logger.Warn("audit cannot collect a kind", "kind", kind, "error", err)
	}
	return s, nil
}

// Close removes the rules and puts everything back. It is not for use while Run runs, which does it itself.
func (s *Source) Close() (err error) {
	s.close.Do(func() {
		s.trip("closed")
		if err = s.kernel.release(); err != nil {
			err = fmt.Errorf("close audit: %w", err)
		}
	})
	return err
}

// State tells how each wanted kind is collected, in the order of Config.Kinds.
func (s *Source) State() []event.SourceState {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]event.SourceState, 0, len(s.config.Kinds))
	for _, kind := range s.config.Kinds {
		state := event.SourceState{Kind: kind, Via: string(s.mode), Healthy: s.trouble == "", Reason: s.trouble}
		if !slices.Contains(Kinds(), kind) {
			state = event.SourceState{Kind: kind, Via: "off", Reason: "audit records do not tell of it"}
		} else if reason := s.refused[kind]; reason != "" {
			state = event.SourceState{Kind: kind, Via: "off", Reason: reason}
		}
		states = append(states, state)
	}
	return states
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
	r := newReader(s.config, sink, s.opened)
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
