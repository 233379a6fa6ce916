package ebpf

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// moduleCase is one attempt to load a module from the file "module" of the current directory, and what an event tells
// of it but for the file.
type moduleCase struct {
	do    func(c *caller, fd uintptr, image []byte) (int, syscall.Errno)
	bad   bool // the file is no module
	twice bool // it is loaded already
	errno syscall.Errno
	want  event.Module
	file  bool // the event tells of the file
	// unread says that the kernel did not get as far as to read the file.
	unread bool
}

func moduleCases() map[string]moduleCase {
	finit := func(flags uintptr) func(*caller, uintptr, []byte) (int, syscall.Errno) {
		return func(c *caller, fd uintptr, _ []byte) (int, syscall.Errno) {
			return c.call("finit_module", fd, c.text(""), flags)
		}
	}
	initModule := func(c *caller, _ uintptr, image []byte) (int, syscall.Errno) {
		return c.call("init_module", c.put(image), uintptr(len(image)), c.text(""))
	}
	const ignoreVersions = 1
	return map[string]moduleCase{
		"finit_module": {do: finit(ignoreVersions), file: true,
			want: event.Module{Call: "finit_module", Name: "dummy", Flags: ignoreVersions}},
		"finit_module, no module": {do: finit(0), bad: true, errno: unix.ENOEXEC, file: true,
			want: event.Module{Call: "finit_module"}},
		"finit_module, loaded": {do: finit(0), twice: true, errno: unix.EEXIST, file: true,
			want: event.Module{Call: "finit_module"}},
		"finit_module, no such flag": {do: finit(1 << 30), errno: unix.EINVAL, file: true, unread: true,
			want: event.Module{Call: "finit_module", Flags: 1 << 30}},
		"finit_module, no file": {do: func(c *caller, _ uintptr, _ []byte) (int, syscall.Errno) {
			return c.call("finit_module", 999, c.text(""), 0)
		}, errno: unix.EBADF, want: event.Module{Call: "finit_module"}},
		"init_module":            {do: initModule, want: event.Module{Call: "init_module", Name: "dummy"}},
		"init_module, no module": {do: initModule, bad: true, errno: unix.ENOEXEC, want: event.Module{Call: "init_module"}},
	}
}

// testModule is a module that no test needs; the machines of the kernel tier have one.
func testModule() string { return os.Getenv("TASKGUARD_MODULE") }

