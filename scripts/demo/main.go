// Command demo shows TaskGuard at work on this host, for `make demo`: it starts the endpoint on loopback and the agent
// with the packaged configuration, both with all they keep in a temporary folder, and prints what the endpoint stores
// as it is read back from there. Without root it sends a recording on the same way instead.
//
// It ends after DEMO_SECONDS, or when it is interrupted, with a summary and exit status 0; with the end of a
// program's log and 1 when that program ended by itself. With DEMO_FORMAT=json stdout has one event a line and all
// else is on stderr. It leaves nothing behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/taskguard/taskguard/scripts/stack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	giveBack := takeTerminal(os.Stdin)
	err := run(ctx, os.Getenv, os.Stdout, os.Stderr)
	giveBack()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

const (
	binaries  = "bin"
	config    = "packaging/agent.yaml"
	recording = "testdata/corpus/container.jsonl"
	// restTimeout is how long the summary waits for all events to be acknowledged.
	restTimeout = 5 * time.Second
)

// demo is one run.
type demo struct {
	stack  *stack.Stack
	json   bool
	length time.Duration // 0 is until interrupted
	events *os.File      // what the endpoint stored
	texts  io.Writer     // all else
}

func run(ctx context.Context, env func(string) string, stdout, stderr *os.File) (err error) {
	d := demo{events: stdout, texts: stdout}
	if err := d.configure(env, stderr); err != nil {
		return err
	}
	// A short path: that of a unix socket has 107 bytes at most.
	dir, err := os.MkdirTemp("/tmp", "taskguard-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if d.stack, err = stack.New(binaries, config, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stack.Close()) }()
	if os.Geteuid() == 0 {
		return d.watch(ctx)
	}
	return d.replay(ctx)
}

func (d *demo) configure(env func(string) string, stderr io.Writer) error {
	switch format := env("DEMO_FORMAT"); format {
	case "", "table":
	case "json":
		d.json, d.texts = true, stderr
	default:
		return fmt.Errorf("DEMO_FORMAT=%q: want table or json", format)
	}
	if text := env("DEMO_SECONDS"); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || seconds <= 0 {
			return fmt.Errorf("DEMO_SECONDS=%q: want a number of seconds", text)
		}
		d.length = time.Duration(seconds * float64(time.Second))
	}
	return nil
}

// watch shows this host's events until ctx is done or the time is over.
func (d *demo) watch(ctx context.Context) error {
	d.say("TaskGuard demo: this host's events, kernel -> agent -> TLS -> endpoint, as the endpoint gives them back.")
	if err := d.stack.StartEndpoint(ctx); err != nil {
		return uninterrupted(ctx, err)
	}
	if err := d.stack.StartAgent(ctx); err != nil {
		return uninterrupted(ctx, err)
	}
	status, err := d.stack.Status(ctx)
	if err != nil {
		return uninterrupted(ctx, err)
	}
	d.say("Sources: %s.", sourcesText(status.Sources))
	d.say("Run something in another terminal; %s\n", d.endText())
	follow, err := d.stack.Follow(d.events, d.format()...)
	if err != nil {
		return err
	}
	return errors.Join(d.wait(ctx, follow), d.finish(follow, status))
}

// wait waits for the end, and returns an error when a program ended before.
func (d *demo) wait(ctx context.Context, follow *stack.Process) error {
	var end <-chan time.Time
	if d.length > 0 {
		timer := time.NewTimer(d.length)
		defer timer.Stop()
		end = timer.C
	}
	select {
	case <-ctx.Done():
		return nil
	case <-end:
		return nil
	case <-follow.Ended():
		return ended(follow)
	case <-d.stack.Agent.Ended():
		return ended(d.stack.Agent)
	case <-d.stack.Endpoint.Ended():
		return ended(d.stack.Endpoint)
	}
}

func ended(p *stack.Process) error {
	if err := p.Err(); err != nil {
		return err
	}
	return fmt.Errorf("a program ended early; its log ends with:\n%s", p.Tail(20))
}

// finish stops all in the order of the events' way, and prints the summary.
func (d *demo) finish(follow *stack.Process, start *stack.Status) error {
	// The interrupt was for the stream, not for what comes after it.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	end, err := d.stack.Settle(ctx, restTimeout)
	if err != nil {
		return errors.Join(err, follow.Stop())
	}
	counts, err := d.stack.Counts(ctx)
	if err = errors.Join(err, d.stack.Agent.Stop(), follow.Stop(), d.stack.Endpoint.Stop()); err != nil {
		return err
	}
	return printSummary(d.texts, start, end, counts)
}

// replay sends a recording to the endpoint and shows what it stored.
func (d *demo) replay(ctx context.Context) error {
	d.say("TaskGuard demo without root, which observing the kernel needs: a recording of a container on another host,")
	d.say("agent -> TLS -> endpoint, as the endpoint gives it back. As root it shows this host.\n")
	file, err := filepath.Abs(recording)
	if err != nil {
		return err
	}
	if err := d.stack.StartEndpoint(ctx); err != nil {
		return uninterrupted(ctx, err)
	}
	sending, err := d.stack.Replay(file)
	if err != nil {
		return err
	}
	if err := await(ctx, sending); err != nil {
		return uninterrupted(ctx, err)
	}
	printing, err := d.stack.Print(d.events, d.format()...)
	if err != nil {
		return err
	}
	if err := await(ctx, printing); err != nil {
		return uninterrupted(ctx, err)
	}
	counts, err := d.stack.Counts(ctx)
	if err != nil {
		return uninterrupted(ctx, err)
	}
	d.say("\n%s.", sending.Tail(1))
	return printSummary(d.texts, nil, nil, counts)
}

// await waits for a program to end, and stops it when ctx is done before.
func await(ctx context.Context, p *stack.Process) error {
	select {
	case <-p.Ended():
		return p.Err()
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.Stop())
	}
}

// uninterrupted returns err unless it is what an interrupt gives.
func uninterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (d *demo) format() []string {
	if d.json {
		return []string{"--json"}
	}
	return nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.texts, format+"\n", args...) }

func (d *demo) endText() string {
	if d.length > 0 {
		return fmt.Sprintf("this ends after %s.", d.length)
	}
	return "Ctrl-C ends this."
}
