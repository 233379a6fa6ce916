package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector"
	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/ebpf"
	"github.com/taskguard/taskguard/collector/event"
)

// fakeKernel is eBPF with ladders of rungs.
type fakeKernel struct {
	ladders map[event.Kind][]string
	on      map[event.Kind]int
	set     ebpf.Settings
	refuse  error // Apply's
}

func (k *fakeKernel) State() (states []event.SourceState) {
	for _, kind := range event.Kinds() {
		rungs, there := k.ladders[kind]
		switch {
		case !there:
		case slices.Contains(k.set.Off, kind):
			states = append(states, event.SourceState{Kind: kind, Via: "off", Reason: "off by its settings"})
		case len(rungs) == 0:
			states = append(states, event.SourceState{Kind: kind, Via: "off", Reason: "refused"})
		default:
			states = append(states, event.SourceState{Kind: kind, Via: rungs[k.on[kind]], Healthy: true})
		}
	}
	return states
}

func (k *fakeKernel) Apply(set ebpf.Settings) error {
	if k.refuse == nil {
		k.set = set
	}
	return k.refuse
}

func (k *fakeKernel) NextRung(kind event.Kind, _ string) bool {
	if k.on[kind]+1 >= len(k.ladders[kind]) {
		return false
	}
	k.on[kind]++
	return true
}

type fakeAudit struct {
	kinds  []event.Kind
	refuse error // SetKinds's
}

func (a *fakeAudit) State() (states []event.SourceState) {
	for _, kind := range a.kinds {
		states = append(states, event.SourceState{Kind: kind, Via: "audit/unicast", Healthy: true})
	}
	return states
}

func (a *fakeAudit) SetKinds(kinds []event.Kind) error {
	if a.refuse == nil {
		a.kinds = kinds
	}
	return a.refuse
}

// covering returns a coverage of three kinds: one with three rungs, one that eBPF refuses, and one that audit cannot
// tell of.
func covering(t *testing.T) (*coverage, *fakeKernel, *fakeAudit) {
	t.Helper()
	kernel := &fakeKernel{on: map[event.Kind]int{}, ladders: map[event.Kind][]string{
		event.FileOpen: {"ebpf/fentry", "ebpf/kprobe", "ebpf/tracepoint"}, event.NetConnect: {},
		event.DNSQuery: {"ebpf/cgroup"},
	}}
	audit := &fakeAudit{}
	c := newCoverage(ebpf.Settings{})
	c.ebpf, c.ebpfRefused, c.auditRefused = kernel, nil, nil
	c.audible = []event.Kind{event.FileOpen, event.NetConnect}
	c.openAudit = func(kinds []event.Kind) (auditSource, error) { audit.kinds = kinds; return audit, nil }
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	return c, kernel, audit
}

// via says how the three kinds are observed, and by whom.
func via(c *coverage, a *fakeAudit) []string {
	var got []string
	for _, s := range c.states() {
		if s.Kind == event.FileOpen || s.Kind == event.NetConnect || s.Kind == event.DNSQuery {
			text := s.Via
			if !s.Healthy {
				text += " unhealthy"
			}
			if s.Reason != "" {
				text += ": " + s.Reason
			}
			got = append(got, text)
		}
	}
	return append(got, kindList(a.kinds))
}

func expect(t *testing.T, c *coverage, a *fakeAudit, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, via(c, a)); diff != "" {
		t.Errorf("file.open, net.connect, dns.query, audit's kinds (-want +got):\n%s", diff)
	}
}

// A kind that this kernel has no system calls for is no reason to use audit, which would slow all of them.
func TestAbsentKindIsNotForAudit(t *testing.T) {
	c, kernel, audit := covering(t)
	kernel.ladders[event.NetConnect] = []string{viaOff}
	if err := c.apply(ebpf.Settings{}); err != nil {
		t.Fatal(err)
	}
	expect(t, c, audit, "ebpf/fentry", "off", "ebpf/cgroup", "")
}