func actLoadModule(args []string) error {
	test, ok := moduleCases()[args[0]]
	if !ok {
		return fmt.Errorf("no case %q", args[0])
	}
	c, err := newCaller(args[1] == "32-bit")
	if err != nil {
		return err
	}
	image, err := os.ReadFile("module")
	if err != nil {
		return err
	}
	fd, err := unix.Open("module", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	if test.twice {
		if err := unix.FinitModule(fd, "", 0); err != nil {
			return err
		}
	}
	if err := renamed(); err != nil {
		return err
	}
	_, errno := test.do(c, uintptr(fd), image)
	if errno == 0 || test.twice {
		if err := unix.DeleteModule("dummy", 0); err != nil {
			return err
		}
	}
	return say(int(errno))
}

func TestModuleLoad(t *testing.T) {
	kinds := []event.Kind{event.ModuleLoad}
	if testModule() == "" && lack(kinds) == "" {
		t.Fatal("name a module that no test needs in TASKGUARD_MODULE")
	}
	forRungs(t, kinds, func(t *testing.T, o *observer) {
		for name, test := range moduleCases() {
			for _, caller := range callers() {
				t.Run(name+"/"+caller, func(t *testing.T) { test.observe(t, o, name, caller) })
			}
		}
	})
}

func (test *moduleCase) observe(t *testing.T, o *observer, name, caller string) {
	cmd := action("load-module", name, caller)
	cmd.Dir = openTempDir(t)
	file := filepath.Join(cmd.Dir, "module")
	if test.bad {
		if err := os.WriteFile(file, []byte(strings.Repeat("no module ", 100)), 0o644); err != nil {
			t.Fatal(err)
		}
	} else {
		copyProgram(t, testModule(), file, 0o644)
	}
	tr := o.trace(t, cmd)
	if errno := syscall.Errno(heard[int](t, cmd)); errno != test.errno {
		t.Fatalf("the kernel said %v, want %v", errno, test.errno)
	}
	var got []event.Event
	for _, e := range tr.of(event.ModuleLoad) {
		if e.Process.Name == afterwards {
			got = append(got, e)
		}
	}
	if len(got) != 1 {
		t.Fatalf("%d events, want 1", len(got))
	}
	want := test.want
	if test.file {
		want.Unverified = tracepoints(t) || test.unread
		st := stat(t, file)
		want.Path, want.Inode, want.Device = file, st.Ino, event.Device(unix.Major(st.Dev)<<20|unix.Minor(st.Dev))
	}
	tr.equal(t, event.Event{
		Kind: event.ModuleLoad, Result: int32(test.errno), Process: tr.process(afterwards), Module: &want,
	}, got[0])
}

// A descriptor that another thread changes while the call runs is told as the file that was read, or as unverified.
func TestModuleLoadRace(t *testing.T) {
	kinds := []event.Kind{event.ModuleLoad}
	if testModule() == "" && lack(kinds) == "" {
		t.Fatal("name a module that no test needs in TASKGUARD_MODULE")
	}
	forRungs(t, kinds, func(t *testing.T, o *observer) {
		cmd := action("load-module-race")
		cmd.Dir = openTempDir(t)
		copyProgram(t, testModule(), filepath.Join(cmd.Dir, "module"), 0o644)
		tr := o.trace(t, cmd)
		loads := tr.of(event.ModuleLoad)
		if want := heard[int](t, cmd); len(loads) != want {
			t.Fatalf("%d events, want %d", len(loads), want)
		}
		for _, e := range loads {
			read := "bad" // no module at all
			if e.Result == 0 {
				read = "module"
			}
			if e.Module.Unverified != tracepoints(t) || !e.Module.Unverified && filepath.Base(e.Module.Path) != read {
				t.Fatalf("the kernel read %q, with errno %d: %+v", read, e.Result, *e.Module)
			}
		}
	})
}

// actLoadModuleRace loads what is behind a descriptor that another thread changes all the time.
func actLoadModuleRace([]string) error {
	if err := os.WriteFile("bad", []byte(strings.Repeat("no module ", 1000)), 0o600); err != nil {
		return err
	}
	var files [2]int
	for i, name := range []string{"module", "bad"} {
		var err error
		if files[i], err = unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
	}
	fd, err := unix.Dup(files[0])
	if err != nil {
		return err
	}
	var stop atomic.Bool
	var changing sync.WaitGroup
	changing.Go(func() {
		for i := 0; !stop.Load(); i++ {
			_ = unix.Dup3(files[i%2], fd, unix.O_CLOEXEC)
		}
	})
	const loads = 60
	for range loads {
		switch err := unix.FinitModule(fd, "", 0); err {
		case nil:
			err = unix.DeleteModule("dummy", 0)
			if err != nil {
				return err
			}
		case unix.ENOEXEC:
		default:
			return err
		}
	}
	stop.Store(true)
	changing.Wait()
	return say(loads)
}

// systemActions make an event of each of the kinds fs.mount, fs.umount, module.load, bpf.load and iouring.setup, for a
// corpus.
func systemActions(t *testing.T) (list []*exec.Cmd) {
	t.Helper()
	for _, name := range []string{"hostile names", "no such target", "new calls", "umount", "umount, no such target"} {
		cmd := action("mount", name, "64-bit")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		list = append(list, cmd)
	}
	list = append(list, action("load-bpf", "loaded", "64-bit"), action("load-bpf", "refused", "64-bit"),
		action("set-up-ring", "made", "64-bit"), action("set-up-ring", "no entries", "64-bit"))
	for _, cmd := range list {
		cmd.Dir = openTempDir(t)
	}
	if testModule() != "" {
		cmd := action("load-module", "finit_module", "64-bit")
		cmd.Dir = openTempDir(t)
		copyProgram(t, testModule(), filepath.Join(cmd.Dir, "module"), 0o644)
		list = append(list, cmd)
	}
	return list
}
