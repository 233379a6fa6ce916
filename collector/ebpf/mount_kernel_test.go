package ebpf

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// mountCase is something done with mounts in a directory that is a mount of its own, and what events tell of it. The
// texts have DIR for that directory.
type mountCase struct {
	name string
	// prepare is done before, and not looked at.
	prepare func(c *caller) error
	do      func(c *caller) syscall.Errno
	// kernel is told where the kernel's functions can be probed, traced on the tracepoint rung; nil is the same.
	kernel, traced []mountEvent
}

type mountEvent struct {
	errno syscall.Errno
	event.Mount
}

const (
	cwdFD    = ^uintptr(99) // AT_FDCWD
	mounting = unix.MS_NOSUID | unix.MS_NODEV
)

func one(errno syscall.Errno, m event.Mount) []mountEvent { return []mountEvent{{errno, m}} }

// asGiven is the same with names as the caller gave them, in the caller's memory.
func asGiven(m event.Mount, target string) event.Mount {
	m.Target, m.Unverified = target, true
	return m
}

func (c *caller) mount(source, target, kind string, flags uintptr) syscall.Errno {
	_, errno := c.call("mount", c.text(source), c.text(target), c.text(kind), flags, 0)
	return errno
}

func (c *caller) umount(target string, flags uintptr) syscall.Errno {
	_, errno := c.call("umount", c.text(target), flags)
	return errno
}

func mountTmpfs(*caller) error { return unix.Mount("src", "m", "tmpfs", mounting, "") }

// openContext makes a context for a tmpfs.
func openContext(c *caller) (int, syscall.Errno) {
	fd, errno := c.call("fsopen", c.text("tmpfs"), 0)
	if errno != 0 {
		return -1, errno
	}
	if err := unix.FsconfigSetString(fd, "source", "src"); err != nil {
		return -1, err.(syscall.Errno)
	}
	return fd, 0
}

func newMount(c *caller, attributes uintptr) (int, syscall.Errno) {
	fd, errno := openContext(c)
	if errno != 0 {
		return -1, errno
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return -1, err.(syscall.Errno)
	}
	return c.call("fsmount", uintptr(fd), 0, attributes)
}

