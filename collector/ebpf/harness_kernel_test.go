package ebpf

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// actionVariable makes the test binary do one thing instead of testing: what the tests observe must be done by
// another process, as the agent's own is never recorded.
const actionVariable = "TASKGUARD_TEST_ACTION"

func TestMain(m *testing.M) {
	name := os.Getenv(actionVariable)
	if name == "" {
		code := m.Run()
		if err := shared.close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the sources that tests share:", err)
			code = 1
		}
		os.Exit(code)
	}
	actions := map[string]func(args []string) error{
		"calls":            actCalls,
		"change":           actChange,
		"connect":          actConnect,
		"connect-race":     actConnectRace,
		"deep":             actDeep,
		"dns":              actDNS,
		"dns-client":       actDNSClient,
		"execveat":         actExecveat,
		"load-bpf":         actLoadBPF,
		"load-bpf-by-bpf":  actLoadBPFByBPF,
		"load-module":      actLoadModule,
		"load-module-race": actLoadModuleRace,
		"memfd":            actMemfd,
		"mount":            actMount,
		"mount-race":       actMountRace,
		"net":              actNet,
		"net-race":         actNetRace,
		"open":             actOpen,
		"open-handle":      actOpenHandle,
		"open-race":        actOpenRace,
		"openat2-race":     actOpenat2Race,
		"overlay":          actOverlay,
		"overlay-map":      actOverlayMap,
		"rename-race":      actRenameRace,
		"requests":         actRequests,
		"set-up-ring":      actSetUpRing,
		"threads":          actThreads,
		"wait":             actWait,
		"exec-race":        actExecRace,
	}
	if err := actions[name](os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// action returns the command that has an action done.
func action(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	// Under the race detector a process would linger for a second. Go's runtime interrupts no system call by its signals:
	// the kernel would give up verifying a program or cancel a request of io_uring, and a tracer would stop at each.
	cmd.Env = []string{actionVariable + "=" + name, "GORACE=atexit_sleep_ms=0", "GODEBUG=asyncpreemptoff=1"}
	return cmd
}

// say writes facts for the test that runs the action.
func say(facts any) error { return json.NewEncoder(os.Stdout).Encode(facts) }

// heard reads what an action said.
func heard[T any](t *testing.T, cmd *exec.Cmd) T {
	t.Helper()
	var facts T
	if err := json.Unmarshal(cmd.Stdout.(*bytes.Buffer).Bytes(), &facts); err != nil {
		t.Fatalf("read what the action said: %v", err)
	}
	return facts
}

// needKernel skips a test that the machine cannot run, unless TASKGUARD_REQUIRE says that it must.
func needKernel(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("TASKGUARD_REQUIRE"), ","), "kernel") {
		t.Fatal("kernel tests must run as root")
	}
	t.Skip("kernel tests run as root only")
}

// hierarchy is where this host has its cgroups.
type hierarchy struct {
	controller string // empty for cgroup v2
	number     int
	dir        string // its mount point
	unified    string // cgroup v2's mount point
}

// findHierarchy prefers the memory controller's cgroup v1 hierarchy, where there is one.
func findHierarchy(t testing.TB) (h hierarchy) {
	t.Helper()
	for _, line := range lines(t, "/proc/cgroups") {
		fields := strings.Fields(line)
		if fields[0] == "memory" {
			h.number, _ = strconv.Atoi(fields[1])
		}
	}
	for _, line := range lines(t, "/proc/self/mountinfo") {
		place, kind, _ := strings.Cut(line, " - ")
		dir := strings.Fields(place)[4]
		switch fields := strings.Fields(kind); {
		case fields[0] == "cgroup2":
			h.unified = dir
		case fields[0] == "cgroup" && slices.Contains(strings.Split(fields[2], ","), "memory"):
			h.controller, h.dir = "memory", dir
		}
	}
	if h.controller == "" {
		h.number, h.dir = 0, h.unified
	}
	if h.unified == "" {
		t.Fatal("cgroup v2 is not mounted")
	}
	return h
}

