package container

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// On the running kernel, the id that a walk gives a cgroup is the kernel's own, which kernel records carry.
func TestWalkGivesTheKernelsID(t *testing.T) {
	hierarchy, err := FindHierarchy("/proc")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("hierarchy: %+v", hierarchy)
	parent := filepath.Join(hierarchy.MountPoint, "taskguard-test")
	if err := os.MkdirAll(filepath.Join(parent, id1, "sub"), 0o755); err != nil {
		skip(t, "kernel", "making a cgroup needs root: "+err.Error())
	}
	t.Cleanup(func() {
		for _, dir := range []string{filepath.Join(parent, id1, "sub"), filepath.Join(parent, id1), parent} {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	tracker := newTracker(t, Config{Hierarchy: hierarchy})
	if err := tracker.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{parent: "", filepath.Join(parent, id1): id1,
		filepath.Join(parent, id1, "sub"): id1} {
		// The file handle of a cgroup's directory is the cgroup's id in the kernel.
		handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
		if err != nil {
			t.Fatal(err)
		}
		id := binary.NativeEndian.Uint64(handle.Bytes())
		if got := idOf(tracker.Locate(id, "")); got != want {
			t.Errorf("%s, id %d: got %q, want %q", path, id, got, want)
		}
		if got, err := hierarchy.Path(id); hierarchy.MountPoint+got != path || err != nil {
			t.Errorf("path of %d: %q, %v, want %q", id, got, err, path)
		}
	}
	if path, err := hierarchy.Path(1 << 62); err == nil {
		t.Errorf("path of a cgroup that there is not: %q", path)
	}
	if s := tracker.Stats(); s.CgroupsUnknown != 0 {
		t.Errorf("got %+v, want no unknown cgroup", s)
	}
}

// skip skips a test that its machine cannot run, or fails it where TASKGUARD_REQUIRE names its tier.
func skip(t *testing.T, tier, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("TASKGUARD_REQUIRE"), ","), tier) {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
