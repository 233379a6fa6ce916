package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
)

// A kind that something was observed of has a line of its own; the others share one by what is to be said of them.
func TestStatusOfManyKinds(t *testing.T) {
	s := status{Kinds: map[string]kindStatus{}, Sources: map[string]sourceStatus{}}
	for _, kind := range event.Kinds() {
		s.Sources[kind.String()] = sourceStatus{Via: "ebpf/tracepoint", Healthy: true}
	}
	delete(s.Sources, "agent.start")
	s.Kinds["agent.start"] = kindStatus{Observed: 1}
	s.Kinds["recovered"] = kindStatus{Observed: 9}
	s.Kinds["process.exec"] = kindStatus{Observed: 120, Lost: 3}
	s.Sources["fs.mount"] = sourceStatus{Via: "off", Reason: "no \x1b[31mpermission"}
	s.Sources["fs.umount"] = s.Sources["fs.mount"]
	s.Sources["memory.userfaultfd"] = sourceStatus{Via: "off", Reason: "lockdown"}
	s.Kinds["memory.userfaultfd"] = kindStatus{Lost: 2}
	var out strings.Builder
	if err := printKinds(&out, &s, false); err != nil {
		t.Fatal(err)
	}
	table, rest, _ := strings.Cut(out.String(), "\n\n")
	want := `KIND                VIA              HEALTH     OBSERVED  LOST  REASON
process.exec        ebpf/tracepoint  healthy    120       3     
agent.start         agent            healthy    1         0     
memory.userfaultfd  off              unhealthy  0         2     lockdown
recovered           agent            healthy    9         0     `
	if diff := cmp.Diff(want, table); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	quiet, off, _ := strings.Cut(rest, "\n\n")
	if lines := strings.Split(quiet, "\n"); lines[0] != "nothing observed yet via ebpf/tracepoint, healthy:" ||
		!strings.HasPrefix(lines[1], "  process.fork, process.exit, ") || strings.Count(lines[1], ",") != 37-5-1 {
		t.Errorf("quiet kinds:\n%s", quiet)
	}
	if want := "nothing observed yet via off, unhealthy (no \\x1b[31mpermission):\n  fs.mount, fs.umount\n"; off != want {
		t.Errorf("%q, want %q", off, want)
	}
}
