package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/scripts/tiny"
)

// crowd is many processes in many cgroups, named as an engine names its containers'. Its methods are called by the thread
// that made it: the processes end with it.
type crowd struct {
	containers []string // their ids
	pids       []int
	cgroup     string // the parent of all that was made
	home       string // the cgroup of this process
	pidMax     []byte // as it was; nil when it is as it was
}

const pidMaxFile = "/proc/sys/kernel/pid_max"

// gather makes the processes, spread over the containers. What it made before it failed is in c.
func (c *crowd) gather(ctx context.Context, dir string, containers, processes int) error {
	runtime.LockOSThread()
	if err := c.allow(processes); err != nil {
		return err
	}
	if err := c.place(); err != nil {
		return err
	}
	program := filepath.Join(dir, "shop-worker")
	if err := os.WriteFile(program, tiny.Waiter(), 0o700); err != nil {
		return err
	}
	for i := range containers {
		id := fmt.Sprintf("%064x", i+1)
		c.containers = append(c.containers, id)
		cgroup := filepath.Join(c.cgroup, "docker", id)
		if err := os.MkdirAll(cgroup, 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if err := moveTo(cgroup); err != nil {
			return err
		}
		for len(c.pids) < processes*(i+1)/containers {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := c.start(program); err != nil {
				return err
			}
		}
	}
	return moveTo(c.home)
}

// allow has the kernel give out enough pids.
func (c *crowd) allow(processes int) error {
	text, err := os.ReadFile(pidMaxFile)
	if err != nil {
		return err
	}
	limit, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("read %s: %w", pidMaxFile, err)
	}
	if limit > 2*processes {
		return nil
	}
	if err := os.WriteFile(pidMaxFile, strconv.AppendInt(nil, int64(2*processes), 10), 0); err != nil {
		return err
	}
	c.pidMax = text
	return nil
}

// place finds where cgroups are made.
func (c *crowd) place() error {
	hierarchy, err := container.FindHierarchy("/proc")
	if err != nil {
		return err
	}
	lines, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(lines)) {
		// ID:CONTROLLERS:PATH, see cgroups(7)
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && (f[0] == "0" && hierarchy.Version == 2 ||
			hierarchy.Version == 1 && strings.Contains(","+f[1]+",", ","+hierarchy.Controller+",")) {
			c.home = filepath.Join(hierarchy.MountPoint, f[2])
		}
	}
	if c.home == "" {
		return errors.New("find this process's cgroup: there is none")
	}
	c.cgroup = filepath.Join(hierarchy.MountPoint, fmt.Sprintf("taskguard-memory-%d", os.Getpid()))
	return nil
}

func moveTo(cgroup string) error {
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("move to cgroup: %w", err)
	}
	return nil
}

// start starts one process. Package os would hold a descriptor of each.
func (c *crowd) start(program string) error {
	args := []string{program, "--worker", strconv.Itoa(len(c.pids)), "--queue", "orders", "--database", "postgres://db.internal:5432/shop"}
	pid, err := syscall.ForkExec(program, args, &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/bin:/bin"}, Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return fmt.Errorf("start process %d: %w", len(c.pids), err)
	}
	c.pids = append(c.pids, pid)
	return nil
}

// stir has each process execute itself, so many a second.
func (c *crowd) stir(ctx context.Context, rate int) error {
	start := time.Now()
	for i, pid := range c.pids {
		// What is late is caught up.
		time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
			return fmt.Errorf("signal process %d: %w", i, err)
		}
	}
	return nil
}

// disperse ends the processes, and removes the cgroups.
func (c *crowd) disperse() error {
	defer runtime.UnlockOSThread()
	var errs []error
	for _, pid := range c.pids {
		errs = append(errs, unix.Kill(pid, unix.SIGKILL))
	}
	for _, pid := range c.pids {
		for {
			if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	if c.home != "" {
		errs = append(errs, moveTo(c.home))
	}
	for _, id := range c.containers {
		errs = append(errs, removeCgroup(filepath.Join(c.cgroup, "docker", id)))
	}
	if c.cgroup != "" {
		errs = append(errs, removeCgroup(filepath.Join(c.cgroup, "docker")), removeCgroup(c.cgroup))
	}
	if c.pidMax != nil {
		errs = append(errs, os.WriteFile(pidMaxFile, c.pidMax, 0))
	}
	return errors.Join(errs...)
}

// removeCgroup removes a cgroup. The kernel may hold one for a moment longer than its last process.
func removeCgroup(path string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		err := unix.Rmdir(path)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", path, err)
		}
	}
}
