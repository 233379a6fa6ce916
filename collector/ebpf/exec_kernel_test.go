package ebpf

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// execOf is the event of a command that the test itself has started.
func (tr traced) execOf(t *testing.T, name, exe, cwd string, args ...string) event.Event {
	t.Helper()
	p := tr.process(name)
	p.Exe, p.Cwd, p.Args = exe, cwd, event.NewArgv(args)
	p.PPID, p.ParentStart = uint32(os.Getpid()), startOf(t, os.Getpid())
	return event.Event{Kind: event.ProcessExec, Process: p}
}

func TestExec(t *testing.T) {
	o := observe(t)
	program := realPath(t, "/bin/true")
	name := filepath.Base(program)

	t.Run("arguments, environment, directory", func(t *testing.T) {
		dir := openTempDir(t)
		cmd := exec.Command(program)
		cmd.Args = []string{"argument 0", "a b", "", "new\nline", "\xff"}
		cmd.Env = []string{"LD_DEBUG_OUTPUT=x", "LD_PRELOAD=/none.so", "SECRET=1", "LD_LIBRARY_PATH=/x:/y", "LD_PRELOA=no"}
		cmd.Dir = dir
		tr := o.trace(t, cmd)
		want := tr.execOf(t, name, program, dir, cmd.Args...)
		want.Process.Env = "LD_PRELOAD=/none.so\x00LD_LIBRARY_PATH=/x:/y\x00"
		tr.equal(t, want, tr.last(t, event.ProcessExec))
	})

	t.Run("root directory, no arguments", func(t *testing.T) {
		cmd := &exec.Cmd{Path: program, Dir: "/", Env: []string{}}
		tr := o.trace(t, cmd)
		tr.equal(t, tr.execOf(t, name, program, "/", program), tr.last(t, event.ProcessExec))
	})

	t.Run("ids", func(t *testing.T) {
		dir := openTempDir(t)
		setuid := filepath.Join(dir, "as-owner")
		copyProgram(t, program, setuid, 0o755)
		if err := os.Chown(setuid, 3001, 3002); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(setuid, 0o755|os.ModeSetuid|os.ModeSetgid); err != nil {
			t.Fatal(err)
		}
		cmd := &exec.Cmd{Path: setuid, Dir: "/", Env: []string{}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 2001, Gid: 2002}}
		tr := o.trace(t, cmd)
		want := tr.execOf(t, "as-owner", setuid, "/", setuid)
		want.Process.UID, want.Process.GID, want.Process.EUID, want.Process.EGID = 2001, 2002, 3001, 3002
		tr.equal(t, want, tr.last(t, event.ProcessExec))
	})

	t.Run("pid namespace", func(t *testing.T) {
		cmd := &exec.Cmd{Path: program, Dir: "/", Env: []string{}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		tr := o.trace(t, cmd)
		want := tr.execOf(t, name, program, "/", program)
		want.Process.NSPID = 1
		tr.equal(t, want, tr.last(t, event.ProcessExec))
	})

	t.Run("cgroup", func(t *testing.T) {
		dir, id := o.hierarchy.newCgroup(t)
		cmd := exec.Command("/bin/sh", "-c", `echo $$ > "$0"/cgroup.procs && exec /bin/true`, dir)
		tr := o.trace(t, cmd)
		if got := tr.last(t, event.ProcessExec).Process; got.Cgroup != id {
			t.Errorf("cgroup %d, want %d", got.Cgroup, id)
		}
	})

	t.Run("parent that has threads", func(t *testing.T) {
		cmd := exec.Command("/bin/sh", "-c", "/bin/true; exit 0")
		tr := o.trace(t, cmd)
		for _, e := range tr.of(event.ProcessExec) {
			if e.Process.PID == uint32(tr.pid) {
				continue
			}
			if e.Process.PPID != uint32(tr.pid) || e.Process.ParentStart/tick*tick != tr.start {
				t.Errorf("parent %d started %d, want %d started %d", e.Process.PPID, e.Process.ParentStart, tr.pid, tr.start)
			}
		}
	})
}

