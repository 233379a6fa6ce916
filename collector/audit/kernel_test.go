package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/elastic/go-libaudit/v2"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// fakeProc makes a procfs of a process in the given pid namespace.
func fakeProc(t *testing.T, cmdline, pid, net string) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"self/ns", "1/ns"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(root, "cmdline"), []byte(cmdline), 0o644),
		os.Symlink(pid, filepath.Join(root, "self/ns/pid")),
		os.Symlink(net, filepath.Join(root, "self/ns/net")),
		os.Symlink("net:[1]", filepath.Join(root, "1/ns/net")),
	); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestExplain(t *testing.T) {
	host := fakeProc(t, "quiet audit=1\n", initialPID, "net:[1]")
	for _, c := range []struct {
		err    error
		proc   string
		want   error
		remedy string
	}{
		{unix.EPERM, host, ErrNotPermitted, "CAP_AUDIT_CONTROL"},
		{unix.EPERM, fakeProc(t, "", "pid:[7]", "net:[1]"), ErrNamespace, "host's pid namespace"},
		{unix.ECONNREFUSED, host, ErrNamespace, "host's user namespace"},
		{unix.EPROTONOSUPPORT, host, ErrUnsupported, "CONFIG_AUDIT"},
		{unix.EPROTONOSUPPORT, fakeProc(t, "ro audit=0\n", initialPID, "net:[1]"), ErrUnsupported, "remove audit=0"},
		{unix.EPERM, filepath.Join(host, "none"), ErrNotPermitted, "CAP_AUDIT_CONTROL"},
	} {
		got := explain(c.err, c.proc)
		if !errors.Is(got, c.want) || !errors.Is(got, c.err) || !strings.Contains(got.Error(), c.remedy) {
			t.Errorf("%v is explained as %q, want %v with %q", c.err, got, c.want, c.remedy)
		}
	}
	if got := explain(unix.EIO, host); got != unix.EIO {
		t.Errorf("EIO is explained as %q", got)
	}
}

func TestInHostNetwork(t *testing.T) {
	if !inHostNetwork(fakeProc(t, "", initialPID, "net:[1]")) || inHostNetwork(fakeProc(t, "", initialPID, "net:[2]")) {
		t.Error("network namespaces are not told apart")
	}
}

func TestBesideADaemonWithAuditOff(t *testing.T) {
	k := &kernel{}
	err := k.openMulticast(&libaudit.AuditStatus{Enabled: 0, PID: 7})
	if !errors.Is(err, ErrSwitchedOff) || !strings.Contains(err.Error(), "auditctl -e 1") {
		t.Errorf("beside a daemon with audit off: %v", err)
	}
}

// What was changed is undone last in, first out; also when one undoing fails.
func TestReleaseUndoesInReverse(t *testing.T) {
	var order []string
	k := &kernel{}
	for _, name := range []string{"a", "b", "c"} {
		k.steps = append(k.steps, step{undo: func() error { order = append(order, name); return errors.New(name) }})
	}
	err := k.release()
	if strings.Join(order, "") != "cba" || err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("undone in order %v: %v", order, err)
	}
	if err := k.release(); err != nil || len(order) != 3 {
		t.Errorf("undone twice: %v", err)
	}
}

func TestRules(t *testing.T) {
	rules, err := buildRules(Kinds(), "k", 42)
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, r := range rules {
		if !strings.HasPrefix(r.text, "-a always,exit -F arch=b") || !strings.HasSuffix(r.text, " -F pid!=42 -F key=k") {
			t.Errorf("rule %q", r.text)
		}
		for _, kind := range r.kinds {
			told[strings.Fields(r.text)[3][len("arch="):]+" "+kind.String()] = true
		}
	}
	for _, width := range []string{"b64", "b32"} {
		for _, kind := range Kinds() {
			if !told[width+" "+kind.String()] {
				t.Errorf("no rule for %v of %s programs", kind, width)
			}
		}
	}
	// Calls that share a filter share a rule: every system call on the host walks the list.
	if len(rules) > 29 {
		t.Errorf("%d rules", len(rules))
	}
	if rules, err := buildRules([]event.Kind{event.DNSQuery}, "k", 42); err != nil || len(rules) != 0 {
		t.Errorf("%d rules for a kind that audit does not tell of: %v", len(rules), err)
	}
}

// A filter that an argument's upper half can avoid would hide what the kernel does: it takes the lower half.
func TestFiltersCannotBeAvoided(t *testing.T) {
	for _, s := range watched() {
		for condition := range strings.FieldsSeq(s.filter) {
			if strings.HasPrefix(condition, "a") && !strings.ContainsAny(condition, "&!") {
				t.Errorf("%v: %q compares all 64 bits", s.names, condition)
			}
		}
	}
}

func TestLostSince(t *testing.T) {
	for _, c := range [][3]uint32{{5, 5, 0}, {5, 9, 4}, {1<<32 - 1, 1, 2}, {500, 3, 3}} {
		if got := lostSince(c[0], c[1]); got != c[2] {
			t.Errorf("from %d to %d: %d, want %d", c[0], c[1], got, c[2])
		}
	}
}

func TestStateSaysWhy(t *testing.T) {
	s := &Source{
		config:  Config{}.withDefaults(),
		kinds:   []event.Kind{event.ProcessExec, event.NetConnect, event.DNSQuery},
		mode:    unicast,
		refused: map[event.Kind]string{event.NetConnect: "no"},
	}
	status := libaudit.AuditStatus{Enabled: 1, PID: 1}
	s.trip(trouble(&status, unicast))
	want := []event.SourceState{
		{Kind: event.ProcessExec, Via: "audit/unicast",
			Reason: "another process took the place of audit daemon (pid 1): restart the agent"},
		{Kind: event.NetConnect, Via: "off", Reason: "no"},
		{Kind: event.DNSQuery, Via: "off", Reason: "audit records do not hold what is sent and received"},
	}
	for i, state := range s.State() {
		if state != want[i] {
			t.Errorf("state is %+v, want %+v", state, want[i])
		}
	}
	status.PID = uint32(os.Getpid())
	s.trip(trouble(&status, unicast))
	if state := s.State()[0]; !state.Healthy || state.Reason != "" {
		t.Errorf("state after recovery is %+v", state)
	}
	status.Enabled = 0
	if trouble(&status, multicast) == "" {
		t.Error("audit switched off is no trouble")
	}
}
