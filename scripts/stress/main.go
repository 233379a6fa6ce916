// Command stress runs stress-ng's stressors one after another under the agent, for `make stress`, and prints for each what
// the agent made of it. It ends with exit status 1 when the agent ended by itself, when its memory went beyond the
// limit, when the ledger did not balance, or when it did not deliver all that it had not lost.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"slices"
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
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "stress:", err)
		os.Exit(1)
	}
}

// memoryLimit is what the service may use on a host with less than 8 GB.
const memoryLimit = 128 << 20

// patience is how long the agent may take to deliver what a stressor left behind.
const patience = 2 * time.Minute

func run(ctx context.Context, args []string, stdout, progress io.Writer) (err error) {
	flags := flag.NewFlagSet("stress", flag.ContinueOnError)
	flags.SetOutput(progress)
	seconds := flags.Int("seconds", 60, "how long each stressor runs")
	stressors := flags.String("stressors", "exec,fork,open,sock,mmap,rename", "names of stress-ng's stressors")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/tmp", "taskguard-stress-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := stack.New("bin", "packaging/agent.yaml", dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.StartEndpoint(ctx); err != nil {
		return err
	}
	if err := s.StartAgent(ctx); err != nil {
		return err
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "STRESSOR\tSECONDS\tOBSERVED\tACKED\tLOST, BY CAUSE\tMEMORY")
	var faults []error
	for name := range strings.SplitSeq(*stressors, ",") {
		fmt.Fprintf(progress, "stress: %s for %d s\n", name, *seconds)
		if err := stress(ctx, s, name, *seconds, table); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(append(faults, table.Flush())...)
}

// stress runs one stressor and prints its row.
func stress(ctx context.Context, s *stack.Stack, name string, seconds int, table io.Writer) error {
	before, err := s.Status(ctx)
	if err != nil {
		return err
	}
	if err := runStressor(ctx, name, time.Duration(seconds)*time.Second); err != nil {
		return err
	}
	after, err := s.Delivered(ctx, patience)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, s.Log())
	}
	memory, err := peakMemory(s.Agent.PID())
	if err != nil {
		return err
	}
	fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\t%.0f MB\n", name, seconds, after.Ledger.Observed-before.Ledger.Observed,
		after.Ledger.Acked-before.Ledger.Acked, losses(&before.Ledger, &after.Ledger), float64(memory)/1e6)
	if !after.Ledger.Balanced() {
		return fmt.Errorf("the ledger does not balance: %+v", after.Ledger)
	}
	if memory > memoryLimit {
		return fmt.Errorf("the agent used %d bytes of memory, want at most %d", memory, memoryLimit)
	}
	return nil
}

// nobody is who the stressors run as: the one that executes programs refuses to do so for root.
const nobody = 65534

// runStressor runs one for a time. It is an error when it ends before: stress-ng says nothing of those that it leaves
// out.
func runStressor(ctx context.Context, name string, long time.Duration) (err error) {
	work, err := os.MkdirTemp("/tmp", "taskguard-stress-"+name+"-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := os.Chown(work, nobody, nobody); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "stress-ng", "--"+name, "2", "--timeout", strconv.Itoa(int(long.Seconds()))+"s",
		"--temp-path", work)
	cmd.Dir = work
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run stress-ng: %w: %s", err, out)
	}
	if took := time.Since(began); took < long {
		return fmt.Errorf("run stress-ng: it ended after %s: %s", took.Round(time.Millisecond), out)
	}
	return nil
}

// losses lists what was lost between two ledgers.
func losses(before, after *stack.Ledger) string {
	var list []string
	for _, cause := range slices.Sorted(maps.Keys(after.Lost)) {
		if more := after.Lost[cause] - before.Lost[cause]; more > 0 {
			list = append(list, fmt.Sprintf("%s %d", cause, more))
		}
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// peakMemory returns the most resident memory that a process has had, in bytes.
func peakMemory(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseUint(strings.Fields(value)[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("read memory: no VmHWM")
}
