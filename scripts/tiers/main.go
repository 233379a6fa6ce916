// Command tiers runs the module's tests, tier by tier, and says at the end what ran and what could not.
//
// It promises: a tier this machine can run is run, and in those that need root a skip is a failure; a tier it cannot
// run is named with the reason; every skipped test is listed with its reason; the last line is the sum. It exits with
// 1 if a test failed or did not compile. The rungs that the kernel tier's tests told of are printed, and kept for
// `make rungs`.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/scripts/suite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "tiers:", err)
		os.Exit(1)
	}
}

// tier is a set of tests with the same needs.
type tier struct {
	name   string
	args   []string // of go test
	note   string   // what is less than it should be
	cannot string   // why it cannot run here; empty when it can
}

var errFailed = errors.New("tests failed")

func run(ctx context.Context, out io.Writer) error {
	found, err := suite.Find(".")
	if err != nil {
		return err
	}
	var sum suite.Result
	var summary strings.Builder
	var failed []string
	for _, t := range tiers(found) {
		if t.cannot != "" {
			fmt.Fprintf(&summary, "%-10s not run: %s\n", t.name, t.cannot)
			continue
		}
		fmt.Fprintf(out, "== %s\n", t.name)
		start := time.Now()
		r, texts, err := t.run(ctx, out)
		if err != nil {
			return fmt.Errorf("run %s tier: %w", t.name, err)
		}
		failed = append(failed, texts...)
		fmt.Fprintf(&summary, "%-10s %s in %s%s\n", t.name, r, time.Since(start).Round(time.Second), t.note)
		sum.Add(r)
	}
	fmt.Fprintf(out, "== summary\n%s%s%s\n", strings.Join(failed, ""), summary.String(), sum)
	if sum.Failed > 0 {
		return errFailed
	}
	return nil
}

// tiers lists them all, in the order in which they run.
func tiers(found suite.Tests) []tier {
	unit := tier{name: "unit", args: []string{"-skip", found.Pattern("kernel", "container"), "./..."}}
	if _, err := exec.LookPath("gcc"); err == nil {
		unit.args = append([]string{"-race"}, unit.args...)
	} else {
		unit.note = ", without the race detector: it needs gcc"
	}
	list := []tier{unit}
	for _, name := range []string{"kernel", "container"} {
		t := tier{name: name, cannot: cannotRunAsRoot()}
		if len(found[name]) == 0 {
			t.cannot = "there are no such tests"
		}
		// One package at a time: they share the kernel's audit rules, cgroups and event rates.
		t.args = append([]string{"-p", "1", "-run", found.Pattern(name)}, found.Packages(name)...)
		list = append(list, t)
	}
	return list
}

// cannotRunAsRoot says what keeps this process from observing the kernel.
func cannotRunAsRoot() string {
	const sysAdmin = 21 // CAP_SYS_ADMIN, capability.h
	if os.Geteuid() != 0 {
		return "needs root: run make test as root"
	}
	if !hasCapability(sysAdmin) {
		return "needs the capability CAP_SYS_ADMIN, which this root does not have: run it outside of a container"
	}
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return "needs a kernel with type information: " + err.Error()
	}
	return ""
}

func hasCapability(bit uint) bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		var effective uint64
		if n, _ := fmt.Sscanf(line, "CapEff:\t%x", &effective); n == 1 {
			return effective&(1<<bit) != 0
		}
	}
	return false
}

// run runs the tier's tests and reports as they end, and returns the failed ones.
func (t *tier) run(ctx context.Context, out io.Writer) (suite.Result, []string, error) {
	args := slices.Concat([]string{"test", "-json", "-count=1", "-timeout=20m"}, t.args)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	cmd.Env = append(os.Environ(), "TASKGUARD_REQUIRE=")
	if t.name != "unit" {
		cmd.Env = append(os.Environ(), "TASKGUARD_REQUIRE=kernel,container")
	}
	cmd.Stderr = out
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return suite.Result{}, nil, err
	}
	if err := cmd.Start(); err != nil {
		return suite.Result{}, nil, err
	}
	report := suite.NewReport(out)
	readErr := report.AddAll(stdout)
	waitErr := cmd.Wait()
	r := report.Result()
	if ctx.Err() != nil {
		return r, report.Failed(), errors.New("interrupted")
	}
	if waitErr != nil && r.Failed == 0 {
		return r, report.Failed(), fmt.Errorf("go test failed without a failed test: %w", waitErr)
	}
	if t.name == "kernel" {
		return r, report.Failed(), errors.Join(readErr, keepRungs(out, report.Rungs()))
	}
	return r, report.Failed(), readErr
}

// keepRungs prints the rungs of the running kernel, and keeps them for the table of all kernels.
func keepRungs(out io.Writer, rungs []suite.Rung) error {
	kernel, err := runningKernel()
	if err != nil {
		return err
	}
	if len(rungs) > 0 {
		if err := suite.PrintRungs(out, map[string][]suite.Rung{kernel: rungs}); err != nil {
			return err
		}
	}
	return suite.WriteRungs(suite.RungsDir, kernel, rungs)
}

// runningKernel names this machine's kernel as scripts/vm names its own: "6.1", "arm64-6.1".
func runningKernel() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("read kernel version: %w", err)
	}
	version := strings.SplitN(unix.ByteSliceToString(name.Release[:]), ".", 3)
	if len(version) < 2 {
		return "", fmt.Errorf("read kernel version: %q has no two numbers", version)
	}
	kernel := version[0] + "." + version[1]
	if runtime.GOARCH != "amd64" {
		kernel = runtime.GOARCH + "-" + kernel
	}
	return kernel, nil
}
