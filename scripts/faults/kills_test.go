package faults

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/taskguard/taskguard/sender"
)

// TestAgentIsKilled kills an agent again and again, at a moment that nobody has chosen.
func TestAgentIsKilled(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.start()
	for range choose(200, 8) {
		time.Sleep(rand.N(400 * time.Millisecond))
		c.feeder.kill()
		c.feeder = startFeeder(t, c.feed)
	}
	c.feeder.await("the last one to deliver", func(r report) bool { return r.Emitted > 0 && r.Upload.LastSuccess.After(time.Time{}) })
	r := c.feeder.stop()
	r.Emitted = 0 // by the last run alone
	for cause := range r.Ledger.Lost {
		if cause != "queue/killed" {
			t.Errorf("lost by %s", cause)
		}
	}
	c.settle(r, causesOf(r)...)
}

func causesOf(r report) (causes []string) {
	for cause := range r.Ledger.Lost {
		causes = append(causes, cause)
	}
	return causes
}

// TestEndpointIsKilled kills the endpoint again and again under an agent that delivers.
func TestEndpointIsKilled(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	c.start()
	for range choose(50, 5) {
		began := c.feeder.report().Ledger.Acked
		c.feeder.await("events to be acknowledged", func(r report) bool { return r.Ledger.Acked > began })
		time.Sleep(rand.N(300 * time.Millisecond))
		c.endpoint.Endpoint.Kill()
		if err := c.endpoint.StartEndpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	c.account()
}

// TestSpoolIsTruncated cuts the last file of a spool at every byte. Its events are lost, and counted; all others arrive.
func TestSpoolIsTruncated(t *testing.T) {
	t.Parallel()
	c := newCell(t)
	step := choose(1, 37)
	var sum report
	sum.Ledger.Lost = map[string]uint64{}
	for offset, size := 0, 1; offset < size; offset += step {
		var r report
		r, size = c.truncated(offset)
		sum.Emitted += r.Emitted
		sum.LostOpens += r.LostOpens
		sum.Ledger.Observed += r.Ledger.Observed
		sum.Ledger.Acked += r.Ledger.Acked
		for cause, n := range r.Ledger.Lost {
			sum.Ledger.Lost[cause] += n
		}
	}
	c.settle(sum, "spool/corrupt")
}

// truncated has an agent of its own spool three batches, cuts the last one at an offset, and has them delivered.
func (c *cell) truncated(offset int) (report, int) {
	c.Helper()
	const events = 3 * sealed
	f := c.feed
	f.Agent, f.Dir = newAgent(), c.TempDir()
	down := transportFunc(func(context.Context, []byte) error { return errors.New("down") })
	c.once(f, down, events)

	found, err := filepath.Glob(filepath.Join(f.Dir, "spool", "*-*"))
	if err != nil || len(found) != 3 {
		c.Fatalf("spool: %v, %v: want three batches", found, err)
	}
	info, err := os.Stat(found[2])
	if err != nil {
		c.Fatal(err)
	}
	size := int(info.Size())
	if err := os.Truncate(found[2], int64(min(offset, size))); err != nil {
		c.Fatal(err)
	}
	transport, err := f.transport()
	if err != nil {
		c.Fatal(err)
	}
	defer transport.Close()
	l := c.once(f, transport, 0)
	lost := uint64(0)
	if offset < size {
		lost = sealed
	}
	if l.Lost["spool/corrupt"] != lost {
		c.Errorf("cut at %d of %d bytes: ledger %+v, want %d events corrupt", offset, size, l, lost)
	}
	return report{Emitted: events, Ledger: l, LostOpens: lost}, size
}

// once runs a sender from start to end, with some events.
func (c *cell) once(f feed, transport sender.Transport, events int) sender.Ledger {
	c.Helper()
	cfg, err := f.config(transport, slog.New(slog.DiscardHandler))
	if err != nil {
		c.Fatal(err)
	}
	s, err := sender.New(cfg)
	if err != nil {
		c.Fatal(err)
	}
	for n := range uint64(events) {
		s.Emit(f.numbered(cfg.Epoch, n))
	}
	ctx, cancel := context.WithCancel(c.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		c.Fatal(err)
	}
	return s.Ledger()
}

type transportFunc func(ctx context.Context, frame []byte) error

func (f transportFunc) Send(ctx context.Context, frame []byte) error { return f(ctx, frame) }
