package ebpf

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// opening is what the open action is to do.
type opening struct {
	Call  string // "openat", "openat2", "open", "creat"
	At    string // the directory of openat and openat2; empty for the current one
	Path  string
	Flags int
	Bind  [2]string // mount the first on the second before
	Pipe  bool      // the path is a pipe's descriptor
	Way   string    // "ia32", "io_uring"
	Slot  uint32    // io_uring: where the file is to go, instead of a descriptor
	// Thread has the thread's id said before.
	Thread bool
}

func actOpen(args []string) error {
	var o opening
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return err
	}
	at, err := unix.AT_FDCWD, error(nil)
	if o.At != "" {
		if at, err = unix.Open(o.At, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
	}
	if o.Bind[0] != "" {
		if err := unix.Mount(o.Bind[0], o.Bind[1], "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if o.Pipe {
		var fds [2]int
		if err := unix.Pipe(fds[:]); err != nil {
			return err
		}
		o.Path = fmt.Sprintf("/proc/self/fd/%d", fds[1])
	}
	if o.Thread {
		runtime.LockOSThread()
		if err := say(unix.Gettid()); err != nil {
			return err
		}
	}
	var errno unix.Errno
	switch o.Way {
	case "":
		errno = o.open(at)
	case "ia32":
		errno, err = o.openCompat(at)
	case "io_uring":
		errno, err = o.openRing(at)
	}
	if err != nil {
		return err
	}
	return say(int(errno))
}

// how is what openat2(2) is given.
func (o *opening) how() *unix.OpenHow {
	how := &unix.OpenHow{Flags: uint64(o.Flags)}
	if o.Flags&unix.O_CREAT != 0 {
		how.Mode = 0o640
	}
	return how
}

// openRing has io_uring open it, and the file closed with the ring.
func (o *opening) openRing(at int) (unix.Errno, error) {
	r, err := newRing(0)
	if err != nil {
		return 0, err
	}
	if o.Slot != 0 {
		if err := r.slots(4); err != nil {
			return 0, err
		}
	}
	path, how := mustBytes(o.Path), o.how()
	s := sqe{Opcode: opOpenat, FD: int32(at), Address: uint64(pointer(path)), Length: 0o640, OpFlags: uint32(o.Flags),
		FileIndex: o.Slot}
	if o.Call == "openat2" {
		s.Opcode, s.Length, s.Offset, s.OpFlags = opOpenat2, unix.SizeofOpenHow, uint64(pointer(how)), 0
	}
	result, err := r.submit(s, path, how)
	return unix.Errno(max(-result, 0)), errors.Join(err, r.close())
}

// open makes the very system call, as libraries choose another one.
func (o *opening) open(at int) unix.Errno {
	path, mode := mustBytes(o.Path), uintptr(0o640)
	var errno unix.Errno
	switch o.Call {
	case "openat":
		_, _, errno = unix.Syscall6(unix.SYS_OPENAT, uintptr(at), pointer(path), uintptr(o.Flags), mode, 0, 0)
	case "openat2":
		_, _, errno = unix.Syscall6(unix.SYS_OPENAT2, uintptr(at), pointer(path), pointer(o.how()), unix.SizeofOpenHow, 0, 0)
	default:
		errno = o.openOld(pointer(path), mode)
	}
	runtime.KeepAlive(path)
	return errno
}

// openTest is an open and what is to be told of it.
type openTest struct {
	name    string
	opening opening
	errno   unix.Errno
	path    string // of the event; empty: no event; "*" and "-": of a file without a name of its own
	flags   int
}

// openTests are opens in a directory with a file, and the directories source and mounted.
func openTests(dir string) []openTest {
	file, source, mounted := dir+"/file", dir+"/source", dir+"/mounted"
	const create = unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC
	tests := []openTest{
		{"openat", opening{Call: "openat", Path: file, Flags: unix.O_WRONLY}, 0, file, unix.O_WRONLY},
		{"openat, all flags", opening{Call: "openat", Path: dir + "/new 1\n",
			Flags: unix.O_RDWR | create | unix.O_EXCL | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_APPEND}, 0, dir + "/new 1\n",
			unix.O_RDWR | create | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_APPEND},
		{"openat, directory", opening{Call: "openat", At: source, Path: "../file", Flags: unix.O_RDWR}, 0, file, unix.O_RDWR},
		{"openat, relative", opening{Call: "openat", Path: "file", Flags: unix.O_RDWR}, 0, file, unix.O_RDWR},
		{"symbolic link", opening{Call: "openat", Path: "link", Flags: unix.O_WRONLY}, 0, file, unix.O_WRONLY},
		{"openat2", opening{Call: "openat2", Path: file, Flags: unix.O_WRONLY}, 0, file, unix.O_WRONLY},
		{"openat2, created", opening{Call: "openat2", Path: "new 2", Flags: create}, 0, dir + "/new 2", create},
		{"temporary file", opening{Call: "openat", Path: dir, Flags: unix.O_TMPFILE | unix.O_RDWR}, 0, "*",
			unix.O_TMPFILE | unix.O_RDWR},
		{"created for reading", opening{Call: "openat", Path: "new 3", Flags: unix.O_CREAT}, 0, dir + "/new 3", unix.O_CREAT},
		{"no directory", opening{Call: "openat", Path: "none/x", Flags: unix.O_WRONLY}, unix.ENOENT, "none/x", unix.O_WRONLY},
		{"is directory", opening{Call: "openat2", Path: source, Flags: unix.O_RDWR}, unix.EISDIR, source, unix.O_RDWR},
		{"exists", opening{Call: "openat", Path: file, Flags: unix.O_CREAT | unix.O_EXCL}, unix.EEXIST, file,
			unix.O_CREAT | unix.O_EXCL},
		{"failed for reading", opening{Call: "openat", Path: "none/x", Flags: unix.O_RDONLY}, unix.ENOENT, "", 0},
		{"openat2, failed for reading", opening{Call: "openat2", Path: "none/x"}, unix.ENOENT, "", 0},
		{"reading", opening{Call: "openat", Path: file, Flags: unix.O_RDONLY | unix.O_CLOEXEC}, 0, "", 0},
		{"openat2, reading", opening{Call: "openat2", Path: file, Flags: unix.O_RDONLY}, 0, "", 0},
		{"path only", opening{Call: "openat", Path: file, Flags: unix.O_PATH | unix.O_WRONLY}, 0, "", 0},
		{"null device", opening{Call: "openat", Path: "/dev/null", Flags: unix.O_RDWR}, 0, "", 0},
		{"bind mount", opening{Call: "openat", Path: mounted + "/new 4", Flags: create, Bind: [2]string{source, mounted}}, 0,
			mounted + "/new 4", create},
		{"pipe", opening{Call: "openat", Pipe: true, Flags: unix.O_WRONLY}, 0, "-", unix.O_WRONLY},
	}
	for _, call := range oldCalls {
		tests = append(tests, tests[0], tests[0])
		test, failed := &tests[len(tests)-2], &tests[len(tests)-1]
		test.name, test.opening.Call = call, call
		failed.name, failed.opening.Call, failed.opening.Path = call+" failed", call, "none/x"
		failed.errno, failed.path = unix.ENOENT, "none/x"
		if call == "creat" {
			test.flags, failed.flags = create, create
		}
	}
	for _, test := range tests[:len(tests):len(tests)] {
		if runtime.GOARCH == "amd64" {
			compat := test
			compat.name, compat.opening.Way = test.name+" by a 32-bit caller", "ia32"
			tests = append(tests, compat)
		}
		if strings.HasPrefix(test.opening.Call, "openat") {
			byRing := test
			byRing.name, byRing.opening.Way = test.name+" by io_uring", "io_uring"
			tests = append(tests, byRing)
		}
	}
	for _, slot := range []uint32{2, allocateSlot} {
		tests = append(tests, openTest{fmt.Sprintf("io_uring, slot %d", int32(slot)), opening{Call: "openat2", Path: "new 5",
			Flags: create, Way: "io_uring", Slot: slot}, 0, dir + "/new 5", create})
	}
	return tests
}

// openDir makes the directory of openTests.
func openDir(t *testing.T) string {
	t.Helper()
	dir := openTempDir(t)
	for _, d := range []string{"mounted", "source"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "file"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// rungOf is the rung that a test of forRungs is for.
func rungOf(t *testing.T) string {
	for part := range strings.SplitSeq(t.Name(), "/") {
		switch rung := "ebpf/" + part; rung {
		case rungFentry, rungKprobe, rungTracepoint:
			return rung
		}
	}
	t.Fatalf("%s is for no rung", t.Name())
	return ""
}

func TestOpen(t *testing.T) {
	forRungs(t, []event.Kind{event.FileOpen}, func(t *testing.T, o *observer) {
		for i, test := range openTests("") {
			t.Run(test.name, func(t *testing.T) {
				dir := openDir(t)
				openTests(dir)[i].run(t, o, dir)
			})
		}
	})
}

// run opens, and compares what is told of it.
func (test *openTest) run(t *testing.T, o *observer, dir string) {
	t.Helper()
	what, err := json.Marshal(test.opening)
	if err != nil {
		t.Fatal(err)
	}
	byRing := test.opening.Way == "io_uring"
	cmd := action("open", string(what))
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	tr := o.trace(t, cmd)
	errno := unix.Errno(heard[int](t, cmd))
	if byRing && (!ringsSeen(t, rungOf(t)) || errno == unix.EINVAL) {
		t.Log("this kernel's io_uring cannot do that, or not be seen on this rung")
		return
	}
	if errno != test.errno {
		t.Fatalf("the kernel said %v, want %v", errno, test.errno)
	}
	got := tr.of(event.FileOpen)
	if test.path == "" {
		if len(got) != 0 {
			t.Fatalf("recorded %+v", *got[0].File)
		}
		return
	}
	if len(got) != 1 {
		t.Fatalf("%d events, want 1", len(got))
	}
	want := event.File{Path: test.path, Flags: openFlags(uint32(test.flags), runtime.GOARCH)}
	if rungOf(t) == rungTracepoint { // of a request the file is looked for late, but its name is the kernel's copy
		want.Unverified = byRing == (test.errno == 0)
	}
	switch {
	case test.errno != 0:
	case test.path == "*": // a file that nobody else can find
		want.Path, want.Device, want.Inode = got[0].File.Path, got[0].File.Device, got[0].File.Inode
		if !strings.HasPrefix(want.Path, dir+"/#") || want.Inode == 0 {
			t.Errorf("temporary file: %+v", *got[0].File)
		}
	case test.path == "-": // neither has a pipe a name
		want.Path, want.Device, want.Inode = "", got[0].File.Device, got[0].File.Inode
	default:
		st := stat(t, strings.Replace(test.path, "/mounted/", "/source/", 1))
		want.Inode, want.Device = st.Ino, event.Device(unix.Major(st.Dev)<<20|unix.Minor(st.Dev))
	}
	e := event.Event{Kind: event.FileOpen, Result: int32(test.errno), Process: tr.process("exe"), File: &want}
	tr.equal(t, e, got[0])
}

// A name that is too long is never copied: where the kernel's copy is what is looked at, there is none.
func TestOpenOfLongPathIsCut(t *testing.T) {
	forRungs(t, []event.Kind{event.FileOpen}, func(t *testing.T, o *observer) {
		long := strings.Repeat("long/", 1000)
		what, err := json.Marshal(opening{Call: "openat", Path: long, Flags: unix.O_WRONLY})
		if err != nil {
			t.Fatal(err)
		}
		tr := o.trace(t, action("open", string(what)))
		if rungOf(t) != rungTracepoint {
			if got := tr.of(event.FileOpen); len(got) != 0 {
				t.Errorf("recorded %+v", *got[0].File)
			}
			return
		}
		want := event.File{Path: long[:4095], Flags: unix.O_WRONLY, Unverified: true, Truncated: event.FieldPath}
		tr.equal(t, event.Event{
			Kind: event.FileOpen, Result: int32(unix.ENAMETOOLONG), Process: tr.process("exe"), File: &want,
		}, tr.last(t, event.FileOpen))
	})
}

// A call that a signal interrupts is an attempt of its own, with the errno that a caller may see.
func TestOpenInterrupted(t *testing.T) {
	forRungs(t, []event.Kind{event.FileOpen}, testOpenInterrupted)
}

func testOpenInterrupted(t *testing.T, o *observer) {
	fifo := filepath.Join(openTempDir(t), "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	what, err := json.Marshal(opening{Call: "openat", Path: fifo, Flags: unix.O_WRONLY, Thread: true})
	if err != nil {
		t.Fatal(err)
	}
	mark := o.mark()
	cmd := action("open", string(what))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	start := startOf(t, pid)
	said := json.NewDecoder(out)
	var thread, errno int
	if err := said.Decode(&thread); err != nil {
		t.Fatal(err)
	}
	// Go's runtime takes SIGURG and has the call made again. The signal is sent until it has met the call.
	met := make(chan struct{})
	var signals sync.WaitGroup
	signals.Go(func() {
		for {
			select {
			case <-met:
				return
			case <-time.After(time.Millisecond):
				_ = unix.Tgkill(pid, thread, unix.SIGURG)
			}
		}
	})
	isOpen := func(e *event.Event, result unix.Errno) bool {
		return e.Kind == event.FileOpen && e.Process.PID == uint32(pid) && e.Result == int32(result)
	}
	interrupted := o.await(t, mark, "the interrupted open", func(e *event.Event) bool { return isOpen(e, unix.EINTR) })
	close(met)
	signals.Wait()
	last := interrupted[len(interrupted)-1]
	want := event.File{Path: fifo, Flags: unix.O_WRONLY, Unverified: rungOf(t) == rungTracepoint}
	if *last.File != want {
		t.Errorf("interrupted: %+v, want %+v", *last.File, want)
	}
	reader, err := os.OpenFile(fifo, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := said.Decode(&errno); err != nil || errno != 0 {
		t.Fatalf("open: errno %d, %v", errno, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, e := range family(pid, o.await(t, mark, "the exit", isExit(pid, start))) {
		if e.Kind == event.FileOpen && e.Result != 0 && e.Result != int32(unix.EINTR) {
			t.Errorf("open with errno %d", e.Result)
		}
	}
	o.await(t, mark, "the open", func(e *event.Event) bool { return isOpen(e, 0) })
}

// A caller that changes openat2's flags while the kernel looks at them hides nothing.
func TestOpenat2Race(t *testing.T) {
	forRungs(t, []event.Kind{event.FileOpen}, testOpenat2Race)
}

func testOpenat2Race(t *testing.T, o *observer) {
	file := filepath.Join(openTempDir(t), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := action("openat2-race", file)
	tr := o.trace(t, cmd)
	writable := heard[int](t, cmd)
	events := tr.of(event.FileOpen)
	if writable == 0 || len(events) < writable {
		t.Errorf("%d opens seen, want %d", len(events), writable)
	}
	for _, e := range events {
		if e.File.Path != file || e.File.Flags&3 != unix.O_RDWR {
			t.Fatalf("open of %+v", *e.File)
		}
	}
}

// actOpenat2Race flips openat2's flags between reading and writing, and says how often it got a file to write to.
func actOpenat2Race(args []string) error {
	path := mustBytes(args[0])
	var how unix.OpenHow
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			flip(&how.Flags, unix.O_RDWR)
			flip(&how.Flags, unix.O_RDONLY)
		}
	}()
	cwd := unix.AT_FDCWD
	writable := 0
	err := race(2000, func() bool { return writable > 0 }, func() error {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT2, uintptr(cwd), pointer(path), pointer(&how), unix.SizeofOpenHow, 0, 0)
		if errno != 0 {
			return errno
		}
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		if flags&unix.O_ACCMODE == unix.O_RDWR {
			writable++
		}
		return unix.Close(int(fd))
	})
	if err != nil {
		return err
	}
	stop.Store(true)
	<-done
	return say(writable)
}

// What is opened for another file than the name's first reading would have it, is told of as the file that was opened.
func TestOpenPathRace(t *testing.T) {
	forRungs(t, []event.Kind{event.FileOpen}, func(t *testing.T, o *observer) {
		dir := openTempDir(t)
		paths := map[uint64]string{}
		for _, name := range []string{"a", "b"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			paths[inode(t, filepath.Join(dir, name))] = filepath.Join(dir, name)
		}
		cmd := action("open-race", dir)
		tr := o.trace(t, cmd)
		opened := heard[[]uint64](t, cmd)
		events := tr.of(event.FileOpen)
		if len(events) != len(opened) {
			t.Fatalf("%d events of %d opens", len(events), len(opened))
		}
		seen := map[uint64]int{}
		for i, e := range events {
			seen[opened[i]]++
			if e.File.Inode != opened[i] || (e.Result == 0) != (opened[i] != 0) {
				t.Fatalf("open %d of inode %d: told of %d, with errno %d", i, opened[i], e.File.Inode, e.Result)
			}
			if want, there := paths[opened[i]]; there && e.File.Path != want {
				t.Fatalf("open of %s: told of %s", want, e.File.Path)
			}
			if !e.File.Unverified && e.Result != 0 && e.File.Path != dir+"/c" {
				t.Fatalf("open of %s/c: told of %s", dir, e.File.Path)
			}
		}
		t.Logf("opens by inode: %v", seen)
	})
}

// actOpenRace opens a name whose last letter another thread changes, and says which files those were.
func actOpenRace(args []string) error {
	path := []byte(args[0] + "/a\x00")
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			for _, letter := range []byte("abc") {
				flip(&path[len(path)-2], letter)
			}
		}
	}()
	cwd := unix.AT_FDCWD
	opened := make([]uint64, 0, 2000)
	for range cap(opened) {
		fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(cwd), pointer(&path[0]), unix.O_WRONLY, 0, 0, 0)
		if errno != 0 {
			opened = append(opened, 0)
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(fd), &st); err != nil {
			return err
		}
		opened = append(opened, st.Ino)
		unix.Close(int(fd))
	}
	stop.Store(true)
	<-done
	return say(opened)
}

// Opens for reading are told of by the beginning of the path, found or as given, or all of them.
func TestOpenWatched(t *testing.T) {
	forRungs(t, []event.Kind{event.FileOpen}, func(t *testing.T, o *observer) {
		dir := openDir(t)
		set := o.source.cfg.Settings
		watch := func(all bool, paths ...string) {
			set.OpenAll, set.Watched = all, paths
			if err := o.source.Apply(set); err != nil {
				t.Fatal(err)
			}
		}
		ways := []string{""}
		if ringsSeen(t, rungOf(t)) {
			ways = append(ways, "io_uring")
		}
		for _, way := range ways {
			read := func(path string, errno unix.Errno, want ...string) {
				t.Helper()
				what, err := json.Marshal(opening{Call: "openat", Path: path, Way: way})
				if err != nil {
					t.Fatal(err)
				}
				cmd := action("open", string(what))
				cmd.Dir = dir
				tr := o.trace(t, cmd)
				if got := unix.Errno(heard[int](t, cmd)); got != errno {
					t.Fatalf("the kernel said %v, want %v", got, errno)
				}
				var got []string
				for _, e := range tr.of(event.FileOpen) {
					if strings.HasPrefix(e.File.Path, dir) || e.File.Path == path { // and not what Go's runtime opens
						got = append(got, e.File.Path)
					}
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s %s: told of %q, want %q", way, path, got, want)
				}
			}
			watch(false, dir+"/fi", "/none")
			read("link", 0, dir+"/file")
			read("source/../file", 0, dir+"/file")
			read("source", 0)
			read("/none/x", unix.ENOENT, "/none/x")
			read("none/x", unix.ENOENT)
			watch(true)
			read("source", 0, dir+"/source")
			watch(false)
			read("file", 0)
		}
	})
}

// A file may be opened by what name_to_handle_at(2) said of it.
func TestOpenByHandle(t *testing.T) {
	forRungs(t, []event.Kind{event.FileOpen}, func(t *testing.T, o *observer) {
		file := filepath.Join(openTempDir(t), "file")
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, flags := range []int{unix.O_RDWR, unix.O_RDWR | unix.O_DIRECTORY} {
			cmd := action("open-handle", file, strconv.Itoa(flags))
			tr := o.trace(t, cmd)
			errno := heard[unix.Errno](t, cmd)
			want := event.File{Flags: openFlags(uint32(flags), runtime.GOARCH)}
			if errno == 0 {
				st := stat(t, file)
				want.Path, want.Inode = file, st.Ino
				want.Device = event.Device(unix.Major(st.Dev)<<20 | unix.Minor(st.Dev))
			}
			tr.equal(t, event.Event{Kind: event.FileOpen, Result: int32(errno), Process: tr.process("exe"), File: &want},
				tr.last(t, event.FileOpen))
		}
	})
}

func actOpenHandle(args []string) error {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, args[0], 0)
	if err != nil {
		return fmt.Errorf("name to handle: %w", err)
	}
	mount, err := unix.Open(filepath.Dir(args[0]), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	flags, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	_, err = unix.OpenByHandleAt(mount, handle, flags)
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		return err
	}
	return say(errno)
}