// A kind goes down the ladder, to audit, and when that does not help either back to eBPF, for good.
func TestNextWay(t *testing.T) {
	c, _, audit := covering(t)
	expect(t, c, audit, "ebpf/fentry", "audit/unicast: ebpf: refused", "ebpf/cgroup", "net.connect")
	step := func(kind event.Kind, want bool, states ...string) {
		t.Helper()
		if got := c.next(kind, "no event"); got != want {
			t.Errorf("next way of %s: %v", kind, got)
		}
		expect(t, c, audit, states...)
	}
	const connect, dns = "audit/unicast: ebpf: refused", "ebpf/cgroup"
	step(event.FileOpen, true, "ebpf/kprobe", connect, dns, "net.connect")
	step(event.FileOpen, true, "ebpf/tracepoint", connect, dns, "net.connect")
	step(event.FileOpen, true, "audit/unicast: ebpf/tracepoint: no event", connect, dns, "file.open net.connect")
	step(event.FileOpen, false, "ebpf/tracepoint", connect, dns, "net.connect")
	step(event.FileOpen, false, "ebpf/tracepoint", connect, dns, "net.connect")
	step(event.DNSQuery, false, "ebpf/tracepoint", connect, dns, "net.connect")
	step(event.NetConnect, false, "ebpf/tracepoint", connect, dns, "net.connect")
}

// When audit does not take a kind, it stays with eBPF, in doubt.
func TestNextWayRefused(t *testing.T) {
	c, kernel, audit := covering(t)
	kernel.on[event.FileOpen] = 2
	audit.refuse = errors.New("locked")
	if c.next(event.FileOpen, "no event") {
		t.Error("audit took what it refused")
	}
	expect(t, c, audit, "ebpf/tracepoint", "audit/unicast: ebpf: refused", "ebpf/cgroup", "net.connect")
	if len(kernel.set.Off) != 0 {
		t.Errorf("off in the kernel: %v", kernel.set.Off)
	}
}

// What is switched off is observed by nobody, and is healthy so; what is switched on is observed by whoever can.
func TestSettingsReachBothSources(t *testing.T) {
	c, kernel, audit := covering(t)
	const off = "off: off by configuration"
	if err := c.apply(ebpf.Settings{Off: []event.Kind{event.NetConnect, event.DNSQuery}, Throttle: 7}); err != nil {
		t.Fatal(err)
	}
	expect(t, c, audit, "ebpf/fentry", off, off, "")
	if kernel.set.Throttle != 7 {
		t.Errorf("kernel has %+v", kernel.set)
	}
	if err := c.apply(ebpf.Settings{}); err != nil {
		t.Fatal(err)
	}
	expect(t, c, audit, "ebpf/fentry", "audit/unicast: ebpf: refused", "ebpf/cgroup", "net.connect")
	kernel.refuse = errors.New("no")
	if err := c.apply(ebpf.Settings{Off: []event.Kind{event.NetConnect}}); err == nil {
		t.Error("settings that the kernel refused are in force")
	}
	expect(t, c, audit, "ebpf/fentry", "audit/unicast: ebpf: refused", "ebpf/cgroup", "net.connect")
}

// The kinds that audit has taken over stay with it when settings change.
func TestTakenKindsStayTaken(t *testing.T) {
	c, kernel, audit := covering(t)
	kernel.on[event.FileOpen] = 2
	if !c.next(event.FileOpen, "no event") {
		t.Fatal("audit did not take it")
	}
	if err := c.apply(ebpf.Settings{OpenAll: true}); err != nil {
		t.Fatal(err)
	}
	expect(t, c, audit, "audit/unicast: ebpf/tracepoint: no event", "audit/unicast: ebpf: refused", "ebpf/cgroup",
		"file.open net.connect")
	if !kernel.set.OpenAll || !slices.Equal(kernel.set.Off, []event.Kind{event.FileOpen}) {
		t.Errorf("kernel has %+v", kernel.set)
	}
	if got := kindList(c.observed()); got != "file.open net.connect dns.query" {
		t.Errorf("observed: %s", got)
	}
}

