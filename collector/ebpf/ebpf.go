// Package ebpf turns what the kernel's tracepoints and cgroup hooks report into events: process.exec, process.fork,
// process.exit, file.open, net.connect, dns.query and dns.response.
//
// The programs are in bpf/, written for any kernel with BTF and ring buffers (5.8 and later); their compiled form is
// committed. What may fail is tried, not guessed from a version: a kind whose programs the kernel refuses is off,
// with its reason in State, and the others go on.
//
// It promises: arguments, paths and addresses are read where the kernel holds them; where only the caller's memory
// has them (a failed open's path, a failed AF_UNIX connect's address) the event says unverified. Every record the
// programs attempted is emitted or reported to the sink as lost with its cause. Nothing is recorded of the agent
// itself. The programs allow everything they see, and all of them are gone when the source is closed.
//
// It does not see: opens and connects by io_uring, by TCP Fast Open, or by 32-bit programs on amd64; a DNS message over
// TCP that does not begin in the same segment as its length.
//
// It must not: attach to every system call, write to the caller's memory, wait for anybody but the kernel.
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
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/taskguard/taskguard/collector"
	"github.com/taskguard/taskguard/collector/event"
)

// Config says how to observe. Every field but RingBytes must be set.
type Config struct {
	// RingBytes is the size of the ring buffer between kernel and agent: a power of two, at least a page. 0 is 4 MiB.
	RingBytes int
	// CgroupController and CgroupHierarchy name the cgroup v1 hierarchy that containers are told apart by, with its
	// number in /proc/cgroups; an empty controller is cgroup v2.
	CgroupController string
	CgroupHierarchy  int
	// CgroupRoot is where cgroup v2 is mounted. Without one there are no dns.* events, and addresses of failed
	// connects are unverified.
	CgroupRoot string
	// Wall converts nanoseconds since boot.
	Wall func(boot uint64) time.Time
	// Cgroup is told of every new cgroup of the hierarchy, before anything that happens in it. It must not wait.
	Cgroup func(id uint64, path string)
	Logger *slog.Logger
}

// Source is the kernel, observed. It implements collector.Source. Make one with Open.
type Source struct {
	cfg     Config
	maps    *ebpf.Collection
	reader  *ringbuf.Reader
	closers []io.Closer
	detach  sync.Once
	state   []event.SourceState

	// caughtUp is when Run last knew that it had emitted everything, Unix ns.
	caughtUp atomic.Int64

	// What follows is used by Run only.
	decoder  decoder
	received [programsKindKIND_COUNT]uint64
	reported [programsKindKIND_COUNT]programsKindCounters
}

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
	s := &Source{cfg: cfg}
	s.decoder.wall, s.decoder.cgroup = cfg.Wall, cfg.Cgroup
	if err := s.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open ebpf source: %w", err), s.Close())
	}
	return s, nil
}

func (s *Source) open() error {
	types := btf.NewCache()
	spec, err := s.spec(types)
	if err != nil {
		return err
	}
	onlyMaps := spec.Copy()
	onlyMaps.Programs = nil
	if s.maps, err = ebpf.NewCollectionWithOptions(onlyMaps, ebpf.CollectionOptions{Cache: types}); err != nil {
		return fmt.Errorf("create maps: %w", remedy(err))
	}
	if s.reader, err = ringbuf.NewReader(s.maps.Maps[programsMapRing]); err != nil {
		return fmt.Errorf("create ring reader: %w", err)
	}
	return s.attachAll(spec, types)
}

// spec prepares the programs for this host.
func (s *Source) spec(types *btf.Cache) (*ebpf.CollectionSpec, error) {
	kernel, err := types.Kernel()
	if err != nil {
		return nil, fmt.Errorf("load kernel types: %w: the kernel must have BTF (CONFIG_DEBUG_INFO_BTF)", err)
	}
	spec, err := loadPrograms()
	if err != nil {
		return nil, fmt.Errorf("load programs: %w", err)
	}
	subsys, err := subsystem(kernel, s.cfg.CgroupController)
	if err != nil {
		return nil, err
	}
	ring := spec.Maps[programsMapRing]
	if s.cfg.RingBytes > 0 {
		ring.MaxEntries = uint32(s.cfg.RingBytes)
	}
	for name, value := range map[string]any{
		programsVarSelfPid:         uint32(os.Getpid()),
		programsVarCgroupSubsys:    subsys,
		programsVarCgroupHierarchy: int32(s.cfg.CgroupHierarchy),
		programsVarWakeupBytes:     uint64(min(maxWakeup, ring.MaxEntries/4)),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set %s: %w", name, err)
		}
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	spec.Maps[programsMapScratch].MaxEntries = uint32(cpus)
	return spec, nil
}

