package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

func TestStateOverRuns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	boot, other := event.ID{1}, event.ID{2}
	now := time.Now()

	first, before, err := openState(dir, boot, now)
	if err != nil {
		t.Fatal(err)
	}
	if before != nil {
		t.Errorf("first run: gap %+v, want none", before)
	}
	sealed := now.Add(-time.Minute).Round(time.Microsecond)
	if err := first.sealed(sealed); err != nil {
		t.Fatal(err)
	}

	if _, _, err := openState(dir, boot, now); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent at the same time: %v, want it refused", err)
	}
	end(t, first)

	// Killed: the gap begins with what was sealed last. The clock was set back meanwhile.
	second, before, err := openState(dir, boot, now.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if before == nil || before.cause != "killed" || !before.from.Equal(sealed) {
		t.Errorf("after a kill: gap %+v, want killed from %v", before, sealed)
	}
	if second.Agent != first.Agent || second.Agent == (event.ID{}) {
		t.Errorf("agent id %v became %v", first.Agent, second.Agent)
	}
	if second.Epoch <= first.Epoch {
		t.Errorf("epoch %d after %d", second.Epoch, first.Epoch)
	}
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	end(t, second)

	third, before, err := openState(dir, boot, now)
	if err != nil {
		t.Fatal(err)
	}
	if before == nil || before.cause != "stopped" {
		t.Errorf("after a stop: gap %+v, want stopped", before)
	}
	end(t, third)
	if _, before, err = openState(dir, other, now); err != nil || before.cause != "rebooted" {
		t.Errorf("killed in another boot: gap %+v, %v, want rebooted", before, err)
	}
	if third.Agent != first.Agent {
		t.Error("agent id changed")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("state directory holds %v, %v, want agent.json and lock", entries, err)
	}
}

func end(t *testing.T, s *state) {
	t.Helper()
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}

func TestStateThatIsNone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "agent.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openState(dir, event.ID{}, time.Now()); err == nil {
		t.Error("a damaged state file was taken for one")
	}
}
