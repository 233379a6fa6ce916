package main

import (
	"context"
	"slices"

	"github.com/taskguard/taskguard/scripts/stack"
)

// slowDown holds how much slower the spawn loop was in each round, in percent of the time it took alone.
type slowDown struct {
	Agent, Auditd []float64
	Alone         []float64 // processes a second
	Lost          uint64    // by the agent
	LostAuditd    uint64
}

// slowDown runs the spawn loop at full speed, alone and observed, in turn.
func (m *machine) slowDown(ctx context.Context) (r *slowDown, err error) {
	m.say("the spawn loop at full speed, alone and observed, %d rounds of %d processes", roundCount, roundSize)
	s, err := m.newStack("rounds")
	if err != nil {
		return nil, err
	}
	defer func() { err = firstOf(err, s.Close()) }()
	if err := s.StartEndpoint(ctx); err != nil {
		return nil, err
	}
	r = &slowDown{}
	for i := range roundCount + 1 {
		if err := m.round(ctx, s, r, i); err != nil {
			return nil, err
		}
		if i == 0 { // the first round warms up
			*r = slowDown{Lost: r.Lost, LostAuditd: r.LostAuditd}
		}
	}
	return r, nil
}

// round runs the loop in each way once. Every second round goes through them the other way round.
func (m *machine) round(ctx context.Context, s *stack.Stack, r *slowDown, number int) error {
	var alone, agent, audit float64
	ways := []func() error{
		func() (err error) {
			alone, err = m.loop(ctx)
			return err
		},
		func() (err error) {
			agent, err = m.loopWithAgent(ctx, s, r)
			return err
		},
		func() (err error) {
			audit, err = m.loopWithAuditd(ctx, r)
			return err
		},
	}
	if number%2 == 1 {
		slices.Reverse(ways)
	}
	for _, way := range ways {
		if err := way(); err != nil {
			return err
		}
	}
	r.Alone = append(r.Alone, alone)
	r.Agent = append(r.Agent, 100*(alone/agent-1))
	if m.noAuditd == nil {
		r.Auditd = append(r.Auditd, 100*(alone/audit-1))
	}
	return nil
}

// loop returns how many processes a second it started.
func (m *machine) loop(ctx context.Context) (float64, error) {
	r, _, err := m.storm(ctx, 0, roundSize, 0)
	return r.PerSecond, err
}

func (m *machine) loopWithAgent(ctx context.Context, s *stack.Stack, r *slowDown) (float64, error) {
	if err := s.StartAgent(ctx); err != nil {
		return 0, err
	}
	if _, err := s.Settle(ctx, restTimeout); err != nil {
		return 0, err
	}
	perSecond, err := m.loop(ctx)
	if err != nil {
		return 0, err
	}
	status, err := s.Delivered(ctx, deliverTimeout)
	if err != nil {
		return 0, err
	}
	r.Lost += status.Ledger.AllLost()
	return perSecond, s.Agent.Stop()
}

func (m *machine) loopWithAuditd(ctx context.Context, r *slowDown) (perSecond float64, err error) {
	if m.noAuditd != nil {
		return 0, nil
	}
	d, err := m.startAuditd("auditd")
	if err != nil {
		return 0, err
	}
	defer func() { err = firstOf(err, d.Stop()) }()
	before, err := d.Lost()
	if err != nil {
		return 0, err
	}
	if perSecond, err = m.loop(ctx); err != nil {
		return 0, err
	}
	after, err := d.Lost()
	r.LostAuditd += after - before
	return perSecond, err
}

// median returns the middle of the values; 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