// of returns the directory and the id of a process's cgroup.
func (h hierarchy) of(t testing.TB, pid int) (dir string, id uint64) {
	t.Helper()
	for _, line := range lines(t, fmt.Sprintf("/proc/%d/cgroup", pid)) {
		parts := strings.SplitN(line, ":", 3)
		if slices.Contains(strings.Split(parts[1], ","), h.controller) {
			dir = filepath.Join(h.dir, parts[2])
			return dir, inode(t, dir)
		}
	}
	t.Fatalf("process %d has no cgroup", pid)
	return "", 0
}

func lines(t testing.TB, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func stat(t testing.TB, path string) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Stat(path, &st); err != nil {
		t.Fatalf("stat %s: %v", path, err)
	}
	return st
}

func inode(t testing.TB, path string) uint64 { return stat(t, path).Ino }

// newCgroup makes a cgroup for the length of a test.
func (h hierarchy) newCgroup(t testing.TB) (dir string, id uint64) {
	t.Helper()
	dir = filepath.Join(h.dir, fmt.Sprintf("taskguard-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("remove cgroup: %v", err)
		}
	})
	return dir, inode(t, dir)
}

// wall is the tests' clock: 1970 is the boot.
func wall(boot uint64) time.Time { return time.Unix(0, int64(boot)).UTC() }

func bootTime(t testing.TB) time.Time {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	return wall(uint64(now.Nano()))
}

func configFor(t testing.TB, h hierarchy) Config {
	debug := &slog.HandlerOptions{Level: slog.LevelDebug} // what the verifier says
	return Config{
		CgroupController: h.controller, CgroupHierarchy: h.number, CgroupRoot: h.unified,
		Wall: wall, Cgroup: func(uint64, string) {}, Logger: slog.New(slog.NewTextHandler(t.Output(), debug)),
	}
}

// configOf is the same with only some kinds on, besides processes.
func configOf(t testing.TB, h hierarchy, kinds ...event.Kind) Config {
	cfg := configFor(t, h)
	cfg.Settings.Off = except(append(kinds, event.ProcessFork, event.ProcessExec, event.ProcessExit))
	return cfg
}

// openSource opens a source on which every kind that is on works.
func openSource(t testing.TB, cfg Config) *Source {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range s.State() {
		if cfg.wants(state.Kind) && !state.Healthy && lack([]event.Kind{state.Kind}) == "" {
			t.Errorf("%s is off: %s", state.Kind, state.Reason)
		}
	}
	return s
}

// observer keeps everything that a source emits.
type observer struct {
	hierarchy hierarchy
	rung      string // the only one that is used; empty for any
	source    *Source

	mu     sync.Mutex
	events []event.Event // copies
	lost   map[string]uint64
	more   chan struct{} // closed at the next event or loss
	losing bool          // a loss is no failure
}

func newObserver(h hierarchy) *observer {
	return &observer{hierarchy: h, lost: make(map[string]uint64), more: make(chan struct{})}
}

// observe runs a source of some kinds, besides processes, until the test ends.
func observe(t *testing.T, kinds ...event.Kind) *observer {
	t.Helper()
	needKernel(t)
	h := findHierarchy(t)
	o := newObserver(h)
	o.run(t, openSource(t, configOf(t, h, kinds...)))
	return o
}

// run has the source observed until the test ends, and closes it.
func (o *observer) run(t *testing.T, s *Source) {
	t.Helper()
	o.source = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if len(o.lost) > 0 && !o.losing {
			t.Errorf("lost: %v", o.lost)
		}
	})
}

func (o *observer) Emit(e *event.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, clone(e))
	o.changed()
}

// changed is called with mu held.
func (o *observer) changed() {
	close(o.more)
	o.more = make(chan struct{})
}

func (o *observer) Lost(kind event.Kind, stage, cause string, n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lost[fmt.Sprintf("%s %s/%s", kind, stage, cause)] += n
	o.changed()
}

