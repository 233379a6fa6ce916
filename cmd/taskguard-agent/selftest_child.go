package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// child is the process that does what a trial looks for.
type child struct {
	pid   uint32
	begin uint64                           // its start is not before this, in nanoseconds since boot
	ended chan map[event.Kind]actionReport // gets what it has reported, once it has ended
}

// startAction runs this program in namespaces of its own.
func startAction(ctx context.Context, kinds []event.Kind) (*child, error) {
	args := []string{selfTestAction}
	for _, kind := range kinds {
		args = append(args, kind.String())
	}
	return startChild(ctx, selfTestBound, unix.CLONE_NEWNS|unix.CLONE_NEWNET, "/proc/self/exe", args...)
}

// startChild starts a program. It and its children are killed when ctx is done or the bound has passed.
func startChild(ctx context.Context, bound time.Duration, namespaces uintptr, program string, args ...string,
) (*child, error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: namespaces}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	out := &limited{left: 64 << 10}
	cmd.Stdout = out
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		cancel()
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	c := &child{pid: uint32(cmd.Process.Pid), begin: uint64(now.Nano()), ended: make(chan map[event.Kind]actionReport, 1)}
	go func() {
		defer cancel()
		_ = cmd.Wait() // what it has not reported, it has not done
		c.ended <- readReports(&out.text)
	}()
	return c, nil
}

// limited keeps the beginning of what is written to it.
type limited struct {
	text bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n, _ := l.text.Write(p[:min(len(p), l.left)])
	l.left -= n
	return len(p), nil
}

func readReports(in io.Reader) map[event.Kind]actionReport {
	reports := make(map[event.Kind]actionReport)
	lines := json.NewDecoder(in)
	for {
		var r actionReport
		if err := lines.Decode(&r); err != nil { // the end, or that of a child that was killed
			return reports
		}
		reports[r.Kind] = r
	}
}

// reports waits for what the child has reported, unless it is known.
func (c *child) reports(known map[event.Kind]actionReport) map[event.Kind]actionReport {
	if known == nil {
		known = <-c.ended
	}
	return known
}