func TestExecScript(t *testing.T) {
	o := observe(t)
	dir := openTempDir(t)
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh -e\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	shell := realPath(t, "/bin/sh")
	outer := filepath.Join(dir, "outer")
	if err := os.WriteFile(outer, []byte("#!"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path, script string
		args         []string
	}{
		{script, script, []string{"/bin/sh", "-e", script, "x y"}},
		{"./script", script, []string{"/bin/sh", "-e", "./script", "x y"}},
		{"../001/script", dir + "/../001/script", []string{"/bin/sh", "-e", "../001/script", "x y"}},
		{outer, outer, []string{"/bin/sh", "-e", script, outer, "x y"}},
	} {
		t.Run(test.path, func(t *testing.T) {
			cmd := &exec.Cmd{Path: test.path, Args: []string{"name", "x y"}, Dir: dir, Env: []string{}}
			tr := o.trace(t, cmd)
			want := tr.execOf(t, filepath.Base(test.path), shell, dir, test.args...)
			want.Process.Script = test.script
			tr.equal(t, want, tr.last(t, event.ProcessExec))
		})
	}
}

// What is too long is cut, and says so.
func TestExecCut(t *testing.T) {
	o := observe(t)
	program := realPath(t, "/bin/true")
	name := filepath.Base(program)

	t.Run("arguments", func(t *testing.T) {
		cmd := &exec.Cmd{Path: program, Dir: "/", Env: []string{}}
		cmd.Args = []string{program, strings.Repeat("a", 15000), strings.Repeat("b", 15000)}
		tr := o.trace(t, cmd)
		whole := event.NewArgv(cmd.Args)
		want := tr.execOf(t, name, program, "/")
		want.Process.Args, want.Process.ArgsLength = whole[:20480], uint32(len(whole))
		want.Process.Truncated = event.FieldArgs
		tr.equal(t, want, tr.last(t, event.ProcessExec))
	})

	t.Run("arguments of the longest length", func(t *testing.T) {
		cmd := &exec.Cmd{Path: program, Dir: "/", Env: []string{}}
		cmd.Args = []string{"x", strings.Repeat("a", 20480-3)}
		tr := o.trace(t, cmd)
		tr.equal(t, tr.execOf(t, name, program, "/", cmd.Args...), tr.last(t, event.ProcessExec))
	})

	t.Run("environment", func(t *testing.T) {
		long := "LD_PRELOAD=" + strings.Repeat("/no.so:", 3000)
		cmd := &exec.Cmd{Path: program, Dir: "/", Env: []string{"LD_LIBRARY_PATH=/x", "LD_BIND_NOW=1", long}}
		tr := o.trace(t, cmd)
		want := tr.execOf(t, name, program, "/", program)
		kept := 16384 - len("LD_LIBRARY_PATH=/x\x00LD_BIND_NOW=1\x00")
		want.Process.Env = event.Environ("LD_LIBRARY_PATH=/x\x00" + long[:kept])
		want.Process.Truncated = event.FieldEnv
		tr.equal(t, want, tr.last(t, event.ProcessExec))
	})

	t.Run("a variable hidden behind long ones", func(t *testing.T) {
		cmd := &exec.Cmd{Path: program, Dir: "/", Env: []string{
			"A=" + strings.Repeat("x", 2045) + "LD_PRELOAD=/no", "B=" + strings.Repeat("x", 9000), "LD_PRELOAD=/yes",
		}}
		tr := o.trace(t, cmd)
		want := tr.execOf(t, name, program, "/", program)
		want.Process.Env = "LD_PRELOAD=/yes\x00"
		tr.equal(t, want, tr.last(t, event.ProcessExec))
	})

	for _, test := range []struct {
		name      string
		component string
		depth     int
		exe, cwd  int  // components kept
		followed  bool // to the end
	}{
		{"more components than are followed", "d", 2100, 1918, 1921, false},
		{"many components", "d", 1950, 1918, 1921, true},
		{"long components", strings.Repeat("n", 250), 20, 17, 16, true},
	} {
		if !findsAreas(t) && test.depth > 64 { // such a kernel's verifier does not let programs go further
			test.exe, test.cwd, test.followed = 64, 64, false
		}
		t.Run(test.name, func(t *testing.T) {
			cmd := action("deep", test.component, fmt.Sprint(test.depth), program)
			cmd.Dir = openTempDir(t)
			t.Cleanup(func() { removeDeep(t, cmd.Dir) })
			tr := o.trace(t, cmd)
			got := tr.last(t, event.ProcessExec)
			want := tr.execOf(t, "program", "", "", "./program")
			whole := strings.Split(strings.Repeat(test.component+"/", test.depth)+"program", "/")
			want.Process.Exe = strings.Join(whole[len(whole)-test.exe:], "/")
			want.Process.Cwd = strings.Join(whole[len(whole)-1-test.cwd:len(whole)-1], "/")
			want.Process.Truncated = event.FieldExe | event.FieldCwd
			if test.followed {
				want.Process.CwdLength = uint32(len(cmd.Dir) + test.depth*len("/"+test.component))
				want.Process.ExeLength = want.Process.CwdLength + uint32(len("/program"))
			}
			tr.equal(t, want, got)
		})
	}
}

// removeDeep removes a tree whose paths are too long for one call.
func removeDeep(t *testing.T, dir string) {
	if out, err := exec.Command("rm", "-rf", dir).CombinedOutput(); err != nil {
		t.Errorf("remove: %v: %s", err, out)
	}
}

// actDeep runs a program from the bottom of a deep tree: COMPONENT DEPTH PROGRAM.
func actDeep(args []string) error {
	var depth int
	if _, err := fmt.Sscan(args[1], &depth); err != nil {
		return err
	}
	data, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	for range depth {
		if err := errors.Join(os.Mkdir(args[0], 0o755), syscall.Chdir(args[0])); err != nil {
			return err
		}
	}
	if err := os.WriteFile("program", data, 0o755); err != nil {
		return err
	}
	return syscall.Exec("./program", []string{"./program"}, []string{})
}

// An executable that has no name any more is told by the name it had.
func TestExecDeleted(t *testing.T) {
	o := observe(t)
	program := realPath(t, "/bin/true")

	t.Run("unlinked", func(t *testing.T) {
		path := filepath.Join(openTempDir(t), "gone")
		copyProgram(t, program, path, 0o755)
		cmd := action("execveat", path)
		cmd.Dir = "/"
		tr := o.trace(t, cmd)
		got := tr.last(t, event.ProcessExec)
		want := tr.execOf(t, got.Process.Name, path, "/", "zero")
		want.Process.ExeDeleted = true
		tr.equal(t, want, got)
	})

	t.Run("memfd", func(t *testing.T) {
		cmd := action("memfd", program)
		cmd.Dir = "/"
		tr := o.trace(t, cmd)
		got := tr.last(t, event.ProcessExec)
		want := tr.execOf(t, got.Process.Name, "/memfd:hidden", "/", "zero")
		want.Process.ExeDeleted = true
		tr.equal(t, want, got)
		if !slices.Contains([]string{"hidden", "memfd:hidden"}, got.Process.Name) &&
			strings.Trim(got.Process.Name, "0123456789") != "" {
			t.Errorf("name %q is neither the memfd's nor its descriptor's", got.Process.Name)
		}
	})
}

// actExecveat unlinks a program and runs it by its descriptor.
func actExecveat(args []string) error {
	fd, err := unix.Open(args[0], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := os.Remove(args[0]); err != nil {
		return err
	}
	return execveat(fd)
}

// actMemfd runs a program from a file that never had a name.
func actMemfd(args []string) error {
	data, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("hidden", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, data); err != nil {
		return err
	}
	return execveat(fd)
}

func execveat(fd int) error {
	path, argv := mustBytes(""), []*byte{mustBytes("zero"), nil}
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(fd), pointer(path), pointer(&argv[0]),
		pointer(&[]*byte{nil}[0]), unix.AT_EMPTY_PATH, 0)
	return errno
}

// elf32 is a 32-bit program that exits with 7.
func elf32() []byte {
	const base, headers = 0x08048000, 52 + 32
	code := []byte{0xb8, 1, 0, 0, 0, 0xbb, 7, 0, 0, 0, 0xcd, 0x80} // mov eax, 1; mov ebx, 7; int 0x80
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header32{
			Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS32), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_386), Version: uint32(elf.EV_CURRENT),
			Entry: base + headers, Phoff: 52, Ehsize: 52, Phentsize: 32, Phnum: 1,
		},
		elf.Prog32{
			Type: uint32(elf.PT_LOAD), Vaddr: base, Paddr: base, Filesz: uint32(headers + len(code)),
			Memsz: uint32(headers + len(code)), Flags: uint32(elf.PF_R | elf.PF_X), Align: 4096,
		},
		code,
	} {
		_ = binary.Write(&b, binary.LittleEndian, part) // to a buffer
	}
	return b.Bytes()
}

