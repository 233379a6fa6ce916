package ebpf

import (
	"strings"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
)

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
