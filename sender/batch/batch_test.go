package batch_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/event/eventtest"
	"github.com/taskguard/taskguard/sender/batch"
)

var (
	boot = event.ID{0xb0, 0x07, 15: 1}
	host = event.Host{
		InstanceID: "i-0123456789abcdef0", AccountID: "111122223333", Region: "eu-central-1", MachineID: "4f",
		Hostname: "ip-10-0-0-1", BootID: boot, BootTime: time.Unix(1_700_000_000, 1).UTC(),
	}
	header = batch.Header{
		ID: batch.ID{Agent: event.ID{0xa9, 15: 2}, Epoch: 1_700_000_000_000_000_000, Sequence: 7}, Host: host,
	}
)

// sameEvent compares what Decode promises to give back.
var sameEvent = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}),
	cmpopts.IgnoreFields(event.Process{}, "Snapshot", "PPID", "ParentStart", "Parent", "Cgroup", "Container"),
}

// world makes processes as the process table does: complete, with ancestors that are snapshots.
type world struct{ snapshots uint64 }

func (w *world) process(parent *event.Process, p event.Process) *event.Process {
	w.snapshots++
	p.Snapshot, p.Parent = w.snapshots, parent
	if p.Start != 0 {
		p.ID = event.ProcessID(boot, p.PID, p.Start)
		p.StartTime = host.BootTime.Add(time.Duration(p.Start))
	}
	if parent != nil {
		p.ParentID = parent.ID
		p.Ancestors = append(p.Ancestors, event.Ancestor{ID: parent.ID, PID: parent.PID, Name: parent.Name, Exe: parent.Exe})
		p.Ancestors = append(p.Ancestors, parent.Ancestors...)
		p.Ancestors = p.Ancestors[:min(len(p.Ancestors), event.MaxAncestors)]
	}
	return &p
}

func seal(t testing.TB, h batch.Header, events []event.Event) []byte {
	t.Helper()
	b := batch.NewBuilder()
	for i := range events {
		b.Append(&events[i])
	}
	if b.Events() != len(events) {
		t.Fatalf("builder has %d events, want %d", b.Events(), len(events))
	}
	return b.Seal(nil, h, batch.Late{})
}

func roundTrip(t testing.TB, events []event.Event) {
	t.Helper()
	got, err := batch.Decode(seal(t, header, events))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(header, got.Header, sameEvent, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("header (-sealed +decoded):\n%s", diff)
	}
	if diff := cmp.Diff(events, got.Events, sameEvent, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("events (-appended +decoded):\n%s", diff)
	}
}

// full returns an event in which every field differs from its zero value; of the groups, the named one. What is added
// to an event and forgotten in the wire format does not come back.
func full(kind event.Kind, group string) event.Event {
	var w world
	var e event.Event
	eventtest.Full(&e)
	eventtest.KeepGroup(&e, group)
	task := *e.Container
	task.ID = "task"
	parent := w.process(nil, event.Process{PID: 1, Start: 1, Name: "init"})
	process, target := *e.Process, *e.Target
	process.Ancestors, process.Start, process.Container, process.Exit = nil, 1<<40, e.Container, event.Exit{}
	target.Ancestors, target.Start, target.Container, target.Exit, target.PID = nil, 1<<41, &task, event.Exit{}, 77
	e.Process, e.Target = w.process(parent, process), w.process(parent, target)
	if kind == event.ProcessExit {
		e.Process.Exit = event.Exit{Ended: true, Code: 3}
	}
	e.Kind, e.Host = kind, &host
	return e
}

func TestRoundTripEveryField(t *testing.T) {
	n := 0
	for _, kind := range event.Kinds() {
		var events []event.Event
		for _, group := range eventtest.Groups() {
			events = append(events, full(kind, group))
		}
		roundTrip(t, events)
		n += len(events)
	}
	if want := len(event.Kinds()) * 13; n < want {
		t.Errorf("%d events, want at least %d: one of every kind with every group", n, want)
	}
}

