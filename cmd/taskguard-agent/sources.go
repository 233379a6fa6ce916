package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/taskguard/taskguard/collector"
	"github.com/taskguard/taskguard/collector/audit"
	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/ebpf"
	"github.com/taskguard/taskguard/collector/event"
)

// sources are those that could be opened.
type sources struct {
	*coverage
	ebpf  *ebpf.Source // nil: refused, or off
	audit *late        // nil: off
}

// noSourceError says why nothing can observe this host.
type noSourceError struct{ ebpf, audit error }

func (e noSourceError) Error() string {
	return fmt.Sprintf("no source can observe this host:\n  ebpf: %v\n  audit: %v", e.ebpf, e.audit)
}

// sourceNeeds is what sources get from the rest of the agent.
type sourceNeeds struct {
	hierarchy container.Hierarchy
	wall      func(boot uint64) time.Time
	cgroup    func(id uint64, path string)
	watching  func() // cgroup will be told of those that are made from now on
	place     func(cgroup uint64) (path string, in *event.Container)
	engine    engineState // nil: off
}

// observable are the kinds that sources observe, or the container engine tells of: all but the agent's own.
func observable() []event.Kind {
	return slices.DeleteFunc(event.Kinds(), func(k event.Kind) bool { return strings.HasPrefix(k.String(), "agent.") })
}

// idle are no sources: nothing is to be observed.
func idle(cfg config) *sources {
	s := &sources{coverage: newCoverage(cfg.Events)}
	s.excluded = true
	return s
}

// openSources opens eBPF, and audit for what eBPF cannot observe. It returns an error when there is nothing left to
// observe the host with.
func openSources(cfg config, log *slog.Logger, needs sourceNeeds) (*sources, error) {
	s := &sources{coverage: newCoverage(cfg.Events)}
	s.engine = needs.engine
	if cfg.EBPF {
		s.openEBPF(cfg, log, needs)
	}
	if cfg.Audit {
		s.audit = newLate()
		s.auditRefused, s.audible = nil, audit.Kinds()
		s.openAudit = func(kinds []event.Kind) (auditSource, error) {
			opened, err := audit.New(audit.Config{Kinds: kinds, Logger: log.With("component", "audit")})
			if err != nil {
				log.Warn("audit cannot be used", "error", err)
				return nil, err
			}
			s.audit.open(opened)
			return opened, nil
		}
	}
	// What audit cannot do is no failure while there is eBPF: states tell.
	if err := s.start(); s.ebpf == nil && (err != nil || s.coverage.audit == nil) {
		return nil, noSourceError{s.ebpfRefused, s.auditRefused}
	}
	return s, nil
}

func (s *sources) openEBPF(cfg config, log *slog.Logger, needs sourceNeeds) {
	opened, err := ebpf.Open(ebpf.Config{
		Settings:         cfg.Events,
		CgroupController: needs.hierarchy.Controller, CgroupHierarchy: needs.hierarchy.ID,
		CgroupRoot: container.UnifiedMount("/proc"),
		Wall:       needs.wall, Cgroup: needs.cgroup, Watching: needs.watching, Place: needs.place,
		Logger: log.With("component", "ebpf"),
	})
	if s.ebpfRefused = err; err != nil {
		log.Warn("eBPF cannot be used", "error", err)
		return
	}
	s.ebpf, s.coverage.ebpf = opened, opened
}

// run runs the sources until ctx is done, or until all that are open have ended.
func (s *sources) run(ctx context.Context, enricher collector.Enricher, sink collector.Sink) error {
	if s.excluded {
		<-ctx.Done()
		return nil
	}
	var all []collector.Source
	if s.ebpf != nil {
		all = append(all, s.ebpf)
	}
	if s.audit != nil {
		all = append(all, s.audit)
	}
	if s.ebpf != nil && s.audit != nil {
		all[0] = ending{s.ebpf, s.audit.abandon}
	}
	return collector.Run(ctx, all, enricher, sink)
}

// ending is a source that says when it has ended.
type ending struct {
	collector.Source
	ended func()
}

// Run runs the source.
func (e ending) Run(ctx context.Context, sink collector.Sink) error {
	defer e.ended()
	return e.Source.Run(ctx, sink)
}

// covered returns the time, until at the latest, before which all that happened has been emitted. A source holds events
// for a moment, and under load for longer.
func (s *sources) covered(until time.Time) time.Time {
	if s.ebpf != nil {
		until = earlier(until, s.ebpf.CaughtUp())
	}
	if s.audit != nil && s.audit.source() != nil {
		until = until.Add(-audit.MaxDelay)
	}
	return until
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (s *sources) close() error {
	var errs []error
	if s.ebpf != nil {
		errs = append(errs, s.ebpf.Close())
	}
	if s.audit != nil {
		errs = append(errs, s.audit.close())
	}
	return errors.Join(errs...)
}
