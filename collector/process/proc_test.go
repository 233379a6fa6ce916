package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// fakeProc is a /proc of the test's own.
type fakeProc struct {
	t          testing.TB
	root       string
	controller string
}

func newProc(t testing.TB) *fakeProc { return &fakeProc{t, t.TempDir(), "memory"} }

// add makes a process run.
func (f *fakeProc) add(p event.Process, cgroup string) {
	f.t.Helper()
	dir := filepath.Join(f.root, fmt.Sprint(p.PID))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
	nsPID := fmt.Sprint(p.PID)
	if p.NSPID != 0 {
		nsPID += fmt.Sprintf("\t%d", p.NSPID)
	}
	for name, text := range map[string]string{
		"stat": fmt.Sprintf("%d (%s) S %d %s %d 0 0\n", p.PID, p.Name, p.PPID, strings.Repeat("0 ", 17), p.Start/tick),
		"status": fmt.Sprintf("Name:\t%s\nPPid:\t%d\nUid:\t%d\t%d\t0\t0\nGid:\t%d\t%d\t0\t0\nNSpid:\t%s\nKthread:\t0\n",
			p.Name, p.PPID, p.UID, p.EUID, p.GID, p.EGID, nsPID),
		"comm": p.Name + "\n", "cmdline": string(p.Args),
		"cgroup": "4:memory,x:" + cgroup + "\n3:cpu:/wrong\n0::" + cgroup + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			f.t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"exe": p.Exe, "cwd": p.Cwd} {
		if target == "" {
			continue
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			f.t.Fatal(err)
		}
	}
}

func procOf(f *fakeProc) proc { return proc{root: f.root, controller: f.controller} }

func (f *fakeProc) remove(pid uint32) {
	f.t.Helper()
	if err := os.RemoveAll(filepath.Join(f.root, fmt.Sprint(pid))); err != nil {
		f.t.Fatal(err)
	}
}

// Bootstrap on a /proc where a parent has a higher pid than its child.
func TestBootstrap(t *testing.T) {
	proc := newProc(t)
	proc.add(event.Process{PID: 1, Start: 1e9, Exe: "/init"}, "/")
	proc.add(event.Process{PID: 900, PPID: 1, Start: 2e9, Exe: "/parent (deleted)"}, "/docker/5")
	proc.add(event.Process{PID: 5, PPID: 900, Start: 3e9, Exe: "/child"}, "/docker/5")
	proc.add(event.Process{PID: 2, Start: 1e9, Name: "kthreadd"}, "/")
	for _, controller := range []string{"", "memory"} {
		table := newTable(t, Config{ProcRoot: proc.root, CgroupController: controller, ReadsPerSecond: 1})
		if err := table.Bootstrap(t.Context()); err != nil {
			t.Fatal(err)
		}
		if stats := table.Stats(); stats.Processes != 4 || stats.Unread != 0 {
			t.Errorf("%+v, want 4 processes", stats)
		}
		got := tell(enrich(table, event.NetConnect, epoch, event.Process{PID: 5, Start: 3e9}))
		want := told{PID: 5, Start: 3e9, Exe: "/child", Partial: true, Container: &event.Container{ID: "5"},
			Ancestors: []ancestor{{900, 2e9, "/parent"}, {1, 1e9, "/init"}}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("child (-want +got):\n%s", diff)
		}
		if parent := enrich(table, event.NetConnect, epoch, event.Process{PID: 900}); !parent.ExeDeleted {
			t.Errorf("parent %+v, want its executable deleted", parent)
		}
		thread := enrich(table, event.NetConnect, epoch, event.Process{PID: 2})
		if thread.Exe != "" || thread.Name != "kthreadd" || thread.Container != nil || thread.Parent != nil {
			t.Errorf("kernel thread %+v", thread)
		}
	}
}

// Where there is no room for all, those that started first are known, and the others counted.
func TestBootstrapIsBounded(t *testing.T) {
	proc := newProc(t)
	for pid := range uint32(10) {
		proc.add(event.Process{PID: pid + 1, PPID: pid, Start: uint64(pid+1) * 1e9, Exe: "/x"}, "/")
	}
	table := newTable(t, Config{ProcRoot: proc.root, CgroupController: "memory", MaxProcesses: 4})
	if err := table.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if stats := table.Stats(); stats.Processes != 4 || stats.Untracked != 6 || stats.Vanished != 0 {
		t.Errorf("%+v, want 4 processes and 6 untracked", stats)
	}
	for pid := range uint32(4) {
		if table.find(pid+1, 0) == nil {
			t.Errorf("process %d is not known", pid+1)
		}
	}
}