// A number that is 0 comes back as 0, and one that is unknown as unknown, whatever stands beside it.
func TestRoundTripOptional(t *testing.T) {
	var events []event.Event
	for _, n := range []uint32{0, 1, 1<<32 - 2, 1<<32 - 1} {
		known, mode := event.Some(n), event.Some(event.FileMode(n))
		for _, e := range []event.Event{
			{SetID: &event.SetID{}}, {SetID: &event.SetID{UID: known}}, {SetID: &event.SetID{FSGID: known}},
			{File: &event.File{Mode: mode}}, {File: &event.File{UID: known}}, {File: &event.File{GID: known}},
		} {
			e.Time, e.Host = host.BootTime, &host
			events = append(events, e)
		}
	}
	roundTrip(t, events)
}

// What agents of the first version sealed, with ten kinds, is in spools and at endpoints: it is read for ever.
func TestDecodeOfTheFirstVersion(t *testing.T) {
	data, err := os.ReadFile("testdata/ten-kinds.batch")
	if err != nil {
		t.Fatal(err)
	}
	got, err := batch.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	for i := range got.Events {
		if err := json.NewEncoder(&lines).Encode(&got.Events[i]); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/ten-kinds.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(lines.String(), "\n")); diff != "" {
		t.Errorf("(-as it was +as it is read):\n%s", diff)
	}
	if n := got.Ledger.Lost[0].Count; got.Ledger.Observed != 99 || n != 3 {
		t.Errorf("ledger %+v, want 99 observed, 3 lost", got.Ledger)
	}
}

// examples returns one event of every kind, or more, with every field of every group set.
func examples() []event.Event {
	var w world
	task := &event.Container{
		ID: strings.Repeat("c0", 32), Name: "web\xff", Image: "nginx:1", ImageID: "sha256:ab", Runtime: "docker",
		ECS: &event.ECS{Cluster: "demo", TaskARN: "arn:aws:ecs:x", TaskID: "7", Family: "w", Revision: "3", Container: "c"},
	}
	initial := w.process(nil, event.Process{PID: 1, Start: 1, Name: "init", Exe: "/sbin/init", Partial: true})
	shell := w.process(initial, event.Process{
		PID: 40, NSPID: 2, Start: 5_000_000_001, Name: "sh", Exe: "/bin/sh", Args: event.NewArgv([]string{"sh", "-c", ""}),
		Cwd: "/tmp\n", UID: 1, EUID: 2, GID: 3, EGID: 4, Container: task, Script: "/x.sh",
		Env: "LD_PRELOAD=/x.so\x00", ArgsLength: 9000, Truncated: event.FieldArgs | event.FieldScript, ExeDeleted: true,
	})
	recorded := w.process(shell, event.Process{PID: 41, Name: "old", StartTime: time.Unix(5, 6).UTC(), ID: event.ID{9}})
	ended := *shell
	ended.Exit = event.Exit{Ended: true, Code: 3}
	killed := *recorded
	killed.Exit = event.Exit{Ended: true, Signal: 9, CoreDumped: true}
	tcp := event.Socket{
		Family: event.INET, Type: event.Stream, Protocol: 6, RemoteIP: netip.MustParseAddr("10.1.2.3"), RemotePort: 443,
		LocalIP: netip.MustParseAddr("0.0.0.0"), LocalPort: 40000,
	}
	udp6 := event.Socket{
		Family: event.INET6, Type: event.Datagram, Protocol: 17,
		RemoteIP: netip.MustParseAddr("fd00::1"), LocalIP: netip.MustParseAddr("::1"),
	}
	list := []event.Event{
		{Kind: event.ProcessExec, Process: shell, Container: task},
		{Kind: event.ProcessFork, Process: recorded},
		{Kind: event.ProcessExit, Process: &ended, Container: task},
		{Kind: event.ProcessExit, Process: &killed},
		{Kind: event.FileOpen, Process: initial, Result: 13, File: &event.File{
			Path: "/etc/\xffshadow", Flags: 0x241, Device: 8<<20 | 1, Inode: 1 << 40, Unverified: true,
			Truncated: event.FieldPath}},
		{Kind: event.FileOpen, Process: initial, File: &event.File{}},
		{Kind: event.NetConnect, Process: shell, Container: task, Result: 111, Net: &event.Net{Socket: tcp}},
		{Kind: event.NetConnect, Result: -1, Net: &event.Net{
			Socket: event.Socket{Family: event.Unix}, Path: "@x\x00y", Unverified: true, Truncated: event.FieldPath}},
		{Kind: event.DNSQuery, Process: shell, Container: task, DNS: &event.DNS{
			Socket: udp6, ID: 65535, Questions: []event.Question{{Name: "a.example", Type: "AAAA"}, {}},
			Payload: []byte{0, 1, 0}, Truncated: event.FieldPayload}},
		{Kind: event.DNSResponse, Container: task, DNS: &event.DNS{
			Socket: udp6, Rcode: 3, Questions: []event.Question{{Name: "a.example", Type: "A"}},
			Answers: []event.Answer{{Name: "a.example", Type: "A", TTL: 1 << 31, Data: "10.0.0.1"}, {}}, Malformed: true}},
		{Kind: event.AgentStart, Agent: &event.Agent{Version: "1.2.3", Sources: []event.SourceState{
			{Kind: event.ProcessExec, Via: "ebpf/tracepoint", Healthy: true},
			{Kind: event.FileOpen, Via: "off", Reason: "no"}, {}}}},
		{Kind: event.AgentHeartbeat, Agent: &event.Agent{}},
		{Kind: event.AgentLoss, Agent: &event.Agent{
			Stage: "kernel", Cause: "ring_full", Lost: event.FileOpen, Count: 1 << 60}},
		{Kind: event.AgentLoss, Agent: &event.Agent{Stage: "agent", From: time.Unix(7, 8).UTC(), To: time.Unix(9, 1).UTC()}},
		{Kind: 200, Process: initial}, // of a newer agent
		{Kind: event.ProcessPtrace, Process: shell, Target: shell, Container: task, Ptrace: &event.Ptrace{}},
		{Kind: event.MemoryVMRead, Process: initial, Target: recorded, Memory: &event.Memory{}},
		{Kind: event.ProcessDup, Process: initial, Dup: &event.Dup{OldFD: -1, NewFD: 1<<31 - 1, Socket: udp6, Path: "@\xff"}},
		{Kind: event.ProcessSetID, Target: initial, SetID: &event.SetID{}}, // of a process that nobody knows
		{Kind: event.FileRename, Process: initial, File: &event.File{Path: "/a\xff", Target: "/b\xfe"}},
		{Kind: event.AgentThrottle, Agent: &event.Agent{Phase: "stop", Cgroup: "/a\xff", Dropped: []event.Dropped{
			{Kind: event.FileOpen, Count: 1 << 63}, {}}}},
	}
	groups := eventtest.Groups()
	for _, kind := range event.Kinds()[event.AgentLoss:] {
		e := full(kind, groups[int(kind)%len(groups)])
		e.Process, e.Target, e.Container = shell, recorded, task
		list = append(list, e)
	}
	for i := range list {
		// Times go backwards too: several CPUs write into one batch.
		list[i].Time = time.Unix(1_700_000_100, int64(1000*i*(1-i%3))).UTC()
		list[i].Host = &host
	}
	return list
}

