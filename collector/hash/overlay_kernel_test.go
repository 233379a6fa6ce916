package hash

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// A file that a process sees in a mount namespace of its own, on an overlay of two file systems: stat(2) tells neither
// of their devices nor the overlay's.
func TestDigestOnOverlayOfAnotherNamespace(t *testing.T) {
	needRoot(t)
	dir := realDir(t)
	for _, d := range []string{"lower", "writable", "merged"} {
		do(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	write(t, filepath.Join(dir, "lower", "module"), "content")
	type seen struct {
		thread int
		module event.Module
		err    error
	}
	ready, done := make(chan seen), make(chan struct{})
	inThread(func() {
		module, err := mountOverlay(dir)
		ready <- seen{unix.Gettid(), module, err}
		<-done
	})
	defer close(done)
	there := <-ready
	do(t, there.err)
	h := New(Config{})
	run(t, h)
	h.Enrich(&event.Event{Kind: event.ModuleLoad, Process: &event.Process{PID: uint32(there.thread)}, Module: &there.module})
	if got := settled(t, h, there.module.Version); got != (event.Digest{SHA256: sumOf("content")}) {
		t.Errorf("digest %+v", got)
	}
}

// inThread starts fn in a thread that ends with it, and its namespaces too. It is not the first thread, which does not
// end, and whose namespaces /proc/self shows.
func inThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			fn()
			return
		}
		defer runtime.UnlockOSThread()
		ended := make(chan struct{})
		go func() { // this thread is taken, so it is another
			runtime.LockOSThread()
			defer close(ended)
			fn()
		}()
		<-ended
	}()
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("TASKGUARD_REQUIRE"), ","), "kernel") {
		t.Fatal("kernel tests must run as root")
	}
	t.Skip("kernel tests run as root only")
}

// mountOverlay mounts one for this thread, and describes its file as the kernel does.
func mountOverlay(dir string) (m event.Module, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return m, err
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return m, err
	}
	writable, merged := filepath.Join(dir, "writable"), filepath.Join(dir, "merged")
	if err := unix.Mount("tmpfs", writable, "tmpfs", 0, ""); err != nil {
		return m, err
	}
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(writable, d), 0o755); err != nil {
			return m, err
		}
	}
	options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", dir, writable, writable)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return m, err
	}
	var st unix.Stat_t
	m.Path = filepath.Join(merged, "module")
	if err := unix.Stat(m.Path, &st); err != nil {
		return m, err
	}
	m.Inode = st.Ino
	m.Version = event.FileVersion{Inode: 1, Size: uint64(st.Size), Changed: uint64(unix.TimespecToNsec(st.Ctim))}
	m.Device, err = deviceOf(merged)
	if stat := event.Device(unix.Major(st.Dev)<<20 | unix.Minor(st.Dev)); err == nil && stat == m.Device {
		err = fmt.Errorf("stat tells the overlay's device %s: the test shows nothing", stat)
	}
	return m, err
}

// deviceOf finds the device of a mount of this thread's.
func deviceOf(mount string) (d event.Device, err error) {
	table, err := os.Open(fmt.Sprintf("/proc/self/task/%d/mountinfo", unix.Gettid()))
	if err != nil {
		return 0, err
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && fields[4] == mount {
			err = d.UnmarshalText([]byte(fields[2]))
			return d, err
		}
	}
	return 0, fmt.Errorf("no mount on %s", mount)
}
