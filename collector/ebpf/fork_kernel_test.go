package ebpf

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

func mustBytes(s string) *byte { return &append([]byte(s), 0)[0] }

func pointer[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

func TestFork(t *testing.T) {
	o := observe(t)

	t.Run("from the shell", func(t *testing.T) {
		cmd := exec.Command("/bin/sh", "-c", "(exit 3); (exit 4); exit 0")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWPID, Credential: &syscall.Credential{Uid: 2001, Gid: 2002},
		}
		tr := o.trace(t, cmd)
		forks := tr.of(event.ProcessFork)[1:] // the first is the command's own
		if len(forks) != 2 {
			t.Fatalf("%d forks, want 2", len(forks))
		}
		for i, got := range forks {
			p := tr.process("sh")
			p.PID, p.NSPID = got.Process.PID, uint32(2+i)
			p.UID, p.EUID, p.GID, p.EGID = 2001, 2001, 2002, 2002
			p.PPID, p.ParentStart = uint32(tr.pid), tr.start
			p.Start = got.Process.Start / tick * tick
			if p.PID == uint32(tr.pid) || p.Start < tr.start || got.Process.Start > uint64(got.Time.UnixNano()) {
				t.Errorf("pid %d, start %d of a child of pid %d, start %d", p.PID, p.Start, tr.pid, tr.start)
			}
			tr.equal(t, event.Event{Kind: event.ProcessFork, Process: p}, got)
		}
	})

	t.Run("threads are no processes", func(t *testing.T) {
		tr := o.trace(t, action("threads", "16"))
		if forks := tr.of(event.ProcessFork); len(forks) != 1 {
			t.Errorf("%d forks, want the command's own only", len(forks))
		}
	})
}

func TestExit(t *testing.T) {
	o := observe(t)
	for _, test := range []struct {
		name, script string
		want         event.Exit
	}{
		{"code", "exit 42", event.Exit{Ended: true, Code: 42}},
		{"signal", "kill -TERM $$", event.Exit{Ended: true, Signal: 15}},
		{"no core", "ulimit -c 0; kill -ABRT $$", event.Exit{Ended: true, Signal: 6}},
		{"core", "ulimit -c unlimited; kill -SEGV $$", event.Exit{Ended: true, Signal: 11, CoreDumped: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.Command("/bin/sh", "-c", test.script)
			cmd.Dir = openTempDir(t)
			tr := o.traceAny(t, cmd)
			// Whether there is a core depends on the host: its own answer decides.
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			test.want.CoreDumped = test.want.CoreDumped && status.CoreDump()
			want := tr.process("sh")
			want.Exit = test.want
			tr.equal(t, event.Event{Kind: event.ProcessExit, Process: want}, tr.last(t, event.ProcessExit))
			if want.Exit.Status() != uint32(status) {
				t.Errorf("status %#x, want %#x", want.Exit.Status(), uint32(status))
			}
		})
	}

	t.Run("pid namespace and ids", func(t *testing.T) {
		cmd := exec.Command("/bin/sh", "-c", "exit 1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: syscall.CLONE_NEWPID, Credential: &syscall.Credential{Uid: 2001, Gid: 2002},
		}
		tr := o.traceAny(t, cmd)
		p := tr.process("sh")
		p.NSPID, p.UID, p.EUID, p.GID, p.EGID = 1, 2001, 2001, 2002, 2002
		p.Exit = event.Exit{Ended: true, Code: 1}
		tr.equal(t, event.Event{Kind: event.ProcessExit, Process: p}, tr.last(t, event.ProcessExit))
	})
}

// A process ends once, also when all of its threads end at the same time.
func TestExitOfThreadsIsOne(t *testing.T) {
	o := observe(t)
	for range 15 {
		tr := o.trace(t, action("threads", "4"))
		// Another one, so that what followed the exit is seen too.
		mark := o.mark()
		after := o.trace(t, exec.Command("/bin/true"))
		events := append(tr.events, o.await(t, mark, "the exit", isExit(after.pid, after.start))...)
		exits := 0
		for _, e := range events {
			if isExit(tr.pid, tr.start)(&e) {
				exits++
			}
		}
		if exits != 1 {
			t.Errorf("%d exits, want 1", exits)
		}
	}
}

// actThreads makes threads and ends with all of them. Each is held up on its way out, where it counts as ended already,
// and the first thread for longest: the others are gone when it is told of.
func actThreads(args []string) error {
	var n int
	if _, err := fmt.Sscan(args[0], &n); err != nil {
		return err
	}
	ready := make(chan error)
	go byFirstThread(func() error {
		ready <- holdUp(2048)
		for {
			_ = unix.Pause()
		}
	})
	if err := <-ready; err != nil {
		return err
	}
	for range n {
		go func() {
			runtime.LockOSThread()
			ready <- holdUp(256)
			for {
				_ = unix.Pause()
			}
		}()
	}
	for range n {
		if err := <-ready; err != nil {
			return err
		}
	}
	os.Exit(0)
	return nil
}

// holdUp has the end of this thread take as long as so many page faults: the kernel looks at all the locks that a thread
// holds by its own word (set_robust_list(2)), up to 2,048.
func holdUp(locks int) error {
	const page = 4096
	size := (1 + locks) * page
	// The list, and behind it, never touched, the locks.
	memory, err := unix.Mmap(-1, 0, 2*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	if err := unix.Madvise(memory, unix.MADV_NOHUGEPAGE); err != nil && err != unix.EINVAL {
		return err
	}
	at := func(i int) uintptr { return pointer(&memory[i*page]) }
	// struct robust_list_head: the first of the list, how far from an element its lock is, and one that is being taken.
	head := (*[3]uintptr)(unsafe.Pointer(&memory[0]))
	head[0], head[1] = at(1), uintptr(size)
	for i := 1; i <= locks; i++ {
		next := at(0)
		if i < locks {
			next = at(i + 1)
		}
		*(*uintptr)(unsafe.Pointer(&memory[i*page])) = next
	}
	if _, _, errno := unix.Syscall(unix.SYS_SET_ROBUST_LIST, at(0), unsafe.Sizeof(*head), 0); errno != 0 {
		return fmt.Errorf("set robust list: %w", errno)
	}
	return nil
}
