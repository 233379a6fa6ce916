// Package e2e runs the built programs as an operator would, and proves what they promise together: what happens on the
// host is read back from the endpoint, attributed, complete and once, whatever is killed on the way.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/stack"
)

// programs builds what the tests run, the first time a test asks for it. TASKGUARD_BIN names a folder where they are
// already, for a machine that has no Go.
type programs struct {
	once sync.Once
	dir  string
	err  error
}

var built programs

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

func (p *programs) bin(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("TASKGUARD_BIN"); dir != "" {
		return dir
	}
	p.once.Do(func() {
		if p.dir, p.err = os.MkdirTemp("", "taskguard-e2e-bin-"); p.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-buildvcs=false", "-o", p.dir+"/", "../../cmd/...", "../storm")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			p.err = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.dir
}

// need skips a test that cannot run here, or fails it when its tier is required.
func need(t *testing.T, tier string, missing error) {
	t.Helper()
	switch {
	case missing == nil:
	case slices.Contains(strings.Split(os.Getenv("TASKGUARD_REQUIRE"), ","), tier):
		t.Fatal(missing)
	default:
		t.Skip(missing)
	}
}

func needRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("observing the kernel needs root")
	}
	return nil
}

// newStack returns an endpoint and an agent that run, with the packaged configuration and these settings. The throttle
// is off unless they turn it on: a storm at full speed shares its cgroup with the test, whose events it would cost.
func newStack(t *testing.T, settings ...string) *stack.Stack {
	t.Helper()
	need(t, "kernel", needRoot())
	// Not t.TempDir: the path of a unix socket has 107 bytes at most.
	dir, err := os.MkdirTemp("", "tg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := stack.New(built.bin(t), "../../packaging/agent.yaml", dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(s.Log())
		}
	})
	if err := s.StartEndpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.StartAgent(t.Context(), append([]string{"host.imds=off", "throttle.events_per_second=0"}, settings...)...); err != nil {
		t.Fatal(err)
	}
	return s
}

// storm is a running storm.
type storm struct {
	cmd *exec.Cmd
	out bytes.Buffer
	n   int
}

// startStorm starts n processes at a rate; 0 is full speed.
func startStorm(t *testing.T, n, rate int) *storm {
	t.Helper()
	s := &storm{n: n}
	s.cmd = exec.Command(filepath.Join(built.bin(t), "storm"), "-n", strconv.Itoa(n), "-rate", strconv.Itoa(rate))
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill() }) // when the test ended before it
	return s
}

func (s *storm) pid() uint32 { return uint32(s.cmd.Process.Pid) }

func (s *storm) wait(t *testing.T) {
	t.Helper()
	if err := s.cmd.Wait(); err != nil {
		t.Fatalf("storm: %v\n%s", err, &s.out)
	}
	t.Logf("storm: %s", strings.TrimSpace(s.out.String()))
}

// events returns what the endpoint gives back.
func events(t *testing.T, s *stack.Stack, args ...string) []event.Event {
	t.Helper()
	out, err := s.Events(t.Context(), append([]string{"--json"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	var list []event.Event
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%v: %s", err, lines.Text())
		}
		list = append(list, e)
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	return list
}

// stored returns how often the endpoint has the exec of each of the storm's processes.
func (s *storm) stored(t *testing.T, from *stack.Stack) []int {
	t.Helper()
	times := make([]int, s.n)
	for _, e := range events(t, from, "--kind", "process.exec") {
		p := e.Process
		if p == nil || len(p.Ancestors) == 0 || p.Ancestors[0].PID != s.pid() {
			continue
		}
		args := p.Args.Split()
		number, err := strconv.Atoi(args[len(args)-1])
		if err != nil || number < 0 || number >= s.n || p.Exe == "" || p.ParentID != p.Ancestors[0].ID {
			t.Errorf("exec of a storm's child: %+v", *p)
			continue
		}
		times[number]++
	}
	return times
}

// wantEachOnce checks that the endpoint has the exec of each of the storm's processes exactly once.
func (s *storm) wantEachOnce(t *testing.T, from *stack.Stack) {
	t.Helper()
	total, missing, repeated := 0, 0, 0
	for _, n := range s.stored(t, from) {
		total += n
		switch {
		case n == 0:
			missing++
		case n > 1:
			repeated++
		}
	}
	t.Logf("the endpoint has %d execs by the storm's process", total)
	if total != s.n || missing > 0 || repeated > 0 {
		t.Errorf("the endpoint has %d execs by the storm's process, want %d: %d missing, %d repeated", total, s.n,
			missing, repeated)
	}
}

// wantNothingLost waits until all that was observed is acknowledged, and checks the ledger.
func wantNothingLost(t *testing.T, s *stack.Stack) {
	t.Helper()
	if _, err := s.Delivered(t.Context(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	status, err := s.Settle(t.Context(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	l := status.Ledger
	t.Logf("ledger: %+v", l)
	if !l.Balanced() || l.AllLost() > 0 {
		t.Errorf("ledger %+v: want observed = acked + spooled + open, and nothing lost", l)
	}
	if l.AtRest() && l.Observed != l.Acked {
		t.Errorf("ledger %+v: want observed = acked at rest", l)
	}
	if l.Observed == 0 {
		t.Error("nothing was observed")
	}
}

// await waits until a condition holds.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited a minute for %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