func TestExecOf32BitProgram(t *testing.T) {
	if !hasCompatible {
		return // the architecture has no such programs
	}
	path := filepath.Join(openTempDir(t), "small")
	if err := os.WriteFile(path, elf32(), 0o755); err != nil {
		t.Fatal(err)
	}
	forRungs(t, []event.Kind{event.ProcessExec}, func(t *testing.T, o *observer) {
		tr := o.traceAny(t, &exec.Cmd{Path: path, Args: []string{"a", "b"}, Dir: "/", Env: []string{}})
		tr.equal(t, tr.execOf(t, "small", path, "/", "a", "b"), tr.last(t, event.ProcessExec))
		if exit := tr.last(t, event.ProcessExit).Process.Exit; exit.Code != 7 {
			t.Errorf("exit %+v, want code 7", exit)
		}
	})
}

// An executable from the upper layer of an overlay is not from the image.
func TestExecFromUpperLayer(t *testing.T) {
	forLayers(t, event.ProcessExec, "overlay", func(t *testing.T, o *observer, tr traced, l layered) {
		want := tr.execOf(t, filepath.Base(l.path), l.path, filepath.Dir(filepath.Dir(l.path)), l.path)
		want.Process.ExeUpperLayer = l.upper
		got := tr.last(t, event.ProcessExec)
		tr.equal(t, want, got)
		l.check(t, o, got.Process.ExeDevice, got.Process.ExeInode, got.Process.ExeVersion)
	})
}

