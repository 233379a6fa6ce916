package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// activity is one thing that a child does in a folder of its own, and what is to be told of it. Results are compared
// with what the child got.
type activity struct {
	name string
	do   func() error
	want event.Event
	// check completes want with what is known only afterwards; dir is the child's folder.
	check func(t *testing.T, dir string, got, want *event.Event)
}

// doActivity is the child's part.
func doActivity(name string) int {
	runtime.LockOSThread()
	for _, a := range activities() {
		if a.name == name {
			return errnoCode(0, a.do())
		}
	}
	return 98
}

// inDir makes the paths of want absolute.
func inDir(_ *testing.T, dir string, _, want *event.Event) {
	join := func(path *string) {
		if strings.HasPrefix(*path, "./") {
			*path = dir + (*path)[1:]
		}
	}
	if want.File != nil {
		join(&want.File.Path)
		join(&want.File.Target)
	}
	if want.FS != nil {
		join(&want.FS.Target)
		join(&want.FS.Source)
	}
}

// ofFile also gives it the identity of a file, which is still there.
func ofFile(name string) func(*testing.T, string, *event.Event, *event.Event) {
	return func(t *testing.T, dir string, got, want *event.Event) {
		inDir(t, dir, got, want)
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			t.Fatal(err)
		}
		want.File.Device = event.Device(unix.Major(st.Dev)<<20 | unix.Minor(st.Dev))
		want.File.Inode = st.Ino
	}
}

// gone takes the identity of a file that is not there any more, when there is one.
func gone(t *testing.T, dir string, got, want *event.Event) {
	inDir(t, dir, got, want)
	if got.File == nil || got.File.Inode == 0 || got.File.Device == 0 {
		t.Fatalf("no identity of the file: %+v", got.File)
	}
	want.File.Device, want.File.Inode = got.File.Device, got.File.Inode
}

func create(name string) error { return os.WriteFile(name, []byte("x"), 0o644) }

// dir opens the working directory.
func dir() int {
	fd, _ := unix.Open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	return fd
}

func sys(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func first(_ any, err error) error { return err }

func activities() []activity {
	list := append(processActivities(), fileActivities()...)
	return append(append(append(list, mountActivities()...), memoryActivities()...), socketActivities()...)
}

func processActivities() []activity {
	id := func(name string, do func() error, want event.SetID) activity {
		want.Call = name
		return activity{name: name, do: do, want: event.Event{Kind: event.ProcessSetID, SetID: &want}}
	}
	namespace := func(call string) event.Event {
		return event.Event{Kind: event.ProcessNamespace,
			Namespace: &event.Namespace{Call: call, Flags: unix.CLONE_NEWUTS}}
	}
	some := event.Some[uint32]
	const keep = ^uintptr(0)
	return []activity{
		{"exec of nothing", func() error { return unix.Exec("./none", nil, nil) },
			event.Event{Kind: event.ProcessExec, File: &event.File{Path: "./none"}}, inDir},
		{"exec of text", func() error { _ = create("text"); return unix.Exec("text", nil, nil) },
			event.Event{Kind: event.ProcessExec, File: &event.File{Path: "./text"}}, ofFile("text")},
		id("setuid", func() error { return sys(unix.SYS_SETUID, 7) }, event.SetID{UID: some(7)}),
		id("setgid", func() error { return sys(unix.SYS_SETGID, 0) }, event.SetID{GID: some(0)}),
		id("setreuid", func() error { return sys(unix.SYS_SETREUID, keep, 7) }, event.SetID{EUID: some(7)}),
		id("setregid", func() error { return sys(unix.SYS_SETREGID, 8, keep) }, event.SetID{GID: some(8)}),
		id("setresuid", func() error { return sys(unix.SYS_SETRESUID, 1, 2, 3) },
			event.SetID{UID: some(1), EUID: some(2), SUID: some(3)}),
		id("setresgid", func() error { return sys(unix.SYS_SETRESGID, keep, keep, 3) }, event.SetID{SGID: some(3)}),
		id("setfsuid", func() error { return sys(unix.SYS_SETFSUID, 9) }, event.SetID{FSUID: some(9)}),
		id("setfsgid", func() error { return sys(unix.SYS_SETFSGID, 9) }, event.SetID{FSGID: some(9)}),
		{"ptrace", attachToCat, event.Event{Kind: event.ProcessPtrace,
			Ptrace: &event.Ptrace{Request: unix.PTRACE_ATTACH},
			Target: &event.Process{Name: "cat", UID: 7, EUID: 7, Partial: true}},
			func(t *testing.T, _ string, got, want *event.Event) {
				if got.Target == nil || got.Ptrace == nil || got.Target.PID == 0 || got.Ptrace.PID != got.Target.PID {
					t.Fatalf("target is %+v of %+v", got.Target, got.Ptrace)
				}
				want.Target.PID, want.Ptrace.PID = got.Target.PID, got.Target.PID
			}},
		{"ptrace of nobody", func() error { return sys(unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1<<30) },
			event.Event{Kind: event.ProcessPtrace, Ptrace: &event.Ptrace{Request: unix.PTRACE_SEIZE, PID: 1 << 30}}, nil},
		{"unshare", func() error { return unix.Unshare(unix.CLONE_NEWUTS | unix.CLONE_FS) },
			namespace("unshare"), nil},
		{"setns", func() error {
			fd, _ := unix.Open("/proc/self/ns/uts", unix.O_RDONLY, 0)
			return unix.Setns(fd, unix.CLONE_NEWUTS)
		}, namespace("setns"), nil},
		{"clone", func() error {
			cmd := exec.Command("/bin/true")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS}
			return cmd.Run()
		}, namespace("clone"), nil},
	}
}

