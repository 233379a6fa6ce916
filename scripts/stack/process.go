package stack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// stopTimeout is how long a program that was told to end may take. The agent's own limit for its last uploads is 5 s.
const stopTimeout = 30 * time.Second

// Process is a running program in a process group of its own, so that Ctrl-C in a terminal does not reach it. Its
// stderr is in a log.
type Process struct {
	name  string
	log   string
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended and was waited for
	told  bool          // to end, by Stop or Kill
}

// Start starts a program, whose stderr goes to the end of the file log, as does its stdout if that is nil.
func Start(name, log string, stdout io.Writer, program string, args ...string) (*Process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer file.Close() // the child has its own
	p := &Process{name: name, log: log, cmd: exec.Command(program, args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = stdout, file
	if stdout == nil {
		p.cmd.Stdout = file
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // its verdict is in ProcessState
		close(p.ended)
	}()
	return p, nil
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed when the program has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Err says how the program ended: nil while it runs, and when it ended well or as it was told.
func (p *Process) Err() error {
	select {
	case <-p.ended:
	default:
		return nil
	}
	if p.cmd.ProcessState.Success() || p.told {
		return nil
	}
	return fmt.Errorf("%s ended: %s; its log ends with:\n%s", p.name, p.cmd.ProcessState, p.Tail(20))
}

// Stop tells the program to end, waits until it has, and reports when it did not end well by itself. Stopping what
// has ended does nothing.
func (p *Process) Stop() error {
	if p == nil {
		return nil
	}
	select {
	case <-p.ended:
		return p.Err()
	default:
	}
	p.told = true
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
		p.Kill()
		return fmt.Errorf("stop %s: still there after %s, killed; its log ends with:\n%s", p.name, stopTimeout, p.Tail(20))
	}
	if !p.cmd.ProcessState.Success() {
		return fmt.Errorf("stop %s: %s; its log ends with:\n%s", p.name, p.cmd.ProcessState, p.Tail(20))
	}
	return nil
}

// Kill ends the program by SIGKILL and waits until it has.
func (p *Process) Kill() {
	p.told = true
	_ = p.cmd.Process.Kill() // it fails when there is nothing left to kill
	<-p.ended
}

// Tail returns the last lines of the log.
func (p *Process) Tail(lines int) string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
