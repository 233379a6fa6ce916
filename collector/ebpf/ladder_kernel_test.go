package ebpf

import (
	"strings"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
)

// lacking are the kinds whose feature a kernel may have been built without, and how its records then say so.
var lacking = map[event.Kind]string{
	event.ModuleLoad:        "modules",
	event.MemoryUserfaultfd: "userfaultfd",
}

// Every kind is on some rung, on every kernel that has what it is about.
func TestEveryKindIsObserved(t *testing.T) {
	needKernel(t)
	s, err := Open(configFor(t, findHierarchy(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, state := range s.State() {
		t.Logf("%-20s %-16s %s", state.Kind, state.Via, state.Reason)
		if !state.Healthy && (lacking[state.Kind] == "" || !strings.Contains(state.Reason, errNoPlace.Error())) {
			t.Errorf("%s is off: %s", state.Kind, state.Reason)
		}
	}
}

// A kind that is moved down its ladder stays observed as long as there is a rung, and says why.
func TestNextRung(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	cfg := configOf(t, h, event.FileOpen)
	s := openSource(t, cfg)
	defer s.Close()
	via := func() event.SourceState {
		for _, state := range s.State() {
			if state.Kind == event.FileOpen {
				return state
			}
		}
		t.Fatal("file.open has no state")
		return event.SourceState{}
	}
	for state := via(); ; {
		more := s.NextRung(event.FileOpen, "it did not work in a test")
		next := via()
		if !next.Healthy {
			t.Fatalf("after %+v: %+v", state, next)
		}
		if !more { // the last rung is better than none
			if next != state {
				t.Errorf("no more rungs, and %+v became %+v", state, next)
			}
			return
		}
		why := strings.TrimPrefix(state.Via, "ebpf/") + ": it did not work in a test"
		if next.Via == state.Via || !strings.Contains(next.Reason, why) {
			t.Fatalf("after %+v: %+v", state, next)
		}
		state = next
	}
}
