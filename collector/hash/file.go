package hash

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// reader reads files. It is used by one goroutine.
type reader struct {
	procRoot string
	sha      hash.Hash
	buffer   []byte
}

var (
	// errOther says that a path leads to another file.
	errOther = errors.New("not the file")
	// errChanged says that the file holds something else by now.
	errChanged = errors.New("changed")
)

func stateOf(err error) event.HashState {
	if errors.Is(err, errChanged) {
		return event.HashChanged
	}
	for _, gone := range []error{errOther, unix.ENOENT, unix.ENOTDIR, unix.ESRCH, unix.ELOOP} {
		if errors.Is(err, gone) {
			return event.HashVanished
		}
	}
	return event.HashError
}

// find opens a file as one of some processes sees it, or the agent. Where it is found does not matter, as it must be the
// very file.
func (r *reader) find(w *wanted, pids []uint32) (file *os.File, err error) {
	err = errOther
	var views []string
	for _, pid := range pids {
		if pid != 0 {
			views = append(views, strconv.FormatUint(uint64(pid), 10))
		}
	}
	for _, view := range append(views, "self") {
		process := filepath.Join(r.procRoot, view)
		if file, err = openAt(process, w); err == nil || stateOf(err) != event.HashVanished {
			return file, err
		}
	}
	return nil, err
}

// openAt opens a file as a process sees it, if it is the very one: also what has no name any more, when the process is
// run from it.
func openAt(process string, w *wanted) (*os.File, error) {
	at, err := unix.Open(process+"/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		if err = check(at, process, w); err == nil || stateOf(err) != event.HashVanished {
			return reopen(at, err)
		}
		unix.Close(at)
	}
	if at, err = openIn(process+"/root", w.path); err != nil {
		return nil, err
	}
	return reopen(at, check(at, process, w))
}

// findInLayers opens a file in a layer of its container's image, which is there when all processes are gone.
func findInLayers(w wanted, layers []string) (*os.File, error) {
	w.device, w.inode = w.version.Device, w.version.Inode // as the layer's file system has it
	for _, layer := range layers {
		at, err := openIn(layer, w.path)
		if err != nil {
			continue
		}
		if file, err := reopen(at, check(at, "/proc/self", &w)); err == nil || stateOf(err) != event.HashVanished {
			return file, err
		}
	}
	return nil, errOther
}

// openIn finds a file below a directory as a kernel's path leads to it, which has no links. Only what is known to be a
// regular file may be opened for reading.
func openIn(dir, path string) (int, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	return unix.Openat2(root, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
}

// reopen opens for reading what at stands for, if it has been found right, and closes at.
func reopen(at int, wrong error) (*os.File, error) {
	defer unix.Close(at)
	if wrong != nil {
		return nil, wrong
	}
	return os.Open("/proc/self/fd/" + strconv.Itoa(at))
}

// check says what is wrong with a file that a process sees.
func check(fd int, process string, w *wanted) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Ino != w.inode || !sameDevice(st.Dev, fd, process, w.device) {
		return errOther
	}
	return unchanged(&st, w.version)
}

func unchanged(st *unix.Stat_t, v event.FileVersion) error {
	if uint64(st.Size) != v.Size || uint64(unix.TimespecToNsec(st.Ctim)) != v.Changed {
		return errChanged
	}
	return nil
}

// sameDevice compares a file's device with the one that the kernel told of. That is the file system's, for which stat(2)
// has another number on btrfs and on some overlays; the table of mounts has it.
func sameDevice(dev uint64, fd int, process string, want event.Device) bool {
	if event.Device(unix.Major(dev)<<20|unix.Minor(dev)) == want {
		return true
	}
	if unix.Major(dev) != 0 {
		return false
	}
	mount, err := mountOf(fd)
	if err != nil {
		return false
	}
	table, err := os.Open(process + "/mountinfo")
	if err != nil {
		return false
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[0] == mount {
			return fields[2] == want.String()
		}
	}
	return false
}

// mountOf returns the id of the mount that a descriptor's file is on.
func mountOf(fd int) (string, error) {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", fmt.Errorf("no mount of descriptor %d", fd)
}

// tick is at least as long as those of the clock for files' times, with a kernel of 100 Hz.
const tick = 20 * time.Millisecond

// sum returns the SHA-256 of a file, if it is of a version all the time.
func (r *reader) sum(file *os.File, v event.FileVersion) (string, error) {
	if r.buffer == nil {
		r.buffer, r.sha = make([]byte, 128<<10), sha256.New()
	}
	// A change in the same tick of the clock would not show. A time to come is that of another clock.
	time.Sleep(min(tick, tick-time.Since(time.Unix(0, int64(v.Changed)))))
	r.sha.Reset()
	// A byte more than its size would be a change, which shows afterwards.
	if _, err := io.CopyBuffer(r.sha, io.LimitReader(file, int64(v.Size)+1), r.buffer); err != nil {
		return "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return "", err
	}
	return hex.EncodeToString(r.sha.Sum(nil)), unchanged(&st, v)
}