// attachToCat traces a program of its own that runs as somebody else. It waits for an echo, as exec closes what shows
// that it succeeds before it gives the program its name.
func attachToCat() error {
	cmd := exec.Command("/bin/cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 7, Gid: 7}}
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if _, err := in.Write([]byte("x")); err != nil {
		return err
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		return err
	}
	return unix.PtraceAttach(cmd.Process.Pid)
}

func fileActivities() []activity {
	file := func(name string, kind event.Kind, do func() error, want event.File,
		check func(*testing.T, string, *event.Event, *event.Event)) activity {
		return activity{name, func() error { _ = create("f"); return do() }, event.Event{Kind: kind, File: &want}, check}
	}
	mode, owner := event.Some[event.FileMode], event.Some[uint32]
	const cut = event.FieldPath
	opened := func() int { fd, _ := unix.Open("f", unix.O_RDONLY, 0); return fd }
	return []activity{
		file("rename", event.FileRename, func() error { return unix.Rename("f", "g h") },
			event.File{Path: "./f", Target: "./g h"}, ofFile("g h")),
		file("rename over", event.FileRename, func() error { _ = create("g"); return unix.Rename("f", "g") },
			event.File{Path: "./f", Target: "./g"}, ofFile("g")),
		file("rename of nothing", event.FileRename, func() error { return unix.Rename("none", "g") },
			event.File{Path: "./.", Target: "./.", Truncated: cut | event.FieldTarget},
			func(_ *testing.T, dir string, _, want *event.Event) { want.File.Path, want.File.Target = dir, dir }),
		file("rename between folders", event.FileRename,
			func() error { _ = os.Mkdir("sub", 0o755); return unix.Rename("f", "sub/\n\x1b[31m\xff") },
			event.File{Path: "./f", Target: "./sub/\n\x1b[31m\xff"}, ofFile("sub/\n\x1b[31m\xff")),
		file("renameat from a descriptor", event.FileRename,
			func() error { d := dir(); return unix.Renameat(d, "f", unix.AT_FDCWD, "g") },
			event.File{Path: "f", Target: "./g", Truncated: cut}, ofFile("g")),
		file("exchange", event.FileRename, func() error {
			_ = create("g")
			return unix.Renameat2(unix.AT_FDCWD, "f", unix.AT_FDCWD, "g", unix.RENAME_EXCHANGE)
		}, event.File{Path: "./f", Target: "./g", RenameFlags: unix.RENAME_EXCHANGE}, ofFile("g")),
		file("link", event.FileLink, func() error { return unix.Link("f", "l") },
			event.File{Path: "./l", Target: "./f"}, ofFile("f")),
		file("linkat from a descriptor", event.FileLink,
			func() error { d := dir(); return unix.Linkat(d, "f", unix.AT_FDCWD, "l", 0) },
			event.File{Path: "./l", Target: "f", Truncated: event.FieldTarget}, ofFile("f")),
		file("link where one is", event.FileLink, func() error { _ = create("l"); return unix.Link("f", "l") },
			event.File{Path: "./.", Target: "./f", Truncated: cut},
			func(t *testing.T, dir string, got, want *event.Event) {
				ofFile("f")(t, dir, got, want)
				want.File.Path = dir
			}),
		file("symlink", event.FileSymlink, func() error { return unix.Symlink("../a target", "s") },
			event.File{Path: "./s", Target: "../a target"}, ofFile("s")),
		file("unlink", event.FileUnlink, func() error { return unix.Unlink("f") }, event.File{Path: "./f"}, gone),
		file("unlink of nothing", event.FileUnlink, func() error { return unix.Unlink("none/x") },
			event.File{Path: "./none/x"}, inDir),
		file("rmdir", event.FileUnlink, func() error { _ = os.Mkdir("d", 0o755); return unix.Rmdir("d") },
			event.File{Path: "./d", Directory: true}, gone),
		file("unlinkat from a descriptor", event.FileUnlink, func() error { return unix.Unlinkat(dir(), "f", 0) },
			event.File{Path: "f", Truncated: cut}, gone),
		file("chmod", event.FileChmod, func() error { return unix.Chmod("f", 0o4755) },
			event.File{Path: "./f", Mode: mode(0o4755)}, ofFile("f")),
		file("chmod of nothing", event.FileChmod, func() error { return unix.Chmod("none", 0) },
			event.File{Path: "./none", Mode: mode(0)}, inDir),
		file("fchmod", event.FileChmod, func() error { return unix.Fchmod(opened(), 0o600) },
			event.File{Mode: mode(0o600), Truncated: cut}, ofFile("f")),
		file("fchmodat", event.FileChmod, func() error { return unix.Fchmodat(unix.AT_FDCWD, "f", 0o640, 0) },
			event.File{Path: "./f", Mode: mode(0o640)}, ofFile("f")),
		file("chown", event.FileChown, func() error { return unix.Chown("f", 1, 2) },
			event.File{Path: "./f", UID: owner(1), GID: owner(2)}, ofFile("f")),
		file("lchown", event.FileChown, func() error { return unix.Lchown("f", -1, 2) },
			event.File{Path: "./f", GID: owner(2)}, ofFile("f")),
		file("fchown", event.FileChown, func() error { return unix.Fchown(opened(), 0, -1) },
			event.File{UID: owner(0), Truncated: cut}, ofFile("f")),
		file("fchownat", event.FileChown, func() error { return unix.Fchownat(unix.AT_FDCWD, "f", 3, 4, 0) },
			event.File{Path: "./f", UID: owner(3), GID: owner(4)}, ofFile("f")),
	}
}

// mountActivities are done in a mount namespace of their own.
func mountActivities() []activity {
	mount := func(name string, do func() error, want event.Mount) activity {
		kind := event.FSMount
		if want.Call == "umount" {
			kind = event.FSUmount
		}
		return activity{name, func() error {
			if err := sys(unix.SYS_UNSHARE, unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
				return err
			}
			_, _ = os.Mkdir("m", 0o755), os.Mkdir("n", 0o755)
			return do()
		}, event.Event{Kind: kind, FS: &want}, inDir}
	}
	return []activity{
		mount("mount", func() error { return unix.Mount("src", "m", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "") },
			event.Mount{Call: "mount", Target: "./m", Flags: unix.MS_NOSUID | unix.MS_NOEXEC, Truncated: event.FieldSource}),
		mount("mount on nothing", func() error { return unix.Mount("src", "none", "tmpfs", unix.MS_NODEV, "") },
			event.Mount{Call: "mount", Target: "./none", Flags: unix.MS_NODEV, Truncated: event.FieldSource}),
		mount("bind mount", func() error { return unix.Mount("m", "n", "", unix.MS_BIND, "") },
			event.Mount{Call: "mount", Source: "./m", Target: "./n", Flags: unix.MS_BIND}),
		mount("umount", func() error { return unix.Unmount("m", unix.MNT_DETACH) },
			event.Mount{Call: "umount", Target: "./m", UmountFlags: unix.MNT_DETACH}),
		mount("fsopen", func() error { return first(unix.Fsopen("tmpfs", 0)) }, event.Mount{Call: "fsopen"}),
		mount("fsmount",
			func() error { return first(unix.Fsmount(-1, 0, unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NOATIME)) },
			event.Mount{Call: "fsmount", Flags: unix.MS_NOEXEC | unix.MS_NOATIME}),
		mount("open_tree", func() error { return first(unix.OpenTree(unix.AT_FDCWD, "m", unix.OPEN_TREE_CLONE)) },
			event.Mount{Call: "open_tree", Source: "./m"}),
		mount("move_mount", func() error {
			fd, err := unix.OpenTree(unix.AT_FDCWD, "m", unix.OPEN_TREE_CLONE)
			if err != nil {
				return err
			}
			return unix.MoveMount(fd, "", unix.AT_FDCWD, "n", unix.MOVE_MOUNT_F_EMPTY_PATH)
		}, event.Mount{Call: "move_mount", Target: "./n"}),
		mount("move_mount by names",
			func() error { return unix.MoveMount(unix.AT_FDCWD, "m", unix.AT_FDCWD, "n", 0) },
			event.Mount{Call: "move_mount", Truncated: event.FieldSource | event.FieldTarget}),
	}
}

func memoryActivities() []activity {
	memory := func(name string, kind event.Kind, do func() error, want event.Memory,
		check func(*testing.T, string, *event.Event, *event.Event)) activity {
		return activity{name, do, event.Event{Kind: kind, Memory: &want}, check}
	}
	// somewhere takes the address.
	somewhere := func(t *testing.T, _ string, got, want *event.Event) {
		if got.Memory == nil || got.Memory.Address == 0 || got.Memory.Address%4096 != 0 {
			t.Fatalf("no address: %+v", got.Memory)
		}
		want.Memory.Address = got.Memory.Address
	}
	self := func(_ *testing.T, _ string, got, want *event.Event) { want.Memory.PID = got.Process.PID }
	page := func() uintptr {
		b, _ := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		return uintptr(unsafe.Pointer(&b[0]))
	}
	const read, write, run = unix.PROT_READ, unix.PROT_WRITE, unix.PROT_EXEC
	return []activity{
		memory("mmap of a file", event.MemoryMap, func() error {
			fd, _ := unix.Open("/proc/self/exe", unix.O_RDONLY, 0)
			return sys(unix.SYS_MMAP, 0, 4096, read|run, unix.MAP_PRIVATE, uintptr(fd), 0)
		}, event.Memory{Length: 4096, Protection: read | run, Flags: unix.MAP_PRIVATE, Region: "file",
			Truncated: event.FieldPath}, somewhere),
		memory("mmap of memory", event.MemoryMap, func() error {
			return sys(unix.SYS_MMAP, 0, 8192, read|write|run, unix.MAP_PRIVATE|unix.MAP_ANON, ^uintptr(0), 0)
		}, event.Memory{Length: 8192, Protection: read | write | run, Flags: unix.MAP_PRIVATE | unix.MAP_ANON,
			Region: "anonymous"}, somewhere),
		memory("mmap of nothing", event.MemoryMap,
			func() error { return sys(unix.SYS_MMAP, 0, 0, run, unix.MAP_PRIVATE|unix.MAP_ANON, 0, 0) },
			event.Memory{Protection: run, Flags: unix.MAP_PRIVATE | unix.MAP_ANON, Region: "anonymous"}, nil),
		memory("mprotect", event.MemoryProtect,
			func() error { return sys(unix.SYS_MPROTECT, page(), 4096, read|run) },
			event.Memory{Length: 4096, Protection: read | run}, somewhere),
		memory("pkey_mprotect", event.MemoryProtect,
			func() error { return sys(unix.SYS_PKEY_MPROTECT, page(), 4096, run, ^uintptr(0)) },
			event.Memory{Length: 4096, Protection: run}, somewhere),
		memory("process_vm_readv", event.MemoryVMRead,
			func() error { return vmCall(unix.SYS_PROCESS_VM_READV) }, event.Memory{}, self),
		memory("process_vm_writev", event.MemoryVMWrite,
			func() error { return vmCall(unix.SYS_PROCESS_VM_WRITEV) }, event.Memory{}, self),
		memory("memfd_create", event.MemoryMemfd,
			func() error { return first(unix.MemfdCreate("name", unix.MFD_ALLOW_SEALING)) },
			event.Memory{MemfdFlags: unix.MFD_ALLOW_SEALING, Truncated: event.FieldName}, nil),
		memory("userfaultfd", event.MemoryUserfaultfd,
			func() error { return sys(unix.SYS_USERFAULTFD, unix.O_NONBLOCK) },
			event.Memory{UserfaultfdFlags: unix.O_NONBLOCK}, nil),
		{"init_module", func() error { return unix.InitModule([]byte("junk"), "") },
			event.Event{Kind: event.ModuleLoad, Module: &event.Module{Call: "init_module"}}, nil},
		{"finit_module", func() error { return unix.FinitModule(-1, "", unix.MODULE_INIT_IGNORE_VERMAGIC) },
			event.Event{Kind: event.ModuleLoad,
				Module: &event.Module{Call: "finit_module", Flags: 2, Truncated: event.FieldPath}}, nil},
		{"bpf", loadNothing, event.Event{Kind: event.BPFLoad, BPF: &event.BPF{}},
			func(t *testing.T, _ string, got, want *event.Event) {
				if got.Result == 0 && (got.BPF == nil || got.BPF.ProgramID == 0) {
					t.Fatalf("no id of the program: %+v", got.BPF)
				}
				want.BPF.ProgramID = got.BPF.ProgramID
			}},
		{"bpf with a long command", func() error { return sys(unix.SYS_BPF, 5|1<<32, 0, 0) },
			event.Event{Kind: event.BPFLoad, BPF: &event.BPF{}}, nil},
		{"io_uring_setup",
			func() error { return sys(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(new([120]byte)))) },
			event.Event{Kind: event.IOUringSetup, IOUring: &event.IOUring{Entries: 8}}, nil},
	}
}

