// Command storm starts a process many times, waits for each, and prints what it did as one JSON line:
//
//	{"pid":4711,"count":10000,"opens":0,"seconds":3.2,"per_second":3125}
//
// Beside that it can open a file for writing many times, in two threads: far more events a second than processes make.
//
// The kernel sees what posix_spawn(3) does: a clone with CLONE_VFORK, an exec, an exit. Its child is a static program
// of some 130 bytes that only exits, as nothing that exists is cheaper: what a storm costs is then the kernel's work
// and that of whoever observes. Each child has its number as its last argument, so that events can be told apart.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/scripts/tiny"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "storm:", err)
		os.Exit(1)
	}
}

// result is what storm prints.
type result struct {
	PID       int     `json:"pid"`
	Count     int     `json:"count"`
	Opens     int     `json:"opens"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"per_second"`
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("storm", flag.ContinueOnError)
	flags.SetOutput(stderr)
	count := flags.Int("n", 10_000, "how many processes to start")
	rate := flags.Int("rate", 0, "how many a second; 0 is as many as it can")
	opens := flags.Int("opens", 0, "how many times to open a file for writing meanwhile")
	child := flags.String("child", "", "what to start instead of the built-in program, such as /bin/true")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *child == "" {
		dir, err := os.MkdirTemp("", "storm")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		*child = filepath.Join(dir, "storm-child")
		if err := os.WriteFile(*child, tiny.Program(0), 0o700); err != nil {
			return err
		}
	}
	start := time.Now()
	opened := make(chan error, openers)
	for i := range openers {
		go func() { opened <- openMany(ctx, (*opens+i)/openers) }()
	}
	started, err := storm(ctx, *child, *count, *rate)
	for range openers {
		err = errors.Join(err, <-opened)
	}
	seconds := time.Since(start).Seconds()
	return errors.Join(err, json.NewEncoder(stdout).Encode(result{
		PID: os.Getpid(), Count: started, Opens: *opens, Seconds: seconds, PerSecond: float64(started) / seconds,
	}))
}

// openers is how many threads open files.
const openers = 2

// openMany opens a file of its own n times.
func openMany(ctx context.Context, n int) error {
	file, err := os.CreateTemp("", "storm")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	for range n {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		fd, err := unix.Open(file.Name(), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open file: %w", err)
		}
		if err := unix.Close(fd); err != nil {
			return fmt.Errorf("close file: %w", err)
		}
	}
	return file.Close()
}

// storm starts n processes and returns how many it did start.
func storm(ctx context.Context, child string, n, rate int) (int, error) {
	start := time.Now()
	for i := range n {
		if rate > 0 {
			// Short sleeps are long ones when the kernel is busy, so what is late is caught up.
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate))))
		}
		if ctx.Err() != nil {
			return i, errors.New("interrupted")
		}
		if err := spawn(child, i); err != nil {
			return i, err
		}
	}
	return n, nil
}

func spawn(child string, number int) error {
	process, err := os.StartProcess(child, []string{"storm-child", strconv.Itoa(number)}, &os.ProcAttr{})
	if err != nil {
		return fmt.Errorf("start child: %w", err)
	}
	state, err := process.Wait()
	if err != nil {
		return fmt.Errorf("wait for child: %w", err)
	}
	if !state.Success() {
		return fmt.Errorf("run child: %s", state)
	}
	return nil
}
