package sender

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/spool"
)

// An outage, by a simulated clock and a real spool: when the endpoint is back, what was spooled is delivered within five
// minutes, and what is new does not wait for it. TASKGUARD_OUTAGE=full is an hour at 1,000 events a second; a tenth of
// both is what it is otherwise.
func TestOutage(t *testing.T) {
	length, perSecond := 6*time.Minute, 100
	if os.Getenv("TASKGUARD_OUTAGE") == "full" {
		length, perSecond = time.Hour, 1000
	}
	const roundTrip = 50 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		r := &arrivals{codec: newReceiver(t).codec, t: t, marks: map[uint64]uint64{}}
		cfg := config(newSpool(t, spool.Config{}), r)
		cfg.Epoch = uint64(time.Now().UnixNano())
		s := newSender(t, cfg)
		stop := start(t, s)
		emit := func(d time.Duration) {
			for began, n := time.Now(), 0; time.Since(began) < d; time.Sleep(10 * time.Millisecond) {
				for ; n < int(time.Since(began).Seconds()*float64(perSecond)); n++ {
					s.Emit(&event.Event{Time: time.Now(), Kind: event.FileOpen, File: &event.File{Path: "/var/log/messages"}})
				}
			}
		}
		r.roundTrip = roundTrip
		emit(10 * time.Second)
		r.down.Store(true)
		emit(length)
		r.down.Store(false)
		back := time.Now()
		backlog := s.Ledger().Spooled
		emit(6 * time.Minute)
		stop()

		l := wantLaw(t, s)
		if l.Acked != l.Observed || r.events != l.Acked {
			t.Errorf("ledger %+v, %d events stored: want all", l, r.events)
		}
		drained := r.last(back).Sub(back)
		delays := r.delaysAfter(back)
		p50, p99, most := delays[len(delays)/2], delays[len(delays)*99/100], delays[len(delays)-1]
		t.Logf("backlog %d events; drained in %v; what came meanwhile: %d events after p50 %v, p99 %v, at most %v; %d epochs, %d uploads at a time",
			backlog, drained, len(delays), p50, p99, most, len(r.marks), r.most)
		if backlog < uint64(length.Seconds()-1)*uint64(perSecond) {
			t.Errorf("%d events were spooled: there was no outage", backlog)
		}
		if drained > 5*time.Minute || p99 > 3*time.Second {
			t.Errorf("drained in %v, p99 %v: want at most 5m and 3s", drained, p99)
		}
		if r.most > maxLanes {
			t.Errorf("%d uploads at a time, want at most %d", r.most, maxLanes)
		}
	})
}

// arrivals notes when events arrive. It takes the batches of an epoch in order, each once.
type arrivals struct {
	t         *testing.T
	codec     *batch.Codec
	roundTrip time.Duration
	down      atomic.Bool

	mu      sync.Mutex
	marks   map[uint64]uint64
	events  uint64
	seen    []arrival
	running int
	most    int
}

type arrival struct{ emitted, arrived time.Time }

func (r *arrivals) Send(_ context.Context, frame []byte) error {
	r.mu.Lock()
	r.running++
	r.most = max(r.most, r.running)
	r.mu.Unlock()
	time.Sleep(r.roundTrip)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running--
	if r.down.Load() {
		return &Failure{Err: errors.New("down")}
	}
	b := decode(r.t, r.codec, frame)
	if b.ID.Sequence <= r.marks[b.ID.Epoch] {
		r.t.Errorf("batch %v after %d", b.ID, r.marks[b.ID.Epoch])
	}
	r.marks[b.ID.Epoch] = b.ID.Sequence
	r.events += uint64(len(b.Events))
	for i := range b.Events {
		r.seen = append(r.seen, arrival{b.Events[i].Time, time.Now()})
	}
	return nil
}

// last is when the last event arrived that was emitted before t.
func (r *arrivals) last(t time.Time) (last time.Time) {
	for _, a := range r.seen {
		if a.emitted.Before(t) && a.arrived.After(last) {
			last = a.arrived
		}
	}
	return last
}

// delaysAfter are those of the events that were emitted after t, from when uploads work again.
func (r *arrivals) delaysAfter(t time.Time) (delays []time.Duration) {
	works := time.Time{}
	for _, a := range r.seen {
		if a.arrived.After(t) && (works.IsZero() || a.arrived.Before(works)) {
			works = a.arrived
		}
	}
	for _, a := range r.seen {
		if a.emitted.After(works) {
			delays = append(delays, a.arrived.Sub(a.emitted))
		}
	}
	slices.Sort(delays)
	return delays
}