// clone copies an event that is on loan.
func clone(e *event.Event) event.Event {
	c := *e
	c.Process, c.File, c.Net, c.DNS = copyOf(e.Process), copyOf(e.File), copyOf(e.Net), copyOf(e.DNS)
	c.Dup = copyOf(e.Dup)
	c.FS, c.Module, c.BPF, c.IOUring = copyOf(e.FS), copyOf(e.Module), copyOf(e.BPF), copyOf(e.IOUring)
	c.Target, c.SetID, c.Ptrace, c.Namespace = copyOf(e.Target), copyOf(e.SetID), copyOf(e.Ptrace), copyOf(e.Namespace)
	c.Memory = copyOf(e.Memory)
	if c.DNS != nil {
		c.DNS.Payload = slices.Clone(c.DNS.Payload)
		c.DNS.Questions = slices.Clone(c.DNS.Questions)
		c.DNS.Answers = slices.Clone(c.DNS.Answers)
	}
	return c
}

func copyOf[T any](p *T) *T {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

// mark returns the place where the next event will be.
func (o *observer) mark() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.events)
}

// await returns the events from a mark up to and with the first one that matches.
func (o *observer) await(t *testing.T, mark int, what string, match func(*event.Event) bool) (found []event.Event) {
	t.Helper()
	seen := mark
	o.until(t, what, func() bool {
		for ; seen < len(o.events); seen++ {
			if match(&o.events[seen]) {
				found = o.events[mark : seen+1]
				return true
			}
		}
		return false
	})
	return found
}

// until waits for a condition, which is looked at with mu held.
func (o *observer) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		o.mu.Lock()
		done, more := holds(), o.more
		o.mu.Unlock()
		if done {
			return
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("did not see %s", what)
		}
	}
}

// isExit matches the exit of a process, by its start too: the host's other processes use pids up.
func isExit(pid int, start uint64) func(*event.Event) bool {
	return func(e *event.Event) bool {
		return e.Kind == event.ProcessExit && e.Process.PID == uint32(pid) && e.Process.Start/tick*tick == start
	}
}

// traced is a command that has ended and what it and its descendants did, in order.
type traced struct {
	pid        int
	start      uint64 // rounded to the tick
	cgroup     uint64
	began, end time.Time
	events     []event.Event
}

// trace runs a command. It must succeed.
func (o *observer) trace(t *testing.T, cmd *exec.Cmd) traced {
	t.Helper()
	tr := o.traceAny(t, cmd)
	if !cmd.ProcessState.Success() {
		t.Fatalf("%v: %v: %s", cmd.Args, cmd.ProcessState, cmd.Stderr)
	}
	return tr
}

// traceAny runs a command, however it ends.
func (o *observer) traceAny(t *testing.T, cmd *exec.Cmd) traced {
	t.Helper()
	mark := o.mark()
	tr := traced{began: bootTime(t)}
	if cmd.Stdout == nil {
		cmd.Stdout = new(bytes.Buffer)
	}
	cmd.Stderr = new(bytes.Buffer)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// It is there until it is waited for, even if it has ended.
	tr.pid = cmd.Process.Pid
	tr.start = startOf(t, tr.pid)
	_, tr.cgroup = o.hierarchy.of(t, os.Getpid())
	_ = cmd.Wait() // ProcessState tells
	tr.end = bootTime(t)
	tr.events = family(tr.pid, o.await(t, mark, "the command's exit", isExit(tr.pid, tr.start)))
	return tr
}

// family keeps the events of a process and its descendants.
func family(pid int, events []event.Event) []event.Event {
	members := map[uint32]bool{uint32(pid): true}
	var kept []event.Event
	for _, e := range events {
		if e.Process == nil {
			continue
		}
		if e.Kind == event.ProcessFork && members[e.Process.PPID] {
			members[e.Process.PID] = true
		}
		if members[e.Process.PID] {
			kept = append(kept, e)
		}
	}
	return kept
}

