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

// version identifies a file's content.
type version struct {
	device       uint64 // as stat(2) has it
	inode        uint64
	size         int64
	mtime, ctime unix.Timespec
}

// reader hashes files. It is used by one goroutine.
type reader struct {
	cfg    Config
	cache  map[version]string
	sha    hash.Hash
	buffer []byte
	// left is how many bytes may be read, as of then.
	left int64
	then time.Time
}

// tick is at least as long as those of the clock for files' times, with a kernel of 100 Hz.
const tick = 20 * time.Millisecond

// errOther says that a path leads to another file.
var errOther = errors.New("not the file")

// digest returns the SHA-256 of the file that a held event names, or why there is none.
func (r *reader) digest(w *held) (sum, state string) {
	file, v, err := r.find(w)
	if err != nil {
		return "", stateOf(err)
	}
	defer file.Close()
	changed := unix.TimespecToNsec(v.ctime) > w.event.Time.UnixNano()
	switch {
	case changed:
		return "", Changed
	case v.size > r.cfg.MaxBytes:
		return "", TooLarge
	}
	if sum, ok := r.cache[v]; ok {
		return sum, ""
	}
	if !r.afford(v.size, time.Now()) {
		return "", RateLimited
	}
	// A change in the same tick of the clock would not show.
	time.Sleep(tick - time.Since(time.Unix(v.ctime.Unix())))
	if sum, err = r.read(file, v.size); err != nil {
		return "", Failed
	}
	if after, err := versionOf(int(file.Fd())); err != nil || after != v {
		return "", Changed
	}
	if len(r.cache) >= r.cfg.MaxCache {
		clear(r.cache)
	}
	r.cache[v] = sum
	return sum, ""
}

// afford takes a number of bytes from what may be read.
func (r *reader) afford(size int64, now time.Time) bool {
	gained := now.Sub(r.then).Seconds() * float64(r.cfg.BytesPerSecond)
	r.then = now
	r.left = int64(min(float64(r.left)+gained, float64(r.cfg.MaxBytes)))
	if r.left < size {
		return false
	}
	r.left -= size
	return true
}

func stateOf(err error) string {
	for _, gone := range []error{errOther, unix.ENOENT, unix.ENOTDIR, unix.ESRCH, unix.ELOOP} {
		if errors.Is(err, gone) {
			return Vanished
		}
	}
	return Failed
}

// find opens the event's file: as its process sees it, or when that has ended, one of its ancestors or the agent. Where
// it is found does not matter, as it must be the very file.
func (r *reader) find(w *held) (file *os.File, v version, err error) {
	var views []string
	for p := w.event.Process; p != nil; p = p.Parent {
		views = append(views, strconv.FormatUint(uint64(p.PID), 10))
	}
	for _, view := range append(views, "self") {
		file, v, err = r.open(filepath.Join(r.cfg.ProcRoot, view), &w.module)
		if err == nil || stateOf(err) != Vanished {
			return file, v, err
		}
	}
	return nil, v, err
}

// open opens a file as a process sees it, if it is the very one.
func (r *reader) open(process string, m *event.Module) (*os.File, version, error) {
	root, err := unix.Open(process+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, version{}, err
	}
	defer unix.Close(root)
	// A kernel's path has no links. Only what is known to be a regular file is opened for reading.
	at, err := unix.Openat2(root, m.Path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, version{}, err
	}
	defer unix.Close(at)
	v, err := versionOf(at)
	switch {
	case err != nil:
		return nil, v, err
	case v.inode != m.Inode || !sameDevice(v.device, at, process, m.Device):
		return nil, v, errOther
	}
	file, err := os.Open("/proc/self/fd/" + strconv.Itoa(at))
	return file, v, err
}

// versionOf describes a regular file.
func versionOf(fd int) (version, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return version{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return version{}, errOther
	}
	return version{device: st.Dev, inode: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}, nil
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

// read returns the digest of a file of a size.
func (r *reader) read(file io.Reader, size int64) (string, error) {
	if r.buffer == nil {
		r.buffer, r.sha = make([]byte, 128<<10), sha256.New()
	}
	r.sha.Reset()
	// A byte more than its size would be a change, which the caller finds.
	if _, err := io.CopyBuffer(r.sha, io.LimitReader(file, size+1), r.buffer); err != nil {
		return "", err
	}
	return hex.EncodeToString(r.sha.Sum(nil)), nil
}
