package ebpf

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
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
	// Thread has the thread's id said before.
	Thread bool
}

func actOpen(args []string) error {
	var o opening
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return err
	}
	at := unix.AT_FDCWD
	if o.At != "" {
		var err error
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
	errno := o.open(at)
	return say(int(errno))
}

// open makes the very system call, as libraries choose another one.
func (o *opening) open(at int) unix.Errno {
	path, mode := mustBytes(o.Path), uintptr(0o640)
	var errno unix.Errno
	switch o.Call {
	case "openat":
		_, _, errno = unix.Syscall6(unix.SYS_OPENAT, uintptr(at), pointer(path), uintptr(o.Flags), mode, 0, 0)
	case "openat2":
		how := unix.OpenHow{Flags: uint64(o.Flags)}
		if o.Flags&unix.O_CREAT != 0 {
			how.Mode = uint64(mode)
		}
		_, _, errno = unix.Syscall6(unix.SYS_OPENAT2, uintptr(at), pointer(path), pointer(&how), unix.SizeofOpenHow, 0, 0)
	default:
		errno = o.openOld(pointer(path), mode)
	}
	runtime.KeepAlive(path)
	return errno
}

func TestOpen(t *testing.T) {
	o := observe(t)
	dir := openTempDir(t)
	mounted := filepath.Join(dir, "mounted")
	source := filepath.Join(dir, "source")
	for _, d := range []string{mounted, source} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	const create = unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC
	tests := []struct {
		name    string
		opening opening
		errno   unix.Errno
		path    string // of the event; empty: no event
		flags   int
	}{
		{"openat", opening{Call: "openat", Path: file, Flags: unix.O_WRONLY}, 0, file, unix.O_WRONLY},
		{"openat, all flags", opening{Call: "openat", Path: dir + "/new 1\n",
			Flags: unix.O_RDWR | create | unix.O_EXCL | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_APPEND}, 0, dir + "/new 1\n",
			unix.O_RDWR | create | unix.O_EXCL | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_APPEND},
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
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			what, err := json.Marshal(test.opening)
			if err != nil {
				t.Fatal(err)
			}
			cmd := action("open", string(what))
			cmd.Dir = dir
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			tr := o.trace(t, cmd)
			if errno := unix.Errno(heard[int](t, cmd)); errno != test.errno {
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
			want := event.File{Path: test.path, Flags: event.OpenFlags(test.flags)}
			switch {
			case test.errno != 0:
				want.Unverified = true
			case test.path == "*": // a file that nobody else can find
				want.Path, want.Device, want.Inode = got[0].File.Path, got[0].File.Device, got[0].File.Inode
				if !strings.HasPrefix(want.Path, dir+"/#") || want.Inode == 0 {
					t.Errorf("temporary file: %+v", *got[0].File)
				}
			case test.path == "-": // neither has a pipe a name
				want.Path, want.Device, want.Inode = "", got[0].File.Device, got[0].File.Inode
			default:
				st := stat(t, strings.Replace(test.path, mounted, source, 1))
				want.Inode, want.Device = st.Ino, event.Device(unix.Major(st.Dev)<<20|unix.Minor(st.Dev))
			}
			e := event.Event{Kind: event.FileOpen, Result: int32(test.errno), Process: tr.process("exe"), File: &want}
			tr.equal(t, e, got[0])
		})
	}
}

func TestOpenOfLongPathIsCut(t *testing.T) {
	o := observe(t)
	long := strings.Repeat("long/", 1000)
	what, err := json.Marshal(opening{Call: "openat", Path: long, Flags: unix.O_WRONLY})
	if err != nil {
		t.Fatal(err)
	}
	tr := o.trace(t, action("open", string(what)))
	want := event.File{Path: long[:4095], Flags: unix.O_WRONLY, Unverified: true, Truncated: event.FieldPath}
	tr.equal(t, event.Event{
		Kind: event.FileOpen, Result: int32(unix.ENAMETOOLONG), Process: tr.process("exe"), File: &want,
	}, tr.last(t, event.FileOpen))
}

// A call that a signal interrupts is an attempt of its own, with the errno that a caller may see.
func TestOpenInterrupted(t *testing.T) {
	o := observe(t)
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
	if want := (event.File{Path: fifo, Flags: unix.O_WRONLY, Unverified: true}); *last.File != want {
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
	o := observe(t)
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
	for range 2000 {
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
		unix.Close(int(fd))
	}
	stop.Store(true)
	<-done
	return say(writable)
}