func TestFileIsBounded(t *testing.T) {
	dir := t.TempDir()
	p := proc{root: dir}
	if err := os.Mkdir(filepath.Join(dir, "7"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 4095, 4096, 4097, maxFile - 1, maxFile, maxFile + 1, 10 * maxFile, 3} {
		want := strings.Repeat("x", size)
		if err := os.WriteFile(filepath.Join(dir, "7", "cmdline"), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		if text, length := p.file(7, "cmdline"); length != size || string(text) != want[:min(size, maxFile)] {
			t.Errorf("%d bytes of %d, want %d", len(text), length, size)
		}
		if len(p.buf) > maxFile {
			t.Errorf("a buffer of %d bytes", len(p.buf))
		}
	}
	if text, length := p.file(8, "cmdline"); length != 0 || len(text) != 0 {
		t.Errorf("%q of a process that is not there", text)
	}
}

func TestBootstrapWithoutProc(t *testing.T) {
	table := newTable(t, Config{ProcRoot: filepath.Join(t.TempDir(), "none")})
	if err := table.Bootstrap(t.Context()); err == nil || !strings.Contains(err.Error(), "list processes: ") {
		t.Errorf("error %v", err)
	}
}

// Bootstrap on the machine's own /proc finds the test, as it knows itself.
func TestBootstrapFindsTheTest(t *testing.T) {
	table := newTable(t, Config{ProcRoot: "/proc"})
	if err := table.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, fields, _ := strings.Cut(string(text), ") ")
	ticks, err := strconv.ParseUint(strings.Fields(fields)[22-3], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	// The source knows start times better than /proc.
	start := ticks*tick + 1234
	got := *enrich(table, event.NetConnect, epoch, event.Process{
		PID: uint32(os.Getpid()), Start: start,
		UID: uint32(os.Getuid()), EUID: uint32(os.Geteuid()), GID: uint32(os.Getgid()), EGID: uint32(os.Getegid()),
	})
	want := event.Process{
		PID: uint32(os.Getpid()), Start: ticks * tick, Name: strings.TrimSpace(string(comm)), Exe: exe, Cwd: cwd,
		Args: event.NewArgv(os.Args), UID: uint32(os.Getuid()), EUID: uint32(os.Geteuid()), GID: uint32(os.Getgid()),
		EGID: uint32(os.Getegid()), PPID: uint32(os.Getppid()), Partial: true, NSPID: got.NSPID,
	}
	info, err := os.Stat(exe)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	want.ExeDevice, want.ExeInode = event.Device(unix.Major(st.Dev)<<20|unix.Minor(st.Dev)), st.Ino
	want.ExeVersion = event.FileVersion{
		Device: want.ExeDevice, Inode: st.Ino, Size: uint64(st.Size), Changed: uint64(syscall.TimespecToNsec(st.Ctim)),
	}
	if os.Getppid() != 0 && (got.Parent == nil || got.Parent.PID != uint32(os.Getppid())) {
		t.Errorf("parent %+v, want pid %d", got.Parent, os.Getppid())
	}
	got.Snapshot, got.Parent = 0, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("process (-want +got):\n%s", diff)
	}
}

func TestStartOfProcess(t *testing.T) {
	dir := t.TempDir()
	p := proc{root: dir}
	if err := os.Mkdir(filepath.Join(dir, "7"), 0o755); err != nil {
		t.Fatal(err)
	}
	fields := " S 1" + strings.Repeat(" 0", 17)
	for text, want := range map[string]uint64{
		"7 (x)" + fields + " 42 0\n":               42 * tick,
		"7 (a) S 1 (b c) )" + fields + " 42 0\n":   42 * tick,
		"7 (x)" + fields + " 0 0\n":                1,
		"7 (x)" + fields + "\n":                    0,
		"7 (x) S\n":                                0,
		"":                                         0,
		"7 (x)" + fields + " many 0\n":             0,
		"7 (x)" + fields + " 99999999999999999999": 0,
	} {
		if err := os.WriteFile(filepath.Join(dir, "7", "stat"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := p.start(7); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
	if got := p.start(8); got != 0 {
		t.Errorf("start %d of no process", got)
	}
}

// A long command line is cut, and says so.
func TestLongCommandLine(t *testing.T) {
	proc := newProc(t)
	proc.add(event.Process{PID: 7, Start: 1e9, Args: event.Argv(strings.Repeat("x", 30_000))}, "/")
	table := newTable(t, Config{ProcRoot: proc.root})
	got := enrich(table, event.NetConnect, epoch, event.Process{PID: 7})
	if len(got.Args) != maxCmdline || got.ArgsLength != 30_000 || got.Truncated != event.FieldArgs {
		t.Errorf("%d bytes of %d, truncated %v", len(got.Args), got.ArgsLength, got.Truncated)
	}
}

// Of a process that has ended and was not waited for, cgroup v1 says that it is in the root: on the host.
func TestCgroupOfWhatHasEnded(t *testing.T) {
	f := newProc(t)
	f.add(event.Process{PID: 7, PPID: 1, Start: 100 * tick, Name: "a) Z"}, "/docker/x")
	p := procOf(f)
	if got := p.cgroup(7); got != "/docker/x" {
		t.Errorf("cgroup of a process that runs: %q", got)
	}
	stat := filepath.Join(f.root, "7", "stat")
	for _, state := range []string{"Z 1", "X 1", "R 1 7 7 0 -1 4194308 8"} { // the last has PF_EXITING
		if err := os.WriteFile(stat, []byte("7 (a) S) "+state+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := p.cgroup(7); got != "" {
			t.Errorf("cgroup in state %s: %q, want none", state, got)
		}
	}
	f.remove(7)
	if got := p.cgroup(7); got != "" {
		t.Errorf("cgroup of a process that is gone: %q", got)
	}
}
