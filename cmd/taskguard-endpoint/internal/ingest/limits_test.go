package ingest

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// newSized returns a frame of so many events, and a batch of so many bytes, of processes with a name of some length.
func newSized(t *testing.T, events, name int) (frame []byte, size int) {
	b := batch.NewBuilder()
	process := event.Process{PID: 1, Name: strings.Repeat("x", name)}
	for range events {
		b.Append(&event.Event{Time: time.Unix(1, 0), Kind: event.ProcessExec, Process: &process})
	}
	h := batch.Header{ID: batch.ID{Agent: event.ID{1}, Epoch: 1, Sequence: 1}}
	data := b.Seal(nil, h, batch.Late{})
	return newCodec(t).Compress(nil, data), len(data)
}

// What is at a limit is taken, and one more is not.
func TestLimitsAtTheirBounds(t *testing.T) {
	frame, size := newSized(t, 10, 100)
	for _, c := range []struct {
		name   string
		at     Limits
		beyond Limits
		status int
	}{
		{"body", Limits{MaxBody: int64(len(frame))}, Limits{MaxBody: int64(len(frame) - 1)}, 413},
		{"size", Limits{MaxSize: int64(size)}, Limits{MaxSize: int64(size - 1)}, 413},
		{"events", Limits{MaxEvents: 10}, Limits{MaxEvents: 9}, 413},
		{"entry", Limits{MaxEntry: 100}, Limits{MaxEntry: 99}, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := &fakeStore{}
			beyond := newHandler(t, Config{Store: store, Limits: c.beyond})
			if w := post(beyond, batch.ContentType, bytes.NewReader(frame)); w.Code != c.status || len(store.seen) != 0 {
				t.Errorf("beyond the limit: %d %s, stored %d", w.Code, w.Body, len(store.seen))
			}
			at := newHandler(t, Config{Store: store, Limits: c.at})
			if w := post(at, batch.ContentType, bytes.NewReader(frame)); w.Code != 200 || len(store.seen) != 1 {
				t.Errorf("at the limit: %d %s, stored %d", w.Code, w.Body, len(store.seen))
			}
		})
	}
}

func TestImpossibleLimitsAreRefused(t *testing.T) {
	for _, l := range []Limits{
		{MaxBody: batch.MaxCompressed + 1}, {MaxSize: batch.MaxSize + 1}, {MaxEvents: batch.MaxEvents + 1}, {MaxBody: -1},
		{MaxSize: -1}, {MaxEvents: -1}, {MaxEntry: -1}, {Rate: -1}, {Burst: -1}, {MaxAgents: -1},
	} {
		if _, err := New(Config{Store: &fakeStore{}, Limits: l}); err == nil {
			t.Errorf("%+v was taken", l)
		}
	}
}

// An agent that exceeds its rate is told when to come back, and is then served; others do not notice.
func TestRateOfEachAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fakeStore{}
		h := newHandler(t, Config{Store: store, Limits: Limits{Rate: 0.5, Burst: 3}})
		sequence := uint64(0)
		send := func(agent byte) int {
			sequence++
			w := post(h, batch.ContentType, bytes.NewReader(newFrame(t, event.ID{agent}, sequence)))
			if after := w.Header().Get("Retry-After"); (w.Code == 429) != (after == "2") {
				t.Errorf("answer %d with Retry-After %q, want 2 with 429 only", w.Code, after)
			}
			return w.Code
		}
		for i, want := range []int{200, 200, 200, 429, 429} {
			if code := send(1); code != want {
				t.Errorf("batch %d: %d, want %d", i, code, want)
			}
		}
		if code := send(2); code != 200 {
			t.Errorf("another agent: %d", code)
		}
		time.Sleep(2 * time.Second)
		if first, second := send(1), send(1); first != 200 || second != 429 {
			t.Errorf("after the wait: %d, %d, want 200 once", first, second)
		}
		got := h.Counts()
		if got.Stored != 5 || got.Limited != 3 || got.Refused != 0 || len(store.seen) != 5 {
			t.Errorf("counts %+v, %d stored, want 5 and 3 limited", got, len(store.seen))
		}
	})
}

func TestRatesAreBounded(t *testing.T) {
	r := newRates(Limits{Rate: 1, Burst: 1, MaxAgents: 2})
	now := time.Unix(1, 0)
	take := func(agent byte) bool { return r.take(event.ID{agent}, now) == 0 }
	if !take(1) || !take(2) || take(1) { // 1 is the last to have sent
		t.Fatal("want one batch of each")
	}
	if !take(3) {
		t.Fatal("a new agent was refused")
	}
	if len(r.agents) != 2 || r.recent.Len() != 2 {
		t.Errorf("%d and %d agents known, want 2", len(r.agents), r.recent.Len())
	}
	if take(1) {
		t.Error("the agent that sent last was forgotten")
	}
	if !take(2) {
		t.Error("the agent that was silent for longest was not forgotten")
	}
}

func TestReadiness(t *testing.T) {
	var broken error
	h := newHandler(t, Config{Store: &fakeStore{}, Ready: func() error { return broken }})
	get := func(path string) int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code
	}
	if live, ready := get("/healthz"), get("/readyz"); live != 200 || ready != 200 {
		t.Errorf("live %d, ready %d when all is well", live, ready)
	}
	broken = http.ErrServerClosed
	if live, ready := get("/healthz"), get("/readyz"); live != 200 || ready != 503 {
		t.Errorf("live %d, ready %d when the log is broken", live, ready)
	}
	broken = nil
	h.Drain()
	if live, ready := get("/healthz"), get("/readyz"); live != 200 || ready != 503 {
		t.Errorf("live %d, ready %d when draining", live, ready)
	}
	if w := post(h, batch.ContentType, bytes.NewReader(newFrame(t, event.ID{1}, 1))); w.Code != 200 {
		t.Errorf("batch while draining: %d, want 200", w.Code)
	}
}
