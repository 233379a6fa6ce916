package audit

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/rule"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/leaktest"
)

var capture = flag.String("capture", "", "append the records of the trigger tests to this file")

// testKey keeps the tests off the rules of an agent that runs on the same machine.
var testKey = "taskguard-test-" + strconv.Itoa(os.Getpid())

// TestMain lets the test binary be the child that does what the tests look for.
func TestMain(m *testing.M) {
	if action := os.Getenv("AUDIT_TEST_ACTION"); action != "" {
		os.Exit(act(action))
	}
	os.Exit(m.Run())
}

// act does one thing to be observed. Its exit code is part of it.
func act(action string) int {
	word, arg, _ := strings.Cut(action, " ")
	switch word {
	case "exit":
		code, _ := strconv.Atoi(arg)
		return code
	case "connect":
		return connectTo(arg)
	case "open":
		fd, err := unix.Open(arg, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
		return errnoCode(fd, err)
	case "openat":
		dir, err := unix.Open(filepath.Dir(arg), unix.O_RDONLY, 0)
		if err != nil {
			return 99
		}
		fd, err := unix.Openat(dir, filepath.Base(arg), unix.O_RDWR, 0)
		return errnoCode(fd, err)
	case "openat2":
		fd, err := unix.Openat2(unix.AT_FDCWD, arg, &unix.OpenHow{Flags: unix.O_RDWR | unix.O_APPEND})
		return errnoCode(fd, err)
	case "truncate":
		return errnoCode(0, unix.Truncate(arg, 0))
	case "do":
		return doActivity(arg)
	case "source":
		return runUntilKilled()
	case "powerless":
		none := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := unix.Capset(none, &make([]unix.CapUserData, 2)[0]); err != nil {
			return 99
		}
		return runUntilKilled()
	}
	return 98
}

func errnoCode(fd int, err error) int {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return int(errno)
	}
	return 0
}

func connectTo(target string) int {
	network, address, _ := strings.Cut(target, " ")
	var sa unix.Sockaddr = &unix.SockaddrUnix{Name: address}
	family := unix.AF_UNIX
	if network != "unix" {
		to := netip.MustParseAddrPort(address)
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
		if to.Addr().Is4() {
			family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
		}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return 99
	}
	return errnoCode(fd, unix.Connect(fd, sa))
}

// runUntilKilled is a source in a process of its own.
func runUntilKilled() int {
	s, err := New(Config{key: os.Getenv("AUDIT_TEST_KEY")})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	if err := s.Run(context.Background(), &recorder{}); err != nil {
		return 1
	}
	return 0
}

// child starts this binary again to do an action, and waits for it.
func child(t *testing.T, action string, prepare ...func(*exec.Cmd)) (pid int, code int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"AUDIT_TEST_ACTION=" + action}
	for _, f := range prepare {
		f(cmd)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("start child: %v", err)
	}
	return cmd.ProcessState.Pid(), cmd.ProcessState.ExitCode()
}

// needKernel skips where audit cannot be used, and fails where it must be.
func needKernel(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "audit rules need root")
	}
}

// skip skips, but fails where the kernel tests are required.
func skip(t *testing.T, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("TASKGUARD_REQUIRE"), ","), "kernel") {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// control opens a client, and sees that the test leaves the audit configuration as it found it.
func control(t *testing.T) *libaudit.AuditClient {
	t.Helper()
	needKernel(t)
	client, err := libaudit.NewAuditClient(nil)
	if err != nil {
		t.Fatalf("open audit client: %v", err)
	}
	waitFree(t, client)
	before, rules := snapshot(t, client)
	t.Cleanup(func() {
		defer client.Close()
		if err := removeRules(client, testKey); err != nil {
			t.Errorf("clean up: %v", err)
		}
		after, rulesAfter := snapshot(t, client)
		if after != before {
			t.Errorf("audit status after the test is %+v, was %+v", after, before)
			restore(t, client, before)
		}
		if !slices.Equal(rulesAfter, rules) {
			t.Errorf("audit rules after the test are %q, were %q", rulesAfter, rules)
		}
	})
	return client
}

// waitFree waits for other tests on this machine that are the audit daemon.
func waitFree(t *testing.T, client *libaudit.AuditClient) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		status, err := client.GetStatus()
		if err != nil {
			t.Fatalf("read audit status: %v", err)
		}
		if status.PID == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("an audit daemon runs (pid %d): stop it for these tests", status.PID)
		}
	}
}