func mountCases() []mountCase {
	tmpfs := event.Mount{Call: "mount", Source: "src", Target: "DIR/m", Type: "tmpfs", Flags: mounting}
	long := strings.Repeat("x", 4090)
	kind := strings.Repeat("t", 300)
	hostile := "m\n\x1b[31m\xff"
	deep := strings.Repeat(strings.Repeat("d", 200)+"/", 15) + "e"
	fsopen := event.Mount{Call: "fsopen", Type: "tmpfs"}
	fsmount := event.Mount{Call: "fsmount", Source: "src", Type: "tmpfs",
		Flags: unix.MS_RDONLY | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME}
	attributes := uintptr(unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOATIME |
		unix.MOUNT_ATTR_NODIRATIME)
	moved := event.Mount{Call: "move_mount", Source: "src", Target: "DIR/m", Type: "tmpfs"}
	unmounted := event.Mount{Call: "umount", Source: "src", Target: "DIR/m", Type: "tmpfs"}
	tree := event.Mount{Call: "open_tree", Source: "a", Type: "tmpfs", Unverified: true}
	return []mountCase{
		{name: "mount", do: func(c *caller) syscall.Errno { return c.mount("src", "m", "tmpfs", mounting|unix.MS_MGC_VAL) },
			kernel: one(0, tmpfs), traced: one(0, asGiven(tmpfs, "m"))},
		{name: "symbolic link", prepare: func(*caller) error { return os.Symlink("m", "link") },
			do:     func(c *caller) syscall.Errno { return c.mount("src", "link", "tmpfs", mounting) },
			kernel: one(0, tmpfs), traced: one(0, asGiven(tmpfs, "link"))},
		{name: "bind", do: func(c *caller) syscall.Errno {
			_, errno := c.call("mount", c.text("a"), c.text("m"), 0, unix.MS_BIND|unix.MS_REC, 0)
			return errno
		},
			kernel: one(0, event.Mount{Call: "mount", Source: "a", Target: "DIR/m", Flags: unix.MS_BIND | unix.MS_REC}),
			traced: one(0, event.Mount{Call: "mount", Source: "a", Target: "m", Flags: unix.MS_BIND | unix.MS_REC, Unverified: true})},
		{name: "move", prepare: mountTmpfs,
			do:     func(c *caller) syscall.Errno { return c.mount("m", "a", "", unix.MS_MOVE) },
			kernel: one(0, event.Mount{Call: "mount", Source: "m", Target: "DIR/a", Flags: unix.MS_MOVE}),
			traced: one(0, event.Mount{Call: "mount", Source: "m", Target: "a", Flags: unix.MS_MOVE, Unverified: true})},
		{name: "remount", prepare: mountTmpfs,
			do:     func(c *caller) syscall.Errno { return c.mount("none", "m", "", unix.MS_REMOUNT|unix.MS_RDONLY) },
			kernel: one(0, event.Mount{Call: "mount", Source: "none", Target: "DIR/m", Flags: unix.MS_REMOUNT | unix.MS_RDONLY}),
			traced: one(0, event.Mount{Call: "mount", Source: "none", Target: "m", Flags: unix.MS_REMOUNT | unix.MS_RDONLY,
				Unverified: true})},
		{name: "propagation", prepare: mountTmpfs,
			do:     func(c *caller) syscall.Errno { return c.mount("none", "m", "", unix.MS_REC|unix.MS_SHARED) },
			kernel: one(0, event.Mount{Call: "mount", Source: "none", Target: "DIR/m", Flags: unix.MS_REC | unix.MS_SHARED}),
			traced: one(0, event.Mount{Call: "mount", Source: "none", Target: "m", Flags: unix.MS_REC | unix.MS_SHARED,
				Unverified: true})},
		{name: "hostile names", prepare: func(*caller) error { return os.Mkdir(hostile, 0o755) },
			do:     func(c *caller) syscall.Errno { return c.mount(long, hostile, "tmpfs", 0) },
			kernel: one(0, event.Mount{Call: "mount", Source: long, Target: "DIR/" + hostile, Type: "tmpfs"}),
			traced: one(0, event.Mount{Call: "mount", Source: long, Target: hostile, Type: "tmpfs", Unverified: true})},
		{name: "no such type, long names", prepare: func(*caller) error { return os.MkdirAll(deep, 0o755) },
			do: func(c *caller) syscall.Errno { return c.mount(long, deep, kind, 0) },
			kernel: one(syscall.ENODEV, event.Mount{Call: "mount", Source: long, Target: "DIR/" + deep, Type: kind[:255],
				Truncated: event.FieldType}),
			traced: one(syscall.ENODEV, event.Mount{Call: "mount", Source: long, Target: deep, Type: kind[:255],
				Truncated: event.FieldType, Unverified: true})},
		{name: "no such target", do: func(c *caller) syscall.Errno { return c.mount("src", "none/m", "tmpfs", mounting) },
			kernel: one(syscall.ENOENT, asGiven(tmpfs, "none/m"))},
		{name: "unreadable target", do: func(c *caller) syscall.Errno {
			_, errno := c.call("mount", 0, 1, 0, mounting, 0)
			return errno
		}, kernel: one(syscall.EFAULT, event.Mount{Call: "mount", Flags: mounting, Unverified: true,
			Truncated: event.FieldTarget})},
		{name: "new calls", do: func(c *caller) syscall.Errno {
			fd, errno := newMount(c, attributes)
			if errno == 0 {
				_, errno = c.call("move_mount", uintptr(fd), c.text(""), cwdFD, c.text("m"), unix.MOVE_MOUNT_F_EMPTY_PATH)
			}
			return errno
		},
			kernel: []mountEvent{{0, fsopen}, {0, fsmount}, {0, moved}},
			traced: []mountEvent{{0, fsopen}, {0, fsmount}, {0, asGiven(moved, "DIR/m")}}},
		{name: "new calls, no such type", do: func(c *caller) syscall.Errno {
			_, errno := c.call("fsopen", c.text("none\n"), 0)
			return errno
		}, kernel: one(syscall.ENODEV, event.Mount{Call: "fsopen", Type: "none\n", Unverified: true})},
		{name: "new calls, not created", do: func(c *caller) syscall.Errno {
			fd, errno := openContext(c)
			if errno == 0 {
				_, errno = c.call("fsmount", uintptr(fd), 0, attributes)
			}
			return errno
		}, kernel: []mountEvent{{0, fsopen}, {syscall.EINVAL, asGiven(fsmount, "")}}},
		{name: "new calls, no such target", do: func(c *caller) syscall.Errno {
			fd, errno := newMount(c, attributes)
			if errno == 0 {
				_, errno = c.call("move_mount", uintptr(fd), c.text(""), cwdFD, c.text("none/m"), unix.MOVE_MOUNT_F_EMPTY_PATH)
			}
			return errno
		}, kernel: []mountEvent{{0, fsopen}, {0, fsmount}, {syscall.ENOENT, asGiven(moved, "none/m")}}},
		{name: "new calls, by name", prepare: mountTmpfs, do: func(c *caller) syscall.Errno {
			_, errno := c.call("move_mount", cwdFD, c.text("m"), cwdFD, c.text("a"), 0)
			return errno
		},
			kernel: one(0, event.Mount{Call: "move_mount", Source: "src", Target: "DIR/a", Type: "tmpfs"}),
			traced: one(0, event.Mount{Call: "move_mount", Source: "m", Target: "a", Unverified: true})},
		{name: "tree", do: func(c *caller) syscall.Errno {
			fd, errno := c.call("open_tree", cwdFD, c.text("a"), unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
			if errno == 0 {
				_, errno = c.call("move_mount", uintptr(fd), c.text(""), cwdFD, c.text("m"), unix.MOVE_MOUNT_F_EMPTY_PATH)
			}
			return errno
		},
			kernel: []mountEvent{{0, tree}, {0, event.Mount{Call: "move_mount", Source: "ground", Target: "DIR/m", Type: "tmpfs"}}},
			traced: []mountEvent{{0, tree}, {0, event.Mount{Call: "move_mount", Source: "ground", Target: "DIR/m", Type: "tmpfs",
				Unverified: true}}}},
		{name: "tree of a descriptor", do: func(c *caller) syscall.Errno {
			fd, err := unix.Open("a", unix.O_PATH, 0)
			if err != nil {
				return err.(syscall.Errno)
			}
			_, errno := c.call("open_tree", uintptr(fd), c.text(""), unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
			return errno
		}, kernel: one(0, event.Mount{Call: "open_tree", Source: "DIR/a", Type: "tmpfs", Unverified: true})},
		{name: "tree, no such source", do: func(c *caller) syscall.Errno {
			_, errno := c.call("open_tree", cwdFD, c.text("none"), unix.OPEN_TREE_CLONE)
			return errno
		}, kernel: one(syscall.ENOENT, event.Mount{Call: "open_tree", Source: "none", Unverified: true})},
		{name: "tree that is no mount", do: func(c *caller) syscall.Errno {
			_, errno := c.call("open_tree", cwdFD, c.text("a"), 0)
			return errno
		}},
		{name: "attributes", prepare: mountTmpfs, do: func(c *caller) syscall.Errno {
			attr := binary.LittleEndian.AppendUint64(nil, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSYMFOLLOW)
			attr = binary.LittleEndian.AppendUint64(attr, 0)
			attr = binary.LittleEndian.AppendUint64(attr, unix.MS_PRIVATE)
			attr = binary.LittleEndian.AppendUint64(attr, 0)
			_, errno := c.call("mount_setattr", cwdFD, c.text("m"), unix.AT_RECURSIVE, c.put(attr), uintptr(len(attr)))
			return errno
		}, kernel: one(0, event.Mount{Call: "mount_setattr", Target: "m", Unverified: true,
			Flags: unix.MS_REMOUNT | unix.MS_RDONLY | 1<<8 | unix.MS_PRIVATE | unix.MS_REC})},

		{name: "umount", prepare: mountTmpfs, do: func(c *caller) syscall.Errno { return c.umount("m", 0) },
			kernel: one(0, unmounted), traced: one(0, event.Mount{Call: "umount", Target: "m", Unverified: true})},
		{name: "umount, detached", prepare: func(c *caller) error {
			if err := mountTmpfs(c); err != nil {
				return err
			}
			return unix.Chdir("m")
		}, do: func(c *caller) syscall.Errno { return c.umount("../m", unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) },
			kernel: one(0, event.Mount{Call: "umount", Source: "src", Target: "DIR/m", Type: "tmpfs",
				UmountFlags: unix.MNT_DETACH | unix.UMOUNT_NOFOLLOW}),
			traced: one(0, event.Mount{Call: "umount", Target: "../m", UmountFlags: unix.MNT_DETACH | unix.UMOUNT_NOFOLLOW,
				Unverified: true})},
		{name: "umount, busy", prepare: func(c *caller) error {
			if err := mountTmpfs(c); err != nil {
				return err
			}
			return unix.Chdir("m")
		}, do: func(c *caller) syscall.Errno { return c.umount("../m", 0) },
			kernel: one(syscall.EBUSY, unmounted),
			traced: one(syscall.EBUSY, event.Mount{Call: "umount", Target: "../m", Unverified: true})},
		{name: "umount of no mount", do: func(c *caller) syscall.Errno { return c.umount("m", 0) },
			kernel: one(syscall.EINVAL, event.Mount{Call: "umount", Target: "m", Unverified: true})},
		{name: "umount, no such target", do: func(c *caller) syscall.Errno { return c.umount("none\x1b", unix.MNT_FORCE) },
			kernel: one(syscall.ENOENT, event.Mount{Call: "umount", Target: "none\x1b", UmountFlags: unix.MNT_FORCE,
				Unverified: true})},
		{name: "old umount", prepare: mountTmpfs, do: func(c *caller) syscall.Errno {
			if c.compat == nil {
				return c.umount("m", 0)
			}
			_, errno := c.call("oldumount", c.text("m"))
			return errno
		}, kernel: one(0, unmounted), traced: one(0, event.Mount{Call: "umount", Target: "m", Unverified: true})},
	}
}

// actMount does what a case says, in a mount namespace of its own.
func actMount(args []string) error {
	for _, test := range mountCases() {
		if test.name == args[0] {
			return test.run(args[1] == "32-bit")
		}
	}
	return fmt.Errorf("no case %q", args[0])
}

func (test *mountCase) run(compat bool) error {
	c, err := newCaller(compat)
	if err != nil {
		return err
	}
	if err := unix.Mount("ground", ".", "tmpfs", 0, ""); err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := unix.Chdir(dir); err != nil { // into the new mount
		return err
	}
	for _, d := range []string{"a", "m"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if test.prepare != nil {
		if err := test.prepare(c); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
	}
	if err := renamed(); err != nil {
		return err
	}
	return say(int(test.do(c)))
}

// What an action did before it gave itself this name is not looked at.
const afterwards = "afterwards"

func renamed() error { return os.WriteFile("/proc/self/comm", []byte(afterwards), 0) }

// callers names the kinds of programs that this machine can run.
func callers() []string {
	if runtime.GOARCH == "amd64" {
		return []string{"64-bit", "32-bit"}
	}
	return []string{"64-bit"}
}

func TestMount(t *testing.T) {
	kinds := []event.Kind{event.FSMount, event.FSUmount}
	forRungs(t, kinds, func(t *testing.T, o *observer) {
		for _, test := range mountCases() {
			for _, caller := range callers() {
				t.Run(test.name+"/"+caller, func(t *testing.T) { test.observe(t, o, caller) })
			}
		}
	})
}

// tracepoints tells whether an observer is on the tracepoint rung, by the test's name.
func tracepoints(t *testing.T) bool { return strings.Contains(t.Name()+"/", "/tracepoint/") }

func (test *mountCase) observe(t *testing.T, o *observer, caller string) {
	cmd := action("mount", test.name, caller)
	cmd.Dir = openTempDir(t)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	tr := o.trace(t, cmd)
	errno := syscall.Errno(heard[int](t, cmd))
	if errno == syscall.ENOSYS {
		t.Log("this kernel does not have the system call")
		return
	}
	want := test.kernel
	if tracepoints(t) && test.traced != nil {
		want = test.traced
	}
	var got []event.Event
	for _, e := range tr.events {
		if e.FS != nil && e.Process.Name == afterwards {
			got = append(got, e)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d events, want %d; the kernel said %v", len(got), len(want), errno)
	}
	for i, w := range want {
		m := w.Mount
		m.Target = strings.Replace(m.Target, "DIR", cmd.Dir, 1)
		m.Source = strings.Replace(m.Source, "DIR", cmd.Dir, 1)
		kind := event.FSMount
		if m.Call == "umount" {
			kind = event.FSUmount
		}
		tr.equal(t, event.Event{Kind: kind, Result: int32(w.errno), Process: tr.process(afterwards), FS: &m}, got[i])
	}
	if last := len(want) - 1; last >= 0 && want[last].errno != errno {
		t.Errorf("the kernel said %v, want %v", errno, want[last].errno)
	}
}

// A caller that changes the target's name while the kernel looks at it is told as what was mounted, or as unverified.
func TestMountRace(t *testing.T) {
	forRungs(t, []event.Kind{event.FSMount}, func(t *testing.T, o *observer) {
		cmd := action("mount-race")
		cmd.Dir = openTempDir(t)
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		tr := o.trace(t, cmd)
		targets := heard[[]string](t, cmd)
		var got []event.Event
		for _, e := range tr.of(event.FSMount) {
			if e.Process.Name == afterwards {
				got = append(got, e)
			}
		}
		if len(got) != len(targets) || len(got) == 0 {
			t.Fatalf("%d events, want %d", len(got), len(targets))
		}
		for i, e := range got {
			want := filepath.Join(cmd.Dir, targets[i])
			if e.FS.Unverified != tracepoints(t) || !e.FS.Unverified && e.FS.Target != want {
				t.Fatalf("mount %d was on %s: %+v", i, want, *e.FS)
			}
		}
	})
}

// actMountRace mounts on a target whose name another thread changes, and says where each mount came to be.
func actMountRace([]string) error {
	targets := []string{"a", "b"}
	for _, d := range targets {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := renamed(); err != nil {
		return err
	}
	name := new(uint32) // a letter and a NUL byte
	*name = 'a'
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			flip(name, 'b')
			flip(name, 'a')
		}
	}()
	kind := mustBytes("tmpfs")
	var mounted []string
	for range 500 {
		_, _, errno := unix.Syscall6(unix.SYS_MOUNT, pointer(kind), uintptr(unsafe.Pointer(name)), pointer(kind), 0, 0, 0)
		if errno != 0 {
			return errno
		}
		for _, target := range targets {
			if unix.Unmount(target, 0) == nil {
				mounted = append(mounted, target)
			}
		}
	}
	stop.Store(true)
	<-done
	return json.NewEncoder(os.Stdout).Encode(mounted)
}
