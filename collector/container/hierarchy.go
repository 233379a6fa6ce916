package container

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Hierarchy is the cgroup hierarchy that tells containers apart on this host. The zero Hierarchy is none.
type Hierarchy struct {
	Version    int    // 2, or 1 on hosts where engines put containers into v1 controllers (also hybrid ones)
	ID         int    // the hierarchy's number as in /proc/cgroups; 0 for version 2
	Controller string // the v1 controller that stands for the hierarchy; empty for version 2
	MountPoint string // where it is mounted
}

// Path returns where the cgroup with that id is, from the root of the hierarchy. It asks the kernel, which keeps
// cgroups in memory, and so does not wait; the answer for a cgroup that is gone is an error.
func (h Hierarchy) Path(id uint64) (string, error) {
	if h.MountPoint == "" {
		return "", ErrNoHierarchy
	}
	root, err := unix.Open(h.MountPoint, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open cgroup hierarchy: %w", err)
	}
	defer unix.Close(root)
	const fileIDKernfs = 0xfe // FILEID_KERNFS, include/linux/exportfs.h: the handle is the id
	handle := unix.NewFileHandle(fileIDKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(root, handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("open cgroup %d: %w", id, err)
	}
	defer unix.Close(fd)
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", fmt.Errorf("name cgroup %d: %w", id, err)
	}
	return cmp.Or(strings.TrimPrefix(path, h.MountPoint), "/"), nil
}

// ErrNoHierarchy says that no cgroup hierarchy that could tell containers apart is mounted.
var ErrNoHierarchy = errors.New("no cgroup hierarchy is mounted: containers are told apart by /proc/PID/cgroup only")

// controllers are the v1 controllers in which every container has a cgroup of its own, best first. Engines may
// share the others between containers.
var controllers = [...]string{"memory", "pids", "devices", "cpu", "cpuacct", "freezer", "blkio", "cpuset"}

// unified is where cgroup v2 is mounted when it is the host's only hierarchy. Engines decide by it, and so does
// FindHierarchy: a v1 controller mounted aside does not make a v1 host, nor v2 mounted aside a v2 host.
const unified = "/sys/fs/cgroup"

// FindHierarchy reads procRoot/self/mountinfo and procRoot/cgroups. Its error wraps ErrNoHierarchy when there is
// none.
func FindHierarchy(procRoot string) (Hierarchy, error) {
	mounts, err := cgroupMounts(filepath.Join(procRoot, "self", "mountinfo"))
	if err != nil {
		return Hierarchy{}, fmt.Errorf("find cgroup hierarchy: %w", err)
	}
	ids, err := hierarchyIDs(filepath.Join(procRoot, "cgroups"))
	if err != nil {
		return Hierarchy{}, fmt.Errorf("find cgroup hierarchy: %w", err)
	}
	v2 := slices.IndexFunc(mounts, func(m cgroupMount) bool { return m.version == 2 })
	if v2 >= 0 && mounts[v2].point == unified {
		return Hierarchy{Version: 2, MountPoint: mounts[v2].point}, nil
	}
	for _, controller := range controllers {
		for _, m := range mounts {
			if m.version == 1 && ids[controller] != 0 && slices.Contains(m.options, controller) {
				return Hierarchy{Version: 1, ID: ids[controller], Controller: controller, MountPoint: m.point}, nil
			}
		}
	}
	if v2 >= 0 {
		return Hierarchy{Version: 2, MountPoint: mounts[v2].point}, nil
	}
	return Hierarchy{}, fmt.Errorf("find cgroup hierarchy: %w", ErrNoHierarchy)
}

type cgroupMount struct {
	version int
	point   string
	options []string // of the file system: for version 1, its controllers
}

// cgroupMounts returns the mounts of whole hierarchies: not those of one cgroup, as containers have them.
func cgroupMounts(file string) ([]cgroupMount, error) {
	lines, err := readLines(file)
	if err != nil {
		return nil, err
	}
	var mounts []cgroupMount
	for _, line := range lines {
		// ID PARENT DEVICE ROOT POINT OPTIONS [FIELD...] - TYPE SOURCE OPTIONS, see proc(5)
		mount, kind, _ := strings.Cut(line, " - ")
		m, k := strings.Fields(mount), strings.Fields(kind)
		if len(m) < 6 || len(k) < 3 || m[3] != "/" {
			continue
		}
		switch k[0] {
		case "cgroup":
			mounts = append(mounts, cgroupMount{1, unescape(m[4]), strings.Split(k[2], ",")})
		case "cgroup2":
			mounts = append(mounts, cgroupMount{2, unescape(m[4]), nil})
		}
	}
	return mounts, nil
}

// hierarchyIDs returns the hierarchy of every enabled v1 controller. A kernel without v1 has no such file.
func hierarchyIDs(file string) (map[string]int, error) {
	lines, err := readLines(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ids := make(map[string]int)
	for _, line := range lines {
		// NAME HIERARCHY CGROUPS ENABLED
		f := strings.Fields(line)
		if len(f) != 4 || f[3] != "1" {
			continue
		}
		if id, err := strconv.Atoi(f[1]); err == nil {
			ids[f[0]] = id
		}
	}
	return ids, nil
}

func readLines(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	return lines, scanner.Err()
}

// unescape undoes mountinfo's "\ooo" for white space and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// walk visits a hierarchy's cgroups, those near the root first, at most limit of them; complete says that there
// are no more. The inode number of a cgroup's directory is the cgroup's id in the kernel. Cgroups that vanish
// meanwhile are passed over.
func walk(mountPoint string, limit int, visit func(id uint64, path string)) (complete bool, err error) {
	root, err := os.Lstat(mountPoint)
	if err != nil {
		return false, fmt.Errorf("walk cgroups: %w", err)
	}
	visit(root.Sys().(*syscall.Stat_t).Ino, "/")
	visited := 1
	for queue := []string{"/"}; len(queue) > 0; queue = queue[1:] {
		entries, err := os.ReadDir(filepath.Join(mountPoint, queue[0]))
		if err != nil && !gone(err) {
			return false, fmt.Errorf("walk cgroups: %w", err)
		}
		for _, entry := range entries {
			if !entry.IsDir() {
				continue
			}
			info, err := entry.Info()
			if err != nil {
				continue
			}
			if visited++; visited > limit {
				return false, nil
			}
			stat := info.Sys().(*syscall.Stat_t)
			child := path.Join(queue[0], entry.Name())
			visit(stat.Ino, child)
			// Two links are its own name and ".": there is nothing below it, so it need not be read.
			if stat.Nlink != 2 {
				queue = append(queue, child)
			}
		}
	}
	return true, nil
}

// UnifiedMount returns where cgroup v2 is mounted, as the first of its mounts in procRoot/self/mountinfo; "" when it is
// not. On a hybrid host that is beside the hierarchy that FindHierarchy finds.
func UnifiedMount(procRoot string) string {
	mounts, err := cgroupMounts(filepath.Join(procRoot, "self", "mountinfo"))
	if err != nil {
		return ""
	}
	for _, m := range mounts {
		if m.version == 2 {
			return m.point
		}
	}
	return ""
}

// gone reports whether err says that a cgroup was removed while it was looked at.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}