func snapshot(t *testing.T, client *libaudit.AuditClient) (libaudit.AuditStatus, []string) {
	t.Helper()
	status, err := client.GetStatus()
	if err != nil {
		t.Fatalf("read audit status: %v", err)
	}
	// What counts, and says nothing of the configuration.
	status.Lost, status.Backlog, status.BacklogWaitTimeActual, status.Mask = 0, 0, 0, 0
	raw, err := client.GetRules()
	if err != nil {
		t.Fatalf("list rules: %v", err)
	}
	return *status, ruleTexts(raw)
}

// ruleTexts gives rules the form of auditctl(8).
func ruleTexts(raw [][]byte) []string {
	var rules []string
	for _, r := range raw {
		text, err := rule.ToCommandLine(r, false)
		if err != nil {
			text = err.Error()
		}
		rules = append(rules, text)
	}
	return rules
}

func restore(t *testing.T, client *libaudit.AuditClient, to libaudit.AuditStatus) {
	t.Helper()
	if err := errors.Join(
		client.SetBacklogWaitTime(int32(to.BacklogWaitTime), libaudit.WaitForReply),
		client.SetBacklogLimit(to.BacklogLimit, libaudit.WaitForReply),
		client.SetEnabled(to.Enabled != 0, libaudit.WaitForReply),
	); err != nil {
		t.Errorf("restore audit status: %v", err)
	}
}

// recorder is a sink that keeps everything.
type recorder struct {
	mu     sync.Mutex
	events []event.Event
	lost   map[string]uint64
	more   chan struct{} // gets a token when there is something new
}

func newRecorder() *recorder {
	return &recorder{lost: map[string]uint64{}, more: make(chan struct{}, 1)}
}

func (r *recorder) Emit(e *event.Event) {
	c := *e
	c.Process, c.Target, c.File, c.Net = copyOf(e.Process), copyOf(e.Target), copyOf(e.File), copyOf(e.Net)
	c.SetID, c.Ptrace, c.Namespace, c.FS = copyOf(e.SetID), copyOf(e.Ptrace), copyOf(e.Namespace), copyOf(e.FS)
	c.Memory, c.Module, c.BPF, c.IOUring = copyOf(e.Memory), copyOf(e.Module), copyOf(e.BPF), copyOf(e.IOUring)
	r.mu.Lock()
	r.events = append(r.events, c)
	r.mu.Unlock()
	r.tell()
}

func copyOf[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

func (r *recorder) Lost(kind event.Kind, stage, cause string, n uint64) {
	r.mu.Lock()
	if r.lost == nil {
		r.lost = map[string]uint64{}
	}
	r.lost[fmt.Sprintf("%d %s/%s", kind, stage, cause)] += n
	r.mu.Unlock()
	r.tell()
}

func (r *recorder) tell() {
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// await returns the first event that match takes.
func (r *recorder) await(t *testing.T, what string, match func(*event.Event) bool) event.Event {
	t.Helper()
	e, _ := r.awaitOrLoss(t, what, match, "")
	return e
}

// awaitOrLoss returns the first event that match takes, and true; or false when there is such a loss.
func (r *recorder) awaitOrLoss(t *testing.T, what string, match func(*event.Event) bool, loss string) (
	event.Event, bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		r.mu.Lock()
		i := slices.IndexFunc(r.events, func(e event.Event) bool { return match(&e) })
		var e event.Event
		if i >= 0 {
			e = r.events[i]
		}
		lost := r.lost[loss]
		r.mu.Unlock()
		if i >= 0 || lost > 0 {
			return e, i >= 0
		}
		select {
		case <-r.more:
		case <-timeout:
			t.Fatalf("no event: %s; lost: %v", what, r.lost)
		}
	}
}

func (r *recorder) awaitKind(t *testing.T, kind event.Kind, pid int) event.Event {
	t.Helper()
	return r.await(t, fmt.Sprintf("%v of %d", kind, pid), func(e *event.Event) bool {
		return e.Kind == kind && e.Process.PID == uint32(pid)
	})
}

// start runs a source until the test, or the function it returns, ends it.
func start(t *testing.T, config Config) (*Source, *recorder, func()) {
	t.Helper()
	config.key = testKey
	config.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	if *capture != "" {
		f, err := os.OpenFile(*capture, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		config.Records = &descendants{
			out: f, pids: map[string]bool{strconv.Itoa(os.Getpid()): true}, events: map[string][]string{},
		}
	}
	s, err := New(config)
	if err != nil {
		t.Fatalf("open source: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	sink := newRecorder()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, sink) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run source: %v", err)
		}
	})
	t.Cleanup(stop)
	return s, sink, stop
}

