package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/host"
	"github.com/taskguard/taskguard/collector/process"
	"github.com/taskguard/taskguard/sender"
)

// probe is the agent's pipeline for the length of one self-test. What it observes goes nowhere.
type probe struct {
	dir      string // of its spool
	table    *process.Table
	sources  *sources
	sender   *sender.Sender
	selfTest *selfTest
}

// nowhere takes every batch and keeps none.
type nowhere struct{}

// Send accepts the frame.
func (nowhere) Send(context.Context, []byte) error { return nil }

// openProbe opens the sources and what is behind them. The caller must close it.
func openProbe(cfg config, hierarchy container.Hierarchy, engine engineState, log *slog.Logger) (p *probe, err error) {
	p = &probe{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	tracker, err := container.New(container.Config{Hierarchy: hierarchy})
	if err != nil {
		return p, err
	}
	p.table = process.NewTable(process.Config{CgroupController: hierarchy.Controller, Locator: tracker})
	if p.sources, err = openSources(cfg, log, sourceNeeds{
		hierarchy: hierarchy, wall: host.NewClock().Wall, cgroup: tracker.AddCgroup, place: placeIn(tracker, hierarchy),
		engine: engine,
	}); err != nil {
		return p, err
	}
	if p.dir, err = os.MkdirTemp("", "taskguard-check-"); err != nil {
		return p, err
	}
	cfg.StateDir = p.dir
	queue, err := openSpool(cfg, log)
	if err != nil {
		return p, err
	}
	// Ids of processes are derived from the boot's, which is nobody's here.
	var agent, boot event.ID
	_, _ = rand.Read(agent[:]) // never fails
	_, _ = rand.Read(boot[:])
	if p.sender, err = sender.New(sender.Config{
		Agent: agent, Epoch: uint64(time.Now().UnixNano()), Host: func() event.Host { return event.Host{BootID: boot} },
		Spool: queue, Transport: nowhere{}, SealInterval: 200 * time.Millisecond, Logger: log,
	}); err != nil {
		return p, err
	}
	p.selfTest, err = openSelfTest(p.sources, p.sender, log)
	return p, err
}

// run does one self-test, and returns what states the sources were in after it.
func (p *probe) run(ctx context.Context) ([]event.SourceState, error) {
	observing, stop := context.WithCancel(ctx)
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	var running, delivery sync.WaitGroup
	var runErr, sendErr error
	running.Go(func() { runErr = p.sources.run(observing, p.table, p.sender) })
	delivery.Go(func() { sendErr = p.sender.Run(sending) })
	p.selfTest.round(ctx)
	states := p.selfTest.apply(p.sources.states())
	stop()
	running.Wait()
	stopSending()
	delivery.Wait()
	return states, errors.Join(runErr, sendErr, ctx.Err())
}

func (p *probe) close() error {
	var errs []error
	if p.sources != nil {
		errs = append(errs, p.sources.close())
	}
	if p.dir != "" {
		errs = append(errs, os.RemoveAll(p.dir))
	}
	return errors.Join(errs...)
}
