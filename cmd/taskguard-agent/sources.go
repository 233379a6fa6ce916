package main

import (
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
	all   []collector.Source
	ebpf  *ebpf.Source
	audit *audit.Source
	// refused says why a source is not there.
	ebpfRefused, auditRefused error
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
}

// observable are the kinds that sources observe: all but the agent's own.
func observable() []event.Kind {
	return slices.DeleteFunc(event.Kinds(), func(k event.Kind) bool { return strings.HasPrefix(k.String(), "agent.") })
}

// openSources opens eBPF, and audit for what eBPF cannot observe. It returns an error when there is nothing left to
// observe the host with.
func openSources(cfg config, log *slog.Logger, needs sourceNeeds) (*sources, error) {
	s := &sources{ebpfRefused: errors.New("off by configuration"), auditRefused: errors.New("off by configuration")}
	if cfg.EBPF {
		s.ebpf, s.ebpfRefused = ebpf.Open(ebpf.Config{
			CgroupController: needs.hierarchy.Controller, CgroupHierarchy: needs.hierarchy.ID,
			CgroupRoot: container.UnifiedMount("/proc"),
			Wall:       needs.wall, Cgroup: needs.cgroup, Logger: log.With("component", "ebpf"),
		})
		if s.ebpfRefused != nil {
			log.Warn("eBPF cannot be used", "error", s.ebpfRefused)
		} else {
			s.all = append(s.all, s.ebpf)
		}
	}
	if missing := s.forAudit(); cfg.Audit && len(missing) > 0 {
		s.audit, s.auditRefused = audit.New(audit.Config{Kinds: missing, Logger: log.With("component", "audit")})
		if s.auditRefused != nil {
			log.Warn("audit cannot be used", "error", s.auditRefused)
		} else {
			s.all = append(s.all, s.audit)
		}
	}
	if len(s.all) == 0 {
		return nil, noSourceError{s.ebpfRefused, s.auditRefused}
	}
	return s, nil
}

// forAudit are the kinds that audit can tell of and eBPF does not.
func (s *sources) forAudit() []event.Kind {
	observed := s.byEBPF()
	var missing []event.Kind
	for _, kind := range audit.Kinds() {
		if !observed[kind].Healthy {
			missing = append(missing, kind)
		}
	}
	return missing
}

func (s *sources) byEBPF() map[event.Kind]event.SourceState {
	states := map[event.Kind]event.SourceState{}
	if s.ebpf != nil {
		for _, state := range s.ebpf.State() {
			states[state.Kind] = state
		}
	}
	return states
}

// covered returns the time, until at the latest, before which all that happened has been emitted. A source holds events
// for a moment, and under load for longer.
func (s *sources) covered(until time.Time) time.Time {
	if s.ebpf != nil {
		until = earlier(until, s.ebpf.CaughtUp())
	}
	if s.audit != nil {
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

// states says of every kind by what it is observed: eBPF, or else audit, or why by none.
func (s *sources) states() []event.SourceState {
	byEBPF := s.byEBPF()
	byAudit := map[event.Kind]event.SourceState{}
	if s.audit != nil {
		for _, state := range s.audit.State() {
			byAudit[state.Kind] = state
		}
	}
	var states []event.SourceState
	for _, kind := range observable() {
		state, tried := byEBPF[kind]
		if !state.Healthy {
			reason := "ebpf: " + state.Reason
			if !tried {
				reason = fmt.Sprintf("ebpf: %v", s.ebpfRefused)
			}
			state = s.second(kind, reason, byAudit)
		}
		states = append(states, state)
	}
	return states
}

// second is the state of a kind that eBPF does not observe, for the reason given.
func (s *sources) second(kind event.Kind, reason string, byAudit map[event.Kind]event.SourceState) event.SourceState {
	state, tried := byAudit[kind]
	switch {
	case tried && state.Healthy:
		state.Reason = reason
	case tried:
		state.Reason = reason + "; audit: " + state.Reason
	case s.auditRefused != nil:
		state = event.SourceState{Kind: kind, Via: "off", Reason: fmt.Sprintf("%s; audit: %v", reason, s.auditRefused)}
	default:
		state = event.SourceState{Kind: kind, Via: "off", Reason: reason + "; audit: its records do not tell of it"}
	}
	return state
}

func (s *sources) close() error {
	var errs []error
	if s.ebpf != nil {
		errs = append(errs, s.ebpf.Close())
	}
	if s.audit != nil {
		errs = append(errs, s.audit.Close())
	}
	return errors.Join(errs...)
}
