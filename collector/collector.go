// Package collector turns what sources observe into events that say who did it, and hands them to a sink.
//
// It promises: every event a source emits reaches the sink once, completed by the enricher, in the order in which
// its source emitted it; and a source is never blocked by another party, as neither enricher nor sink may wait.
package collector

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/taskguard/taskguard/collector/event"
)

// Sink takes events and reports of loss. Its methods never block and may be called from several goroutines.
type Sink interface {
	// Emit takes an event on loan: it is the caller's again when Emit returns.
	Emit(e *event.Event)
	// Lost reports that n events of a kind were observed and lost at a stage because of a cause.
	Lost(kind event.Kind, stage, cause string, n uint64)
}

// Source observes something and emits events about it.
type Source interface {
	// Run emits to sink until ctx is done, then returns nil, or until it can observe no more, then returns why.
	Run(ctx context.Context, sink Sink) error
}

// Enricher completes an event in place. It never waits.
type Enricher interface {
	Enrich(e *event.Event)
}

// Run runs the sources until ctx is done and all of them have returned. Events pass enricher on their way to sink.
// A source that fails ends alone; its error is part of the result when all have ended.
func Run(ctx context.Context, sources []Source, enricher Enricher, sink Sink) error {
	completed := &completer{enricher: enricher, Sink: sink}
	errs := make([]error, len(sources))
	var running sync.WaitGroup
	for i, source := range sources {
		running.Go(func() {
			if err := source.Run(ctx, completed); err != nil {
				errs[i] = fmt.Errorf("run source: %w", err)
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// completer is the sink that sources see. Its lock makes the order in which events change the process table the
// order in which they reach the sink.
type completer struct {
	Sink
	mu       sync.Mutex
	enricher Enricher // guarded by mu
}

func (c *completer) Emit(e *event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.enricher.Enrich(e)
	c.Sink.Emit(e)
}
