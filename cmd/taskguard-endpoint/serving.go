package main

import (
	"context"
	"fmt"
	"log/slog"
)

// serving is what serve runs: parts that are started one after the other and ended in reverse, so that each finds what
// it depends on from its first moment to its last.
type serving struct {
	log   *slog.Logger
	parts []*part
	// ended has the error of the first part that ended before it was told to.
	ended chan error
}

// part is something that runs beside the others.
type part struct {
	name string
	stop func()        // has run return
	done chan struct{} // closed when it has
}

func newServing(log *slog.Logger) *serving { return &serving{log: log, ended: make(chan error, 1)} }

// start starts a part. Its run returns nil after stop was called; should it return earlier, serve ends.
func (s *serving) start(name string, run func() error, stop func()) {
	p := &part{name: name, stop: stop, done: make(chan struct{})}
	s.parts = append(s.parts, p)
	go func() {
		defer close(p.done)
		if err := run(); err != nil {
			s.fail(fmt.Errorf("%s: %w", name, err))
		}
	}()
}

// startRole starts a part that runs until its context is done, and then returns nil or the context's error.
func (s *serving) startRole(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	s.start(name, func() error {
		err := run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			return fmt.Errorf("ended by itself")
		}
		return err
	}, cancel)
}

// fail has wait return err, unless something failed before; then it only logs it.
func (s *serving) fail(err error) {
	select {
	case s.ended <- err:
	default:
		s.log.Error("failed too", "err", err)
	}
}

// wait returns nil when ctx is done, and an error when a part has failed.
func (s *serving) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		s.log.Info("stopping")
		return nil
	case err := <-s.ended:
		return err
	}
}

// stop ends the parts in reverse; each has ended before the next is told to.
func (s *serving) stop() {
	for i := len(s.parts) - 1; i >= 0; i-- {
		p := s.parts[i]
		s.log.Debug("stopping", "part", p.name)
		p.stop()
		<-p.done
	}
	s.parts = nil
}