func TestRoundTripEveryKind(t *testing.T) {
	events := examples()
	seen := map[event.Kind]bool{}
	for _, e := range events {
		seen[e.Kind] = true
		t.Run(e.Kind.String(), func(t *testing.T) { roundTrip(t, []event.Event{e}) })
	}
	for _, kind := range event.Kinds() {
		if !seen[kind] {
			t.Errorf("no example of %v", kind)
		}
	}
	roundTrip(t, events)
}

func TestRoundTripHeader(t *testing.T) {
	h := header
	h.Ledger = batch.Ledger{Observed: 99, Lost: []batch.Loss{
		{Stage: "queue", Cause: "full", Kind: event.ProcessExec, Count: 3}, {Stage: "spool", Cause: "evicted", Count: 1}}}
	h.Updates = batch.Updates{
		Containers: []event.Container{{ID: "ab", Name: "late", ECS: &event.ECS{}}, {ID: "cd"}},
		Digests: []event.FileDigest{
			{Version: event.FileVersion{Device: 1<<32 - 1, Inode: 1<<64 - 1, Size: 1 << 63, Changed: 1},
				Digest: event.Digest{SHA256: strings.Repeat("0f", 32), FSVerity: "sha512:00"}},
			{Digest: event.Digest{HashState: event.HashVanished}},
		},
	}
	got, err := batch.Decode(seal(t, h, nil))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(h, got.Header); diff != "" {
		t.Errorf("header (-sealed +decoded):\n%s", diff)
	}
}

