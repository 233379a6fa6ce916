package main

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// selfTestInterval is how often it is proven that an event of every kind comes the whole way.
const selfTestInterval = time.Hour

// maxRungs bounds how often a kind can be moved in one self-test: more rungs than any ladder has.
const maxRungs = 6

// result is what a self-test came to for a kind.
type result string

const (
	passed      result = "ok"
	failed      result = "failed"      // the event did not come
	unsupported result = "unsupported" // the kernel does not have what makes the event
	untested    result = "untested"    // the test could not be done, or tells nothing
)

// verdict is what the last self-test said of a kind.
type verdict struct {
	At     time.Time `json:"at"`
	Result result    `json:"result"`
	Reason string    `json:"reason,omitempty"`
}

// mover is what a self-test does to kinds whose events do not come.
type mover interface {
	// observed are the kinds that something observes.
	observed() []event.Kind
	// next has a kind observed in the next best way, and tells whether there is one.
	next(kind event.Kind, reason string) bool
}

// tryer does what makes events of kinds, and says of each whether its event came.
type tryer func(context.Context, []event.Kind) map[event.Kind]verdict

// selfTest proves regularly, and after a change, that events of every kind that is observed come. A kind whose do not,
// twice, is observed in the next best way. It says what it found, in the log when that is new.
type selfTest struct {
	log   *slog.Logger
	kinds mover
	try   tryer
	again chan struct{} // has a value when it is to be done at once

	mu       sync.Mutex
	verdicts map[event.Kind]verdict // guarded by mu
}

func newSelfTest(kinds mover, try tryer, log *slog.Logger) *selfTest {
	return &selfTest{log: log, kinds: kinds, try: try, again: make(chan struct{}, 1), verdicts: map[event.Kind]verdict{}}
}

// run tests at once, every hour, and when it is told to, until ctx is done.
func (t *selfTest) run(ctx context.Context) {
	hourly := time.NewTicker(selfTestInterval)
	defer hourly.Stop()
	for {
		t.round(ctx)
		select {
		case <-ctx.Done():
			return
		case <-hourly.C:
		case <-t.again:
		}
	}
}

// soon has what is observed tested at once.
func (t *selfTest) soon() {
	select {
	case t.again <- struct{}{}:
	default:
	}
}

// round tests every kind that is observed, and those whose events do not come again: first as they are, since a host
// may have been too busy once, and then in the next best way.
func (t *selfTest) round(ctx context.Context) {
	found := make(map[event.Kind]verdict)
	pending := t.kinds.observed()
	for attempt := 0; attempt < 2*maxRungs && len(pending) > 0; attempt++ {
		tried := t.try(ctx, pending)
		if ctx.Err() != nil {
			return
		}
		maps.Copy(found, tried)
		pending = slices.DeleteFunc(pending, func(k event.Kind) bool { return tried[k].Result != failed })
		if attempt%2 == 1 {
			pending = slices.DeleteFunc(pending, func(k event.Kind) bool {
				return !t.kinds.next(k, "self-test: "+tried[k].Reason)
			})
			if len(pending) > 0 {
				t.soon() // others may have been moved with them
			}
		}
	}
	t.record(found)
}

// record takes over what a round found, and logs what is new.
func (t *selfTest) record(found map[event.Kind]verdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	news := map[verdict][]event.Kind{}
	for _, kind := range slices.Sorted(maps.Keys(found)) {
		v := found[kind]
		if was := t.verdicts[kind]; was.Result != v.Result || was.Reason != v.Reason {
			news[v] = append(news[v], kind)
		}
		v.At = now
		found[kind] = v
	}
	t.verdicts = found
	for v, kinds := range news {
		level := slog.LevelInfo
		if v.Result == failed {
			level = slog.LevelWarn
		}
		t.log.Log(context.Background(), level, "self-test", "result", v.Result, "kinds", kindList(kinds), "reason", v.Reason)
	}
}

// verdict returns what the last test said of a kind; nil when it was not tested.
func (t *selfTest) verdict(kind event.Kind) *verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, tested := t.verdicts[kind]; tested {
		return &v
	}
	return nil
}

// apply has states say what the self-test found: a kind whose events do not come is not healthy.
func (t *selfTest) apply(states []event.SourceState) []event.SourceState {
	for i := range states {
		s := &states[i]
		if v := t.verdict(s.Kind); v != nil && v.Result == failed && s.Healthy && s.Via != viaOff {
			s.Healthy, s.Reason = false, join(s.Reason, "self-test: "+v.Reason)
		}
	}
	return states
}

// join puts reasons together, those that there are.
func join(reasons ...string) string {
	return strings.Join(slices.DeleteFunc(reasons, func(r string) bool { return r == "" }), "; ")
}