// of returns the events of one kind.
func (tr traced) of(kind event.Kind) (events []event.Event) {
	for _, e := range tr.events {
		if e.Kind == kind {
			events = append(events, e)
		}
	}
	return events
}

// last returns the last event of a kind.
func (tr traced) last(t *testing.T, kind event.Kind) event.Event {
	t.Helper()
	events := tr.of(kind)
	if len(events) == 0 {
		t.Fatalf("no %s among %d events", kind, len(tr.events))
	}
	return events[len(events)-1]
}

// process is what every event says of the command's process, as it was started by the test.
func (tr traced) process(name string) *event.Process {
	return &event.Process{PID: uint32(tr.pid), Name: name, Start: tr.start, Cgroup: tr.cgroup}
}

// equal compares an event in all of its fields. Its time must be within the command's life; start times are compared
// by the tick, as that is what /proc tells.
func (tr traced) equal(t *testing.T, want, got event.Event) {
	t.Helper()
	if got.Time.Before(tr.began) || got.Time.After(tr.end) {
		t.Errorf("time %v is not between %v and %v", got.Time, tr.began, tr.end)
	}
	got = clone(&got)
	got.Time = time.Time{}
	for _, p := range []*event.Process{got.Process, got.Target} {
		if p != nil {
			p.Start, p.ParentStart = p.Start/tick*tick, p.ParentStart/tick*tick
		}
	}
	checkVersions(t, &got)
	if diff := cmp.Diff(want, got, compareAddresses); diff != "" {
		t.Errorf("%s (-want +got):\n%s", got.Kind, diff)
	}
}

// checkVersions checks what an event tells of the files that it has a version of, and removes it. Those that the test
// cannot see have one, though it may be of another file in a layer.
func checkVersions(t *testing.T, e *event.Event) {
	t.Helper()
	if e.Kind == event.ProcessExec && e.Result == 0 {
		p := e.Process
		checkVersion(t, p.Exe, p.ExeDevice, p.ExeInode, p.ExeVersion)
		p.ExeDevice, p.ExeInode, p.ExeVersion = 0, 0, event.FileVersion{}
	}
	if m := e.Memory; m != nil && m.Version != (event.FileVersion{}) {
		checkVersion(t, m.Path, m.Device, m.Inode, m.Version)
		m.Version = event.FileVersion{}
	}
	if m := e.Module; m != nil && m.Version != (event.FileVersion{}) {
		checkVersion(t, m.Path, m.Device, m.Inode, m.Version)
		m.Version = event.FileVersion{}
	}
}

func checkVersion(t *testing.T, path string, device event.Device, inode uint64, got event.FileVersion) {
	t.Helper()
	if inode == 0 || got.Inode == 0 || got.Size == 0 || got.Changed == 0 {
		t.Errorf("%s: device %v, inode %d, version %+v, want all of it", path, device, inode, got)
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return // another root directory's, or gone
	}
	want := event.FileVersion{Device: deviceOf(st), Inode: st.Ino, Size: uint64(st.Size), Changed: uint64(unix.TimespecToNsec(st.Ctim))}
	if got != want || device != want.Device || inode != want.Inode {
		t.Errorf("%s: device %v, inode %d, version %+v, want %+v", path, device, inode, got, want)
	}
}

const tick = 10_000_000

// startOf reads a process's start time from /proc, in nanoseconds.
func startOf(t testing.TB, pid int) uint64 {
	t.Helper()
	text := strings.Join(lines(t, fmt.Sprintf("/proc/%d/stat", pid)), "\n")
	ticks, err := strconv.ParseUint(strings.Fields(text[strings.LastIndex(text, ")")+1:])[22-3], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return ticks * tick
}

// openTempDir returns a directory that other users may enter, with its real name.
func openTempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return realPath(t, dir)
}

func realPath(t testing.TB, path string) string {
	t.Helper()
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.Fatal(err)
	}
	return real
}

// copyProgram copies a program so that the test can do with it what it likes.
func copyProgram(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(to, mode); err != nil {
		t.Fatal(err)
	}
}