// descendants is a writer of records that passes on those of this process's descendants: what else happens on the
// machine is nobody's business.
type descendants struct {
	out    io.Writer
	pids   map[string]bool
	events map[string][]string // lines of the events that are under way, by their stamps
}

// Write implements io.Writer for one line.
func (w *descendants) Write(line []byte) (int, error) {
	stamp := strings.Fields(string(line))[1]
	w.events[stamp] = append(w.events[stamp], string(line))
	if !strings.HasPrefix(string(line), "type=EOE ") {
		return len(line), nil
	}
	event := w.events[stamp]
	delete(w.events, stamp)
	for _, l := range event {
		if !strings.HasPrefix(l, "type=SYSCALL ") {
			continue
		}
		if w.pids[string(fieldOf([]byte(l), "ppid"))] {
			w.pids[string(fieldOf([]byte(l), "pid"))] = true
			_, err := io.WriteString(w.out, strings.Join(event, ""))
			return len(line), err
		}
	}
	return len(line), nil
}

// wantProcess checks what every event of a child that runs this binary says of its process.
func wantProcess(t *testing.T, e event.Event) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := e.Process
	if p.PPID != uint32(os.Getpid()) || p.Exe != exe || p.ExeDeleted || p.UID != 0 || p.EUID != 0 ||
		p.GID != 0 || p.EGID != 0 || p.Truncated != 0 || p.Partial || p.Start != 0 {
		t.Errorf("process of %v is %+v", e.Kind, *p)
	}
	// The kernel gives it the name of the link it was started by.
	if p.Name != "exe" {
		t.Errorf("process name is %q, want exe", p.Name)
	}
	if age := time.Since(e.Time); age < 0 || age > time.Minute {
		t.Errorf("event is %v old", age)
	}
}

func TestKernelExecAndExit(t *testing.T) {
	control(t)
	_, sink, _ := start(t, Config{})
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"renamed", "-c", "exit 37", "", "two words", "\"quoted\"", "\x01\xff", "?", "(null)",
		strings.Repeat("x", 9000)}
	cmd := exec.Command("/bin/sh")
	cmd.Dir, cmd.Args, cmd.Env = "/usr", args, []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 1}}
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != 37 {
		t.Fatalf("child: %v", err)
	}
	process := event.Process{
		PID: uint32(cmd.Process.Pid), PPID: uint32(os.Getpid()), Name: "sh", Exe: shell,
		UID: 65534, EUID: 65534, GID: 1, EGID: 1,
	}

	e := sink.awaitKind(t, event.ProcessExec, cmd.Process.Pid)
	want := process
	want.Args, want.Cwd = event.NewArgv(args), "/usr"
	if !reflect.DeepEqual(*e.Process, want) || e.Result != 0 {
		t.Errorf("exec is %+v with result %d, want %+v", *e.Process, e.Result, want)
	}

	e = sink.awaitKind(t, event.ProcessExit, cmd.Process.Pid)
	want = process
	want.Exit = event.Exit{Ended: true, Code: 37}
	if !reflect.DeepEqual(*e.Process, want) || e.Result != 0 {
		t.Errorf("exit is %+v with result %d, want %+v", *e.Process, e.Result, want)
	}
}