// emitting is a source that emits one event and waits for its end, or ends with an error.
type emitting struct {
	ends   error
	closed int
}

func (s *emitting) Run(ctx context.Context, sink collector.Sink) error {
	if s.ends != nil {
		return s.ends
	}
	sink.Emit(&event.Event{Kind: event.NetConnect})
	<-ctx.Done()
	return nil
}

func (s *emitting) Close() error { s.closed++; return nil }

type counting struct{ n int }

func (c *counting) Emit(*event.Event)                       { c.n++ }
func (c *counting) Lost(event.Kind, string, string, uint64) {}

// A source may be opened while the others run already; while it is not, it keeps nobody from ending.
func TestLateSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		l, real, sink := newLate(), &emitting{}, &counting{}
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx, sink) }()
		synctest.Wait()
		if sink.n != 0 || l.source() != nil {
			t.Error("it runs before it is opened")
		}
		l.open(real)
		synctest.Wait()
		if sink.n != 1 {
			t.Error("it does not run when it is opened")
		}
		stop()
		if err := errors.Join(<-done, l.close()); err != nil || real.closed != 1 {
			t.Errorf("%v, closed %d times", err, real.closed)
		}

		never := newLate()
		failing := ending{&emitting{ends: errors.New("gone")}, never.abandon}
		err := collector.Run(t.Context(), []collector.Source{failing, never}, asRecorded{}, sink)
		if err == nil || never.close() != nil {
			t.Errorf("the others' end: %v", err)
		}
		go func() { done <- newLate().Run(ctx, sink) }()
		if err := <-done; err != nil {
			t.Errorf("the end: %v", err)
		}
	})
}

// What the container engine tells of is as healthy as the connection to it, and can be switched off like any kind.
func TestKindsOfTheEngine(t *testing.T) {
	c, kernel, _ := covering(t)
	told := func() []string {
		var got []string
		for _, s := range c.states() {
			if slices.Contains(container.Kinds(), s.Kind) {
				got = append(got, fmt.Sprintf("%s %s %v %s", s.Kind, s.Via, s.Healthy, s.Reason))
			}
		}
		return got
	}
	want := func(state string) {
		t.Helper()
		var want []string
		for _, kind := range container.Kinds() {
			want = append(want, kind.String()+" "+state)
		}
		if diff := cmp.Diff(want, told()); diff != "" {
			t.Errorf("(-want +states):\n%s", diff)
		}
	}
	want("off true off by configuration: docker.socket is empty")
	connected, reason := false, "no such file: start docker"
	c.engine = func() (bool, string) { return connected, reason }
	want("docker false no such file: start docker")
	connected, reason = true, "docker answers"
	want("docker true ")
	if kinds := c.observed(); slices.Contains(kinds, event.ContainerStart) || len(kinds) == 0 {
		t.Errorf("to be tested: %v, want nothing that the engine tells of", kinds)
	}
	if !c.wants(event.ContainerStart) {
		t.Error("not wanted")
	}
	if err := c.apply(ebpf.Settings{Off: container.Kinds()}); err != nil {
		t.Fatal(err)
	}
	want("off true off by configuration")
	if c.wants(event.ContainerStart) || !c.wants(event.FileOpen) || len(kernel.set.Off) != 4 {
		t.Error("wanted though it is off, or the other way round")
	}
	kernel.refuse = errors.New("no")
	if err := c.apply(ebpf.Settings{}); err == nil || c.wants(event.ContainerStart) {
		t.Errorf("wanted by settings that were refused: %v", err)
	}
	c.mu.Lock() // while settings are applied
	if c.wants(event.ContainerStart) {
		t.Error("wanted though it is off")
	}
	c.mu.Unlock()
	c.excluded = true
	want("off true " + offByTag)
	if c.wants(event.FileOpen) {
		t.Error("wanted on a host that is left out")
	}
}
