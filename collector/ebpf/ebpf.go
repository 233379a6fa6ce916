// Package ebpf turns what programs in the kernel report into events: of every kind but the agent's own.
//
// The programs are in bpf/, written for any kernel with BTF and ring buffers (5.8 and later); their compiled form is
// committed. Each kind has a ladder of ways to be observed (ladder.go): fentry, kprobe, tracepoint. What may fail is
// tried, not guessed from a version; a kind that has no rung is off, with its reason in State, and the others go on.
//
// It promises: arguments, paths and addresses are read where the kernel holds them; where only the caller's memory
// has them the event says unverified: on the tracepoint rung, names that are renamed, linked, removed or mounted. There a
// descriptor that a call returned is taken for the file it made, unless another thread replaced that within the call.
// Every record the programs attempted is emitted or reported to the sink as lost with its cause, but for what Settings
// leave out. Nothing is recorded of the agent itself. The programs allow everything they see, and all of them are gone
// when the source is closed.
//
// It does not see: what other programs load by a program of their own (BPF_PROG_TYPE_SYSCALL), where no kernel function
// can be probed; on the tracepoint rung what io_uring does before Linux 6.3, and of what it does with sockets anything
// but connects and sends to IPv4 and IPv6 addresses, which are told of as begun (EINPROGRESS), and on arm64 what 32-bit
// programs do; a DNS message over TCP that does not begin in the same segment as its length.
//
// It must not: write to the caller's memory, wait for anybody but the kernel. Only the tracepoint rung looks at every
// system call of the host: it has to for 32-bit callers, and that costs less than to trace the others' exits beside it.
package ebpf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector"
	"github.com/taskguard/taskguard/collector/event"
)

// Config says how to observe. Every field must be set but those that say what their zero value means.
type Config struct {
	// Settings are what is observed at first; Apply changes them.
	Settings Settings
	// Rungs are the rungs that kinds with a choice may be on, as SourceState.Via names them; none is all.
	Rungs []string
	// RingBytes is the size of the ring buffer between kernel and agent: a power of two, at least a page. 0 is 4 MiB.
	RingBytes int
	// CgroupController and CgroupHierarchy name the cgroup v1 hierarchy that containers are told apart by, with its
	// number in /proc/cgroups; an empty controller is cgroup v2.
	CgroupController string
	CgroupHierarchy  int
	// CgroupRoot is where cgroup v2 is mounted. Without one there are no dns.* events, and on the tracepoint rung
	// addresses of failed connects are unverified and there is no net.send.
	CgroupRoot string
	// Wall converts nanoseconds since boot.
	Wall func(boot uint64) time.Time
	// Cgroup is told of every new cgroup of the hierarchy, before anything that happens in it. It must not wait.
	Cgroup func(id uint64, path string)
	// Watching is called by Open once new cgroups are recorded, before anything else is: the cgroups that exist then and
	// those that Cgroup will be told of are all that anything can happen in. Nil is nobody.
	Watching func()
	// Place tells where a cgroup is: its path in the hierarchy, empty when it is not known, and its container, nil for the
	// host. It must not wait. Nil knows no cgroup.
	Place  func(cgroup uint64) (path string, in *event.Container)
	Logger *slog.Logger
}

// Source is the kernel, observed. It implements collector.Source. Make one with Open.
type Source struct {
	cfg     Config
	objects *objects
	reader  *ringbuf.Reader
	tracefs *tracefs
	calls   *dispatcher
	uring   *dispatcher
	// Those of the maps that Run and Counts read.
	countersMap, throttlesMap *ebpf.Map
	requestMaps               []*ebpf.Map // of io_uring

	mu       sync.Mutex    // held while programs are attached, which takes its time
	attached []*attachment // guarded by mu
	detached bool          // guarded by mu

	// caughtUp is when Run last knew that it had emitted everything, Unix ns.
	caughtUp atomic.Int64

	// What follows is used by Run only.
	decoder  decoder
	received [kinds]uint64
	reported [kinds]commonKindCounters
	throttle throttling
	// throttledTotal is how many events were throttled when that was last looked at.
	throttledTotal uint64
}

// kinds is the number of kinds of records.
const kinds = commonKindKIND_COUNT

