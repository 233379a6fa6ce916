package ebpf

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// change is a system call that changes names or attributes of files. Names are bytes, as the kernel has them.
type change struct {
	Call          string
	Old, New      []byte // the only name is Old
	OldAt, NewAt  string // the directories of the *at calls; empty for the current one
	Flags         int
	Mode          uint32
	UID, GID      int32
	FD            bool // Old is opened before, and the call given the descriptor
	Way           string
	Overlay       bool   // in a directory merged of lower/ and upper/
	Chroot        string // made the root before
	Bind          string // the directory is mounted there too, and the call made from there
	User          int    // as whom
	Subject       string // the file whose identity is told; Old when empty
	OwnDescriptor bool   // no other thread shares the descriptors
}

// changed is what an action did.
type changed struct {
	Errno  unix.Errno
	Inode  uint64
	Device event.Device
}

func actChange(args []string) error {
	var c change
	if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := c.prepare(); err != nil {
		return err
	}
	var did changed
	subject := c.Subject
	if subject == "" && c.OldAt == "" {
		subject = string(c.Old)
	}
	var st unix.Stat_t
	if subject != "" && unix.Lstat(subject, &st) == nil {
		did.Inode, did.Device = st.Ino, event.Device(unix.Major(st.Dev)<<20|unix.Minor(st.Dev))
	}
	make, err := c.caller()
	if err != nil {
		return err
	}
	if c.User != 0 {
		if err := unix.Setresuid(c.User, c.User, c.User); err != nil {
			return err
		}
	}
	did.Errno = make()
	return say(did)
}

// prepare puts the thread into the surroundings of the call.
func (c *change) prepare() error {
	switch {
	case c.Overlay:
		if err := mountOverlay(); err != nil {
			return err
		}
	case c.Bind != "":
		if err := unix.Mount(".", c.Bind, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind mount: %w", err)
		}
		if err := unix.Chdir(c.Bind); err != nil {
			return err
		}
	case c.Chroot != "":
		if err := errors.Join(unix.Chroot(c.Chroot), unix.Chdir("/")); err != nil {
			return err
		}
	}
	if c.OwnDescriptor {
		return unix.Unshare(unix.CLONE_FILES)
	}
	return nil
}