func TestKernelExecOfScript(t *testing.T) {
	control(t)
	_, sink, _ := start(t, Config{Kinds: []event.Kind{event.ProcessExec}})
	dir := t.TempDir()
	script := filepath.Join(dir, "a script")
	if err := os.WriteFile(script, []byte("#!/bin/sh -e\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("./a script", "one")
	cmd.Dir = dir
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}

	e := sink.awaitKind(t, event.ProcessExec, cmd.ProcessState.Pid())
	want := event.Process{
		PID: uint32(cmd.Process.Pid), PPID: uint32(os.Getpid()), Name: "a script", Exe: shell, Cwd: dir, Script: script,
		Args: event.NewArgv([]string{"/bin/sh", "-e", "./a script", "one"}),
	}
	if !reflect.DeepEqual(*e.Process, want) {
		t.Errorf("exec of a script is %+v, want %+v", *e.Process, want)
	}
}

// Of an endless argument list the beginning is kept, and its length told.
func TestKernelCutsArguments(t *testing.T) {
	control(t)
	_, sink, _ := start(t, Config{Kinds: []event.Kind{event.ProcessExec}})
	args := []string{"true", strings.Repeat("y", 100_000), strings.Repeat("two words ", 10_000)}
	cmd := exec.Command("/bin/true")
	cmd.Args = args
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}

	p := sink.awaitKind(t, event.ProcessExec, cmd.ProcessState.Pid()).Process
	whole := event.NewArgv(args)
	if p.Args != whole[:maxArgs] || p.ArgsLength != uint32(len(whole)) || p.Truncated != event.FieldArgs {
		t.Errorf("kept %d bytes of arguments, length %d, want %d; truncated %v",
			len(p.Args), p.ArgsLength, len(whole), p.Truncated)
	}
	if p.Cwd == "" || p.Exe == "" {
		t.Errorf("records behind the arguments were not read: %+v", *p)
	}
}

func TestKernelConnect(t *testing.T) {
	control(t)
	_, sink, _ := start(t, Config{Kinds: []event.Kind{event.NetConnect}})
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	v4 := netip.MustParseAddrPort(tcp.Addr().String())
	path := filepath.Join(t.TempDir(), "s")
	for _, name := range []string{path, "@" + testKey} {
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	refused := int32(unix.ECONNREFUSED)
	inet := func(family event.Family, to netip.AddrPort) event.Net {
		return event.Net{Socket: event.Socket{Family: family, RemoteIP: to.Addr(), RemotePort: to.Port()}}
	}
	unixTo := func(path string) event.Net {
		return event.Net{Socket: event.Socket{Family: event.Unix}, Path: path}
	}
	for _, c := range []struct {
		target string
		want   event.Net
		result int32
	}{
		{"tcp " + v4.String(), inet(event.INET, v4), 0},
		{"tcp 127.0.0.1:1", inet(event.INET, netip.MustParseAddrPort("127.0.0.1:1")), refused},
		{"tcp [::1]:1", inet(event.INET6, netip.MustParseAddrPort("[::1]:1")), refused},
		{"tcp [::ffff:127.0.0.1]:1", inet(event.INET6, netip.MustParseAddrPort("127.0.0.1:1")), refused},
		{"unix " + path, unixTo(path), 0},
		{"unix @" + testKey, unixTo("@" + testKey), 0},
		{"unix " + path + ".none", unixTo(path + ".none"), int32(unix.ENOENT)},
		{"unix @" + testKey + " none", unixTo("@" + testKey + " none"), refused},
	} {
		pid, code := child(t, "connect "+c.target)
		if code != int(c.result) {
			t.Fatalf("connect %s: child got errno %d, want %d", c.target, code, c.result)
		}
		e := sink.awaitKind(t, event.NetConnect, pid)
		wantProcess(t, e)
		if *e.Net != c.want || e.Result != c.result || e.File != nil {
			t.Errorf("connect %s is %+v with result %d, want %+v with %d", c.target, *e.Net, e.Result, c.want, c.result)
		}
	}
}

func TestKernelOpenForWriting(t *testing.T) {
	control(t)
	_, sink, _ := start(t, Config{Kinds: []event.Kind{event.FileOpen}})
	dir := t.TempDir()
	file := filepath.Join(dir, "a file")
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	creating := event.OpenFlags(unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC)
	for _, c := range []struct {
		action, dir string
		path        string
		flags       event.OpenFlags
		result      int32
		cut         event.Fields
	}{
		{"open " + file, "/", file, creating, 0, 0},
		{"open a file", dir, file, creating, 0, 0},
		{"open ./../a file", sub, file, creating, 0, 0},
		{"open a file", "/proc", "/proc/", creating, int32(unix.ENOENT), event.FieldPath},
		{"open none/file", dir, filepath.Join(dir, "none/file"), creating, int32(unix.ENOENT), 0},
		{"openat " + file, "/", "a file", unix.O_RDWR, 0, event.FieldPath},
		{"openat2 " + file, "/", file, unix.O_RDWR | unix.O_APPEND, 0, 0},
		{"truncate a file", dir, file, unix.O_WRONLY | unix.O_TRUNC, 0, 0},
		{"truncate none", dir, filepath.Join(dir, "none"), unix.O_WRONLY | unix.O_TRUNC, int32(unix.ENOENT), 0},
	} {
		pid, code := child(t, c.action, func(cmd *exec.Cmd) { cmd.Dir = c.dir })
		if code != int(c.result) {
			t.Fatalf("%s: child got errno %d, want %d", c.action, code, c.result)
		}
		loss := ""
		if strings.HasPrefix(c.action, "openat2 ") {
			loss = fmt.Sprintf("%d decode/incomplete", event.FileOpen)
		}
		e, told := sink.awaitOrLoss(t, c.action, func(e *event.Event) bool {
			return e.Process.PID == uint32(pid) && e.File != nil
		}, loss)
		if !told {
			t.Log("before Linux 5.16 no record tells the flags of openat2(2): counted as lost")
			continue
		}
		wantProcess(t, e)
		want := event.File{Path: strings.TrimSuffix(c.path, "/"), Flags: c.flags, Truncated: c.cut}
		if c.result == 0 {
			want.Device, want.Inode = identity(t, file)
		}
		if *e.File != want || e.Result != c.result || e.Net != nil {
			t.Errorf("%s in %s is %+v with result %d, want %+v", c.action, c.dir, *e.File, e.Result, want)
		}
	}
}

func identity(t *testing.T, path string) (event.Device, uint64) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return event.Device(unix.Major(st.Dev)<<20 | unix.Minor(st.Dev)), st.Ino
}

