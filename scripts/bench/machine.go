package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/taskguard/taskguard/scripts/auditd"
	"github.com/taskguard/taskguard/scripts/stack"
)

const (
	steadyRate    = 1000 // processes a second
	steadySeconds = 20
	roundCount    = 15
)

// machine runs what is measured.
type machine struct {
	dir      string // all files
	say      func(string, ...any)
	noAuditd error // why auditd is not measured
	redis    *redis
}

// usage is what a process used during a run.
type usage struct {
	CPU    float64 // percent of one core
	Memory uint64  // bytes, the most that was seen
}

// steadyResult is a run at a steady rate.
type steadyResult struct {
	Agent      usage
	Lost       map[string]uint64 // by the agent, by cause
	Idle       uint64            // bytes of the agent's memory before
	PerSecond  float64
	Events     uint64 // observed
	WireBytes  float64
	Latency    latency
	Auditd     *usage
	LostAuditd uint64
	KernelPart float64 // percent of one core that the kernel's audit thread used
}

func (m *machine) newStack(name string) (*stack.Stack, error) {
	dir := filepath.Join(m.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	return stack.New("bin", "packaging/agent.yaml", dir)
}

// steady measures the agent, and then auditd, while processes start at a steady rate.
func (m *machine) steady(ctx context.Context) (*steadyResult, error) {
	m.say("the agent at %d processes a second for %d s", steadyRate, steadySeconds)
	r := &steadyResult{}
	if err := m.steadyAgent(ctx, r); err != nil {
		return nil, err
	}
	if m.noAuditd = auditd.Available(); m.noAuditd != nil {
		return r, nil
	}
	m.say("auditd at %d processes a second for %d s", steadyRate, steadySeconds)
	return r, m.steadyAuditd(ctx, r)
}

func (m *machine) steadyAgent(ctx context.Context, r *steadyResult) (err error) {
	s, err := m.newStack("steady")
	if err != nil {
		return err
	}
	defer func() { err = firstOf(err, s.Close()) }()
	if err := s.StartEndpoint(ctx); err != nil {
		return err
	}
	if err := s.StartAgent(ctx); err != nil {
		return err
	}
	var watch follower
	follow, err := s.Follow(&watch, "--json")
	if err != nil {
		return err
	}
	defer func() { err = firstOf(err, follow.Stop()) }()
	before, err := s.Settle(ctx, 5*time.Second)
	if err != nil {
		return err
	}
	r.Idle = before.Agent.RSSBytes
	storm, used, err := m.storm(ctx, s.Agent.PID(), steadyRate*steadySeconds, steadyRate, "")
	if err != nil {
		return err
	}
	after, err := s.Delivered(ctx, time.Minute)
	if err != nil {
		return err
	}
	r.Agent, r.PerSecond = used, storm.PerSecond
	r.Lost = after.Ledger.Lost
	r.Events = after.Ledger.Observed - before.Ledger.Observed
	r.WireBytes, err = wireBytes(ctx, s)
	if err := follow.Stop(); err != nil {
		return err
	}
	if r.Latency = watch.latency(); r.Latency.Events == 0 && err == nil {
		err = errors.New("measure agent: nothing was read back from the endpoint")
	}
	return err
}

func (m *machine) steadyAuditd(ctx context.Context, r *steadyResult) (err error) {
	d, err := m.startAuditd("auditd")
	if err != nil {
		return err
	}
	defer func() { err = firstOf(err, d.Stop()) }()
	lost, err := d.Lost()
	if err != nil {
		return err
	}
	kernel, err := kernelThread("kauditd")
	if err != nil {
		return err
	}
	kernelBefore, err := cpuTime(kernel)
	if err != nil {
		return err
	}
	storm, used, err := m.storm(ctx, d.PID(), steadyRate*steadySeconds, steadyRate, "")
	if err != nil {
		return err
	}
	kernelAfter, err := cpuTime(kernel)
	if err != nil {
		return err
	}
	r.KernelPart = 100 * (kernelAfter - kernelBefore).Seconds() / storm.Seconds
	lostAfter, err := d.Lost()
	if err != nil {
		return err
	}
	r.LostAuditd = lostAfter - lost
	r.Auditd = &used
	return nil
}

func (m *machine) startAuditd(name string) (*auditd.Daemon, error) {
	dir := filepath.Join(m.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return auditd.Start(dir, "bench")
}

// stormResult is what storm prints.
type stormResult struct {
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"per_second"`
}

// storm starts n processes, of the program child or of its own, and tells what the process pid used meanwhile; pid 0
// is nobody.
func (m *machine) storm(ctx context.Context, pid, n, rate int, child string) (stormResult, usage, error) {
	var r stormResult
	var used usage
	cmd := exec.CommandContext(ctx, "bin/tools/storm", "-n", strconv.Itoa(n), "-rate", strconv.Itoa(rate),
		"-child", child)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	before, err := cpuTime(pid)
	if err != nil {
		return r, used, err
	}
	if err := cmd.Start(); err != nil {
		return r, used, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	used.Memory, err = watchMemory(pid, ended)
	if err != nil {
		return r, used, fmt.Errorf("storm: %w", err)
	}
	after, err := cpuTime(pid)
	if err != nil {
		return r, used, err
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return r, used, fmt.Errorf("read storm's result: %w", err)
	}
	used.CPU = 100 * (after - before).Seconds() / r.Seconds
	return r, used, nil
}

// watchMemory returns the most memory that a process had before ended received.
func watchMemory(pid int, ended <-chan error) (most uint64, err error) {
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for {
		memory, err := residentMemory(pid)
		if err != nil {
			<-ended
			return 0, err
		}
		most = max(most, memory)
		select {
		case err := <-ended:
			return most, err
		case <-ticker.C:
		}
	}
}

// wireBytes returns how many bytes of batches the endpoint has stored for each event.
func wireBytes(ctx context.Context, s *stack.Stack) (float64, error) {
	stored, err := s.StoredBytes(ctx)
	if err != nil {
		return 0, err
	}
	counts, err := s.Counts(ctx)
	if err != nil {
		return 0, err
	}
	events := uint64(0)
	for _, n := range counts {
		events += n
	}
	return float64(stored) / float64(max(events, 1)), nil
}

// cpuTime returns the user and system time of a process so far; of pid 0 none.
func cpuTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	// The name, in parentheses, may hold anything. utime and stime are the fields 14 and 15, in ticks of 10 ms
	// (proc_pid_stat(5)).
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("read CPU time: %q", text)
	}
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, firstOf(err1, err2)
}

// residentMemory returns a process's resident memory in bytes; of pid 0 none.
func residentMemory(pid int) (uint64, error) {
	if pid == 0 {
		return 0, nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("read memory: %q", text)
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	return pages * uint64(os.Getpagesize()), err
}

// kernelThread returns the pid of a kernel thread.
func kernelThread(name string) (int, error) {
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, file := range names {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == name {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, fmt.Errorf("find kernel thread %s: not there", name)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