// A process first named as a distant ancestor keeps its own ancestors when it has an event of its own later.
func TestRoundTripDeepAncestry(t *testing.T) {
	var w world
	var p *event.Process
	chain := make([]event.Event, 3*event.MaxAncestors)
	for i := range chain {
		p = w.process(p, event.Process{PID: uint32(i + 1), Start: uint64(i+1) * 1e9, Name: fmt.Sprint("p", i)})
		chain[i] = event.Event{Time: host.BootTime, Kind: event.ProcessExec, Process: p, Host: &host}
	}
	for _, order := range [][]int{{47, 31, 30, 0}, {20, 19, 18, 47, 46, 3}, {5, 47, 5}} {
		var events []event.Event
		for _, i := range order {
			events = append(events, chain[i])
		}
		roundTrip(t, events)
	}
}

// An event that happened in another container than its process, such as one that was just moved, keeps it.
func TestRoundTripContainerOfItsOwn(t *testing.T) {
	var w world
	c, other := &event.Container{ID: "aa"}, &event.Container{ID: "bb"}
	outside := w.process(nil, event.Process{PID: 1, Start: 1})
	inside := w.process(nil, event.Process{PID: 2, Start: 2, Container: c})
	events := []event.Event{
		{Kind: event.ProcessExec, Process: outside, Container: c},
		{Kind: event.ProcessExec, Process: inside, Container: c},
		{Kind: event.ProcessExec, Process: inside, Container: other},
		{Kind: event.DNSQuery, Container: other, DNS: &event.DNS{}},
	}
	for i := range events {
		events[i].Time, events[i].Host = host.BootTime, &host
	}
	roundTrip(t, events)
	b := batch.NewBuilder()
	for i := range events {
		b.Append(&events[i])
	}
	counts := map[string]uint64{}
	b.Seal(nil, header, batch.Late{Describe: func(c *event.Container, events uint64) event.Container {
		counts[c.ID] = events
		return *c
	}})
	if want := map[string]uint64{"aa": 2, "bb": 2}; !maps.Equal(counts, want) {
		t.Errorf("%v events, want %v", counts, want)
	}
}

func TestContainersAreDescribedAtSeal(t *testing.T) {
	c := &event.Container{ID: "aa", Pending: true}
	e := event.Event{Time: host.BootTime, Kind: event.DNSQuery, Container: c, DNS: &event.DNS{}}
	b := batch.NewBuilder()
	b.Append(&e)
	b.Append(&e)
	asked := 0
	data := b.Seal(nil, header, batch.Late{Describe: func(c *event.Container, events uint64) event.Container {
		asked++
		if events != 2 {
			t.Errorf("%d events, want 2", events)
		}
		return event.Container{ID: c.ID, Name: "web"}
	}})
	got, err := batch.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if asked != 1 {
		t.Errorf("container described %d times, want once", asked)
	}
	for _, e := range got.Events {
		if e.Container == nil || e.Container.Name != "web" || e.Container.Pending {
			t.Errorf("container %+v, want the description given at seal", e.Container)
		}
	}
	got, err = batch.Decode(b.Seal(nil, header, batch.Late{}))
	if err != nil || !got.Events[0].Container.Pending {
		t.Errorf("sealed without a description: %v, %+v, want it pending", err, got.Events[0].Container)
	}
}

// Each name of a user and a group is asked for once, for the container that a process runs in.
func TestAccountsAreNamedAtSeal(t *testing.T) {
	var w world
	c := &event.Container{ID: "aa"}
	b := batch.NewBuilder()
	for i, p := range []event.Process{
		{PID: 1, Start: 1}, {PID: 2, Start: 2, UID: 5, GID: 6, Container: c}, {PID: 3, Start: 3, UID: 5, GID: 7, Container: c},
		{PID: 4, Start: 4, UID: 5, GID: 6},
	} {
		b.Append(&event.Event{Time: host.BootTime, Kind: event.ProcessExec, Process: w.process(nil, p), Result: int32(i)})
	}
	asked := map[string]int{}
	name := func(kind string) func(string, uint32) string {
		return func(container string, id uint32) string {
			key := fmt.Sprint(kind, id, container)
			if asked[key]++; id == 7 {
				return ""
			}
			return key
		}
	}
	got, err := batch.Decode(b.Seal(nil, header, batch.Late{User: name("u"), Group: name("g")}))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range [][2]string{{"u0", "g0"}, {"u5aa", "g6aa"}, {"u5aa", ""}, {"u5", "g6"}} {
		if p := got.Events[i].Process; p.User != want[0] || p.Group != want[1] {
			t.Errorf("%d: %q %q, want %q", i, p.User, p.Group, want)
		}
	}
	for key, n := range asked {
		if n != 1 {
			t.Errorf("%s asked for %d times", key, n)
		}
	}
}

