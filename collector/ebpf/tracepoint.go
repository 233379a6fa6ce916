package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// tracefs is a directory where tracefs is mounted. Where the host has not mounted it, it is a mount of our own that
// no other process sees and that ends with the descriptor.
type tracefs struct {
	dir     string
	private *os.File // nil for the host's
	refused error    // why there is none; the rungs that do without work all the same
}

// openTracefs takes the first of the host's directories that is one.
func openTracefs(dirs ...string) *tracefs {
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "events")); err == nil {
			return &tracefs{dir: dir}
		}
	}
	mount, err := mountTracefs()
	if err != nil {
		return &tracefs{refused: fmt.Errorf("%w: mount it with `mount -t tracefs tracefs /sys/kernel/tracing`", err)}
	}
	return &tracefs{dir: "/proc/self/fd/" + strconv.Itoa(mount), private: os.NewFile(uintptr(mount), "tracefs")}
}

func mountTracefs() (fd int, err error) {
	context, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("tracefs is not mounted: open it: %w", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, fmt.Errorf("tracefs is not mounted: create a mount: %w", err)
	}
	mount, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return -1, fmt.Errorf("tracefs is not mounted: mount it: %w", err)
	}
	return mount, nil
}

func (t *tracefs) Close() error {
	if t.private == nil {
		return nil
	}
	return t.private.Close()
}

// has tells whether a system call is traced.
func (t *tracefs) has(call string) bool {
	_, err := os.Stat(filepath.Join(t.dir, "events/syscalls", "sys_exit_"+call))
	return err == nil
}

// hasNone tells whether the kernel traces system calls, but has none of these.
func (t *tracefs) hasNone(calls []string) bool {
	dir := filepath.Join(t.dir, "events/syscalls")
	if _, err := os.Stat(dir); err != nil || t.refused != nil || len(calls) == 0 {
		return false
	}
	return !slices.ContainsFunc(calls, func(call string) bool {
		_, err := os.Stat(filepath.Join(dir, "sys_exit_"+call))
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// id returns the number of a system call's tracepoint, which perf_event_open(2) wants.
func (t *tracefs) id(name string) (uint64, error) {
	if t.refused != nil {
		return 0, t.refused
	}
	text, err := os.ReadFile(filepath.Join(t.dir, "events/syscalls", name, "id"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("tracepoint %s: %w", name, errNoPlace)
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// perfEvent is a program on a tracepoint. Closing it detaches the program.
type perfEvent struct{ fd int }

// attach runs a program at a system call's tracepoint, on all CPUs.
func (t *tracefs) attach(name string, program *ebpf.Program) (*perfEvent, error) {
	id, err := t.id(name)
	if err != nil {
		return nil, err
	}
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Sample: 1, Wakeup: 1}
	attr.Size = uint32(unix.PERF_ATTR_SIZE_VER1)
	// The kernel runs a tracepoint's programs on every CPU, whichever one the event is opened for.
	fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open tracepoint %s: %w", name, err)
	}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, program.FD()); err != nil {
		return nil, errors.Join(fmt.Errorf("attach to tracepoint %s: %w", name, err), unix.Close(fd))
	}
	if err := unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("enable tracepoint %s: %w", name, err), unix.Close(fd))
	}
	return &perfEvent{fd: fd}, nil
}

func (p *perfEvent) Close() error { return unix.Close(p.fd) }
