// Package stack runs the built taskguard-endpoint and taskguard-agent as they are installed: two processes that talk
// over TLS on loopback, with all they keep in one folder. The demo, the benchmark and the end-to-end tests use it.
//
// It promises: nothing outside of the folder is written; every wait ends; a program that ends by itself is reported
// with the end of its log; and what Close returns from has left no process.
package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	startTimeout = 2 * time.Minute
	pollInterval = 50 * time.Millisecond
)

// Stack is an endpoint and an agent. Its methods are not safe for concurrent use.
type Stack struct {
	Endpoint *Process // nil when it does not run
	Agent    *Process // nil when it does not run

	bin     string
	config  string
	dir     string
	address string // of the endpoint, once it has listened
	agent   *http.Client
}

// New returns a stack of the programs in the folder bin, which keeps everything in the folder dir and gives the agent
// the configuration file.
func New(bin, config, dir string) (*Stack, error) {
	for _, name := range []string{"taskguard-agent", "taskguard-endpoint"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return nil, fmt.Errorf("find programs: %w: run make build", err)
		}
	}
	s := &Stack{bin: bin, config: config, dir: dir}
	// A new connection would be an event of its own at every question.
	s.agent = unixClient(s.socket())
	return s, nil
}

func (s *Stack) socket() string { return filepath.Join(s.dir, "agent.sock") }

// Dir returns the folder that both keep everything in.
func (s *Stack) Dir() string { return s.dir }

// Spool returns the folder of the batches that the agent has not delivered.
func (s *Stack) Spool() string { return filepath.Join(s.dir, "agent", "spool") }

// Data returns the folder that the endpoint keeps everything in.
func (s *Stack) Data() string { return filepath.Join(s.dir, "endpoint") }

// Address returns where the endpoint listens, or has listened.
func (s *Stack) Address() string { return s.address }

// CA returns the file of what the endpoint's certificate is to be verified with.
func (s *Stack) CA() string { return filepath.Join(s.Data(), "tls", "ca.pem") }

// StartEndpoint starts the endpoint, with more flags, and waits until it listens: on a free port at first, on the same
// one afterwards.
func (s *Stack) StartEndpoint(ctx context.Context, flags ...string) (err error) {
	listen := s.address
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	file := filepath.Join(s.Data(), "address")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) { // one that was killed leaves it
		return fmt.Errorf("start endpoint: %w", err)
	}
	s.Endpoint, err = Start("endpoint", filepath.Join(s.dir, "endpoint.log"), nil, s.program("taskguard-endpoint"),
		append([]string{"serve", "--listen", listen, "--data", s.Data(), "--tls-self-signed"}, flags...)...)
	if err != nil {
		return err
	}
	return wait(ctx, s.Endpoint, func() error {
		address, err := os.ReadFile(file)
		s.address = strings.TrimSpace(string(address))
		return err
	})
}

// StartAgent starts the agent, with more settings ("key=value") than those that keep it in the folder, and waits
// until it observes.
func (s *Stack) StartAgent(ctx context.Context, settings ...string) (err error) {
	args := append([]string{"run"}, s.agentArgs(settings)...)
	s.Agent, err = Start("agent", filepath.Join(s.dir, "agent.log"), nil, s.program("taskguard-agent"), args...)
	if err != nil {
		return err
	}
	return wait(ctx, s.Agent, func() error {
		_, err := s.Status(ctx)
		return err
	})
}

// Replay sends a recording to the endpoint in place of an agent.
func (s *Stack) Replay(recording string) (*Process, error) {
	args := append([]string{"replay", recording}, s.agentArgs(nil)...)
	return Start("replay", filepath.Join(s.dir, "agent.log"), nil, s.program("taskguard-agent"), args...)
}

