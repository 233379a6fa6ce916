package sender

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/spool"
)

func more(than int) func(*batch.Batch) bool {
	return func(b *batch.Batch) bool { return len(b.Events) > than }
}

func TestTooLargeIsSentInParts(t *testing.T) {
	for _, most := range []int{1, 3, 7, 9} {
		synctest.Test(t, func(t *testing.T) {
			r := newReceiver(t)
			r.tooLarge = more(most)
			cfg := config(newSpool(t, spool.Config{}), r)
			cfg.MaxEvents = 10
			s := newSender(t, cfg)
			stop := start(t, s)
			s.Lost(event.ProcessExec, "kernel", "ring_full", 3)
			for i := range 40 {
				s.Emit(opened(i))
			}
			time.Sleep(2 * time.Second)
			stop()
			wantNumbers(t, r, 0, 40)
			wantLedger(t, s, `{"observed":44,"acked":41,"spooled":0,"open":0,"lost":{"kernel/ring_full":3}}`)
			var told uint64
			for _, b := range r.batches {
				if told += b.Ledger.Observed; b.First > 0 && b.Ledger.Observed+uint64(len(b.Ledger.Lost)) > 0 {
					t.Errorf("the part from %d on tells of the ledger", b.First)
				}
			}
			if u := s.Upload(); told != 44 || u.Rejected+u.Retries != 0 {
				t.Errorf("headers say %d observed, want 44; state %+v", told, u)
			}
		})
	}
}

// What no request has room for is lost and counted; an agent.loss is in its place, so that the rest is not lost.
func TestEventTooLarge(t *testing.T) {
	for _, test := range []struct {
		name     string
		tooLarge func(*batch.Batch) bool
		want     string
	}{
		{"alone", func(b *batch.Batch) bool {
			for _, e := range b.Events {
				if e.Kind == event.FileOpen && e.File.Inode == 6 {
					return true
				}
			}
			return false
		}, `{"observed":12,"acked":11,"spooled":0,"open":0,"lost":{"send/too_large":1}}`},
		// Another agent.loss tells of those that were lost without one in their place.
		{"all that come after", func(b *batch.Batch) bool { return b.ID.Sequence == 1 && int(b.First)+len(b.Events) > 4 },
			`{"observed":11,"acked":5,"spooled":0,"open":0,"lost":{"send/too_large":6}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newReceiver(t)
				r.tooLarge = test.tooLarge
				cfg := config(newSpool(t, spool.Config{}), r)
				cfg.MaxEvents = 10
				s := newSender(t, cfg)
				stop := start(t, s)
				for i := range 10 {
					s.Emit(opened(i))
				}
				time.Sleep(10 * time.Second)
				stop()
				wantLedger(t, s, test.want)
				l := s.Ledger()
				if l.Acked != r.total() || l.LostByKind[event.FileOpen] != l.Lost["send/too_large"] {
					t.Errorf("ledger %+v; %d events stored", l, r.total())
				}
				losses := r.events(event.AgentLoss)
				if first := losses[0].Agent; first.Stage != "send" || first.Cause != RejectTooLarge || first.Lost != event.FileOpen {
					t.Errorf("agent.loss %+v", first)
				}
			})
		})
	}
}

// The answer to a part is lost, and the agent ends: the next run goes on behind what the receiver has.
func TestPartsGoOnInTheNextRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := newReceiver(t)
		r.tooLarge = more(3)
		parts := 0
		r.fault = func(_ context.Context, stored bool) error {
			if stored {
				parts++
			}
			if parts >= 2 {
				return errors.New("connection reset")
			}
			return nil
		}
		cfg := config(newSpool(t, spool.Config{Dir: dir}), r)
		cfg.MaxEvents = 10
		s := newSender(t, cfg)
		stop := start(t, s)
		for i := range 20 {
			s.Emit(opened(i))
		}
		time.Sleep(time.Minute)
		stop()
		wantLedger(t, s, `{"observed":20,"acked":0,"spooled":20,"open":0,"lost":{}}`)
		if r.total() == 0 || r.total() >= 10 {
			t.Fatalf("%d events stored, want a part of the first batch", r.total())
		}
		r.fault = nil
		cfg.Spool, cfg.Epoch = newSpool(t, spool.Config{Dir: dir}), 200
		s = newSender(t, cfg)
		stop = start(t, s)
		time.Sleep(time.Minute)
		stop()
		wantNumbers(t, r, 0, 20)
		wantLedger(t, s, `{"observed":20,"acked":20,"spooled":0,"open":0,"lost":{}}`)
	})
}

// A receiver that is never content is asked again as seldom as one that is down.
func TestConflictsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		tries := 0
		r.fault = func(context.Context, bool) error {
			tries++
			return &Failure{Err: errors.New("conflict"), Partial: true, Stored: uint32(tries % 7)}
		}
		s := newSender(t, config(newSpool(t, spool.Config{}), r))
		stop := start(t, s)
		for i := range 10 {
			s.Emit(opened(i))
		}
		time.Sleep(time.Hour)
		stop()
		if tries > 400 || tries < 60 {
			t.Errorf("%d tries in an hour", tries)
		}
		wantLedger(t, s, `{"observed":10,"acked":0,"spooled":10,"open":0,"lost":{}}`)
	})
}