// So is a library.
func TestMapFromUpperLayer(t *testing.T) {
	forLayers(t, event.MemoryMap, "overlay-map", func(t *testing.T, o *observer, tr traced, l layered) {
		if o.rung == rungTracepoint && !findsAreas(t) {
			return // the descriptor is all that is known, as of any file
		}
		got := tr.only(t, event.MemoryMap, func(e *event.Event) bool { return strings.HasPrefix(e.Memory.Path, filepath.Dir(l.path)) })
		m := got.Memory
		if m.Path != l.path || m.UpperLayer != l.upper || m.Unverified {
			t.Errorf("memory %+v, want %+v", m, l)
		}
		l.check(t, o, m.Device, m.Inode, m.Version)
	})
}

// layered is a file in an overlay that is gone by now.
type layered struct {
	path  string
	below string // the file in the lower layer, which is still there
	upper bool
}

// forLayers has an action do something with a file of an overlay, from either layer.
func forLayers(t *testing.T, kind event.Kind, does string, check func(*testing.T, *observer, traced, layered)) {
	program := realPath(t, "/bin/true")
	forRungs(t, []event.Kind{kind}, func(t *testing.T, o *observer) {
		for name, upper := range map[string]bool{"lower": false, "copied": true, "new": true} {
			t.Run(name, func(t *testing.T) {
				dir := openTempDir(t)
				// An overlay's upper layer cannot be in one: a file system of its own.
				for _, d := range []string{"lower", "top", "merged"} {
					if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				copyProgram(t, program, filepath.Join(dir, "lower", "lower"), 0o755)
				copyProgram(t, program, filepath.Join(dir, "lower", "copied"), 0o755)
				cmd := action(does, name, program)
				cmd.Dir = dir
				cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
				check(t, o, o.trace(t, cmd), layered{
					path: filepath.Join(dir, "merged", name), below: filepath.Join(dir, "lower", name), upper: upper,
				})
			})
		}
	})
}

// check checks that a file's version is that of the file in a layer, where the kernel tells which that is.
func (l layered) check(t *testing.T, o *observer, device event.Device, inode uint64, version event.FileVersion) {
	t.Helper()
	known := l.upper || overlayFile(o.source.objects.types) != commonLayerFileLAYER_FILE_UNKNOWN
	if own := version.Device == device; own == known {
		t.Errorf("version %+v is the overlay's (device %v): %v, want %v", version, device, own, !known)
	}
	if known && !l.upper {
		checkVersion(t, l.below, version.Device, inode, version)
	}
}

// actOverlay mounts an overlay in the current directory and runs a program in it: NAME PROGRAM.
func actOverlay(args []string) error {
	path, err := overlayProgram(args)
	if err != nil {
		return err
	}
	return syscall.Exec(path, []string{path}, []string{})
}

// actOverlayMap maps the program instead.
func actOverlayMap(args []string) error {
	path, err := overlayProgram(args)
	if err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	return err
}

// overlayProgram mounts the overlay and returns the program's path in it.
func overlayProgram(args []string) (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	top, merged := filepath.Join(dir, "top"), filepath.Join(dir, "merged")
	err = errors.Join(unix.Mount("tmpfs", top, "tmpfs", 0, ""),
		os.Mkdir(top+"/upper", 0o755), os.Mkdir(top+"/work", 0o755),
		unix.Mount("overlay", merged, "overlay", 0,
			fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", dir, top, top)))
	if err != nil {
		return "", err
	}
	path := filepath.Join(merged, args[0])
	switch args[0] {
	case "copied":
		err = os.Chmod(path, 0o700)
	case "new":
		var data []byte
		if data, err = os.ReadFile(args[1]); err == nil {
			err = os.WriteFile(path, data, 0o755)
		}
	}
	return path, err
}

// An exec that fails tells what was to be run.
func TestExecFailed(t *testing.T) {
	dir := openTempDir(t)
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain, garbage := file("plain", "x", 0o644), file("garbage", "no program", 0o755)
	orphan := file("orphan", "#!/none/there\n", 0o755)
	argv := callArg{} // none: allowed until the kernel looks at them
	cwd := nums(unix.AT_FDCWD)[0]
	execve := func(path callArg) rawCall { return native(unix.SYS_EXECVE, path, argv, argv) }
	tests := []struct {
		name  string
		calls []rawCall // the last is the one
		at    place
		errno unix.Errno
		path  string
		found bool // far enough to know the file
		lost  bool // the kernel has no copy of the name
	}{
		{name: "none there", calls: []rawCall{execve(str("none/there"))}, errno: unix.ENOENT, path: "none/there"},
		{name: "none there, in a container", calls: []rawCall{execve(str("/none"))}, at: inContainer, errno: unix.ENOENT,
			path: "/none"},
		{name: "not executable", calls: []rawCall{execve(str(plain))}, errno: unix.EACCES, path: plain},
		{name: "no program", calls: []rawCall{execve(str(garbage))}, errno: unix.ENOEXEC, path: garbage, found: true},
		{name: "no interpreter", calls: []rawCall{execve(str(orphan))}, errno: unix.ENOENT, path: orphan, found: true},
		{name: "no address", calls: []rawCall{execve(callArg{Value: 1})}, errno: unix.EFAULT, path: "", lost: true},
		{name: "execveat", calls: []rawCall{native(unix.SYS_EXECVEAT, cwd, str("none"), argv, argv, callArg{})},
			errno: unix.ENOENT, path: "none"},
		{name: "execveat of a descriptor", calls: []rawCall{openAt(garbage),
			native(unix.SYS_EXECVEAT, resultOf(0), str(""), argv, argv, callArg{Value: unix.AT_EMPTY_PATH})},
			errno: unix.ENOEXEC, path: garbage, found: true},
		{name: "execveat, flags", calls: []rawCall{native(unix.SYS_EXECVEAT, cwd, str("x"), argv, argv, callArg{Value: 1})},
			errno: unix.EINVAL, path: "x", lost: true},
		{name: "32-bit execve", calls: []rawCall{compatible32(11, str("none"), argv, argv)}, errno: unix.ENOENT,
			path: "none"},
		{name: "32-bit execveat", calls: []rawCall{compatible32(358, cwd, str("none"), argv, argv, callArg{})},
			errno: unix.ENOENT, path: "none"},
	}
	forRungs(t, []event.Kind{event.ProcessExec}, func(t *testing.T, o *observer) {
		for _, test := range tests {
			last := len(test.calls) - 1
			if test.calls[last].Compat && !hasCompatible {
				continue
			}
			for _, thread := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, thread %v", test.name, thread), func(t *testing.T) {
					tr, did, p := o.calls(t, test.at, calling{Calls: test.calls, Thread: thread})
					if did.Errnos[last] != test.errno {
						t.Fatalf("the kernel said %v, want %v", did.Errnos[last], test.errno)
					}
					want := event.File{Path: test.path, Unverified: test.lost || o.rung == rungTracepoint}
					if test.name == "no address" {
						want.Truncated = event.FieldPath
					}
					if test.found && o.rung != rungTracepoint {
						st := stat(t, test.path)
						want.Inode, want.Device = st.Ino, deviceOf(st)
					}
					tr.equal(t, event.Event{Kind: event.ProcessExec, Result: int32(test.errno), Process: p, File: &want},
						tr.only(t, event.ProcessExec, func(e *event.Event) bool { return e.Result != 0 }))
				})
			}
		}
	})
}