const (
	// maxWakeup is how many bytes wait at most before the reader is woken; of a small ring buffer, a quarter.
	maxWakeup = 64 << 10
	// drainMax is how many records are read before other work is looked at.
	drainMax = 4096
	// pollInterval is how long a record waits at most when too few of them arrive to wake the reader.
	pollInterval = 100 * time.Millisecond
	// lossInterval is how often the kernel's counters of loss are read.
	lossInterval = time.Second
)

// Open loads and attaches the programs. It returns an error when none of the kinds can be observed, saying what the
// host lacks; what single kinds lack is in State. The caller must Close the source.
func Open(cfg Config) (*Source, error) {
	defer debug.FreeOSMemory() // loading needs far more than running does
	s := &Source{cfg: cfg, calls: callDispatcher(), uring: uringDispatcher()}
	s.decoder.wall, s.decoder.cgroup = cfg.Wall, cfg.Cgroup
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open ebpf source: %w", err), s.Close())
	}
	return s, nil
}

func (s *Source) open() (err error) {
	if s.objects, err = openObjects(s.cfg); err != nil {
		return err
	}
	if s.reader, err = ringbuf.NewReader(s.objects.shared[commonMapRing]); err != nil {
		return fmt.Errorf("create ring reader: %w", err)
	}
	// Run reads these, beside an Apply that opens more objects.
	s.countersMap, s.throttlesMap = s.objects.shared[commonMapCounters], s.objects.shared[commonMapThrottles]
	s.requestMaps = []*ebpf.Map{s.objects.shared[commonMapUringSmall], s.objects.shared[commonMapUringLarge]}
	s.throttle = newThrottling(time.Now())
	if err := s.put(s.cfg.Settings); err != nil {
		return err
	}
	s.tracefs = openTracefs("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.attachAll()
}

// CaughtUp returns a time before which everything that happened has been emitted, or lost and reported.
func (s *Source) CaughtUp() time.Time { return time.Unix(0, s.caughtUp.Load()) }

// Run emits events until ctx is done. Then it detaches the programs, emits what they still left in the ring buffer,
// and returns: from then on every attempted record is accounted for.
func (s *Source) Run(ctx context.Context, sink collector.Sink) error {
	stop := context.AfterFunc(ctx, s.detach)
	defer stop()
	var record ringbuf.Record
	nextLoss := time.Now()
	for ctx.Err() == nil {
		began := time.Now()
		s.reader.SetDeadline(began.Add(pollInterval))
		more, err := s.drain(&record, sink)
		if err != nil {
			return err
		}
		if !more { // the ring buffer was empty at some time since
			s.caughtUp.Store(began.UnixNano())
		}
		if now := time.Now(); !now.Before(nextLoss) {
			nextLoss = now.Add(lossInterval)
			if err := errors.Join(s.reportLoss(sink), s.emitRequests(maxRequest, sink)); err != nil {
				return err
			}
			if err := s.reportThrottle(now, sink); err != nil {
				return err
			}
		}
	}
	return s.finish(&record, sink)
}

// drain emits what the ring buffer holds and waits for more until the deadline. It returns early, with more set, when
// records arrive without end.
func (s *Source) drain(record *ringbuf.Record, sink collector.Sink) (more bool, err error) {
	for range drainMax {
		err := s.reader.ReadInto(record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("read ring buffer: %w", err)
		}
		s.handle(record.RawSample, sink)
	}
	return true, nil
}

func (s *Source) handle(sample []byte, sink collector.Sink) {
	kind := kindOf(sample)
	s.received[kind]++
	if err := s.decoder.decode(sample, sink.Emit); err != nil {
		if kind < commonKindEVENT_KINDS {
			sink.Lost(event.Kind(kind), "decode", "malformed", 1)
		}
		s.cfg.Logger.Debug("record not decoded", "error", err)
	}
}

// kindOf returns a record's kind, 0 for one that no program of this version makes.
func kindOf(record []byte) commonKind {
	h, _, err := take[commonHeader](record)
	if err != nil || commonKind(h.Kind) >= commonKindKIND_COUNT {
		return 0
	}
	return commonKind(h.Kind)
}

// finish is called when the programs are detached: what they left is read, and the counters are final.
func (s *Source) finish(record *ringbuf.Record, sink collector.Sink) error {
	s.detach()
	s.reader.SetDeadline(time.Now())
	for more := true; more; {
		var err error
		if more, err = s.drain(record, sink); err != nil {
			return err
		}
	}
	if err := errors.Join(s.reportLoss(sink), s.emitRequests(0, sink)); err != nil {
		return err
	}
	if err := s.endThrottle(sink); err != nil {
		return err
	}
	for kind := commonKindPROCESS_EXEC; kind < commonKindEVENT_KINDS; kind++ {
		c := s.reported[kind]
		if missing := c.Attempted - c.RingFull - c.StateFull - c.Throttled - c.Filtered - s.received[kind]; int64(missing) > 0 {
			sink.Lost(event.Kind(kind), "kernel", "unaccounted", missing)
		}
	}
	return nil
}

// reportLoss reports what the kernel dropped since the last time.
func (s *Source) reportLoss(sink collector.Sink) error {
	now, err := s.counters()
	if err != nil {
		return err
	}
	for kind := commonKindPROCESS_EXEC; kind < commonKindEVENT_KINDS; kind++ {
		was, is := &s.reported[kind], &now[kind]
		if n := is.RingFull - was.RingFull; n > 0 {
			sink.Lost(event.Kind(kind), "kernel", "ring_full", n)
		}
		if n := is.StateFull - was.StateFull; n > 0 {
			sink.Lost(event.Kind(kind), "kernel", "state_full", n)
		}
		if n := is.Throttled - was.Throttled; n > 0 {
			sink.Lost(event.Kind(kind), "kernel", "throttled", n)
		}
	}
	s.reported = now
	return nil
}

// counters sums up the kernel's counters over the CPUs.
func (s *Source) counters() (sum [kinds]commonKindCounters, err error) {
	var perCPU []commonKindCounters
	for kind := range sum {
		if err := s.countersMap.Lookup(uint32(kind), &perCPU); err != nil {
			return sum, fmt.Errorf("read counters: %w", err)
		}
		for _, c := range perCPU {
			sum[kind].Attempted += c.Attempted
			sum[kind].RingFull += c.RingFull
			sum[kind].StateFull += c.StateFull
			sum[kind].Throttled += c.Throttled
			sum[kind].Filtered += c.Filtered
		}
	}
	return sum, nil
}

// Counts is what became of the attempts to record a kind. What is in none but Attempted was put into the ring buffer.
type Counts struct {
	Attempted uint64 // to be recorded, of what was done
	RingFull  uint64 // lost: the ring buffer was full
	StateFull uint64 // lost: too many calls were under way
	Throttled uint64 // lost: the cgroup made more than it may
	Filtered  uint64 // left out as the settings say
}

// Counts returns the kernel's counters since the source was opened, by kind. It may be called while Run runs.
func (s *Source) Counts() (map[event.Kind]Counts, error) {
	now, err := s.counters()
	if err != nil {
		return nil, err
	}
	counts := make(map[event.Kind]Counts)
	for kind := commonKindPROCESS_EXEC; kind < commonKindEVENT_KINDS; kind++ {
		c := now[kind]
		counts[event.Kind(kind)] = Counts{c.Attempted, c.RingFull, c.StateFull, c.Throttled, c.Filtered}
	}
	return counts, nil
}

// detach ends the observation: nothing is attached from then on, and no program runs any more.
func (s *Source) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detached = true
	var closers []io.Closer
	for _, a := range s.attached {
		closers = append(closers, a.closers...)
		a.closers = nil
	}
	if err := closeAll(closers); err != nil {
		s.cfg.Logger.Warn("program not detached", "error", err)
	}
	if err := waitForPrograms(); err != nil {
		s.cfg.Logger.Debug("programs may run a moment longer", "error", err)
	}
}

// waitForPrograms returns when whoever ran a program that is detached has left it: that is what the kernel waits for
// when all threads are to have passed a memory barrier (RCU). Kernels with nohz_full CPUs refuse it.
func waitForPrograms() error {
	const membarrierGlobal = 1 << 0 // MEMBARRIER_CMD_GLOBAL, include/uapi/linux/membarrier.h
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
		return fmt.Errorf("membarrier: %w", errno)
	}
	return nil
}

// Close detaches and unloads the programs. A Run under way must have returned.
func (s *Source) Close() error {
	s.detach()
	var errs []error
	if s.reader != nil {
		errs = append(errs, s.reader.Close())
	}
	if s.tracefs != nil {
		errs = append(errs, s.tracefs.Close())
	}
	if s.objects != nil {
		errs = append(errs, s.objects.close())
	}
	return errors.Join(errs...)
}
