package ocsf_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ocsf"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/event/eventtest"
	"github.com/taskguard/taskguard/sender/batch"
)

var update = flag.Bool("update", false, "write the golden file")

const root = "../../../../"

// recordings are events as agents and their sources recorded them.
func recordings() []string {
	return []string{
		root + "sender/batch/testdata/ten-kinds.jsonl", root + "testdata/corpus/container.jsonl",
		root + "collector/ebpf/testdata/debian-12-linux-6.18-amd64.golden",
		root + "collector/audit/testdata/debian-12-linux-6.18-all-kinds.golden",
	}
}

func header() *batch.Header {
	return &batch.Header{
		ID: batch.ID{Agent: event.ID{15: 7}, Epoch: 1000, Sequence: 3},
		Host: event.Host{
			InstanceID: "i-0123456789abcdef0", AccountID: "111122223333", Region: "eu-west-1", Hostname: "ip-10-0-0-7",
		},
	}
}

var stored = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

func recorded(t *testing.T) []event.Event {
	t.Helper()
	var events []event.Event
	for _, name := range recordings() {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			if !strings.HasPrefix(lines.Text(), "{") {
				continue
			}
			var line struct {
				event.Event
				Inner *event.Event `json:"event"` // of a source's recording
			}
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if line.Inner != nil {
				line.Event = *line.Inner
			}
			if line.Kind != 0 {
				events = append(events, line.Event)
			}
		}
		f.Close()
	}
	return events
}

// mapped checks an event against the schema, and that it comes back.
func mapped(t *testing.T, s *schema, e *event.Event) *ocsf.Event {
	t.Helper()
	o, err := ocsf.From(header(), 5, stored, e)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if wrong := s.check(text); len(wrong) > 0 {
		t.Errorf("%s: %s\n%s", e.Kind, strings.Join(wrong, "\n  "), text)
	}
	var back ocsf.Event
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	got, err := back.Original()
	if err != nil {
		t.Fatal(err)
	}
	want, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(got); err != nil || !bytes.Equal(want, again) {
		t.Errorf("%s comes back as %s (%v), want %s", e.Kind, again, err, want)
	}
	return o
}

// Every recorded event is valid, and one of each kind and outcome is as it was.
func TestRecorded(t *testing.T) {
	s := readSchema(t)
	seen := map[string]bool{}
	var lines []string
	for _, e := range recorded(t) {
		o := mapped(t, s, &e)
		key := fmt.Sprintf("%s %t %t", e.Kind, e.Result != 0, e.Container != nil)
		if seen[key] {
			continue
		}
		seen[key] = true
		o.Unmapped = json.RawMessage(`{}`)
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(text))
	}
	if len(seen) < 40 {
		t.Errorf("%d kinds and outcomes are recorded, want more", len(seen))
	}
	golden(t, "testdata/recorded.golden", strings.Join(lines, "\n")+"\n")
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// Every kind is valid with all its fields, with none, and when it failed.
func TestEveryKind(t *testing.T) {
	s := readSchema(t)
	for _, kind := range append(event.Kinds(), 255) {
		for _, group := range eventtest.Groups() {
			var e event.Event
			eventtest.Full(&e)
			e.Kind = kind
			eventtest.KeepGroup(&e, group)
			mapped(t, s, &e)
		}
		mapped(t, s, &event.Event{Kind: kind})
		o := mapped(t, s, &event.Event{Kind: kind, Result: 13, Process: &event.Process{PID: 4}, Host: &event.Host{}})
		if o.StatusID != 2 || o.StatusCode != "13" {
			t.Errorf("%s: status %d %s, want a failure", kind, o.StatusID, o.StatusCode)
		}
		if unmapped := kind == 255; unmapped != (o.ClassUID == 0) {
			t.Errorf("%s is of class %d", kind, o.ClassUID)
		}
	}
}

// Law: whatever an agent sends, it is valid, and comes back.
func FuzzFrom(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff, 3, 0x41, 5}, 500))
	s := readSchema(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var e event.Event
		eventtest.Fuzzed(&e, data, true)
		mapped(t, s, &e)
	})
}

func TestClasses(t *testing.T) {
	address := netip.MustParseAddr("192.0.2.1")
	for _, test := range []struct {
		e    event.Event
		want int64
	}{
		{event.Event{Kind: event.MemoryMap, Memory: &event.Memory{Path: "/lib/a.so"}}, 100501},
		{event.Event{Kind: event.MemoryMap, Memory: &event.Memory{}}, 100401},
		{event.Event{Kind: event.ProcessPtrace, Ptrace: &event.Ptrace{Request: 16}}, 100703},
		{event.Event{Kind: event.ProcessPtrace, Ptrace: &event.Ptrace{Request: 5}}, 100704},
		{event.Event{Kind: event.NetConnect, Net: &event.Net{Socket: event.Socket{RemoteIP: address}}}, 400101},
		{event.Event{Kind: event.NetConnect, Result: 111}, 400105},
		{event.Event{Kind: event.NetConnect, Result: 110}, 400104},
		{event.Event{Kind: event.NetConnect, Result: 115}, 400101},
		{event.Event{Kind: event.ModuleLoad}, 100201},
		{event.Event{Kind: event.BPFLoad}, 100304},
		{event.Event{Kind: event.ContainerStop}, 600204},
		{event.Event{Kind: event.AgentStart}, 600203},
	} {
		o, err := ocsf.From(header(), 0, stored, &test.e)
		if err != nil {
			t.Fatal(err)
		}
		if o.TypeUID != test.want {
			t.Errorf("%s %d: type %d, want %d", test.e.Kind, test.e.Result, o.TypeUID, test.want)
		}
	}
}

// At the cap a container's description is left out, and who it is stays.
func TestLongContainer(t *testing.T) {
	s := readSchema(t)
	e := event.Event{Kind: event.ProcessExec, Container: &event.Container{ID: "c1", Name: "web", ECS: &event.ECS{TaskARN: "arn"}}}
	base, err := json.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	room := ocsf.MaxOriginal - len(base) - len(`,"labels":[{"key":"","value":""}]`)
	e.Container.Labels = []event.Tag{{Value: strings.Repeat("x", room)}}
	mapped(t, s, &e)
	e.Container.Labels[0].Value += "x"
	o, err := ocsf.From(header(), 0, stored, &e)
	if err != nil {
		t.Fatal(err)
	}
	back, err := o.Original()
	if err != nil {
		t.Fatal(err)
	}
	want := &event.Container{ID: "c1", Name: "web", ECS: &event.ECS{TaskARN: "arn"}, Truncated: true}
	if diff := cmp.Diff(want, back.Container); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(o.Unmapped) > 1024 || len(e.Container.Labels) != 1 {
		t.Errorf("%d bytes are left of it, %d labels of the event", len(o.Unmapped), len(e.Container.Labels))
	}
}