// A caller that changes the name while the kernel reads it is believed only with a warning: what the event says, the
// kernel did. Each name fails in its own way.
func TestExecRace(t *testing.T) {
	dir := openTempDir(t)
	denied, missing := filepath.Join(dir, "denied"), filepath.Join(dir, "absent")
	if err := os.WriteFile(denied, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	forRungs(t, []event.Kind{event.ProcessExec}, func(t *testing.T, o *observer) {
		tr := o.trace(t, action("exec-race", denied, missing))
		seen, verified := map[int32]int{}, 0
		for _, e := range tr.of(event.ProcessExec) {
			if e.Result == 0 {
				continue
			}
			seen[e.Result]++
			if e.File.Unverified {
				continue
			}
			verified++
			want := map[unix.Errno]string{unix.EACCES: denied, unix.ENOENT: missing}[unix.Errno(e.Result)]
			// A name may be read while it is half of each.
			if want == denied && e.File.Path != denied || want == missing && e.File.Path == denied {
				t.Errorf("%q with %v", e.File.Path, unix.Errno(e.Result))
			}
		}
		if seen[int32(unix.EACCES)]+seen[int32(unix.ENOENT)] != raceRounds {
			t.Errorf("seen %v, want %d in all", seen, raceRounds)
		}
		if o.rung != rungTracepoint && verified != raceRounds {
			t.Errorf("%d of %d verified", verified, raceRounds)
		}
	})
}

const raceRounds = 1000

// actExecRace runs one of two programs that cannot be run, while another thread changes which: names of equal length.
func actExecRace(args []string) error {
	a, b := []byte(args[0]+"\x00"), []byte(args[1]+"\x00")
	path := slices.Clone(a)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			for _, name := range [][]byte{b, a} {
				for i := len(name) - 7; i < len(name); i++ {
					flip(&path[i], name[i])
				}
			}
		}
	}()
	for range raceRounds {
		_, _, errno := unix.RawSyscall(unix.SYS_EXECVE, pointer(&path[0]), 0, 0)
		if errno != unix.ENOENT && errno != unix.EACCES {
			return errno
		}
	}
	stop.Store(true)
	<-done
	return nil
}
