// Command memory measures the agent's resident memory on a host that is full: thousands of containers, and more processes
// than the agent has room for, that were there before it and then all execute something at once. It fails when the agent
// ever had more than it may, or when an event is not accounted for.
//
// It promises: the agent and the processes are real, and their cgroups too; only the container engine and the ECS agent
// are simulated, in their own formats. What it made is gone when it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/taskguard/taskguard/scripts/stack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m := machine{bin: "bin", storm: "bin/tools/storm", config: "packaging/agent.yaml"}
	flag.IntVar(&m.containers, "containers", 5000, "how many containers there are")
	flag.IntVar(&m.processes, "processes", 100_000, "how many processes there are")
	flag.Uint64Var(&m.limit, "limit", 96, "megabytes that the agent may have")
	flag.Parse()
	if err := m.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "memory:", err)
		os.Exit(1)
	}
}

// machine is a host that is full.
type machine struct {
	bin, storm, config    string // where the programs and the agent's configuration are
	containers, processes int
	limit                 uint64 // megabytes
}

// figures are a process's memory, in kB, as proc_pid_status(5) has it.
type figures struct{ peak, resident, anonymous uint64 }

func (m *machine) run(ctx context.Context, out io.Writer) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("observing the kernel needs root: run make memory as root")
	}
	dir, err := os.MkdirTemp("/tmp", "tgmem")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var c crowd
	defer func() { err = errors.Join(err, c.disperse()) }()
	fmt.Fprintf(out, "%d processes in %d containers\n", m.processes, m.containers)
	if err := c.gather(ctx, dir, m.containers, m.processes); err != nil {
		return err
	}
	socket, ecs, stop, err := fleet(ctx, dir, c.containers)
	if err != nil {
		return err
	}
	defer stop()
	s, err := stack.New(m.bin, m.config, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.StartEndpoint(ctx); err != nil {
		return err
	}
	if err := s.StartAgent(ctx, "host.imds=off", "docker.socket="+socket, "ecs.agent="+ecs); err != nil {
		return err
	}
	return m.measure(ctx, out, s, &c)
}

// measure follows the agent through what happens on the host.
func (m *machine) measure(ctx context.Context, out io.Writer, s *stack.Stack, c *crowd) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tpeak MB\tresident MB\tanonymous MB\tprocesses\tuntracked\tcontainers\trefused\tevents\tlost\t")
	var last figures
	for _, phase := range []struct {
		what string
		do   func() error
	}{
		{"started", func() error { return nil }},
		{"containers described", func() error { return described(ctx, s) }},
		{"all processes executed", func() error { return m.stirred(ctx, s, c) }},
		{"20,000 processes came and went", func() error { return m.stormed(ctx, s) }},
	} {
		if err := phase.do(); err != nil {
			return err
		}
		status, err := s.Status(ctx)
		if err != nil {
			return err
		}
		if last, err = memoryOf(s.Agent.PID()); err != nil {
			return err
		}
		l := status.Ledger
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%d\t%d\t%d\t%d\t%d\t%d\t\n", phase.what, megabytes(last.peak), megabytes(last.resident),
			megabytes(last.anonymous), status.Processes.Processes, status.Processes.Untracked, status.Containers.Containers,
			status.Containers.ContainersRefused, l.Observed, l.AllLost())
		if !l.Balanced() {
			return fmt.Errorf("ledger %+v is not balanced", l)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if megabytes(last.peak) > float64(m.limit) {
		return fmt.Errorf("the agent had %.1f MB: want %d at most", megabytes(last.peak), m.limit)
	}
	return nil
}

// stirRate is how many processes execute themselves a second.
const stirRate = 4000

// patience is how long the agent may take for what it is told.
const patience = 5 * time.Minute

// described waits until the engine and the ECS agent have told of every container that there is room for.
func described(ctx context.Context, s *stack.Stack) error {
	return until(ctx, s, "containers to be described", func(status *stack.Status) bool {
		return status.Containers.Containers > 0 && status.Containers.Pending == 0 && status.ECS.Connected
	})
}

// stirred has every process execute itself, and waits until that is delivered.
func (m *machine) stirred(ctx context.Context, s *stack.Stack, c *crowd) error {
	if err := c.stir(ctx, stirRate); err != nil {
		return err
	}
	return errors.Join(until(ctx, s, "every execution", func(status *stack.Status) bool {
		exec := status.Kinds["process.exec"]
		return exec.Observed >= uint64(m.processes)
	}), delivered(ctx, s))
}

// stormed has processes started and ended, and waits until that is delivered.
func (m *machine) stormed(ctx context.Context, s *stack.Stack) error {
	if out, err := exec.CommandContext(ctx, m.storm, "-n", "20000").CombinedOutput(); err != nil {
		return fmt.Errorf("storm: %w: %s", err, out)
	}
	return delivered(ctx, s)
}

func delivered(ctx context.Context, s *stack.Stack) error {
	_, err := s.Delivered(ctx, patience)
	return err
}

func until(ctx context.Context, s *stack.Stack, what string, done func(*stack.Status) bool) error {
	for deadline := time.Now().Add(patience); ; {
		status, err := s.Status(ctx)
		if err != nil {
			return err
		}
		if done(status) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for %s: not after %s: %+v %+v", what, patience, status.Containers, status.ECS)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func memoryOf(pid int) (figures, error) {
	var f figures
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return f, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		for _, figure := range []struct {
			name string
			to   *uint64
		}{{"VmHWM", &f.peak}, {"VmRSS", &f.resident}, {"RssAnon", &f.anonymous}} {
			if name == figure.name {
				*figure.to, err = strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			}
		}
	}
	if err != nil || f.peak == 0 {
		return f, fmt.Errorf("read memory: %w: %s", err, text)
	}
	return f, nil
}

// megabytes are of 1,000,000 bytes, as scripts/bench has them.
func megabytes(kilobytes uint64) float64 { return float64(kilobytes) * 1024 / 1e6 }