// Text that is no UTF-8 must not make the receiver refuse the batch.
func TestTextIsMadeUTF8(t *testing.T) {
	h := header
	h.Host.Hostname = "a\xffb"
	h.Ledger.Lost = []batch.Loss{{Stage: "\xff", Cause: "\xfe"}}
	h.Updates.Containers = []event.Container{{ID: "\xff", Runtime: "\xff"}}
	events := []event.Event{
		{Time: host.BootTime, Kind: event.AgentStart, Agent: &event.Agent{
			Version: "\xff", Stage: "\xff", Cause: "\xff", Sources: []event.SourceState{{Via: "\xff", Reason: "x\xff"}}}},
		{Time: host.BootTime, Kind: event.FileOpen, File: &event.File{},
			Container: &event.Container{ID: "\xff", Runtime: "\xff"}},
	}
	got, err := batch.Decode(seal(t, h, events))
	if err != nil {
		t.Fatal(err)
	}
	if want := "a\uFFFDb"; got.Host.Hostname != want {
		t.Errorf("hostname %q, want %q", got.Host.Hostname, want)
	}
}

func TestResetForgets(t *testing.T) {
	events := examples()
	b := batch.NewBuilder()
	empty := b.Seal(nil, header, batch.Late{})
	for round := range 2 {
		for i := range events {
			b.Append(&events[i])
		}
		want := seal(t, header, events)
		if got := b.Seal(nil, header, batch.Late{}); string(got) != string(want) {
			t.Errorf("round %d: batch differs from that of a new builder", round)
		}
		b.Reset()
		if got := b.Seal(nil, header, batch.Late{}); string(got) != string(empty) || b.Events() != 0 || b.Size() != 0 {
			t.Errorf("round %d: %d events and %d bytes after Reset", round, b.Events(), b.Size())
		}
	}
}

func TestCounts(t *testing.T) {
	events := examples()
	b := batch.NewBuilder()
	var want [event.KindCount]uint64
	for i := range events {
		b.Append(&events[i])
		if k := events[i].Kind; k < event.KindCount {
			want[k]++
		}
	}
	if got := b.Counts(); got != want {
		t.Errorf("counts %v, want %v", got, want)
	}
}

// Law: a batch that names as many containers as it may, each with all that it may have, is one that is accepted.
func TestContainersOfABatchAreBounded(t *testing.T) {
	b := batch.NewBuilder()
	long := strings.Repeat("\xff", 1024)
	for i := range batch.MaxEvents / 2 {
		b.Append(&event.Event{Time: host.BootTime, Kind: event.FileOpen, File: &event.File{}, Container: &event.Container{ID: fmt.Sprint(i)}})
	}
	data := b.Seal(nil, header, batch.Late{Describe: func(c *event.Container, _ uint64) event.Container {
		full := event.Container{ID: c.ID, Name: long, Image: long, ImageID: long, ECS: &event.ECS{Family: long, TaskID: c.ID}}
		for range 64 {
			full.Ports = append(full.Ports, event.Port{Port: 1})
			full.Labels = append(full.Labels, event.Tag{Key: "k", Value: "v"})
		}
		return full
	}})
	decoded, err := batch.Decode(data)
	if err != nil {
		t.Fatalf("%d bytes: %v", len(data), err)
	}
	whole, brief := 0, 0
	for i, e := range decoded.Events {
		c := e.Container
		if c == nil || c.ID != fmt.Sprint(i) || c.Truncated == (len(c.Labels) > 0) {
			t.Fatalf("container %d: %+v", i, c)
		}
		if !c.Truncated {
			whole++
		} else if c.ECS != nil && c.ECS.TaskID == c.ID {
			brief++
		}
	}
	if whole < 100 || brief < 300 {
		t.Errorf("%d of %d containers are told of in full, and %d briefly", whole, len(decoded.Events), brief)
	}
}