// What is alone changes what it must, and puts it back; files and goroutines too.
func TestKernelUnicastRestoresEverything(t *testing.T) {
	client := control(t)
	before, rulesBefore := snapshot(t, client)
	nothingIsLeft := leaktest.Check(t)

	s, _, stop := start(t, Config{})
	during, rules := snapshot(t, client)
	if during.PID != uint32(os.Getpid()) || during.Enabled != 1 || during.BacklogWaitTime != 0 {
		t.Errorf("status while running alone is %+v", during)
	}
	if during.Failure != before.Failure || during.RateLimit != before.RateLimit {
		t.Errorf("failure mode or rate limit changed: %+v, was %+v", during, before)
	}
	for _, r := range rules[len(rulesBefore):] {
		if !strings.HasSuffix(r, "-F pid!="+strconv.Itoa(os.Getpid())+" -F key="+testKey) {
			t.Errorf("rule %q is not marked as ours or does not leave us out", r)
		}
	}
	for _, state := range s.State() {
		if state.Via != "audit/unicast" || !state.Healthy || state.Reason != "" {
			t.Errorf("state is %+v", state)
		}
	}
	stop()

	after, rulesAfter := snapshot(t, client)
	if after != before || !slices.Equal(rulesAfter, rulesBefore) {
		t.Errorf("left %+v and %q, found %+v and %q", after, rulesAfter, before, rulesBefore)
	}
	nothingIsLeft()
}

// A run that was killed leaves rules behind; the next one takes them over, and removes them in the end.
func TestKernelAdoptsWhatAKilledRunLeft(t *testing.T) {
	client := control(t)
	before, _ := snapshot(t, client)
	// What the killed run cannot put back.
	t.Cleanup(func() { restore(t, client, before) })

	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"AUDIT_TEST_ACTION=source", "AUDIT_TEST_KEY=" + testKey}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("child said %q: %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	left, err := loadedRules(client, testKey)
	if err != nil || len(left) == 0 {
		t.Fatalf("the killed run left %d rules: %v", len(left), err)
	}

	_, sink, stop := start(t, Config{})
	now, err := loadedRules(client, testKey)
	if err != nil || len(now) != len(left) {
		t.Errorf("%d rules are loaded, want %d: %v", len(now), len(left), err)
	}
	for _, r := range now {
		if strings.Contains(r.text, "pid!="+strconv.Itoa(cmd.Process.Pid)+" ") {
			t.Errorf("rule of the killed run is still there: %s", r.text)
		}
	}
	pid, _ := child(t, "exit 3")
	sink.awaitKind(t, event.ProcessExit, pid)
	stop()
	if now, err := loadedRules(client, testKey); err != nil || len(now) != 0 {
		t.Errorf("%d rules stay after the end: %v", len(now), err)
	}
}

