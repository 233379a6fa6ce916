package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
)

// rungs is a host whose kinds come on some of their rungs only.
type rungs struct {
	mu     sync.Mutex
	kinds  []event.Kind
	on     map[event.Kind]int
	works  map[event.Kind][]bool // by rung
	tries  []string
	result result // of one that does not come; empty is failed
}

func (r *rungs) observed() []event.Kind { return slices.Clone(r.kinds) }

func (r *rungs) next(kind event.Kind, reason string) bool {
	if reason != "self-test: no event" {
		panic(reason)
	}
	if r.on[kind]+1 == len(r.works[kind]) {
		return false
	}
	r.on[kind]++
	return true
}

func (r *rungs) try(_ context.Context, kinds []event.Kind) map[event.Kind]verdict {
	time.Sleep(time.Second)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries = append(r.tries, kindList(kinds))
	verdicts := map[event.Kind]verdict{}
	for _, kind := range kinds {
		v := verdict{Result: failed, Reason: "no event"}
		if r.result != "" {
			v = verdict{Result: r.result, Reason: "no chance"}
		}
		if r.works[kind][r.on[kind]] {
			v = verdict{Result: passed}
		}
		verdicts[kind] = v
	}
	return verdicts
}

// happened returns how many tries there were, and has those of a kind work from now on on those rungs.
func (r *rungs) happened(works map[event.Kind][]bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if works != nil {
		r.works = works
	}
	return len(r.tries)
}

// lines keeps what is logged.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, strings.TrimSpace(string(p)))
	return len(p), nil
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.text)
}

func TestSelfTestClimbs(t *testing.T) {
	const open, exec, mount = event.FileOpen, event.ProcessExec, event.FSMount
	for _, test := range []struct {
		name    string
		works   map[event.Kind][]bool
		result  result
		tries   []string
		on      map[event.Kind]int
		failing []event.Kind
	}{
		{name: "all is well", works: map[event.Kind][]bool{open: {true}, exec: {true}},
			tries: []string{"process.exec file.open"}, on: map[event.Kind]int{}},
		{name: "the next rung works", works: map[event.Kind][]bool{open: {false, true}, exec: {true}},
			tries: []string{"process.exec file.open", "file.open", "file.open"}, on: map[event.Kind]int{open: 1}},
		{name: "the last of three, and none", works: map[event.Kind][]bool{open: {false, false, true}, mount: {false, false}},
			tries: []string{"file.open fs.mount", "file.open fs.mount", "file.open fs.mount", "file.open fs.mount", "file.open"},
			on:    map[event.Kind]int{open: 2, mount: 1}, failing: []event.Kind{mount}},
		{name: "what cannot be tested is left alone", works: map[event.Kind][]bool{open: {false, true}}, result: untested,
			tries: []string{"file.open"}, on: map[event.Kind]int{}},
		{name: "what the kernel lacks is left alone", works: map[event.Kind][]bool{open: {false, true}}, result: unsupported,
			tries: []string{"file.open"}, on: map[event.Kind]int{}},
		{name: "a ladder without end", works: map[event.Kind][]bool{open: make([]bool, 100)},
			tries: slices.Repeat([]string{"file.open"}, 2*maxRungs), on: map[event.Kind]int{open: maxRungs},
			failing: []event.Kind{open}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &rungs{on: map[event.Kind]int{}, works: test.works, result: test.result}
				var states []event.SourceState
				for _, kind := range event.Kinds() {
					if test.works[kind] != nil {
						r.kinds = append(r.kinds, kind)
						states = append(states, event.SourceState{Kind: kind, Via: "ebpf/kprobe", Healthy: true})
					}
				}
				s := newSelfTest(r, r.try, slog.New(slog.DiscardHandler))
				s.round(t.Context())
				if diff := cmp.Diff(test.tries, r.tries); diff != "" {
					t.Errorf("tries (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(test.on, r.on); diff != "" {
					t.Errorf("rungs (-want +got):\n%s", diff)
				}
				var failing []event.Kind
				for _, state := range s.apply(states) {
					if !state.Healthy {
						failing = append(failing, state.Kind)
						if state.Reason != "self-test: no event" {
							t.Errorf("reason %q", state.Reason)
						}
					}
				}
				if diff := cmp.Diff(test.failing, failing); diff != "" {
					t.Errorf("unhealthy (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A test is due at the start, every hour, and when it is asked for; what it finds is logged when it is new; and it ends
// with its context, also in the middle.
func TestSelfTestIsRegular(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rungs{kinds: []event.Kind{event.FileOpen}, on: map[event.Kind]int{},
			works: map[event.Kind][]bool{event.FileOpen: {true}}}
		log := &lines{}
		s := newSelfTest(r, r.try, slog.New(slog.NewTextHandler(log, nil)))
		ctx, stop := context.WithCancel(t.Context())
		began := time.Now()
		done := make(chan struct{})
		go func() { defer close(done); s.run(ctx) }()
		at := func(d time.Duration, tries int, logged ...string) {
			t.Helper()
			time.Sleep(time.Until(began.Add(d)))
			synctest.Wait()
			got := log.all()
			if n := r.happened(nil); n != tries || len(got) != len(logged) {
				t.Fatalf("after %v: %d tries, want %d; log %q, want %q", d, n, tries, got, logged)
			}
			for i, want := range logged {
				if !strings.HasSuffix(got[i], want) {
					t.Errorf("after %v: log %q, want %q", d, got, logged)
				}
			}
		}
		const arrives = `level=INFO msg=self-test result=ok kinds=file.open reason=""`
		const missing = `level=WARN msg=self-test result=failed kinds=file.open reason="no event"`
		at(2*time.Second, 1, arrives)
		s.soon()
		at(10*time.Second, 2, arrives) // what is not new is not logged
		r.happened(map[event.Kind][]bool{event.FileOpen: {false}})
		at(time.Hour+10*time.Second, 4, arrives, missing)
		if v := s.verdict(event.FileOpen); v.Result != failed || v.At.Sub(began) != time.Hour+2*time.Second {
			t.Errorf("verdict %+v after %v", v, v.At.Sub(began))
		}
		at(2*time.Hour+10*time.Second, 6, arrives, missing)
		time.Sleep(time.Until(began.Add(3*time.Hour + 500*time.Millisecond)))
		stop()
		<-done
		if v := s.verdict(event.FileOpen); r.happened(nil) != 7 || v.At.Sub(began) != 2*time.Hour+2*time.Second {
			t.Errorf("%d tries, verdict of %v: want the one under way not to count", r.happened(nil), v.At.Sub(began))
		}
	})
}

// What was not observed when it was tested last has no verdict.
func TestSelfTestForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rungs{kinds: []event.Kind{event.FileOpen}, on: map[event.Kind]int{},
			works: map[event.Kind][]bool{event.FileOpen: {true}, event.DNSQuery: {true}}}
		s := newSelfTest(r, r.try, slog.New(slog.DiscardHandler))
		s.round(t.Context())
		r.kinds = []event.Kind{event.DNSQuery}
		s.round(t.Context())
		if got := fmt.Sprint(s.verdict(event.FileOpen), s.verdict(event.DNSQuery).Result); got != "<nil>ok" {
			t.Errorf("got %s", got)
		}
	})
}
