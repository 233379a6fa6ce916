package ebpf

import (
	"maps"
	"runtime"
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

// A system call that has a handler has a number: one that the callers of its architecture have, and nearly each one
// that 32-bit callers have too.
func TestCallsHaveNumbers(t *testing.T) {
	only32 := []string{"chown16", "lchown16", "fchown16", "fcntl64", "mmap2", "oldumount", "socketcall"}
	only64 := []string{"accept", "mmap"} // 32-bit programs have accept4, socketcall and mmap2
	for _, l := range ladders() {
		for _, name := range append(l.syscalls, l.traced...) {
			_, native := nativeNumber(name)
			if runtime.GOARCH == "amd64" && native == slices.Contains(only32, name) {
				t.Errorf("%s: number %v", name, native)
			}
			if _, compat := compatNumbers[name]; compat == slices.Contains(only64, name) {
				t.Errorf("%s: 32-bit number %v", name, compat)
			}
		}
	}
}
