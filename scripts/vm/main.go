// Command vm runs the kernel tier's tests on the kernels that TaskGuard supports, each in a virtual machine, whose only
// cgroup hierarchy is version 2. One of them has a container engine, and runs the container tier's too.
//
// It promises: a machine boots once and runs the test binaries one after the other; as many machines run at one time as
// there are CPUs; a test that fails or is skipped, a machine that stops early, and one that takes too long, each fail
// the run; and when it returns, the machines have ended and their files are gone. Packages that were downloaded stay,
// in $XDG_CACHE_HOME/taskguard/vm, and each machine's last results and console, in bin/vm.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/taskguard/taskguard/scripts/suite"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

// kernel is a Linux of Debian's.
type kernel struct {
	name   string
	arch   string // Debian's and Go's word for it
	suite  string // of Debian, that it is in
	engine bool   // the machine has a container engine
}

// tiers are those whose tests it runs.
func (k kernel) tiers() []string {
	if k.engine {
		return []string{"kernel", "container"}
	}
	return []string{"kernel"}
}

// kernels are those that the tests must pass on.
func kernels() []kernel {
	return []kernel{
		{name: "5.10", arch: "amd64", suite: "bullseye-security"},
		{name: "6.1", arch: "amd64", suite: "bookworm", engine: true},
		{name: "6.12", arch: "amd64", suite: "trixie"},
		{name: "arm64-6.1", arch: "arm64", suite: "bookworm"},
	}
}

// choose returns the kernels that a name means; empty for all.
func choose(name string) ([]kernel, error) {
	if name == "" {
		return kernels(), nil
	}
	var names []string
	for _, k := range kernels() {
		if k.name == name {
			return []kernel{k}, nil
		}
		names = append(names, k.name)
	}
	return nil, fmt.Errorf("no kernel %q: choose one of %s", name, strings.Join(names, ", "))
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("vm", flag.ContinueOnError)
	name := flags.String("kernel", "", "run on this kernel only")
	only := flags.String("run", "", "run only tests that match this `regexp`, and subtests, as go test -run has it")
	shell := flags.Bool("shell", false, "give a shell in the machine instead of running the tests")
	rungs := flags.Bool("rungs", false, "print the table of the rungs that won in the last runs, and nothing else")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *rungs {
		return printRungs(out)
	}
	chosen, err := choose(*name)
	if err != nil {
		return err
	}
	if *shell && len(chosen) > 1 {
		return errors.New("a shell needs one kernel: set KERNEL")
	}
	work, err := prepare(*only)
	if err != nil {
		return err
	}
	defer os.RemoveAll(work.dir)
	if chosen = work.withTests(chosen); len(chosen) == 0 {
		return fmt.Errorf("no test that runs in these machines matches %q", *only)
	}
	if *shell {
		return work.shell(ctx, chosen[0])
	}
	return work.test(ctx, chosen, out)
}

// work is what all machines share.
type work struct {
	dir      string // removed at the end
	packages packages
	tests    suite.Tests
	subtests string // behind the test's name in -run, with its slash
	partial  bool   // not all tests run
}

// slow are tests that ask an engine more than a kernel, and take minutes where it is emulated. They run on the host, and
// here when they are asked for.
func slow() []string { return []string{"TestLivesByDocker", "TestPosture"} }

func prepare(only string) (*work, error) {
	tests, err := suite.Find(".")
	if err != nil {
		return nil, err
	}
	name, subtests, nested := strings.Cut(only, "/")
	re, err := regexp.Compile(name)
	if err != nil {
		return nil, fmt.Errorf("read RUN: %w", err)
	}
	w := &work{tests: tests.Matching(re), partial: only != ""}
	if !w.partial {
		for _, name := range slow() {
			delete(w.tests["container"], name)
		}
	}
	if nested {
		w.subtests = "/" + subtests
	}
	if w.packages, err = newPackages(); err != nil {
		return nil, err
	}
	w.dir, err = os.MkdirTemp("", "taskguard-vm-")
	return w, err
}

// packagesOf returns the packages that tiers have tests in, in the order in which a machine tests them.
func (w *work) packagesOf(tiers ...string) []string {
	return order(w.tests.Packages(tiers...), w.partial)
}

// withTests returns the kernels that have a test to run.
func (w *work) withTests(chosen []kernel) []kernel {
	return slices.DeleteFunc(chosen, func(k kernel) bool { return len(w.packagesOf(k.tiers()...)) == 0 })
}

// order puts packages in the order in which a machine tests them. The tests below scripts, of the whole programs, run on
// the host, and here when they are asked for: a program takes a minute to start where it is emulated.
func order(packages []string, all bool) []string {
	if !all {
		packages = slices.DeleteFunc(packages, func(dir string) bool { return strings.HasPrefix(dir, "./scripts/") })
	}
	// The last test of audit's locks the kernel's configuration of it.
	last := slices.Index(packages, "./collector/audit")
	if last < 0 {
		return packages
	}
	return append(slices.Delete(packages, last, last+1), "./collector/audit")
}

// test runs the tests on the kernels.
func (w *work) test(ctx context.Context, chosen []kernel, out io.Writer) error {
	images := make([]image, len(chosen))
	for i, k := range chosen {
		var err error
		if images[i], err = w.image(ctx, k); err != nil {
			return fmt.Errorf("make machine of %s: %w", k.name, err)
		}
	}
	outcomes := make([]outcome, len(chosen))
	var running sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU()) // a machine is emulated by one thread
	lines := new(sync.Mutex)
	for i, k := range chosen {
		slots <- struct{}{}
		running.Go(func() {
			outcomes[i] = w.testOn(ctx, k, images[i], &prefixed{out: out, prefix: k.name + ": ", lines: lines})
			<-slots
		})
	}
	running.Wait()
	return w.sum(chosen, outcomes, out)
}

// outcome is how the tests on one kernel went.
type outcome struct {
	suite.Result
	rungs  []suite.Rung
	failed []string
	took   time.Duration
	err    error // why the result says nothing
}

// sum tells of all kernels.
func (w *work) sum(chosen []kernel, outcomes []outcome, out io.Writer) error {
	fmt.Fprintln(out, "== summary")
	var errs []error
	var sum suite.Result
	for i, k := range chosen {
		o := outcomes[i]
		if o.err != nil {
			errs = append(errs, fmt.Errorf("test on %s: %w", k.name, o.err))
			continue
		}
		fmt.Fprintf(out, "vm %-10s %s in %s\n", k.name+":", o.Result, o.took.Round(time.Second))
		sum.Add(o.Result)
		if !w.partial {
			errs = append(errs, suite.WriteRungs(suite.RungsDir, k.name, o.rungs))
		}
	}
	errs = append(errs, printRungs(out))
	for i, k := range chosen {
		for _, text := range outcomes[i].failed {
			fmt.Fprintf(out, "%s: %s", k.name, text)
		}
	}
	if sum.Failed > 0 {
		errs = append(errs, errors.New("tests failed"))
	}
	if sum.Skipped > 0 {
		errs = append(errs, errors.New("tests were skipped"))
	}
	return errors.Join(errs...)
}

func printRungs(out io.Writer) error {
	all, err := suite.ReadRungs(suite.RungsDir)
	if err != nil || len(all) == 0 {
		return err
	}
	return suite.PrintRungs(out, all)
}
