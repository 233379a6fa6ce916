package main

import (
	"context"
	"fmt"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// sink takes the events that are read, on loan.
type sink interface {
	Print(e *event.Event) error
}

// readEvents gives the events that a query is for to a sink. flush, unless nil, is called after each batch that had
// some.
func readEvents(ctx context.Context, store *stream.Store, q query, to sink, flush func() error) (stream.Gaps, error) {
	return store.Read(ctx, stream.ReadOptions{Since: q.since, Follow: q.follow}, func(b *batch.Batch) error {
		matched := false
		for i := range b.Events {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !q.match(&b.Events[i]) {
				continue
			}
			matched = true
			if err := to.Print(&b.Events[i]); err != nil {
				return err
			}
		}
		if matched && flush != nil {
			return flush()
		}
		return nil
	})
}

// counts counts events by the name of their kind. It is a sink.
type counts map[string]uint64

func (c counts) Print(e *event.Event) error {
	c[e.Kind.String()]++
	return nil
}

// gapsError says what a read could not give; nil if there is nothing.
func gapsError(g stream.Gaps) error {
	if g == (stream.Gaps{}) {
		return nil
	}
	return fmt.Errorf("incomplete: %d batches were discarded before they were read, %d are damaged",
		g.Discarded, g.Unreadable)
}
