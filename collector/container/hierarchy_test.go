package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

const v1Controllers = `#subsys_name	hierarchy	num_cgroups	enabled
cpuset	3	1	1
cpu	2	1	1
cpuacct	2	1	1
memory	4	12	1
devices	5	1	1
pids	8	1	1
hugetlb	0	1	1
`

const v2Controllers = `#subsys_name	hierarchy	num_cgroups	enabled
cpuset	0	60	1
cpu	0	60	1
memory	0	60	1
pids	0	60	1
net_cls	1	1	1
`

func TestFindHierarchy(t *testing.T) {
	tests := []struct {
		name, mountinfo, cgroups string
		want                     Hierarchy
	}{
		{
			name: "v2 only (al2023)",
			mountinfo: `22 1 0:21 / /proc rw,nosuid shared:13 - proc proc rw
25 24 0:23 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
`,
			cgroups: v2Controllers,
			want:    Hierarchy{Version: 2, MountPoint: "/sys/fs/cgroup"},
		},
		{
			name: "v1 (al2)",
			mountinfo: `24 18 0:20 / /sys/fs/cgroup ro,nosuid shared:8 - tmpfs tmpfs ro,mode=755
25 24 0:21 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd
27 24 0:24 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
28 24 0:25 / /sys/fs/cgroup/pids rw shared:11 - cgroup cgroup rw,pids
29 24 0:26 / /sys/fs/cgroup/memory rw shared:12 - cgroup cgroup rw,memory
`,
			cgroups: v1Controllers,
			want:    Hierarchy{1, 4, "memory", "/sys/fs/cgroup/memory"},
		},
		{
			name: "hybrid",
			mountinfo: `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`,
			cgroups: v1Controllers,
			want:    Hierarchy{1, 8, "pids", "/sys/fs/cgroup/pids"},
		},
		{
			name: "memory switched off",
			mountinfo: `31 23 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
`,
			cgroups: "memory\t0\t1\t0\ncpu\t2\t1\t1\ncpuacct\t2\t1\t1\n",
			want:    Hierarchy{1, 2, "cpu", "/sys/fs/cgroup/cpu,cpuacct"},
		},
		{
			name: "a v1 controller beside v2",
			mountinfo: `39 31 0:36 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls
40 31 0:37 / /mnt/memory rw - cgroup cgroup rw,memory
25 24 0:23 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw
`,
			cgroups: v1Controllers,
			want:    Hierarchy{Version: 2, MountPoint: "/sys/fs/cgroup"},
		},
		{
			name: "v2 elsewhere, and a container's view of it",
			mountinfo: `25 24 0:23 /docker/x /run/c/sys rw - cgroup2 cgroup2 rw
26 24 0:23 / /mnt/all\040groups rw - cgroup2 cgroup2 rw
garbage
`,
			want: Hierarchy{Version: 2, MountPoint: "/mnt/all groups"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := FindHierarchy(procWith(t, tt.mountinfo, tt.cgroups))
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestFindHierarchyNone(t *testing.T) {
	root := procWith(t, "22 1 0:21 / /proc rw - proc proc rw\n", v2Controllers)
	if _, err := FindHierarchy(root); !errors.Is(err, ErrNoHierarchy) {
		t.Errorf("got %v, want ErrNoHierarchy", err)
	}
	if _, err := FindHierarchy(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no mountinfo: got %v", err)
	}
}

// procWith returns a /proc with these files; an empty one is left out.
func procWith(t *testing.T, mountinfo, cgroups string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "self"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"self/mountinfo": mountinfo, "cgroups": cgroups} {
		if content == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// cgroupFS is a directory tree in place of a hierarchy.
type cgroupFS struct {
	t    *testing.T
	root string
}

func newCgroupFS(t *testing.T, paths ...string) cgroupFS {
	t.Helper()
	fs := cgroupFS{t, t.TempDir()}
	for _, p := range paths {
		fs.add(p)
	}
	return fs
}

func (fs cgroupFS) add(path string) (id uint64) {
	fs.t.Helper()
	if err := os.MkdirAll(filepath.Join(fs.root, path), 0o755); err != nil {
		fs.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(fs.root, path, "cgroup.procs"), nil, 0o644); err != nil {
		fs.t.Fatal(err)
	}
	return fs.id(path)
}

func (fs cgroupFS) remove(path string) {
	fs.t.Helper()
	if err := os.RemoveAll(filepath.Join(fs.root, path)); err != nil {
		fs.t.Fatal(err)
	}
}

func (fs cgroupFS) id(path string) uint64 {
	fs.t.Helper()
	info, err := os.Lstat(filepath.Join(fs.root, path))
	if err != nil {
		fs.t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func (fs cgroupFS) hierarchy() Hierarchy { return Hierarchy{Version: 2, MountPoint: fs.root} }

func TestWalk(t *testing.T) {
	fs := newCgroupFS(t, "/a/b/c", "/a/d", "/e")
	all := []string{"/", "/a", "/e", "/a/b", "/a/d", "/a/b/c"}
	for limit := 1; limit <= len(all)+1; limit++ {
		var visited []string
		complete, err := walk(fs.root, limit, func(id uint64, path string) {
			visited = append(visited, path)
			if id != fs.id(path) {
				t.Errorf("%s: id %d, want %d", path, id, fs.id(path))
			}
		})
		if err != nil || complete != (limit >= len(all)) || !slices.Equal(visited, all[:min(limit, len(all))]) {
			t.Errorf("limit %d: visited %v, complete %v, %v", limit, visited, complete, err)
		}
	}
	if _, err := walk(filepath.Join(fs.root, "none"), 1, func(uint64, string) {}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no root: %v", err)
	}
}

func TestWalkPassesOverWhatVanishes(t *testing.T) {
	fs := newCgroupFS(t, "/a/b/c", "/e/f")
	var visited []string
	complete, err := walk(fs.root, 100, func(_ uint64, path string) {
		visited = append(visited, path)
		if path == "/a/b" {
			fs.remove("/e")
			fs.remove("/a/b")
		}
	})
	if err != nil || !complete {
		t.Errorf("complete %v, %v", complete, err)
	}
	if want := []string{"/", "/a", "/e", "/a/b"}; !slices.Equal(visited, want) {
		t.Errorf("visited %v, want %v", visited, want)
	}
}

func BenchmarkWalk(b *testing.B) {
	root := b.TempDir()
	for i := range 200 {
		if err := os.MkdirAll(filepath.Join(root, fmt.Sprintf("ecs/%032d/%064d", i, i)), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := walk(root, 1000, func(uint64, string) {}); err != nil {
			b.Fatal(err)
		}
	}
}
