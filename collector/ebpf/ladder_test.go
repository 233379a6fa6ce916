package ebpf

import (
	"maps"
	"slices"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
)

// Every program that a ladder names is in its object, and every program of an object is on a ladder.
func TestLaddersNameEveryProgram(t *testing.T) {
	unused := make(map[string]bool)
	programs := make(map[string]map[string]bool)
	for _, l := range ladders() {
		if programs[l.name] == nil {
			spec, err := l.load()
			if err != nil {
				t.Fatal(err)
			}
			programs[l.name] = make(map[string]bool)
			for name := range spec.Programs {
				programs[l.name][name] = true
				unused[l.name+" "+name] = true
			}
		}
		for _, r := range l.rungs() {
			for _, h := range r.hooks {
				if !programs[l.name][h.program] {
					t.Errorf("%v, %s: object %s has no program %s", l.kinds, r.via, l.name, h.program)
				}
				delete(unused, l.name+" "+h.program)
			}
		}
	}
	if len(unused) > 0 {
		t.Errorf("on no ladder: %v", slices.Sorted(maps.Keys(unused)))
	}
}

// Every kind of the kernel's activity is on one ladder.
func TestEveryKindHasALadder(t *testing.T) {
	seen := make(map[event.Kind]int)
	for _, l := range ladders() {
		for _, kind := range l.kinds {
			seen[kind]++
		}
	}
	for kind := event.Kind(1); kind < event.Kind(commonKindEVENT_KINDS); kind++ {
		if kind >= event.AgentStart && kind <= event.AgentLoss {
			continue
		}
		if seen[kind] != 1 {
			t.Errorf("%s is on %d ladders", kind, seen[kind])
		}
	}
}
