// Command capacity measures what one endpoint on this host takes from many agents: events and bytes a second, CPU time
// for a million events, memory; on one core and on as many as there are. The agents are simulated by this process, which
// shares the cores. Run it in the repository's root, after make build.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/stack"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/https"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "capacity:", err)
		os.Exit(1)
	}
}

// load says what the agents do.
type load struct {
	agents  int
	events  int // in a batch
	lasts   time.Duration
	warmUp  time.Duration
	corpus  string
	bin     string
	timeout time.Duration
}

func run(ctx context.Context, out io.Writer, args []string) error {
	l := load{warmUp: 3 * time.Second, timeout: 30 * time.Second}
	flags := flag.NewFlagSet("capacity", flag.ContinueOnError)
	seconds := flags.Int("seconds", 20, "how long each measurement lasts")
	flags.IntVar(&l.agents, "agents", 500, "how many agents there are")
	flags.IntVar(&l.events, "events", 1000, "how many events each of their batches has")
	flags.StringVar(&l.corpus, "corpus", "testdata/corpus/container.jsonl", "recorded events that batches are filled with")
	flags.StringVar(&l.bin, "bin", "bin", "folder of the programs")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	l.lasts = time.Duration(*seconds) * time.Second
	frames, err := newFrames(l.corpus, l.events)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "cores\tagents\tevents/s\tMB/s\tCPU s per 10^6 events\tcores busy\tmemory MB at most\t")
	for cores := 1; cores <= runtime.NumCPU(); cores *= 2 {
		m, err := l.measure(ctx, frames, cores)
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%d\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t%.0f\t\n", cores, l.agents, float64(m.events)/m.took.Seconds(),
			float64(m.bytes)/m.took.Seconds()/1e6, m.cpu.Seconds()/float64(m.events)*1e6, m.cpu.Seconds()/m.took.Seconds(),
			float64(m.memory)/1e6)
	}
	return table.Flush()
}

// measured is what the endpoint did in a time.
type measured struct {
	events, bytes uint64
	took, cpu     time.Duration
	memory        uint64 // bytes, at most since it began
}

// measure runs an endpoint on some cores, and the agents.
func (l *load) measure(ctx context.Context, frames *frames, cores int) (m measured, err error) {
	dir, err := os.MkdirTemp("", "tg")
	if err != nil {
		return m, err
	}
	defer os.RemoveAll(dir)
	s, err := stack.New(l.bin, "", dir)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.StartEndpoint(ctx, "--set", "limits.agent_batches_per_second=10000", "--max-bytes", "4GiB"); err != nil {
		return m, err
	}
	if err := pin(s.Endpoint.PID(), cores); err != nil {
		return m, err
	}
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var events, bytes atomic.Uint64
	var running sync.WaitGroup
	failed := make(chan error, l.agents)
	for n := range l.agents {
		running.Go(func() {
			if err := l.agent(sending, s, frames, n, &events, &bytes); err != nil && sending.Err() == nil {
				failed <- err
			}
		})
	}
	before, err := l.between(ctx, s, failed, l.warmUp, &events, &bytes)
	if err != nil {
		return m, err
	}
	after, err := l.between(ctx, s, failed, l.lasts, &events, &bytes)
	stop()
	running.Wait()
	if err != nil {
		return m, err
	}
	return measured{
		after.events - before.events, after.bytes - before.bytes, after.took - before.took, after.cpu - before.cpu, after.memory,
	}, nil
}

// between waits and returns what was counted until then; took is since the epoch.
func (l *load) between(
	ctx context.Context, s *stack.Stack, failed <-chan error, wait time.Duration, events, bytes *atomic.Uint64,
) (measured, error) {
	select {
	case <-time.After(wait):
	case err := <-failed:
		return measured{}, err
	case <-ctx.Done():
		return measured{}, ctx.Err()
	}
	cpu, memory, err := usage(s.Endpoint.PID())
	return measured{events.Load(), bytes.Load(), time.Duration(time.Now().UnixNano()), cpu, memory}, err
}

// agent sends batches, one after another, until ctx is done.
func (l *load) agent(ctx context.Context, s *stack.Stack, frames *frames, n int, events, bytes *atomic.Uint64) error {
	agent := event.ID{0: byte(n), 1: byte(n >> 8), 2: 1}
	transport, err := https.New(https.Config{URL: "https://" + s.Address(), CAFile: s.CA(), Agent: agent, Timeout: l.timeout})
	if err != nil {
		return err
	}
	defer transport.Close()
	var frame []byte
	for sequence := uint64(1); ctx.Err() == nil; sequence++ {
		frame = frames.append(frame[:0], agent, sequence)
		for {
			err := transport.Send(ctx, frame)
			var failure *sender.Failure
			if err == nil {
				break
			}
			if !errors.As(err, &failure) || failure.Reject != "" || failure.Partial {
				return err
			}
			select { // busy, or as many connect at once
			case <-time.After(max(failure.After, 100*time.Millisecond)):
			case <-ctx.Done():
				return nil
			}
		}
		events.Add(uint64(frames.events))
		bytes.Add(uint64(len(frame)))
	}
	return nil
}

// pin has all threads of a process run on the first cores only.
func pin(pid, cores int) error {
	var set unix.CPUSet
	for core := range cores {
		set.Set(core)
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err == nil {
			err = unix.SchedSetaffinity(tid, &set)
		}
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("pin endpoint: %w", err)
		}
	}
	return nil
}

// usage returns the CPU time of a process, and the most memory that it has had.
func usage(pid int) (cpu time.Duration, memory uint64, err error) {
	const ticks = 100 // USER_HZ
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var user, system uint64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		return 0, 0, fmt.Errorf("read cpu time: %w", err)
	}
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		if kilobytes, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			if _, err := fmt.Sscan(kilobytes, &memory); err != nil {
				return 0, 0, fmt.Errorf("read memory: %w", err)
			}
		}
	}
	return time.Duration(user+system) * time.Second / ticks, memory << 10, nil
}
