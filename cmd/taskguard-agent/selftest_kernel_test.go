package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/leaktest"
)

// needRoot skips a test of the kernel tier, or fails it where TASKGUARD_REQUIRE names that.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("TASKGUARD_REQUIRE"), ","), "kernel") {
		t.Fatal("kernel tests must run as root")
	}
	t.Skip("kernel tests run as root only")
}

// Every action is done, or refused for a reason of the kernel's; and what it does is seen by nobody else.
func TestSelfTestActions(t *testing.T) {
	needRoot(t)
	var kinds []event.Kind
	for _, a := range actions() {
		for _, kind := range a.kinds {
			if slices.Contains(kinds, kind) {
				t.Errorf("two actions for %s", kind)
			}
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	sourced := slices.DeleteFunc(observable(), func(k event.Kind) bool { return slices.Contains(container.Kinds(), k) })
	if diff := cmp.Diff(sourced, kinds); diff != "" {
		t.Fatalf("kinds with an action (-observable by a source +action):\n%s", diff)
	}
	mounts, names := hostState(t)
	c, err := startAction(t.Context(), kinds)
	if err != nil {
		t.Fatal(err)
	}
	reports := c.reports(nil)
	for _, kind := range kinds {
		r, done := reports[kind]
		switch {
		case !done:
			t.Errorf("%s: no report", kind)
		case r.Error == "":
		case kind == event.ModuleLoad && (r.Errno == unix.ENOEXEC || r.Errno == unix.ENOSYS):
		case r.Errno == unix.ENOSYS:
			t.Logf("%s: this kernel does not have it", kind)
		default:
			t.Errorf("%s: %s (errno %d)", kind, r.Error, r.Errno)
		}
	}
	if m, n := hostState(t); m != mounts || n != names {
		t.Errorf("the host's mounts or its temporary files have changed:\n%s\n%s\n%s\n%s", mounts, m, names, n)
	}
}

// hostState is what a child that escaped from its namespaces would change.
func hostState(t *testing.T) (mounts, names string) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(os.TempDir() + "/taskguard[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	return string(text), strings.Join(found, " ")
}

// The whole way: what the child does is in a sealed batch, for every kind that this kernel lets be observed; and
// nothing is left behind.
func TestSelfTestOfThisHost(t *testing.T) {
	needRoot(t)
	hierarchy, err := container.FindHierarchy("/proc")
	if err != nil {
		t.Fatal(err)
	}
	cfg := defaultConfig()
	cfg.Audit = false // which may be somebody else's here
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	test := func(off ...event.Kind) {
		cfg.Events.Off = off
		p, err := openProbe(cfg, hierarchy, nil, log)
		if err != nil {
			t.Fatal(err)
		}
		states, err := p.run(t.Context())
		if err != nil {
			t.Error(err)
		}
		tested := 0
		for _, s := range states {
			v := p.selfTest.verdict(s.Kind)
			switch {
			case s.Via == viaOff && v != nil:
				t.Errorf("%s is off, and was tested: %+v", s.Kind, v)
			case s.Via == viaOff:
			case v == nil || v.Result == failed || !s.Healthy:
				t.Errorf("%s: %+v, %+v", s.Kind, s, v)
			case v.Result == passed:
				tested++
			default:
				t.Logf("%s: %s", s.Kind, v.Reason)
			}
		}
		if tested < 2 { // exec and fork, which every kernel lets be observed
			t.Errorf("%d kinds tested", tested)
		}
		if v := p.selfTest.verdict(event.ProcessExec); v == nil || v.Result != passed {
			t.Errorf("process.exec: %+v", v)
		}
		if l := p.sender.Ledger(); len(l.Lost) > 0 {
			t.Errorf("lost %v: %v", l.Lost, l.LostByKind)
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(p.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its spool is still there: %v", err)
		}
	}
	few := []event.Kind{event.ProcessExec, event.ProcessFork}
	// Whatever is opened once and for all.
	test(slices.DeleteFunc(observable(), func(k event.Kind) bool { return slices.Contains(few, k) })...)
	nothingIsLeft := leaktest.Check(t)
	test(event.ProcessExit)
	nothingIsLeft()
}

// A source that delivers nothing is found out: here, as the settings leave out what the child does without its
// knowledge.
func TestSelfTestFindsSilence(t *testing.T) {
	needRoot(t)
	hierarchy, err := container.FindHierarchy("/proc")
	if err != nil {
		t.Fatal(err)
	}
	cfg := defaultConfig()
	cfg.Audit = false
	cfg.Events.Off = slices.DeleteFunc(observable(), func(k event.Kind) bool { return k == event.FileOpen })
	p, err := openProbe(cfg, hierarchy, nil, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	silent := cfg.Events
	silent.Off = observable()
	if err := p.sources.coverage.ebpf.Apply(silent); err != nil { // behind the back of what decides
		t.Fatal(err)
	}
	p.sources.coverage.ebpf = observing{p.sources.coverage.ebpf}
	if len(p.sources.observed()) != 1 {
		t.Fatalf("observed: %v", p.sources.observed())
	}
	states, err := p.run(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, s := range states {
		if s.Kind == event.FileOpen && (s.Healthy || !strings.Contains(s.Reason, "self-test: no event")) {
			t.Errorf("%+v, want it unhealthy", s)
		}
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
}

// observing is a source that says of file.open that all is well, and that there is no other way to observe it.
type observing struct{ kernelSource }

func (observing) NextRung(event.Kind, string) bool { return false }

func (o observing) State() []event.SourceState {
	return []event.SourceState{{Kind: event.FileOpen, Via: "ebpf/tracepoint", Healthy: true}}
}

func TestCheckPrintsJSON(t *testing.T) {
	c := checker{kindTable: newKindTable([]event.SourceState{{Kind: event.FileOpen, Via: "off", Reason: "none"}},
		newSelfTest(nil, nil, nil))}
	c.line("endpoint", errors.New("no"), "")
	c.note("kernel", "new")
	var out bytes.Buffer
	if err := c.print(&out, true, false); err != nil {
		t.Fatal(err)
	}
	var got any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"checks": []any{
			map[string]any{"check": "endpoint", "result": "failed", "detail": "no"},
			map[string]any{"check": "kernel", "result": "note", "detail": "new"},
		},
		"kinds":   map[string]any{},
		"sources": map[string]any{"file.open": map[string]any{"via": "off", "healthy": false, "reason": "none"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := c.failed(); n != 2 {
		t.Errorf("%d failed, want the endpoint and file.open", n)
	}
}
