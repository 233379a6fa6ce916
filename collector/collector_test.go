package collector_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/collector"
	"github.com/taskguard/taskguard/collector/event"
)

// source emits count events, numbered by their inodes, and ends by itself with err, or with nil when ctx is done. It
// reuses its one event, as real sources do.
type source struct {
	device event.Device
	count  int
	err    error
	wait   bool // until ctx is done, then emit
}

func (s *source) Run(ctx context.Context, sink collector.Sink) error {
	if s.wait {
		<-ctx.Done()
	}
	var file event.File
	e := event.Event{Kind: event.FileOpen, File: &file}
	for n := range s.count {
		file = event.File{Device: s.device, Inode: uint64(n)}
		e.Process = nil
		sink.Emit(&e)
		runtime.Gosched()
	}
	sink.Lost(event.FileOpen, "kernel", fmt.Sprint("source ", s.device), uint64(s.count))
	return s.err
}

// numberer completes events with the order in which it saw them, and finds out whether it is called by two at once.
type numberer struct {
	busy sync.Mutex
	n    uint32
}

func (c *numberer) Enrich(e *event.Event) {
	if !c.busy.TryLock() {
		panic("two events are completed at once")
	}
	defer c.busy.Unlock()
	c.n++
	runtime.Gosched()
	e.Process = &event.Process{PID: c.n}
}

// sink copies what it is lent.
type sink struct {
	mu     sync.Mutex
	pids   []uint32
	inodes map[event.Device][]uint64
	lost   map[string]uint64
}

func (s *sink) Emit(e *event.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pids = append(s.pids, e.Process.PID)
	s.inodes[e.File.Device] = append(s.inodes[e.File.Device], e.File.Inode)
}

func (s *sink) Lost(_ event.Kind, stage, cause string, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[stage+"/"+cause] += n
}

func newSink() *sink {
	return &sink{inodes: make(map[event.Device][]uint64), lost: make(map[string]uint64)}
}

// Every event reaches the sink once, completed, in its source's order, and in the order in which it was completed.
func TestRunDeliversAllInOrder(t *testing.T) {
	const sources, count = 4, 500
	var list []collector.Source
	for device := range event.Device(sources) {
		list = append(list, &source{device: device, count: count})
	}
	got := newSink()
	if err := collector.Run(t.Context(), list, new(numberer), got); err != nil {
		t.Fatal(err)
	}
	if len(got.pids) != sources*count || !slices.IsSorted(got.pids) {
		t.Errorf("%d events, in the order of their completion: %v", len(got.pids), slices.IsSorted(got.pids))
	}
	for device := range event.Device(sources) {
		inodes := got.inodes[device]
		if len(inodes) != count || !slices.IsSorted(inodes) || inodes[count-1] != count-1 {
			t.Errorf("source %d: %d events, in order: %v", device, len(inodes), slices.IsSorted(inodes))
		}
		if n := got.lost[fmt.Sprint("kernel/source ", device)]; n != count {
			t.Errorf("source %d: %d reported as lost, want %d", device, n, count)
		}
	}
}

// A source that fails ends alone; the others run on until ctx is done, and what they emit then arrives.
func TestRunOutlivesFailedSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := errors.New("no kernel"), errors.New("no socket")
		ctx, cancel := context.WithCancel(t.Context())
		got := newSink()
		done := make(chan error, 1)
		go func() {
			done <- collector.Run(ctx, []collector.Source{
				&source{device: 0, count: 1, err: first}, &source{device: 1, count: 3, wait: true}, &source{device: 2, err: second},
			}, new(numberer), got)
		}()
		time.Sleep(time.Hour) // everybody waits
		select {
		case err := <-done:
			t.Fatalf("ended with a source running: %v", err)
		default:
		}
		cancel()
		err := <-done
		if !errors.Is(err, first) || !errors.Is(err, second) || strings.Count(err.Error(), "run source: ") != 2 {
			t.Errorf("error %v, want both causes", err)
		}
		if len(got.inodes[1]) != 3 {
			t.Errorf("%d events after the end was asked for, want 3", len(got.inodes[1]))
		}
	})
}

func TestRunWithoutSources(t *testing.T) {
	if err := collector.Run(t.Context(), nil, new(numberer), newSink()); err != nil {
		t.Error(err)
	}
}
