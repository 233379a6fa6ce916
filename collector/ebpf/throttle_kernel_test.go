package ebpf

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
)

// A cgroup that makes more than it may loses what matters least, is told of when that begins and when it has ceased,
// and how many. What it executes is not lost.
func TestThrottle(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	dir, id := h.newCgroup(t)
	container := &event.Container{ID: "c0ffee"}
	cfg := configOf(t, h, event.FileOpen)
	cfg.Settings.Throttle = 200
	cfg.Place = func(cgroup uint64) (string, *event.Container) {
		if cgroup != id {
			return "/other", nil
		}
		return "/storm", container
	}
	o := newObserver(h)
	o.losing = true
	s := openSource(t, cfg)
	o.run(t, s)
	// A shell in the cgroup; every redirection opens a file, every round makes a process.
	const files, execs = 2000, 5
	tr := o.trace(t, shellIn(dir, `i=0; while [ $i -lt 2000 ]; do : > "$0"/f; i=$((i+1)); done
		for i in 1 2 3 4 5; do /bin/true; done`, t.TempDir()))
	var told []event.Event
	o.until(t, "the stop", func() bool {
		told = nil
		for _, e := range o.events {
			if e.Kind == event.AgentThrottle && e.Agent.Cgroup == "/storm" {
				told = append(told, e)
			}
		}
		return len(told) > 0 && told[len(told)-1].Agent.Phase == "stop"
	})
	start, stop := told[0], told[len(told)-1]
	if len(told) != 2 || start.Agent.Phase != "start" || start.Container != container || stop.Container != container {
		t.Fatalf("%d events: %+v, %+v, want a start and a stop of the container", len(told), start, stop)
	}
	if !start.Agent.To.IsZero() || !start.Agent.From.Equal(stop.Agent.From) || !stop.Agent.To.After(stop.Agent.From) {
		t.Errorf("from %v to %v at the start, from %v to %v at the stop", start.Agent.From, start.Agent.To,
			stop.Agent.From, stop.Agent.To)
	}
	counts, err := s.Counts()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, d := range stop.Agent.Dropped {
		got[d.Kind.String()] = d.Count
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	// Other cgroups may have lost some too, as others use the machine.
	n, counted, lost := got["file.open"], counts[event.FileOpen].Throttled, o.lost["file.open kernel/throttled"]
	if len(got) != 1 || counted < n || lost < n {
		t.Errorf("told of %v, counted %d, reported %d as lost", got, counted, lost)
	}
	if opens := got["file.open"] + uint64(len(tr.of(event.FileOpen))); got["file.open"] == 0 || opens < files {
		t.Errorf("%d opens lost, %d in all, want some of at least %d", got["file.open"], opens, files)
	}
	for _, kind := range []event.Kind{event.ProcessExec, event.ProcessFork, event.ProcessExit} {
		if n := len(tr.of(kind)); n < execs {
			t.Errorf("%d of %s, want at least %d", n, kind, execs)
		}
	}
}

// What is lost until the source ends is told of at its end.
func TestThrottleStopsAtTheEnd(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	dir, _ := h.newCgroup(t)
	cfg := configOf(t, h, event.FileOpen)
	cfg.Settings.Throttle = 100
	s := openSource(t, cfg)
	if err := shellIn(dir, `i=0; while [ $i -lt 500 ]; do : > "$0"/f; i=$((i+1)); done`, t.TempDir()).Run(); err != nil {
		t.Fatal(err)
	}
	o := newObserver(h)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ended, o); err != nil {
		t.Fatal(err)
	}
	var told, lost uint64
	for _, e := range o.events {
		if e.Kind == event.AgentThrottle && e.Agent.Phase == "stop" {
			for _, d := range e.Agent.Dropped {
				told += d.Count
			}
		}
	}
	for what, n := range o.lost {
		if strings.HasSuffix(what, " kernel/throttled") {
			lost += n
		}
	}
	if told == 0 || told != lost {
		t.Errorf("%d told of, %d lost, want the same and some", told, lost)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// shellIn returns a shell that joins a cgroup and runs a script with an argument, $0.
func shellIn(cgroup, script, argument string) *exec.Cmd {
	return exec.Command("/bin/sh", "-c", `echo $$ > `+cgroup+`/cgroup.procs; `+script, argument)
}
