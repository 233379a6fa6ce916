package audit

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/elastic/go-libaudit/v2/auparse"

	"github.com/taskguard/taskguard/collector/event"
)

// stateOf returns what a source says of a kind.
func stateOf(t *testing.T, s *Source, kind event.Kind) event.SourceState {
	t.Helper()
	for _, state := range s.State() {
		if state.Kind == kind {
			return state
		}
	}
	t.Fatalf("no state of %v", kind)
	return event.SourceState{}
}

// Where the configuration is locked and has no rules of use, the error says what to do, and nothing is tried.
func TestLockedWithoutRules(t *testing.T) {
	f := &fakeKernel{}
	f.status.Enabled = immutable
	f.rules = [][]byte{ruleOf(t, "b64", "auid>=1000", "foreign", 1, "execve", "execveat")}
	_, err := f.source(t, Config{Kinds: []event.Kind{event.ProcessExec}})
	if !errors.Is(err, ErrImmutable) ||
		!strings.Contains(err.Error(), `take "-e 2" out of /etc/audit/rules.d and reboot`) {
		t.Errorf("error is %v", err)
	}
	if f.changes != 0 || len(f.rules) != 1 {
		t.Errorf("%d changes were tried, %d rules are left", f.changes, len(f.rules))
	}
}

// Of a locked configuration those kinds are collected that its rules record all of, whoever put them there.
func TestLockedCollectsWhatIsRecorded(t *testing.T) {
	f := &fakeKernel{}
	f.status.Enabled = immutable
	for _, width := range []string{"b64", "b32"} {
		f.rules = append(f.rules,
			ruleOf(t, width, "", "foreign", 1, "execve"), ruleOf(t, width, "", "other", 1, "execveat", "kill"),
			// Left by a run of ours that has ended.
			ruleOf(t, width, "", testKey, 1234, "chmod", "fchmod", "fchmodat", "fchmodat2"),
			ruleOf(t, width, "auid>=1000", "foreign", 1, "ptrace"))
	}
	f.rules = append(f.rules, ruleOf(t, "b64", "", "foreign", 1, "memfd_create"))
	before := f.loaded(t)
	s, err := f.source(t, Config{Kinds: []event.Kind{
		event.ProcessExec, event.FileChmod, event.ProcessPtrace, event.MemoryMemfd, event.ProcessFork}})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []event.Kind{event.ProcessExec, event.FileChmod} {
		state := stateOf(t, s, kind)
		if !state.Healthy || state.Via != string(multicast) || !strings.Contains(state.Reason, "locked") {
			t.Errorf("state is %+v", state)
		}
	}
	for _, kind := range []event.Kind{event.ProcessPtrace, event.MemoryMemfd} { // some only, and 64-bit programs only
		if state := stateOf(t, s, kind); state.Via != "off" || !strings.Contains(state.Reason, "reboot") {
			t.Errorf("state is %+v", state)
		}
	}
	if state := stateOf(t, s, event.ProcessFork); state.Via != "off" || state.Reason != untold(event.ProcessFork) {
		t.Errorf("state is %+v", state)
	}
	number := uint32(slices.Index(syscallList("x86_64"), "ptrace"))
	if _, ok := (*s.calls.Load())[callKey{uint32(auparse.AUDIT_ARCH_X86_64), number}]; ok {
		t.Error("a kind that is off is decoded")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Run(ctx, nullSink{}); err != nil {
		t.Errorf("run: %v", err)
	}
	if f.changes != 0 || !slices.Equal(f.loaded(t), before) {
		t.Errorf("%d changes were tried", f.changes)
	}
}

// syscallList is the names of an architecture's calls by their numbers.
func syscallList(arch string) []string {
	list := make([]string, 512)
	for number, name := range auparse.AuditSyscalls[arch] {
		if number < len(list) {
			list[number] = name
		}
	}
	return list
}

// When the configuration is locked while we run, what is collected goes on, nothing can be added, and our rules stay.
func TestLockedWhileRunning(t *testing.T) {
	f := &fakeKernel{}
	f.status.Enabled = 1
	s, err := f.source(t, Config{Kinds: []event.Kind{event.ProcessExec}})
	if err != nil {
		t.Fatal(err)
	}
	f.status.Enabled = immutable
	if reason := (&watcher{source: s, sink: nullSink{}}).look(); reason != "" {
		t.Errorf("trouble: %s", reason)
	}
	if state := stateOf(t, s, event.ProcessExec); !state.Healthy || !strings.Contains(state.Reason, "locked") {
		t.Errorf("state is %+v", state)
	}
	if err := s.SetKinds([]event.Kind{event.ProcessExec, event.FileChmod}); err != nil {
		t.Fatal(err)
	}
	if state := stateOf(t, s, event.ProcessExec); !state.Healthy {
		t.Errorf("state is %+v", state)
	}
	if state := stateOf(t, s, event.FileChmod); state.Via != "off" || !strings.Contains(state.Reason, "reboot") {
		t.Errorf("state is %+v", state)
	}
	if err := s.Close(); err != nil || len(f.rules) == 0 {
		t.Errorf("close: %v, %d rules are left", err, len(f.rules))
	}
}

// What shares audit with us is named.
func TestStateNamesTheDaemon(t *testing.T) {
	f := &fakeKernel{}
	f.status.Enabled = 1
	s, err := f.source(t, Config{Kinds: []event.Kind{event.ProcessExec}})
	if err != nil {
		t.Fatal(err)
	}
	name, err := os.ReadFile("/proc/1/comm")
	if err != nil {
		t.Fatal(err)
	}
	want := "(" + strings.TrimSpace(string(name)) + ", pid 1)"
	if state := stateOf(t, s, event.ProcessExec); !state.Healthy || !strings.Contains(state.Reason, want) {
		t.Errorf("state is %+v, want %q in it", state, want)
	}
}

func TestPanicModeIsRefused(t *testing.T) {
	for _, enabled := range []uint32{0, 1, immutable} {
		f := &fakeKernel{}
		f.status.Enabled, f.status.Failure = enabled, panicOnFailure
		_, err := f.source(t, Config{})
		if !errors.Is(err, ErrPanicMode) || !strings.Contains(err.Error(), "auditctl -f 1") || f.changes != 0 {
			t.Errorf("error is %v after %d changes", err, f.changes)
		}
	}
}

// A kind of which the kernel refuses a rule is off, and none of its rules stay; the others are as if it was not wanted.
func TestRefusedKindIsOff(t *testing.T) {
	f := &fakeKernel{refuse: func(rule []byte) bool {
		return slices.ContainsFunc(conditions(rule), func(c condition) bool { return c.field == 113 }) // saddr_fam
	}}
	f.status.Enabled = 1
	s, err := f.source(t, Config{Kinds: []event.Kind{event.NetSend, event.NetConnect}})
	if err != nil {
		t.Fatal(err)
	}
	if state := stateOf(t, s, event.NetSend); state.Via != "off" || !strings.Contains(state.Reason, "invalid argument") {
		t.Errorf("state is %+v", state)
	}
	if state := stateOf(t, s, event.NetConnect); !state.Healthy {
		t.Errorf("state is %+v", state)
	}
	wantRules(t, f, nil, event.NetConnect)
}

// wantRules checks that those in the kernel are foreign ones and ours for kinds.
func wantRules(t *testing.T, f *fakeKernel, foreign []string, kinds ...event.Kind) {
	t.Helper()
	rules, err := buildRules(kinds, testKey, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(foreign)
	for _, r := range rules {
		want = append(want, r.text)
	}
	got := f.loaded(t)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("rules are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// However many change the kinds at once: in the end rules, states and decoder are those of one of them, and rules of
// others as they were.
func TestSetKindsConcurrently(t *testing.T) {
	f := &fakeKernel{}
	f.status.Enabled = 1
	f.rules = [][]byte{ruleOf(t, "b64", "", "foreign", 1, "execve"), ruleOf(t, "b64", "", testKey+"2", 1, "chmod")}
	foreign := f.loaded(t)
	s, err := f.source(t, Config{})
	if err != nil {
		t.Fatal(err)
	}
	wantRules(t, f, foreign, Kinds()...)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx, nullSink{}); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	sets := [][]event.Kind{nil, {event.ProcessExec}, {event.FileChmod, event.DNSQuery}, Kinds()}
	var setting sync.WaitGroup
	for i := range 16 {
		setting.Go(func() {
			if err := s.SetKinds(sets[i%len(sets)]); err != nil {
				t.Errorf("set kinds: %v", err)
			}
			s.State()
		})
	}
	setting.Wait()
	var wanted []event.Kind
	for _, state := range s.State() {
		wanted = append(wanted, state.Kind)
	}
	if !slices.ContainsFunc(sets, func(set []event.Kind) bool { return slices.Equal(set, wanted) }) {
		t.Errorf("wanted are %v", wanted)
	}
	wantRules(t, f, foreign, expressible(wanted)...)
	if got, want := len(*s.calls.Load()), len(callTable(expressible(wanted))); got != want {
		t.Errorf("%d calls are decoded, want %d", got, want)
	}
	cancel()
	running.Wait()
	wantRules(t, f, foreign)
	if err := s.SetKinds(nil); err == nil {
		t.Error("kinds can be set after the end")
	}
}