// vmCall copies memory within the process.
func vmCall(nr uintptr) error {
	var buf [16]byte
	iov := unix.Iovec{Base: &buf[0]}
	iov.SetLen(len(buf))
	at := uintptr(unsafe.Pointer(&iov))
	return sys(nr, uintptr(os.Getpid()), at, 1, at, 1, 0)
}

// loadNothing loads a program that returns 0.
func loadNothing() error {
	instructions := [2]uint64{0xb7, 0x95}
	license := [4]byte{'G', 'P', 'L'}
	attr := struct {
		typ, count            uint32
		instructions, license *byte
		rest                  [96]byte
	}{1, 2, (*byte)(unsafe.Pointer(&instructions[0])), &license[0], [96]byte{}}
	return sys(unix.SYS_BPF, 5, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
}

func socketActivities() []activity {
	socket := func(name string, kind event.Kind, do func() error, want event.Net,
		check func(*testing.T, string, *event.Event, *event.Event)) activity {
		return activity{name, do, event.Event{Kind: kind, Net: &want}, check}
	}
	local := netip.MustParseAddr("127.0.0.1")
	to := &unix.SockaddrInet4{Addr: local.As4(), Port: 9}
	remote := func(ip netip.Addr, port uint16) event.Net {
		return event.Net{Socket: event.Socket{Family: event.INET, RemoteIP: ip, RemotePort: port}}
	}
	open := func(family, typ int) int { fd, _ := unix.Socket(family, typ, 0); return fd }
	return []activity{
		socket("raw socket", event.NetSocket, func() error {
			return first(unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP))
		},
			event.Net{Socket: event.Socket{Family: event.INET, Type: event.Raw, Protocol: unix.IPPROTO_ICMP}}, nil),
		socket("packet socket", event.NetSocket,
			func() error { return first(unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0x300)) },
			event.Net{Socket: event.Socket{Family: event.Packet, Type: event.Datagram, Protocol: 3}}, nil),
		socket("bind", event.NetBind, func() error {
			return unix.Bind(open(unix.AF_INET, unix.SOCK_DGRAM), &unix.SockaddrInet4{Addr: local.As4(), Port: 61234})
		},
			event.Net{Socket: event.Socket{Family: event.INET, LocalIP: local, LocalPort: 61234}}, nil),
		socket("bind to a path", event.NetBind,
			func() error { return unix.Bind(open(unix.AF_UNIX, unix.SOCK_DGRAM), &unix.SockaddrUnix{Name: "sock"}) },
			event.Net{Socket: event.Socket{Family: event.Unix}, Path: "sock"}, nil),
		socket("bind of a packet socket", event.NetBind, func() error {
			return unix.Bind(open(unix.AF_PACKET, unix.SOCK_RAW), &unix.SockaddrLinklayer{Ifindex: 1})
		},
			event.Net{Socket: event.Socket{Family: event.Packet}}, nil),
		socket("listen", event.NetListen,
			func() error { return unix.Listen(open(unix.AF_INET, unix.SOCK_STREAM), 17) },
			event.Net{Backlog: 17}, nil),
		socket("accept", event.NetAccept,
			func() error { return acceptOne(unix.AF_INET, &unix.SockaddrInet4{Addr: local.As4()}) },
			remote(local, 0), func(t *testing.T, _ string, got, want *event.Event) {
				if got.Net == nil || got.Net.RemotePort == 0 {
					t.Fatalf("no port: %+v", got.Net)
				}
				want.Net.RemotePort = got.Net.RemotePort
			}),
		socket("accept on a path", event.NetAccept,
			func() error { return acceptOne(unix.AF_UNIX, &unix.SockaddrUnix{Name: "sock"}) },
			event.Net{Socket: event.Socket{Family: event.Unix}}, nil),
		socket("sendto", event.NetSend,
			func() error { return unix.Sendto(open(unix.AF_INET, unix.SOCK_DGRAM), []byte("x"), 0, to) }, remote(local, 9), nil),
		socket("sendmsg", event.NetSend,
			func() error { return unix.Sendmsg(open(unix.AF_INET, unix.SOCK_DGRAM), []byte("x"), nil, to, 0) },
			remote(local, 9), nil),
		socket("sendto by IPv6", event.NetSend, func() error {
			to6 := &unix.SockaddrInet6{Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16(), Port: 9}
			return unix.Sendto(open(unix.AF_INET6, unix.SOCK_DGRAM), []byte("x"), 0, to6)
		}, event.Net{Socket: event.Socket{Family: event.INET6, RemoteIP: local, RemotePort: 9}}, nil),
		socket("fast open", event.NetSend, func() error {
			closed := &unix.SockaddrInet4{Addr: local.As4(), Port: 1}
			return unix.Sendto(open(unix.AF_INET, unix.SOCK_STREAM), []byte("x"), unix.MSG_FASTOPEN, closed)
		},
			remote(local, 1), nil),
	}
}