// mountOverlay makes the current directory's "merged" one, with a file of each layer.
func mountOverlay() error {
	if err := unix.Mount("tmpfs", ".", "tmpfs", 0, ""); err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	if err := unix.Chdir(dir); err != nil { // into what was mounted there
		return err
	}
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile("lower/image", nil, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile("upper/added", nil, 0o644); err != nil {
		return err
	}
	if err := unix.Mount("overlay", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work"); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return unix.Chdir("merged")
}

// caller returns what makes the call, and its errno.
func (c *change) caller() (func() unix.Errno, error) {
	oldAt, newAt := unix.AT_FDCWD, unix.AT_FDCWD
	for _, at := range []struct {
		fd  *int
		dir string
	}{{&oldAt, c.OldAt}, {&newAt, c.NewAt}} {
		if at.dir == "" {
			continue
		}
		var err error
		if *at.fd, err = unix.Open(at.dir, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
			return nil, err
		}
	}
	if c.FD {
		var err error
		if oldAt, err = unix.Open(string(c.Old), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return nil, err
		}
	}
	switch c.Way {
	case "ia32":
		return c.compatCaller(oldAt, newAt)
	case "io_uring":
		return c.ringCaller(oldAt, newAt)
	}
	number, ok := nativeNumber(c.Call)
	if !ok {
		return nil, fmt.Errorf("no call %q", c.Call)
	}
	oldName, newName := mustBytes(string(c.Old)), mustBytes(string(c.New))
	args := c.args(uintptr(oldAt), pointer(oldName), uintptr(newAt), pointer(newName))
	return func() unix.Errno {
		_, _, errno := unix.Syscall6(uintptr(number), args[0], args[1], args[2], args[3], args[4], 0)
		runtime.KeepAlive(oldName)
		runtime.KeepAlive(newName)
		return errno
	}, nil
}

// args are those of the call.
func (c *change) args(oldAt, oldName, newAt, newName uintptr) (a [5]uintptr) {
	var list []uintptr
	mode, flags, uid, gid := uintptr(c.Mode), uintptr(c.Flags), uintptr(uint32(c.UID)), uintptr(uint32(c.GID))
	switch c.Call {
	case "rename", "link", "symlink":
		list = []uintptr{oldName, newName}
	case "renameat", "renameat2", "linkat":
		list = []uintptr{oldAt, oldName, newAt, newName, flags}
	case "symlinkat":
		list = []uintptr{oldName, newAt, newName}
	case "unlink", "rmdir":
		list = []uintptr{oldName}
	case "unlinkat":
		list = []uintptr{oldAt, oldName, flags}
	case "chmod":
		list = []uintptr{oldName, mode}
	case "fchmod":
		list = []uintptr{oldAt, mode}
	case "fchmodat", "fchmodat2":
		list = []uintptr{oldAt, oldName, mode, flags}
	case "chown", "lchown", "chown16", "lchown16":
		list = []uintptr{oldName, uid, gid}
	case "fchown", "fchown16":
		list = []uintptr{oldAt, uid, gid}
	case "fchownat":
		list = []uintptr{oldAt, oldName, uid, gid, flags}
	}
	copy(a[:], list)
	return a
}

// ringCaller makes the call by io_uring.
func (c *change) ringCaller(oldAt, newAt int) (func() unix.Errno, error) {
	r, err := newRing(0)
	if err != nil {
		return nil, err
	}
	oldName, newName := mustBytes(string(c.Old)), mustBytes(string(c.New))
	s := sqe{FD: int32(oldAt), Address: uint64(pointer(oldName)), OpFlags: uint32(c.Flags)}
	switch c.kind() {
	case event.FileRename, event.FileLink:
		s.Opcode = opRenameat
		if c.kind() == event.FileLink {
			s.Opcode = opLinkat
		}
		s.Offset, s.Length = uint64(pointer(newName)), uint32(newAt)
	case event.FileSymlink:
		s.Opcode, s.FD, s.Offset = opSymlinkat, int32(newAt), uint64(pointer(newName))
	case event.FileUnlink:
		s.Opcode = opUnlinkat
	}
	return func() unix.Errno {
		result, err := r.submit(s, oldName, newName)
		if err != nil {
			panic(err)
		}
		return unix.Errno(-result)
	}, nil
}

// changeTest is a change and what is to be told of it.
type changeTest struct {
	name string
	change
	errno unix.Errno
	want  event.File // where the kernel found the file; Inode and Device are filled in
	lost  bool       // the kernel did not find it
}

// The names of the directory that tests of changes work in: files a, b and dir/file, directories dir and empty, and
// a symbolic link to a.
const hostile = "new\nline \x1b[31mred\xff\xfe'\""

func changeTests(dir string) []changeTest {
	at := func(name string) string { return filepath.Join(dir, name) }
	b := func(name string) []byte { return []byte(name) }
	long := strings.Repeat("x", 255)
	deep := strings.Repeat(long+"/", 16)
	return []changeTest{
		{"rename", change{Call: "rename", Old: b("a"), New: b("c")}, 0, event.File{Path: at("a"), Target: at("c")}, false},
		{"rename over", change{Call: "rename", Old: b(at("a")), New: b(at("b"))}, 0,
			event.File{Path: at("a"), Target: at("b")}, false},
		{"renameat", change{Call: "renameat", Old: b("file"), OldAt: at("dir"), New: b(hostile), NewAt: at("empty"),
			Subject: at("dir/file")}, 0, event.File{Path: at("dir/file"), Target: at("empty/" + hostile)}, false},
		{"renameat2, exchange", change{Call: "renameat2", Old: b("a"), New: b("dir"), Flags: unix.RENAME_EXCHANGE}, 0,
			event.File{Path: at("a"), Target: at("dir"), RenameFlags: unix.RENAME_EXCHANGE}, false},
		{"renameat2, there already", change{Call: "renameat2", Old: b("a"), New: b("b"), Flags: unix.RENAME_NOREPLACE},
			unix.EEXIST, event.File{Path: "a", Target: "b", RenameFlags: unix.RENAME_NOREPLACE}, true},
		{"rename of nothing", change{Call: "renameat2", Old: b("none"), New: b(hostile)}, unix.ENOENT,
			event.File{Path: "none", Target: hostile}, true},
		{"rename over a full directory", change{Call: "renameat2", Old: b("empty"), New: b("dir")}, unix.ENOTEMPTY,
			event.File{Path: at("empty"), Target: at("dir")}, false},
		{"rename by another user", change{Call: "renameat2", Old: b("a"), New: b("c"), User: 65534}, unix.EACCES,
			event.File{Path: at("a"), Target: at("c")}, false},
		{"rename to another file system", change{Call: "renameat2", Old: b("a"), New: b("/dev/shm/taskguard-none")},
			unix.EXDEV, event.File{Path: "a", Target: "/dev/shm/taskguard-none"}, true},
		{"rename, mounted", change{Call: "renameat2", Old: b("a"), New: b("dir/c"), Bind: at("empty")}, 0,
			event.File{Path: at("empty/a"), Target: at("empty/dir/c")}, false},
		{"rename, other root", change{Call: "renameat2", Old: b("/file"), New: b("c"), Chroot: at("dir")}, 0,
			event.File{Path: at("dir/file"), Target: at("dir/c")}, false},
		{"rename, overlay", change{Call: "renameat2", Old: b("added"), New: b("c"), Overlay: true}, 0,
			event.File{Path: at("merged/added"), Target: at("merged/c"), UpperLayer: true}, false},
		{"rename, image", change{Call: "renameat2", Old: b("image"), New: b("c"), Overlay: true}, 0,
			event.File{Path: at("merged/image"), Target: at("merged/c")}, false},
		{"long names", change{Call: "renameat2", Old: b(deep), New: b(long)}, unix.ENAMETOOLONG,
			event.File{Path: deep[:4095], Target: long, Truncated: event.FieldPath}, true},

		{"link", change{Call: "link", Old: b("a"), New: b("c")}, 0, event.File{Path: at("c"), Target: at("a")}, false},
		{"linkat", change{Call: "linkat", Old: b("file"), OldAt: at("dir"), New: b("c"), NewAt: at("empty"),
			Subject: at("dir/file")}, 0, event.File{Path: at("empty/c"), Target: at("dir/file")}, false},
		{"linkat, followed", change{Call: "linkat", Old: b("a"), New: b("c"), Flags: unix.AT_SYMLINK_FOLLOW}, 0,
			event.File{Path: at("c"), Target: at("a")}, false},
		{"link, there already", change{Call: "linkat", Old: b("a"), New: b("b")}, unix.EEXIST,
			event.File{Path: "b", Target: "a"}, true},
		{"link to a directory", change{Call: "linkat", Old: b("dir"), New: b("c")}, unix.EPERM,
			event.File{Path: at("c"), Target: at("dir")}, false},

		{"symlink", change{Call: "symlink", Old: b("../" + hostile), New: b("c"), Subject: "/none"}, 0,
			event.File{Path: at("c"), Target: "../" + hostile}, false},
		{"symlinkat", change{Call: "symlinkat", Old: b("/etc/shadow"), New: b("c"), NewAt: at("empty"), Subject: "/none"}, 0,
			event.File{Path: at("empty/c"), Target: "/etc/shadow"}, false},
		{"symlink, there already", change{Call: "symlinkat", Old: b("/etc/shadow"), New: b("b"), Subject: "/none"},
			unix.EEXIST, event.File{Path: "b", Target: "/etc/shadow"}, true},

		{"unlink", change{Call: "unlink", Old: b("a")}, 0, event.File{Path: at("a")}, false},
		{"unlinkat", change{Call: "unlinkat", Old: b("file"), OldAt: at("dir"), Subject: at("dir/file")}, 0,
			event.File{Path: at("dir/file")}, false},
		{"unlink, hostile", change{Call: "unlinkat", Old: b(at(hostile))}, 0, event.File{Path: at(hostile)}, false},
		{"rmdir", change{Call: "rmdir", Old: b("empty")}, 0, event.File{Path: at("empty"), Directory: true}, false},
		{"unlinkat of a directory", change{Call: "unlinkat", Old: b(at("empty")), Flags: unix.AT_REMOVEDIR}, 0,
			event.File{Path: at("empty"), Directory: true}, false},
		{"rmdir of a full one", change{Call: "unlinkat", Old: b("dir"), Flags: unix.AT_REMOVEDIR}, unix.ENOTEMPTY,
			event.File{Path: at("dir"), Directory: true}, false},
		{"unlink of nothing", change{Call: "unlinkat", Old: b("dir/none")}, unix.ENOENT, event.File{Path: "dir/none"}, true},
		{"unlink by another user", change{Call: "unlinkat", Old: b("a"), User: 65534}, unix.EACCES,
			event.File{Path: at("a")}, false},
		{"unlink, overlay", change{Call: "unlinkat", Old: b("image"), Overlay: true}, 0,
			event.File{Path: at("merged/image")}, false},

		{"chmod", change{Call: "chmod", Old: b("a"), Mode: 0o4755}, 0,
			event.File{Path: at("a"), Mode: event.Some[event.FileMode](0o4755)}, false},
		{"fchmodat", change{Call: "fchmodat", Old: b("file"), OldAt: at("dir"), Mode: 0, Subject: at("dir/file")}, 0,
			event.File{Path: at("dir/file"), Mode: event.Some[event.FileMode](0)}, false},
		{"fchmodat2", change{Call: "fchmodat2", Old: b(at("a")), Mode: 0o600, Flags: unix.AT_SYMLINK_NOFOLLOW}, 0,
			event.File{Path: at("a"), Mode: event.Some[event.FileMode](0o600)}, false},
		{"fchmodat2, descriptor", change{Call: "fchmodat2", OldAt: at("a"), Mode: 0o600, Flags: unix.AT_EMPTY_PATH,
			Subject: at("a")}, 0, event.File{Path: at("a"), Mode: event.Some[event.FileMode](0o600)}, false},
		{"fchmod", change{Call: "fchmod", Old: b("a"), FD: true, Mode: 0o640}, 0,
			event.File{Path: at("a"), Mode: event.Some[event.FileMode](0o640)}, false},
		{"fchmod, alone", change{Call: "fchmod", Old: b("a"), FD: true, Mode: 0o640, OwnDescriptor: true}, 0,
			event.File{Path: at("a"), Mode: event.Some[event.FileMode](0o640)}, false},
		{"chmod by another user", change{Call: "fchmodat", Old: b("a"), Mode: 0o777, User: 65534}, unix.EPERM,
			event.File{Path: at("a"), Mode: event.Some[event.FileMode](0o777)}, false},
		{"chmod of nothing", change{Call: "fchmodat", Old: b("none"), Mode: 0o777}, unix.ENOENT,
			event.File{Path: "none", Mode: event.Some[event.FileMode](0o777)}, true},
		{"chmod, overlay", change{Call: "fchmodat", Old: b("added"), Mode: 0o777, Overlay: true}, 0,
			event.File{Path: at("merged/added"), Mode: event.Some[event.FileMode](0o777), UpperLayer: true}, false},

		{"chown", change{Call: "chown", Old: b("a"), UID: 1000, GID: -1}, 0,
			event.File{Path: at("a"), UID: event.Some[uint32](1000)}, false},
		{"lchown", change{Call: "lchown", Old: b("link"), UID: -1, GID: 0}, 0,
			event.File{Path: at("link"), GID: event.Some[uint32](0)}, false},
		{"fchownat", change{Call: "fchownat", Old: b("file"), OldAt: at("dir"), UID: 1, GID: 2, Subject: at("dir/file")}, 0,
			event.File{Path: at("dir/file"), UID: event.Some[uint32](1), GID: event.Some[uint32](2)}, false},
		{"fchown", change{Call: "fchown", Old: b("a"), FD: true, UID: 1, GID: 2, OwnDescriptor: true}, 0,
			event.File{Path: at("a"), UID: event.Some[uint32](1), GID: event.Some[uint32](2)}, false},
		{"chown by another user", change{Call: "fchownat", Old: b("a"), UID: 0, GID: 65534, User: 65534}, unix.EPERM,
			event.File{Path: at("a"), UID: event.Some[uint32](0), GID: event.Some[uint32](65534)}, false},
		{"chown of nothing", change{Call: "fchownat", Old: b(""), UID: 0, GID: 0}, unix.ENOENT,
			event.File{UID: event.Some[uint32](0), GID: event.Some[uint32](0)}, true},
	}
}

// kind is what a call is to be told as.
func (c *change) kind() event.Kind {
	for _, k := range []struct {
		word string
		kind event.Kind
	}{
		{"rename", event.FileRename}, {"symlink", event.FileSymlink}, {"unlink", event.FileUnlink}, {"link", event.FileLink},
		{"rmdir", event.FileUnlink}, {"chmod", event.FileChmod}, {"chown", event.FileChown},
	} {
		if strings.Contains(c.Call, k.word) {
			return k.kind
		}
	}
	return 0
}

// copier is the function that is given the kernel's copy of a call's names: on some kernels it makes that itself.
func (c *change) copier() string {
	switch c.kind() {
	case event.FileRename:
		return "do_renameat2"
	case event.FileLink:
		return "do_linkat"
	case event.FileSymlink:
		return "do_symlinkat"
	}
	if c.Call == "rmdir" || c.Flags&unix.AT_REMOVEDIR != 0 {
		return "do_rmdir"
	}
	return "do_unlinkat"
}

// namesCopied tells whether a kernel's function has a parameter of type struct filename.
func namesCopied(t *testing.T, function string) bool {
	t.Helper()
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var f *btf.Func
	if err := spec.TypeByName(function, &f); err != nil {
		return false
	}
	for _, p := range f.Type.(*btf.FuncProto).Params {
		if pointer, ok := p.Type.(*btf.Pointer); ok && pointer.Target.TypeName() == "filename" {
			return true
		}
	}
	return false
}

// expected is what a rung is to tell of a change.
func (test *changeTest) expected(t *testing.T, rung string, did changed) event.File {
	t.Helper()
	want := test.want
	attributes := test.kind() == event.FileChmod || test.kind() == event.FileChown
	switch {
	case test.lost && rung == rungTracepoint:
		want.Unverified = test.Way != "io_uring" // a request has copies
	case test.lost: // too long a name is not copied
		want.Unverified = attributes || test.errno == unix.ENAMETOOLONG || !namesCopied(t, test.copier())
	case rung != rungTracepoint:
		want.Inode, want.Device = did.Inode, did.Device
	case test.FD:
		want.Inode, want.Device = did.Inode, did.Device
		want.Unverified = !test.OwnDescriptor
	case test.Flags == unix.AT_EMPTY_PATH && attributes:
		want.Inode, want.Device, want.Unverified = did.Inode, did.Device, true
	default:
		want.UpperLayer, want.Unverified = false, test.Way != "io_uring" || test.errno == 0
		if test.errno != 0 {
			want.Path, want.Target = string(test.Old), string(test.New)
			if test.kind() == event.FileLink || test.kind() == event.FileSymlink {
				want.Path, want.Target = want.Target, want.Path
			}
		}
	}
	return want
}

// changeDir makes the directory that a test of changes works in.
func changeDir(t *testing.T) string {
	t.Helper()
	dir := openTempDir(t)
	for _, d := range []string{"dir", "empty"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"a", "b", "dir/file", hostile} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// run makes a change and compares what is told of it, which is one event.
func (test *changeTest) run(t *testing.T, o *observer, rung, dir string) {
	t.Helper()
	what, err := json.Marshal(test.change)
	if err != nil {
		t.Fatal(err)
	}
	cmd := action("change", string(what))
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	tr := o.trace(t, cmd)
	did := heard[changed](t, cmd)
	if test.Way == "io_uring" && (did.Errno == unix.EINVAL || !ringsSeen(t, rung)) {
		t.Log("this kernel's io_uring cannot do that, or not be seen on this rung")
		return
	}
	if errors.Is(did.Errno, unix.ENOSYS) {
		t.Logf("this kernel has no %s", test.Call)
		return
	}
	if did.Errno != test.errno {
		t.Fatalf("the kernel said %v, want %v", did.Errno, test.errno)
	}
	got := tr.of(test.kind())
	if len(got) != 1 {
		t.Fatalf("%d events, want 1: %+v", len(got), got)
	}
	want := test.expected(t, rung, did)
	process := tr.process("exe")
	if test.User != 0 {
		process.UID, process.EUID = uint32(test.User), uint32(test.User)
	}
	tr.equal(t, event.Event{Kind: test.kind(), Result: int32(test.errno), Process: process, File: &want}, got[0])
}

// ringsSeen tells whether this kernel has what a rung needs to see io_uring.
func ringsSeen(t *testing.T, rung string) bool {
	t.Helper()
	if rung != rungTracepoint {
		return true
	}
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var trace *btf.Typedef
	seen := spec.TypeByName("btf_trace_"+uringSubmitted, &trace) == nil
	if !seen {
		t.Log("before Linux 6.3 the tracepoint rung does not see io_uring")
	}
	return seen
}

// byOtherWays are the tests of calls that can be made by io_uring, and of all as a 32-bit program makes them.
func byOtherWays(tests []changeTest) []changeTest {
	for _, test := range tests[:len(tests):len(tests)] {
		if test.Overlay || test.Chroot != "" || test.Bind != "" {
			continue
		}
		attributes := test.kind() == event.FileChmod || test.kind() == event.FileChown
		// What io_uring cannot make otherwise; names that cannot be copied make no request.
		if at := strings.Contains(test.Call, "at"); at && !attributes && test.errno != unix.ENAMETOOLONG {
			byRing := test
			byRing.name, byRing.Way = test.name+" by io_uring", "io_uring"
			tests = append(tests, byRing)
		}
		if _, there := compatNumbers[test.Call]; there {
			compat := test
			compat.name, compat.Way = test.name+" by a 32-bit caller", "ia32"
			tests = append(tests, compat)
		}
	}
	if runtime.GOARCH != "amd64" {
		return tests
	}
	for _, call := range []string{"chown16", "lchown16", "fchown16"} {
		test := changeTest{name: call, change: change{Call: call, Old: []byte("a"), UID: -1, GID: 7, Way: "ia32",
			FD: call == "fchown16", OwnDescriptor: true}}
		test.want = event.File{Path: tests[0].want.Path, GID: event.Some[uint32](7)} // also of file a
		tests = append(tests, test)
	}
	return tests
}

// Names and attributes of files: every call, found and not, wherever the file is.
func TestChange(t *testing.T) {
	for _, kind := range []event.Kind{
		event.FileRename, event.FileLink, event.FileSymlink, event.FileUnlink, event.FileChmod, event.FileChown,
	} {
		t.Run(kind.String(), func(t *testing.T) {
			forRungs(t, []event.Kind{kind}, func(t *testing.T, o *observer) {
				for _, test := range byOtherWays(changeTests("")) {
					_, there := nativeNumber(test.Call)
					if test.kind() != kind || !there && test.Way == "" {
						continue
					}
					t.Run(test.name, func(t *testing.T) {
						dir := changeDir(t)
						tests := byOtherWays(changeTests(dir))
						i := slices.IndexFunc(tests, func(same changeTest) bool { return same.name == test.name })
						tests[i].run(t, o, rungOf(t), dir)
					})
				}
			})
		})
	}
}

// A caller that changes the name while the kernel renames is told of by the file that was renamed; where that cannot be
// known the event says so.
func TestRenameRace(t *testing.T) {
	forRungs(t, []event.Kind{event.FileRename}, func(t *testing.T, o *observer) {
		dir := openTempDir(t)
		cmd := action("rename-race", dir)
		tr := o.trace(t, cmd)
		renamed := heard[[]string](t, cmd)
		events := tr.of(event.FileRename)
		if len(events) != len(renamed) {
			t.Fatalf("%d events of %d renames", len(events), len(renamed))
		}
		seen := map[string]int{}
		for i, e := range events {
			seen[renamed[i]]++
			if (e.Result == 0) != (renamed[i] != "none") {
				t.Fatalf("rename %d of %s: told of errno %d", i, renamed[i], e.Result)
			}
			if e.File.Unverified != (rungOf(t) == rungTracepoint) {
				t.Fatalf("told of %+v", *e.File)
			}
			if want := filepath.Join(dir, renamed[i]); !e.File.Unverified && e.File.Path != want && e.Result == 0 {
				t.Fatalf("rename %d of %s: told of %s", i, want, e.File.Path)
			}
		}
		t.Logf("renames by name: %v", seen)
	})
}

// actRenameRace renames a file whose name another thread changes, and says which each was, "none" when it was not
// there.
func actRenameRace(args []string) error {
	dir := args[0]
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	names := []string{"a", "b"}
	for _, name := range names {
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			return err
		}
	}
	old, target := []byte(dir+"/a\x00"), mustBytes(dir+"/target")
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			for _, letter := range []byte("abc") {
				flip(&old[len(old)-2], letter)
			}
		}
	}()
	cwd := unix.AT_FDCWD
	renamed := make([]string, 0, 2000)
	for range cap(renamed) {
		_, _, errno := unix.Syscall6(unix.SYS_RENAMEAT2, uintptr(cwd), pointer(&old[0]), uintptr(cwd), pointer(target), 0, 0)
		which := "none"
		if errno == 0 {
			which = missing(names)
			if err := errors.Join(os.Remove("target"), os.WriteFile(which, nil, 0o644)); err != nil {
				return err
			}
		}
		renamed = append(renamed, which)
	}
	stop.Store(true)
	<-done
	return say(renamed)
}

// missing returns the name of which there is no file.
func missing(names []string) string {
	for _, name := range names {
		if _, err := os.Lstat(name); err != nil {
			return name
		}
	}
	return ""
}