// Where audit cannot be used the error says why, and what to do.
func TestKernelSaysWhyNot(t *testing.T) {
	control(t)
	own := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	for _, c := range []struct {
		action string
		attr   syscall.SysProcAttr
		want   error
		remedy string
	}{
		{"powerless", syscall.SysProcAttr{}, ErrNotPermitted, "CAP_AUDIT_CONTROL"},
		{"source", syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, ErrNamespace, "pid namespace"},
		{"source", syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: own, GidMappings: own},
			ErrNamespace, "user namespace"},
	} {
		var out strings.Builder
		_, code := child(t, c.action, func(cmd *exec.Cmd) { cmd.SysProcAttr, cmd.Stdout = &c.attr, &out })
		if code != 1 || !strings.Contains(out.String(), c.want.Error()) || !strings.Contains(out.String(), c.remedy) {
			t.Errorf("%s exited with %d and %q, want %v with %q", c.action, code, out.String(), c.want, c.remedy)
		}
	}
}

// Rules that somebody removes (auditctl -D, or augenrules when it loads) are put back.
func TestKernelMendsRules(t *testing.T) {
	client := control(t)
	s, sink, _ := start(t, Config{Kinds: []event.Kind{event.ProcessExit}})
	if err := removeRules(client, testKey); err != nil {
		t.Fatal(err)
	}
	if reason := (&watcher{source: s, sink: sink}).look(); reason != "" {
		t.Fatalf("not mended: %s", reason)
	}
	pid, _ := child(t, "exit 4")
	sink.awaitKind(t, event.ProcessExit, pid)
}

// startAuditd runs the distribution's daemon with a configuration of its own, and returns its log and a function
// that ends it.
func startAuditd(t *testing.T) (cmd *exec.Cmd, log string, stop func()) {
	t.Helper()
	auditd, err := exec.LookPath("auditd")
	if err != nil {
		skip(t, "auditd is not installed")
	}
	dir := t.TempDir()
	log = filepath.Join(dir, "audit.log")
	plugins := filepath.Join(dir, "plugins.d")
	config := "local_events = yes\nwrite_logs = yes\nlog_file = " + log + "\nlog_format = RAW\nlog_group = root\n" +
		"flush = NONE\nplugin_dir = " + plugins + "\n" +
		"space_left = 75\nspace_left_action = IGNORE\nadmin_space_left = 50\nadmin_space_left_action = IGNORE\n" +
		"disk_full_action = IGNORE\ndisk_error_action = IGNORE\n"
	if err := errors.Join(os.Mkdir(plugins, 0o750), os.Chmod(dir, 0o750),
		os.WriteFile(filepath.Join(dir, "auditd.conf"), []byte(config), 0o640)); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(auditd, "-n", "-s", "enable", "-c", dir)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(stderr)
		said <- string(all)
	}()
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		text := <-said
		if err := cmd.Wait(); err != nil {
			t.Logf("auditd: %v: %s", err, text)
		}
	})
	t.Cleanup(stop)
	return cmd, log, stop
}

// awaitDaemon waits until a process is the audit daemon, and reports whether it became it before it ended.
func awaitDaemon(t *testing.T, client *libaudit.AuditClient, pid int) bool {
	t.Helper()
	for range 200 {
		status, err := client.GetStatus()
		if err != nil {
			t.Fatal(err)
		}
		if status.PID == uint32(pid) {
			return true
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return false
		}
		time.Sleep(10 * time.Millisecond) // the kernel tells nobody
	}
	return false
}