// subsystem returns the kernel's index of a cgroup v1 controller, -1 for none.
func subsystem(kernel *btf.Spec, controller string) (int32, error) {
	if controller == "" {
		return -1, nil
	}
	var ids *btf.Enum
	if err := kernel.TypeByName("cgroup_subsys_id", &ids); err != nil {
		return 0, fmt.Errorf("find cgroup controllers: %w", err)
	}
	// The hierarchy's name is the controller's but for blkio (include/linux/cgroup_subsys.h).
	name := controller
	if name == "blkio" {
		name = "io"
	}
	for _, v := range ids.Values {
		if v.Name == name+"_cgrp_id" {
			return int32(v.Value), nil
		}
	}
	return 0, fmt.Errorf("kernel has no cgroup controller %q", controller)
}

// State says how each kind is observed. It does not change while the source is open.
func (s *Source) State() []event.SourceState { return s.state }

// CaughtUp returns a time before which everything that happened has been emitted, or lost and reported.
func (s *Source) CaughtUp() time.Time { return time.Unix(0, s.caughtUp.Load()) }

// Run emits events until ctx is done. Then it detaches the programs, emits what they still left in the ring buffer,
// and returns: from then on every attempted record is accounted for.
func (s *Source) Run(ctx context.Context, sink collector.Sink) error {
	stop := context.AfterFunc(ctx, func() { s.detach.Do(s.detachAll) })
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
			if err := s.reportLoss(sink); err != nil {
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
		if kind < programsKindCGROUP_MKDIR {
			sink.Lost(event.Kind(kind), "decode", "malformed", 1)
		}
		s.cfg.Logger.Debug("record not decoded", "error", err)
	}
}

// kindOf returns a record's kind, 0 for one that no program of this version makes.
func kindOf(record []byte) programsKind {
	h, _, err := take[programsHeader](record)
	if err != nil || programsKind(h.Kind) >= programsKindKIND_COUNT {
		return 0
	}
	return programsKind(h.Kind)
}

// finish is called when the programs are detached: what they left is read, and the counters are final.
func (s *Source) finish(record *ringbuf.Record, sink collector.Sink) error {
	s.detach.Do(s.detachAll)
	s.reader.SetDeadline(time.Now())
	for more := true; more; {
		var err error
		if more, err = s.drain(record, sink); err != nil {
			return err
		}
	}
	if err := s.reportLoss(sink); err != nil {
		return err
	}
	for kind := programsKindPROCESS_EXEC; kind < programsKindCGROUP_MKDIR; kind++ {
		c := s.reported[kind]
		if missing := c.Attempted - c.RingFull - c.StateFull - s.received[kind]; int64(missing) > 0 {
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
	for kind := programsKindPROCESS_EXEC; kind < programsKindCGROUP_MKDIR; kind++ {
		was, is := &s.reported[kind], &now[kind]
		if n := is.RingFull - was.RingFull; n > 0 {
			sink.Lost(event.Kind(kind), "kernel", "ring_full", n)
		}
		if n := is.StateFull - was.StateFull; n > 0 {
			sink.Lost(event.Kind(kind), "kernel", "state_full", n)
		}
	}
	s.reported = now
	return nil
}

// counters sums up the kernel's counters over the CPUs.
func (s *Source) counters() (sum [programsKindKIND_COUNT]programsKindCounters, err error) {
	var perCPU []programsKindCounters
	for kind := range sum {
		if err := s.maps.Maps[programsMapCounters].Lookup(uint32(kind), &perCPU); err != nil {
			return sum, fmt.Errorf("read counters: %w", err)
		}
		for _, c := range perCPU {
			sum[kind].Attempted += c.Attempted
			sum[kind].RingFull += c.RingFull
			sum[kind].StateFull += c.StateFull
		}
	}
	return sum, nil
}

func (s *Source) detachAll() {
	for _, c := range s.closers {
		if err := c.Close(); err != nil {
			s.cfg.Logger.Warn("program not detached", "error", err)
		}
	}
}

// Close detaches and unloads the programs. A Run under way must have returned.
func (s *Source) Close() error {
	s.detach.Do(s.detachAll)
	var err error
	if s.reader != nil {
		err = s.reader.Close()
	}
	if s.maps != nil {
		s.maps.Close()
	}
	return err
}
