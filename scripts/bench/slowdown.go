package main

import (
	"context"
	"slices"

	"github.com/taskguard/taskguard/scripts/stack"
)

// loop is work at full speed.
type loop struct {
	what string
	size int // how often it is done
	run  func(ctx context.Context, m *machine, size int) (perSecond float64, err error)
}

// loopCount is how many there are.
const loopCount = 3

// loops lists them: starting an ordinary program, starting the one that makes the most of what observing costs, and a
// server that makes many system calls of which none is observed.
func loops() [loopCount]loop {
	return [loopCount]loop{
		{"start /bin/true", 2000, spawning("/bin/true")},
		{"start a program that only exits", 5000, spawning("")},
		{"requests to redis", 200_000, requests},
	}
}

// spawning starts a program, as storm takes it.
func spawning(child string) func(context.Context, *machine, int) (float64, error) {
	return func(ctx context.Context, m *machine, size int) (float64, error) {
		r, _, err := m.storm(ctx, 0, size, 0, child)
		return r.PerSecond, err
	}
}

// speeds are how often a second, by loop.
type speeds [loopCount]float64

// slowDown holds how much longer a loop took in each round than it took alone, in percent.
type slowDown struct {
	Alone  []float64 // how often a second
	Agent  []float64
	Auditd []float64 // empty when it was not measured
}

// rounds holds the loops, and what was lost during them.
type rounds struct {
	Loops      [loopCount]slowDown
	Lost       map[string]uint64 // by the agent, by cause
	LostAuditd uint64
}

// slowDown runs the loops alone and observed, in turn.
func (m *machine) slowDown(ctx context.Context) (r *rounds, err error) {
	m.say("loops at full speed, alone and observed, %d rounds", roundCount)
	s, err := m.newStack("rounds")
	if err != nil {
		return nil, err
	}
	defer func() { err = firstOf(err, s.Close()) }()
	if err := s.StartEndpoint(ctx); err != nil {
		return nil, err
	}
	if m.redis, err = startRedis(ctx, m.dir); err != nil {
		return nil, err
	}
	defer func() { err = firstOf(err, m.redis.stop()) }()
	r = &rounds{Lost: map[string]uint64{}}
	for i := range roundCount + 1 {
		if err := m.round(ctx, s, r, i); err != nil {
			return nil, err
		}
		if i == 0 { // the first round warms up
			r.Loops = [loopCount]slowDown{}
		}
	}
	return r, nil
}

// round runs the loops in each way once. Every second round goes through the ways in the other direction.
func (m *machine) round(ctx context.Context, s *stack.Stack, r *rounds, number int) error {
	var alone, agent, audit speeds
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
	for i := range r.Loops {
		l := &r.Loops[i]
		l.Alone = append(l.Alone, alone[i])
		l.Agent = append(l.Agent, 100*(alone[i]/agent[i]-1))
		if m.noAuditd == nil {
			l.Auditd = append(l.Auditd, 100*(alone[i]/audit[i]-1))
		}
	}
	return nil
}

func (m *machine) loop(ctx context.Context) (per speeds, err error) {
	for i, l := range loops() {
		if per[i], err = l.run(ctx, m, l.size); err != nil {
			return per, err
		}
	}
	return per, nil
}

func (m *machine) loopWithAgent(ctx context.Context, s *stack.Stack, r *rounds) (per speeds, err error) {
	if err := s.StartAgent(ctx); err != nil {
		return per, err
	}
	if _, err := s.Settle(ctx, restTimeout); err != nil {
		return per, err
	}
	if per, err = m.loop(ctx); err != nil {
		return per, err
	}
	status, err := s.Delivered(ctx, deliverTimeout)
	if err != nil {
		return per, err
	}
	for cause, n := range status.Ledger.Lost {
		r.Lost[cause] += n
	}
	return per, s.Agent.Stop()
}

func (m *machine) loopWithAuditd(ctx context.Context, r *rounds) (per speeds, err error) {
	if m.noAuditd != nil {
		return per, nil
	}
	d, err := m.startAuditd("auditd")
	if err != nil {
		return per, err
	}
	defer func() { err = firstOf(err, d.Stop()) }()
	before, err := d.Lost()
	if err != nil {
		return per, err
	}
	if per, err = m.loop(ctx); err != nil {
		return per, err
	}
	after, err := d.Lost()
	r.LostAuditd += after - before
	return per, err
}

// median returns the middle of the values; 0 of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