// awaitLog waits until auditd's log holds a line with all the words.
func awaitLog(t *testing.T, log string, words ...string) {
	t.Helper()
	for range 500 {
		text, _ := os.ReadFile(log)
		for line := range strings.Lines(string(text)) {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
				return
			}
		}
		time.Sleep(10 * time.Millisecond) // auditd tells nobody
	}
	t.Errorf("auditd's log has no line with %q", words)
}

// Beside a running auditd: its rules, its pid and its log stay as they are, even where both have a rule for the same
// call; ours come behind, and go.
func TestKernelBesideAuditd(t *testing.T) {
	client := control(t)
	before, _ := snapshot(t, client)
	t.Cleanup(func() { restore(t, client, before) }) // auditd switches audit on and leaves it so
	daemon, log, stopDaemon := startAuditd(t)
	if !awaitDaemon(t, client, daemon.Process.Pid) {
		t.Fatal("auditd did not start")
	}
	foreign, err := buildRule("b64", []string{"execve"}, "", "foreign-"+testKey, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.AddRule(foreign.wire); err != nil {
		t.Fatal(err)
	}
	removeForeign := sync.OnceFunc(func() {
		if err := client.DeleteRule(foreign.wire); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(removeForeign)
	besides, rulesBesides := snapshot(t, client)

	s, sink, stop := start(t, Config{})
	for _, state := range s.State() {
		if state.Via != "audit/multicast" || !state.Healthy {
			t.Errorf("state beside auditd is %+v", state)
		}
	}
	during, rules := snapshot(t, client)
	if during != besides {
		t.Errorf("status beside auditd is %+v, was %+v", during, besides)
	}
	if !slices.Equal(rules[:len(rulesBesides)], rulesBesides) {
		t.Errorf("foreign rules are %q, were %q", rules[:len(rulesBesides)], rulesBesides)
	}
	pid, _ := child(t, "connect tcp 127.0.0.1:1")
	wantProcess(t, sink.awaitKind(t, event.ProcessExec, pid))
	sink.awaitKind(t, event.NetConnect, pid)
	sink.awaitKind(t, event.ProcessExit, pid)
	// The foreign rule was there first: its key is in the log, not ours.
	awaitLog(t, log, "type=SYSCALL", fmt.Sprintf(" pid=%d ", pid), "success=yes", "key=\"foreign-"+testKey+"\"")
	stop()

	after, rulesAfter := snapshot(t, client)
	if after != besides || !slices.Equal(rulesAfter, rulesBesides) {
		t.Errorf("left %+v and %q, found %+v and %q", after, rulesAfter, besides, rulesBesides)
	}
	pid, _ = child(t, "exit 0")
	awaitLog(t, log, "type=SYSCALL", fmt.Sprintf(" pid=%d ", pid), "key=\"foreign-"+testKey+"\"")
	removeForeign()
	stopDaemon()
}

// An auditd that is started while we are the daemon fails once; we make way, and the next start succeeds.
func TestKernelMakesWayForAuditd(t *testing.T) {
	client := control(t)
	before, _ := snapshot(t, client)
	t.Cleanup(func() { restore(t, client, before) })
	s, sink, stop := start(t, Config{Kinds: []event.Kind{event.ProcessExit}})

	daemon, _, stopDaemon := startAuditd(t)
	if awaitDaemon(t, client, daemon.Process.Pid) {
		t.Log("auditd became the daemon at its first try")
	} else {
		stopDaemon()
		waitFree(t, client)
		daemon, _, stopDaemon = startAuditd(t)
		if !awaitDaemon(t, client, daemon.Process.Pid) {
			t.Fatal("auditd did not start at its second try")
		}
	}
	pid, _ := child(t, "exit 5")
	sink.awaitKind(t, event.ProcessExit, pid)
	if state := s.State()[0]; state.Via != "audit/multicast" || !state.Healthy {
		t.Errorf("state after making way is %+v", state)
	}
	now, _ := snapshot(t, client)
	if now.PID != uint32(daemon.Process.Pid) || now.BacklogWaitTime != before.BacklogWaitTime {
		t.Errorf("status after making way is %+v, was %+v", now, before)
	}
	stop()
	if now, _ := snapshot(t, client); now.PID != uint32(daemon.Process.Pid) || now.Enabled != 1 {
		t.Errorf("status after our end is %+v", now)
	}
	stopDaemon()
}
