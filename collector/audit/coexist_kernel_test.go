package audit

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-libaudit/v2"

	"github.com/taskguard/taskguard/collector/event"
)

// The kinds change while Run runs: what is added is told of, what goes is not, and the rules of others stay.
func TestKernelSetKinds(t *testing.T) {
	client := control(t)
	foreign := ruleOf(t, "b64", "", "foreign-"+testKey, 1, "fchmodat")
	if err := client.AddRule(foreign); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.DeleteRule(foreign); err != nil {
			t.Error(err)
		}
	})
	s, sink, _ := start(t, Config{Kinds: []event.Kind{event.ProcessExit}})
	run := func() []event.Kind {
		pid, _ := child(t, "do chmod", func(cmd *exec.Cmd) { cmd.Dir = t.TempDir() })
		sink.awaitKind(t, event.ProcessExit, pid)
		var kinds []event.Kind
		for _, e := range sink.of(pid) {
			kinds = append(kinds, e.Kind)
		}
		return kinds
	}
	// The foreign rule records chmods, but nobody wants them of us.
	if got := run(); !slices.Equal(got, []event.Kind{event.ProcessExit}) {
		t.Errorf("told of %v", got)
	}
	if err := s.SetKinds([]event.Kind{event.FileChmod, event.ProcessExit}); err != nil {
		t.Fatal(err)
	}
	if got := run(); !slices.Equal(got, []event.Kind{event.FileChmod, event.ProcessExit}) {
		t.Errorf("told of %v", got)
	}
	if err := s.SetKinds([]event.Kind{event.ProcessExit, event.ProcessExec}); err != nil {
		t.Fatal(err)
	}
	if got := run(); !slices.Equal(got, []event.Kind{event.ProcessExec, event.ProcessExit}) {
		t.Errorf("told of %v", got)
	}
	_, rules := snapshot(t, client)
	if own, err := buildRules([]event.Kind{event.ProcessExec, event.ProcessExit}, testKey, os.Getpid()); err != nil ||
		len(rules) != len(own)+1 || !strings.Contains(rules[0], "foreign-") {
		t.Errorf("rules are %q: %v", rules, err)
	}
}

// startOwner runs a source in another process, which becomes the audit daemon.
func startOwner(t *testing.T, key string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"AUDIT_TEST_ACTION=source", "AUDIT_TEST_KEY=" + key}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		rest, _ := io.ReadAll(out)
		t.Fatalf("child said %q: %v", line+string(rest), err)
	}
	return cmd
}

// Beside an owner of the unicast socket that is no auditd we listen, and say to whom; when it is gone we go on.
func TestKernelBesideAnotherOwner(t *testing.T) {
	client := control(t)
	before, _ := snapshot(t, client)
	t.Cleanup(func() { restore(t, client, before) }) // the owner is killed
	key := testKey + "-other"
	t.Cleanup(func() {
		if err := removeRules(client, key); err != nil {
			t.Error(err)
		}
	})
	owner := startOwner(t, key)
	besides, _ := snapshot(t, client)
	s, sink, _ := start(t, Config{Kinds: []event.Kind{event.ProcessExit}})
	want := fmt.Sprintf("(exe, pid %d)", owner.Process.Pid)
	if state := s.State()[0]; state.Via != "audit/multicast" || !state.Healthy || !strings.Contains(state.Reason, want) {
		t.Errorf("state is %+v, want %q in it", state, want)
	}
	if during, _ := snapshot(t, client); during != besides {
		t.Errorf("status is %+v, was %+v", during, besides)
	}
	pid, _ := child(t, "exit 6")
	sink.awaitKind(t, event.ProcessExit, pid)

	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait()
	pid, _ = child(t, "exit 7")
	sink.awaitKind(t, event.ProcessExit, pid)
	waitFree(t, client) // older kernels notice when they have a record to deliver
	if reason := (&watcher{source: s, sink: sink}).look(); reason != "" {
		t.Errorf("trouble: %s", reason)
	}
	if state := s.State()[0]; !state.Healthy || state.Reason != "" {
		t.Errorf("state is %+v", state)
	}
}

// startLocked opens a source as start does, where nothing can be put back at the end.
func startLocked(t *testing.T, kinds ...event.Kind) (*Source, *recorder, func()) {
	t.Helper()
	s, err := New(Config{Kinds: kinds, key: testKey})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	sink, done := newRecorder(), make(chan error, 1)
	go func() { done <- s.Run(ctx, sink) }()
	return s, sink, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run source: %v", err)
		}
	}
}

// lockForGood is what only a kernel that is thrown away afterwards can be asked for: its audit configuration cannot be
// changed until it is booted again.
func lockForGood(t *testing.T) {
	client, err := libaudit.NewAuditClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s, sink, stop := startLocked(t, event.ProcessExec, event.ProcessExit)
	if err := client.SetImmutable(libaudit.WaitForReply); err != nil {
		t.Fatal(err)
	}
	pid, _ := child(t, "exit 8")
	sink.awaitKind(t, event.ProcessExec, pid)
	sink.awaitKind(t, event.ProcessExit, pid)
	if reason := (&watcher{source: s, sink: sink}).look(); reason != "" {
		t.Errorf("trouble: %s", reason)
	}
	check := func(s *Source) {
		t.Helper()
		if state := stateOf(t, s, event.ProcessExec); !state.Healthy || !strings.Contains(state.Reason, "locked") {
			t.Errorf("state is %+v", state)
		}
		if state := stateOf(t, s, event.FileChmod); state.Via != "off" || !strings.Contains(state.Reason, "reboot") {
			t.Errorf("state is %+v", state)
		}
	}
	wanted := []event.Kind{event.ProcessExec, event.ProcessExit, event.FileChmod}
	if err := s.SetKinds(wanted); err != nil {
		t.Errorf("set kinds: %v", err)
	}
	check(s)
	stop()

	// The next run finds the rules of this one.
	s, sink, stop = startLocked(t, wanted...)
	check(s)
	if via := stateOf(t, s, event.ProcessExec).Via; via != string(multicast) {
		t.Errorf("collected by %s", via)
	}
	pid, _ = child(t, "exit 9")
	sink.awaitKind(t, event.ProcessExec, pid)
	sink.awaitKind(t, event.ProcessExit, pid)
	stop()
}
