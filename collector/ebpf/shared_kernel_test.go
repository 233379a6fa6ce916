package ebpf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
)

// shared are the sources of the tests of rungs, until TestMain closes them.
var shared = rungSources{}

// rungSources are sources by their only rung. Tests share them because to attach and to detach takes far longer than
// most tests: the programs of a kind are attached when a test first wants it.
type rungSources map[string]*rungSource

// rungSource has one observer at a time, or none.
type rungSource struct {
	*Source
	hierarchy hierarchy
	cancel    context.CancelFunc
	ended     chan error

	mu       sync.Mutex
	t        *testing.T // of the observer
	observer *observer
	strays   []string // losses that no test was told of
}

// on opens the source of a rung, if it is not yet open.
func (all rungSources) on(t *testing.T, via string) *rungSource {
	t.Helper()
	if r := all[via]; r != nil {
		return r
	}
	r := &rungSource{hierarchy: findHierarchy(t), ended: make(chan error, 1), t: t}
	cfg := configOf(t, r.hierarchy)
	cfg.Rungs = []string{via}
	cfg.Logger = slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if r.Source, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() { r.ended <- r.Run(ctx, r) }()
	all[via] = r
	return r
}

// close closes them all, and says what went wrong without a test's knowledge.
func (all rungSources) close() (err error) {
	for via, r := range all {
		r.cancel()
		err = errors.Join(err, <-r.ended, r.Close())
		for _, stray := range r.strays {
			err = errors.Join(err, fmt.Errorf("%s: lost outside of tests: %s", via, stray))
		}
	}
	return err
}

// observe has kinds, and processes, observed until the test ends; or else returns the first kind that cannot be, and
// why.
func (r *rungSource) observe(t *testing.T, kinds []event.Kind) (*observer, event.Kind, string) {
	t.Helper()
	o := newObserver(r.hierarchy)
	o.source, o.rung = r.Source, r.cfg.Rungs[0]
	r.give(t, o)
	t.Cleanup(func() {
		if err := r.silence(); err != nil {
			t.Error(err)
		}
		r.give(nil, nil)
		if len(o.lost) > 0 {
			t.Errorf("lost: %v", o.lost)
		}
	})
	if err := r.Apply(configOf(t, r.hierarchy, kinds...).Settings); err != nil {
		t.Fatal(err)
	}
	if kind, reason := off(r.Source, kinds); reason != "" {
		return nil, kind, reason
	}
	return o, 0, ""
}

// silence has nothing recorded until the next observer.
func (r *rungSource) silence() error {
	r.Source.mu.Lock()
	defer r.Source.mu.Unlock()
	return r.put(Settings{Off: event.Kinds()})
}

func (r *rungSource) give(t *testing.T, o *observer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.t, r.observer = t, o
}

// Emit hands events to the observer. Without one they are the end of what a test's programs did.
func (r *rungSource) Emit(e *event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.observer != nil {
		r.observer.Emit(e)
	}
}

func (r *rungSource) Lost(kind event.Kind, stage, cause string, n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.observer == nil {
		r.strays = append(r.strays, fmt.Sprintf("%d %s %s/%s", n, kind, stage, cause))
		return
	}
	r.observer.Lost(kind, stage, cause, n)
}

// Write is the source's log.
func (r *rungSource) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.t == nil {
		return os.Stderr.Write(line)
	}
	return r.t.Output().Write(line)
}
