package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// selfTestAction is the hidden command that does what the self-test looks for. It is to be run in mount and network
// namespaces of its own: it mounts and it listens.
const selfTestAction = "self-test-action"

const (
	actNothing = "nothing" // end at once
	actWait    = "wait"    // end when the standard input does
)

// actionReport is what became of the action for a kind, one JSON object a line.
type actionReport struct {
	Kind  event.Kind    `json:"kind"`
	Errno syscall.Errno `json:"errno,omitempty"` // 0 when it failed for another reason
	Error string        `json:"error,omitempty"` // empty when it succeeded
}

func selfTestActionCommand() *cobra.Command {
	return &cobra.Command{
		Use: selfTestAction + " KIND...", Hidden: true, Short: "Do what the self-test looks for, in namespaces made for it",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case slices.Equal(args, []string{actNothing}):
				return nil
			case slices.Equal(args, []string{actWait}):
				_, err := io.Copy(io.Discard, os.Stdin)
				return err
			}
			kinds, err := parseKinds(args)
			if err != nil {
				return usageError{err}
			}
			// However it goes, this ends: also when nobody is left who would kill it.
			timeout := time.AfterFunc(selfTestBound, func() { _ = unix.Kill(os.Getpid(), unix.SIGKILL) })
			defer timeout.Stop()
			return actFor(kinds, cmd.OutOrStdout())
		},
	}
}

// action is what makes events of some kinds. That it fails is no matter: an attempt is an event.
type action struct {
	kinds []event.Kind
	do    func(*stage) error
}

// stage is where actions happen.
type stage struct {
	dir func() (string, error) // a directory that nobody else sees
}

// actions makes an event of every kind that is observed. The order matters to none of them.
func actions() []action {
	one := func(kind event.Kind, do func(*stage) error) action { return action{[]event.Kind{kind}, do} }
	return []action{
		{[]event.Kind{event.ProcessFork, event.ProcessExec, event.ProcessExit},
			func(*stage) error { return again(actNothing).Run() }},
		one(event.ProcessSetID, func(*stage) error { return call(unix.SYS_SETUID, uintptr(os.Getuid())) }),
		one(event.ProcessPtrace, func(*stage) error {
			return withChild(func(pid int) error { return call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid)) })
		}),
		one(event.ProcessDup, dupSocket),
		one(event.ProcessNamespace, func(*stage) error { return unix.Unshare(unix.CLONE_NEWUTS) }),
		one(event.FileOpen, inDir(func(file string) error { return os.WriteFile(file+"1", nil, 0o600) })),
		one(event.FileRename, inDir(func(file string) error { return unix.Rename(file, file+"2") })),
		one(event.FileLink, inDir(func(file string) error { return unix.Link(file, file+"3") })),
		one(event.FileSymlink, inDir(func(file string) error { return unix.Symlink(file, file+"4") })),
		one(event.FileUnlink, inDir(unix.Unlink)),
		one(event.FileChmod, inDir(func(file string) error { return unix.Chmod(file, 0o640) })),
		one(event.FileChown, inDir(func(file string) error { return unix.Chown(file, os.Getuid(), os.Getgid()) })),
		{[]event.Kind{event.FSMount, event.FSUmount}, mountAndUnmount},
		one(event.MemoryMap, func(*stage) error {
			_, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
			return err
		}),
		one(event.MemoryProtect, protect),
		one(event.MemoryVMRead, func(*stage) error { return withChild(copyNothing(unix.SYS_PROCESS_VM_READV)) }),
		one(event.MemoryVMWrite, func(*stage) error { return withChild(copyNothing(unix.SYS_PROCESS_VM_WRITEV)) }),
		one(event.MemoryMemfd, func(*stage) error {
			_, err := unix.MemfdCreate("taskguard-self-test", unix.MFD_CLOEXEC)
			return err
		}),
		one(event.MemoryUserfaultfd, func(*stage) error { return call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC) }),
		// Too short to be looked at, and to be complained of in the kernel's log.
		one(event.ModuleLoad, func(*stage) error { return unix.InitModule([]byte{0}, "") }),
		one(event.BPFLoad, loadProgram),
		one(event.IOUringSetup, func(*stage) error {
			var params [120]byte // struct io_uring_params
			return call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params)))
		}),
		{[]event.Kind{event.NetSocket, event.NetBind, event.NetListen, event.NetConnect, event.NetAccept}, connectToSelf},
		one(event.NetSend, func(*stage) error {
			conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.WriteTo([]byte("taskguard"), conn.LocalAddr())
			return err
		}),
		{[]event.Kind{event.DNSQuery, event.DNSResponse}, resolveWithSelf},
	}
}

// actFor does what makes events of kinds and reports each as soon as it is done.
func actFor(kinds []event.Kind, out io.Writer) error {
	runtime.LockOSThread() // some of it is done to the thread
	reports := json.NewEncoder(out)
	s := &stage{dir: sync.OnceValues(privateDir)}
	loopback := upLoopback() // where it matters, the action tells
	for _, a := range actions() {
		wanted := slices.DeleteFunc(a.kinds, func(k event.Kind) bool { return !slices.Contains(kinds, k) })
		if len(wanted) == 0 {
			continue
		}
		err := a.do(s)
		if err != nil && loopback != nil {
			err = fmt.Errorf("%w (%w)", err, loopback)
		}
		for _, kind := range wanted {
			if err := reports.Encode(reportOf(kind, err)); err != nil {
				return err
			}
		}
	}
	return nil
}

