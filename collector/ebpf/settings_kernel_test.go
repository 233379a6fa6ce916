package ebpf

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
)

// A kind that is off at the start costs nothing: its programs are not attached. It is attached when it is wanted, and
// when it is not any more it is left out without being detached.
func TestKindsAreSwitched(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	cfg := configOf(t, h)
	without, with := cfg.Settings, configOf(t, h, event.FileOpen).Settings
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	o := newObserver(h)
	o.run(t, s)
	file := filepath.Join(t.TempDir(), "f")
	opens := func() int {
		return len(o.trace(t, exec.Command("/bin/sh", "-c", `: > "$0"`, file)).of(event.FileOpen))
	}
	attached := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, a := range s.attached {
			if a.kinds != nil && a.kinds[0] == event.FileOpen {
				return len(a.closers) > 0
			}
		}
		return false
	}
	counts := func() Counts {
		c, err := s.Counts()
		if err != nil {
			t.Fatal(err)
		}
		return c[event.FileOpen]
	}
	if n := opens(); n != 0 || attached() || counts() != (Counts{}) {
		t.Errorf("off: %d opens, attached %v, %+v", n, attached(), counts())
	}
	if err := s.Apply(with); err != nil {
		t.Fatal(err)
	}
	if n := opens(); n != 1 || !attached() {
		t.Errorf("on: %d opens, attached %v", n, attached())
	}
	if err := s.Apply(without); err != nil {
		t.Fatal(err)
	}
	before := counts()
	if n := opens(); n != 0 || !attached() || counts() != before {
		t.Errorf("off again: %d opens, attached %v, %+v after %+v", n, attached(), counts(), before)
	}
	if kind, reason := off(s, []event.Kind{event.FileOpen}); kind != event.FileOpen || reason != "off by its settings" {
		t.Errorf("state: %s %q", kind, reason)
	}
	if err := s.Apply(Settings{Off: []event.Kind{event.FileOpen}, Watched: []string{"relative"}}); err == nil {
		t.Error("settings that make no sense were applied")
	}
	if err := s.Apply(with); err != nil {
		t.Fatal(err)
	}
	if n := opens(); n != 1 {
		t.Errorf("on again: %d opens", n)
	}
}

// A kind that has no further rung stays on the one it is on, whatever is said of it, and is observed as before.
func TestLastRungIsKept(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	cfg := configOf(t, h, event.FileOpen, event.FileRename)
	cfg.Rungs = []string{rungTracepoint}
	s := openSource(t, cfg)
	o := newObserver(h)
	o.run(t, s)
	for range 3 {
		if s.NextRung(event.FileOpen, "no event") || s.NextRung(event.FileRename, "no event") {
			t.Fatal("moved to a rung that there is not")
		}
	}
	for _, state := range s.State() {
		if cfg.wants(state.Kind) && !state.Healthy || len(state.Reason) > 200 {
			t.Errorf("%+v, want it as it was", state)
		}
	}
	tr := o.trace(t, exec.Command("/bin/sh", "-c", `: > "$0"`, filepath.Join(t.TempDir(), "f")))
	if len(tr.of(event.FileOpen)) != 1 || len(tr.of(event.ProcessExec)) != 1 {
		t.Errorf("%d opens and %d execs, want one of each", len(tr.of(event.FileOpen)), len(tr.of(event.ProcessExec)))
	}
}