// acceptOne accepts a connection of its own.
func acceptOne(family int, address unix.Sockaddr) error {
	listener, _ := unix.Socket(family, unix.SOCK_STREAM, 0)
	client, _ := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err := unix.Bind(listener, address); err != nil {
		return err
	}
	if err := unix.Listen(listener, 1); err != nil {
		return err
	}
	name, err := unix.Getsockname(listener)
	if err != nil {
		return err
	}
	if err := unix.Connect(client, name); err != nil {
		return err
	}
	_, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
	return err
}

// Each activity is told of with all its fields, and with its result.
func TestKernelActivities(t *testing.T) {
	control(t)
	_, sink, _ := start(t, Config{})
	untested := map[event.Kind]bool{}
	for _, kind := range Kinds() {
		untested[kind] = true
	}
	// These have tests of their own.
	for _, kind := range []event.Kind{event.ProcessExit, event.FileOpen, event.NetConnect} {
		delete(untested, kind)
	}
	for _, a := range activities() {
		delete(untested, a.want.Kind)
		t.Run(a.name, func(t *testing.T) {
			folder := t.TempDir()
			pid, code := child(t, "do "+a.name, func(cmd *exec.Cmd) { cmd.Dir = folder })
			got := sink.lastBeforeExit(t, a.want.Kind, pid)
			if p := got.Process; p.Exe == "" || p.Name == "" || p.PPID != uint32(os.Getpid()) {
				t.Errorf("process is %+v", *p)
			}
			want := a.want
			want.Result = int32(code)
			if a.check != nil {
				a.check(t, folder, &got, &want)
			}
			got.Process, got.Time = nil, want.Time
			gotText, wantText := asJSON(t, got), asJSON(t, want)
			if !bytes.Equal(gotText, wantText) {
				t.Errorf("got\n%s, want\n%s", gotText, wantText)
			}
		})
	}
	for kind := range untested {
		t.Errorf("no activity of kind %v", kind)
	}
}

// lastBeforeExit returns the last event of a kind that a process made; what it did before was to prepare.
func (r *recorder) lastBeforeExit(t *testing.T, kind event.Kind, pid int) (last event.Event) {
	t.Helper()
	r.awaitKind(t, event.ProcessExit, pid)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Kind == kind && e.Process.PID == uint32(pid) {
			last = e
		}
	}
	if last.Kind == 0 {
		t.Fatalf("no %v of %d; lost: %v", kind, pid, r.lost)
	}
	return last
}

func asJSON(t *testing.T, e event.Event) []byte {
	t.Helper()
	text, err := json.MarshalIndent(e, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// of returns the events of a process, without their times.
func (r *recorder) of(pid int) (events []event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Process.PID == uint32(pid) {
			e.Time = time.Time{}
			events = append(events, e)
		}
	}
	return events
}
