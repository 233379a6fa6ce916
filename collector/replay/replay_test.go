package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/event/eventtest"
	"github.com/taskguard/taskguard/scripts/leaktest"
)

// record writes a recording and returns its path.
func record(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "recording.jsonl")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func line(t *testing.T, e event.Event) string {
	t.Helper()
	text, err := json.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func open(t *testing.T, path string) *Source {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// sink copies what it is lent; after, unless nil, is called after each event.
type sink struct {
	events []event.Event
	after  func()
}

func (s *sink) Emit(e *event.Event) {
	got := *e
	if e.Process != nil {
		p := *e.Process
		got.Process = &p
	}
	s.events = append(s.events, got)
	if s.after != nil {
		s.after()
	}
}

func (s *sink) Lost(event.Kind, string, string, uint64) { panic("a recording loses nothing") }

// replayed returns the events of a recording.
func replayed(t *testing.T, lines ...string) []event.Event {
	t.Helper()
	var got sink
	if err := open(t, record(t, lines...)).Run(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	return got.events
}

var boot = event.Host{Hostname: "h", BootID: event.ID{1}}

// exec is an event of a process with its ancestors, parent first.
func exec(name string, ancestors ...string) event.Event {
	p := event.Process{ID: event.ID{byte(len(name)), name[0]}, PID: uint32(name[0]), Name: name}
	for _, a := range ancestors {
		p.Ancestors = append(p.Ancestors, event.Ancestor{ID: event.ID{byte(len(a)), a[0]}, PID: uint32(a[0]), Name: a})
	}
	return event.Event{Kind: event.ProcessExec, Time: time.Unix(1, 2).UTC(), Host: &boot, Process: &p}
}

// Law: a recording is emitted as it was recorded, line by line.
func TestReplayIsTheRecording(t *testing.T) {
	recording, err := os.ReadFile("../../testdata/corpus/container.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(recording)), "\n")
	got := replayed(t, lines...)
	if len(got) != len(lines) || len(got) == 0 {
		t.Fatalf("%d events of %d lines", len(got), len(lines))
	}
	for i, e := range got {
		if diff := cmp.Diff(canonical(t, lines[i]), canonical(t, line(t, e))); diff != "" {
			t.Errorf("line %d (-recorded +emitted):\n%s", i+1, diff)
		}
		if e.Process == nil {
			continue
		}
		if e.Process.Snapshot == 0 || e.Process.Container != e.Container {
			t.Errorf("line %d: snapshot %d in container %+v", i+1, e.Process.Snapshot, e.Process.Container)
		}
		parent := e.Process.Parent
		for _, want := range e.Process.Ancestors {
			if parent == nil {
				t.Fatalf("line %d: ancestor %+v is missing", i+1, want)
			}
			got := event.Ancestor{ID: parent.ID, PID: parent.PID, Name: parent.Name, Exe: parent.Exe}
			if got != want || parent.Snapshot == 0 {
				t.Errorf("line %d: ancestor %+v with snapshot %d, want %+v", i+1, got, parent.Snapshot, want)
			}
			parent = parent.Parent
		}
		if parent != nil {
			t.Errorf("line %d: an ancestor too many: %+v", i+1, parent)
		}
	}
}

// Law: that holds for every kind, with every field.
func TestReplayOfEveryKind(t *testing.T) {
	for _, kind := range event.Kinds() {
		for _, group := range eventtest.Groups() {
			var e event.Event
			eventtest.Full(&e)
			eventtest.KeepGroup(&e, group)
			e.Kind = kind
			got := replayed(t, line(t, e))
			if diff := cmp.Diff(canonical(t, line(t, e)), canonical(t, line(t, got[0]))); diff != "" {
				t.Errorf("%v with %s (-recorded +emitted):\n%s", kind, group, diff)
			}
			if target := got[0].Target; target.Snapshot == 0 || target.Parent == nil || target.Parent.Parent == nil {
				t.Errorf("%v: target %+v, want a snapshot with its two ancestors", kind, target)
			}
		}
	}
}

// canonical makes texts of JSON that mean the same the same.
func canonical(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// What is the same process in the same state is the same snapshot, and nothing else is.
func TestSnapshotsAreShared(t *testing.T) {
	plain := exec("a", "sh", "init")
	ended := exec("a", "sh", "init")
	ended.Kind, ended.Process.Exit = event.ProcessExit, event.Exit{Ended: true, Code: 1}
	otherUser := exec("a", "sh", "init")
	otherUser.Process.UID = 5
	elsewhere := exec("a", "sh", "init")
	elsewhere.Container = &event.Container{ID: "1"}
	sibling := exec("b", "sh", "init")
	otherParent := exec("a", "sh", "systemd")
	orphan := exec("a")
	agent := event.Event{Kind: event.AgentStart, Agent: &event.Agent{Version: "1"}}

	var lines []string
	for _, e := range []event.Event{plain, ended, otherUser, elsewhere, sibling, otherParent, orphan, agent, plain} {
		lines = append(lines, line(t, e))
	}
	got := replayed(t, lines...)
	snapshot := func(i int) uint64 { return got[i].Process.Snapshot }
	if snapshot(0) != snapshot(1) || snapshot(0) != snapshot(8) {
		t.Errorf("one process is %d, at its end %d, later %d", snapshot(0), snapshot(1), snapshot(8))
	}
	if !got[1].Process.Exit.Ended || got[8].Process.Exit.Ended {
		t.Error("the end is not where it was")
	}
	seen := map[uint64]int{}
	for _, i := range []int{0, 2, 3, 4, 5, 6} {
		if first, ok := seen[snapshot(i)]; ok {
			t.Errorf("events %d and %d have the same snapshot", first, i)
		}
		seen[snapshot(i)] = i
	}
	parent := got[0].Process.Parent
	if got[4].Process.Parent != parent || got[2].Process.Parent != parent {
		t.Error("siblings have different parents")
	}
	if other := got[5].Process.Parent; other == parent || other.Snapshot == parent.Snapshot {
		t.Error("two shells with different parents are one")
	}
}

// At the cap processes are forgotten, and told again under a number that nobody had before.
func TestMaxProcesses(t *testing.T) {
	const distinct = 3*maxProcesses + 5
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	write := func(pid uint32) {
		err := encoder.Encode(&event.Event{Kind: event.ProcessExec, Process: &event.Process{
			PID: pid, Ancestors: []event.Ancestor{{PID: 1}},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for n := range uint32(distinct) {
		write(2 + n)
	}
	write(2)
	s := open(t, record(t, strings.TrimSpace(text.String())))
	most := 0
	got := sink{after: func() { most = max(most, len(s.numbers)) }}
	if err := s.Run(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	if most != maxProcesses {
		t.Errorf("%d processes were told apart at once, want %d at most", most, maxProcesses)
	}
	if len(got.events) != distinct+1 {
		t.Fatalf("%d events, want %d", len(got.events), distinct+1)
	}
	pids := map[uint64]uint32{}
	for _, e := range got.events {
		p := e.Process
		if pid, ok := pids[p.Snapshot]; ok && pid != p.PID {
			t.Fatalf("snapshot %d is of %d and of %d", p.Snapshot, pid, p.PID)
		}
		pids[p.Snapshot] = p.PID
		if p.Parent == nil || p.Parent.PID != 1 || p.Parent.Snapshot == p.Snapshot {
			t.Fatalf("parent %+v of %d", p.Parent, p.PID)
		}
	}
	if first, last := got.events[0].Process, got.events[distinct].Process; first.Snapshot == last.Snapshot {
		t.Error("a process that was forgotten has its number still")
	}
}

// A line that is no event ends the replay with its number; all before it have been emitted, and none after it.
func TestBadLines(t *testing.T) {
	good := line(t, exec("a"))
	otherHost := exec("a")
	otherHost.Host = &event.Host{Hostname: "elsewhere"}
	for _, test := range []struct {
		name, bad string
		want      []string
	}{
		{"no JSON", "hello", []string{"replay line 3: "}},
		{"empty", "", []string{"replay line 3: "}},
		{"cut", good[:len(good)/2], []string{"replay line 3: "}},
		{"two events", good + good, []string{"replay line 3: "}},
		{"an array", "[" + good + "]", []string{"replay line 3: "}},
		{"unknown kind", `{"kind":"file.dance"}`, []string{"replay line 3: ", `"file.dance"`}},
		{"two hosts", line(t, otherHost), []string{"replay line 3: ", "elsewhere", "split the recording"}},
		{"too long", strings.Repeat(" ", maxLine) + good, []string{"line 3: ", "too long"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got sink
			err := open(t, record(t, good, good, test.bad, good)).Run(t.Context(), &got)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want %q in it", err, want)
				}
			}
			if len(got.events) != 2 {
				t.Errorf("%d events, want the two before", len(got.events))
			}
		})
	}
}

// An event as long as there can be one is no long line.
func TestLongLine(t *testing.T) {
	e := exec("a")
	e.Process.Args = event.Argv(strings.Repeat("\x01", 20480) + "\x00")
	e.Process.Cwd = strings.Repeat("/\xff", 2048)
	if got := replayed(t, line(t, e)); len(got) != 1 || got[0].Process.Args != e.Process.Args {
		t.Errorf("%d events", len(got))
	}
}

func TestOpenRefuses(t *testing.T) {
	nothingIsLeft := leaktest.Check(t)
	for _, test := range []struct{ name, path, want string }{
		{"no file", filepath.Join(t.TempDir(), "none"), "no such file"},
		{"folder", t.TempDir(), "is a directory"},
		{"empty", record(t), "line 1"},
		{"no event", record(t, "hello"), "line 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Open(test.path)
			if s != nil || err == nil || !strings.HasPrefix(err.Error(), "open recording") ||
				!strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.path) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	nothing := filepath.Join(t.TempDir(), "nothing")
	if err := os.WriteFile(nothing, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(nothing); err == nil || !strings.Contains(err.Error(), "no event in it") {
		t.Errorf("error %v", err)
	}
	nothingIsLeft()
}

func TestHost(t *testing.T) {
	s := open(t, record(t, line(t, exec("a"))))
	if s.Host() != boot {
		t.Errorf("host %+v, want %+v", s.Host(), boot)
	}
	if s := open(t, record(t, `{"kind":"process.exec"}`)); s.Host() != (event.Host{}) {
		t.Errorf("host %+v of a recording without one", s.Host())
	}
}

// A replay that is ended early returns nil, having emitted nothing more.
func TestRunEndsWithItsContext(t *testing.T) {
	l := line(t, exec("a"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got sink
	got.after = func() {
		if len(got.events) == 3 {
			cancel()
		}
	}
	s := open(t, record(t, l, l, l, l, l))
	if err := s.Run(ctx, &got); err != nil {
		t.Error(err)
	}
	if len(got.events) != 3 {
		t.Errorf("%d events, want 3", len(got.events))
	}
}

// Opening and closing leave no file behind, and a recording is emitted once.
func TestRunIsOnce(t *testing.T) {
	nothingIsLeft := leaktest.Check(t)
	s, err := Open(record(t, line(t, exec("a")), line(t, exec("b"))))
	if err != nil {
		t.Fatal(err)
	}
	var got sink
	for range 2 {
		if err := s.Run(t.Context(), &got); err != nil {
			t.Error(err)
		}
	}
	if len(got.events) != 2 {
		t.Errorf("%d events, want 2", len(got.events))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	nothingIsLeft()
}
