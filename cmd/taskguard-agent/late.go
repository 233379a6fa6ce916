package main

import (
	"context"
	"sync"

	"github.com/taskguard/taskguard/collector"
)

// closingSource is a source that holds something until it is closed.
type closingSource interface {
	collector.Source
	Close() error
}

// late is a source that may be opened when it is running already: audit, which is not touched until it is needed.
type late struct {
	opened, abandoned chan struct{} // closed when it is so
	once              sync.Once

	mu   sync.Mutex
	real closingSource // guarded by mu; nil until it is opened
}

func newLate() *late { return &late{opened: make(chan struct{}), abandoned: make(chan struct{})} }

// open gives it the source, once.
func (l *late) open(real closingSource) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.real = real
	close(l.opened)
}

func (l *late) source() closingSource {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.real
}

// abandon ends the wait for a source.
func (l *late) abandon() { l.once.Do(func() { close(l.abandoned) }) }

// Run waits for the source and runs it.
func (l *late) Run(ctx context.Context, sink collector.Sink) error {
	select {
	case <-l.opened:
	case <-l.abandoned:
	case <-ctx.Done():
	}
	if real := l.source(); real != nil {
		return real.Run(ctx, sink)
	}
	return nil
}

func (l *late) close() error {
	if real := l.source(); real != nil {
		return real.Close()
	}
	return nil
}