func (s *Stack) agentArgs(settings []string) []string {
	args := []string{"--config", s.config}
	for _, setting := range append([]string{
		"endpoint.url=https://" + s.address,
		"endpoint.ca_file=" + s.CA(),
		"state_dir=" + filepath.Join(s.dir, "agent"),
		"socket=" + s.socket(),
	}, settings...) {
		args = append(args, "--set", setting)
	}
	return args
}

// Follow starts to print what the endpoint stores from now on, after what it has.
func (s *Stack) Follow(stdout io.Writer, args ...string) (*Process, error) {
	return s.Print(stdout, append([]string{"--follow"}, args...)...)
}

// Print starts to print what the endpoint has.
func (s *Stack) Print(stdout io.Writer, args ...string) (*Process, error) {
	args = append([]string{"events", "--data", s.Data()}, args...)
	return Start("events", filepath.Join(s.dir, "events.log"), stdout, s.program("taskguard-endpoint"), args...)
}

// Events returns what `taskguard-endpoint events` prints.
func (s *Stack) Events(ctx context.Context, args ...string) ([]byte, error) {
	return s.output(ctx, "taskguard-endpoint", append([]string{"events", "--data", s.Data()}, args...)...)
}

// Containers returns what `taskguard-agent status containers --json` prints.
func (s *Stack) Containers(ctx context.Context) ([]byte, error) {
	return s.output(ctx, "taskguard-agent", "status", "containers", "--json", "--socket", s.socket())
}

func (s *Stack) output(ctx context.Context, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, s.program(program), args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%s %s: %w: %s", program, args[0], err, exit.Stderr)
	}
	return out, err
}

// Ask returns what a command of taskguard-agent prints that asks the running agent, such as "status".
func (s *Stack) Ask(ctx context.Context, command ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	args := append(command, "--socket", s.socket())
	out, err := exec.CommandContext(ctx, s.program("taskguard-agent"), args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ask agent: %s: %w: %s", strings.Join(command, " "), err, out)
	}
	return out, nil
}

// Watch starts to print the agent's own stream of events, as they are sealed from now on.
func (s *Stack) Watch(stdout io.Writer, args ...string) (*Process, error) {
	args = append([]string{"events", "--follow", "--socket", s.socket()}, args...)
	return Start("watch", filepath.Join(s.dir, "watch.log"), stdout, s.program("taskguard-agent"), args...)
}

// Counts returns how many events of each kind the endpoint has.
func (s *Stack) Counts(ctx context.Context) (map[string]uint64, error) {
	out, err := s.Events(ctx, "--count", "--json")
	if err != nil {
		return nil, err
	}
	var counts map[string]uint64
	if err := json.Unmarshal(out, &counts); err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	return counts, nil
}

// Log returns the end of the agent's log and of the endpoint's.
func (s *Stack) Log() string {
	var b strings.Builder
	for _, p := range []*Process{s.Endpoint, s.Agent} {
		if p != nil {
			fmt.Fprintf(&b, "%s:\n%s\n", p.name, p.Tail(20))
		}
	}
	return b.String()
}

// Err returns how a program ended that was not told to.
func (s *Stack) Err() error {
	for _, p := range []*Process{s.Endpoint, s.Agent} {
		if p == nil {
			continue
		}
		if err := p.Err(); err != nil {
			return err
		}
	}
	return nil
}

// Close stops what runs, the agent first, so that it can deliver what it has.
func (s *Stack) Close() error {
	s.agent.CloseIdleConnections()
	return errors.Join(s.Agent.Stop(), s.Endpoint.Stop())
}

func (s *Stack) program(name string) string { return filepath.Join(s.bin, name) }

// wait waits until ready returns nil.
func wait(ctx context.Context, p *Process, ready func() error) error {
	timeout := time.After(startTimeout)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			p.told = false
			return errors.Join(fmt.Errorf("start %s: it ended at once", p.name), p.Err())
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout:
			return fmt.Errorf("start %s: not ready after %s: %w; its log ends with:\n%s", p.name, startTimeout, err, p.Tail(20))
		case <-time.After(pollInterval):
		}
	}
}