func reportOf(kind event.Kind, err error) actionReport {
	if err == nil {
		return actionReport{Kind: kind}
	}
	r := actionReport{Kind: kind, Error: err.Error()}
	errors.As(err, &r.Errno)
	return r
}

// call is a system call that the package unix has no function for.
func call(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

// again is this program, doing something small.
func again(what string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", selfTestAction, what)
	cmd.Env = []string{}
	return cmd
}

// withChild does something to a child that waits, which is killed then: one that is traced would not see its input end.
func withChild(do func(pid int) error) error {
	cmd := again(actWait)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, in.Close())
	}
	err = errors.Join(do(cmd.Process.Pid), cmd.Process.Kill(), in.Close())
	_ = cmd.Wait() // it was killed
	return err
}

// copyNothing reads or writes a byte at an address where a process has nothing.
func copyNothing(number uintptr) func(pid int) error {
	return func(pid int) error {
		var b byte
		local, remote := unix.Iovec{Base: &b, Len: 1}, unix.RemoteIovec{Base: 0, Len: 1}
		err := call(number, uintptr(pid), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
		if errors.Is(err, unix.EFAULT) { // as it should be
			return nil
		}
		return err
	}
}

func dupSocket(*stage) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Dup3(fd, 0, 0)
}

// privateDir mounts a file system where nobody else sees it.
func privateDir() (string, error) {
	var err error
	for _, dir := range []string{os.TempDir(), "/run", "/mnt"} {
		const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		if err = unix.Mount("taskguard-self-test", dir, "tmpfs", flags, "size=1m"); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("mount a file system to work in: %w", err)
}

// inDir does something to a new file in a private directory.
func inDir(do func(file string) error) func(*stage) error {
	return func(s *stage) error {
		dir, err := s.dir()
		if err != nil {
			return err
		}
		f, err := os.CreateTemp(dir, "taskguard")
		if err != nil {
			return err
		}
		return errors.Join(f.Close(), do(f.Name()))
	}
}

func mountAndUnmount(s *stage) error {
	dir, err := s.dir()
	if err != nil {
		return err
	}
	place := filepath.Join(dir, "mount")
	if err := os.MkdirAll(place, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("taskguard-self-test", place, "tmpfs", 0, "size=64k"); err != nil {
		return err
	}
	return unix.Unmount(place, 0)
}

func protect(*stage) error {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	return unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC)
}

// loadProgram loads a socket filter that drops everything, attached to nothing.
func loadProgram(*stage) error {
	program := [2]uint64{0xb7, 0x95} // r0 = 0; exit
	license := [4]byte{'G', 'P', 'L'}
	attr := struct { // the beginning of union bpf_attr for BPF_PROG_LOAD
		kind, instructions          uint32
		program, license            uint64
		logLevel, logSize           uint32
		log                         uint64
		kernelVersion, programFlags uint32
	}{
		kind: unix.BPF_PROG_TYPE_SOCKET_FILTER, instructions: uint32(len(program)),
		program: uint64(uintptr(unsafe.Pointer(&program))), license: uint64(uintptr(unsafe.Pointer(&license))),
	}
	// The verifier gives up with EAGAIN when a signal comes, and Go's scheduler sends some.
	var err error
	for range 30 {
		if err = call(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	runtime.KeepAlive(&program)
	runtime.KeepAlive(&license)
	return err
}

// upLoopback makes addresses of a new network namespace's own reachable.
func upLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	return nil
}

// patience is how long something that comes by loopback is waited for.
const patience = 2 * time.Second

func connectToSelf(*stage) error {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	conn, err := net.DialTimeout("tcp4", listener.Addr().String(), patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	accepted, err := listener.Accept()
	if err != nil {
		return err
	}
	return accepted.Close()
}

// resolveWithSelf asks a name server of its own for a name, and answers that there is none.
func resolveWithSelf(*stage) error {
	server, err := net.ListenPacket("udp4", "127.0.0.1:53")
	if err != nil {
		return err
	}
	defer server.Close()
	client, err := net.Dial("udp4", "127.0.0.1:53")
	if err != nil {
		return err
	}
	defer client.Close()
	deadline := time.Now().Add(patience)
	if err := errors.Join(server.SetDeadline(deadline), client.SetDeadline(deadline)); err != nil {
		return err
	}
	if _, err := client.Write(queryFor(selfTestName(os.Getpid()))); err != nil {
		return err
	}
	message := make([]byte, 512)
	n, from, err := server.ReadFrom(message)
	if err != nil {
		return err
	}
	message[2], message[3] = message[2]|0x80, 0x83 // a response; recursion available, no such name
	if _, err := server.WriteTo(message[:n], from); err != nil {
		return err
	}
	_, err = client.Read(message)
	return err
}

// selfTestName is what is asked for by the process with that pid. By it the messages can be told from others when
// nobody knows whose they are.
func selfTestName(pid int) string { return fmt.Sprintf("%d.self-test.taskguard.invalid", pid) }

// queryFor asks for a name's address (RFC 1035, section 4.1): an id, recursion desired, one question of type A, class
// IN.
func queryFor(name string) []byte {
	query := []byte("TG\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00")
	for label := range strings.SplitSeq(name, ".") {
		query = append(append(query, byte(len(label))), label...)
	}
	return append(query, "\x00\x00\x01\x00\x01"...)
}
