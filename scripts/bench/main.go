// Command bench measures TaskGuard's budgets on this machine, for `make bench`, with auditd in the same run where it
// can be run.
//
// It promises: every figure it prints was measured now, by the programs in bin/ and the benchmarks of this tree; what
// could not be measured is "n/a" with the reason. It takes some minutes, wants an idle machine, and ends only what it
// has started.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out, progress io.Writer) error {
	say := func(format string, args ...any) { fmt.Fprintf(progress, "bench: "+format+"\n", args...) }
	if load := loadAverage(); load > 0.5 {
		say("this machine is busy, its load average is %.1f: what is measured now is not to be relied on", load)
	}
	say("the code path, by go test -bench")
	path := measurePath(ctx)
	if os.Geteuid() != 0 {
		return printTable(out, path, nil, nil, errors.New("observing the kernel needs root: run make bench as root"))
	}
	dir, err := os.MkdirTemp("/tmp", "taskguard-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	m := &machine{dir: dir, say: say}
	steady, err := m.steady(ctx)
	if err != nil {
		return err
	}
	slow, err := m.slowDown(ctx)
	if err != nil {
		return err
	}
	return printTable(out, path, steady, slow, m.noAuditd)
}
