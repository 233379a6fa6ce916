// Package auditd runs the Linux audit daemon with a configuration, a rule and a log of its own, as a peer to measure
// against and to live beside.
//
// It promises: it does not start where an audit daemon runs already, reads and writes nothing in /etc and /var/log,
// and when Stop returns the rule is gone and the kernel's audit is enabled or not as it was before.
package auditd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 20 * time.Second
	stopTimeout  = 20 * time.Second
)

// Daemon is a running auditd. Make one with Start.
type Daemon struct {
	// Log is the file that it writes.
	Log string

	rule    []string // as auditctl takes it, without -a and -d
	enabled string   // what the kernel's audit was before
	cmd     *exec.Cmd
	ended   chan struct{}
}

// Available says why no audit daemon can be started here; nil if one can.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("auditd needs root")
	}
	for _, program := range []string{"auditd", "auditctl"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("find auditd: %w: install the package auditd (audit on Amazon Linux)", err)
		}
	}
	status, err := kernelStatus()
	switch {
	case err != nil:
		return err
	case status["pid"] != "0":
		return fmt.Errorf("an audit daemon runs already, pid %s", status["pid"])
	case status["enabled"] == "2":
		return errors.New("the audit configuration of this kernel is locked")
	}
	return nil
}

// Start starts auditd with all its files in dir, and a rule for execve with that key.
func Start(dir, key string) (*Daemon, error) {
	if err := Available(); err != nil {
		return nil, err
	}
	status, err := kernelStatus()
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		Log:     filepath.Join(dir, "audit.log"),
		rule:    []string{"always,exit", "-F", "arch=b64", "-S", "execve", "-k", key},
		enabled: status["enabled"], ended: make(chan struct{}),
	}
	if err := writeConfig(dir, d.Log); err != nil {
		return nil, fmt.Errorf("configure auditd: %w", err)
	}
	d.cmd = exec.Command("auditd", "-n", "-c", dir)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start auditd: %w", err)
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.ended)
	}()
	if err := d.awaitStart(); err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

func writeConfig(dir, log string) error {
	plugins := filepath.Join(dir, "plugins.d")
	if err := os.MkdirAll(plugins, 0o750); err != nil {
		return err
	}
	config := "local_events = yes\nwrite_logs = yes\nlog_file = " + log + "\nlog_format = RAW\nlog_group = root\n" +
		"flush = INCREMENTAL_ASYNC\nfreq = 50\nmax_log_file = 200\nnum_logs = 2\nmax_log_file_action = ROTATE\n" +
		"space_left = 2\nspace_left_action = IGNORE\nadmin_space_left = 1\nadmin_space_left_action = IGNORE\n" +
		"disk_full_action = IGNORE\ndisk_error_action = IGNORE\nplugin_dir = " + plugins + "\n"
	return os.WriteFile(filepath.Join(dir, "auditd.conf"), []byte(config), 0o640)
}

// awaitStart waits until the kernel knows the daemon, and gives it its rule.
func (d *Daemon) awaitStart() error {
	deadline := time.Now().Add(startTimeout)
	for {
		status, err := kernelStatus()
		if err != nil {
			return err
		}
		if status["pid"] == strconv.Itoa(d.PID()) && status["enabled"] == "1" {
			break
		}
		select {
		case <-d.ended:
			return fmt.Errorf("start auditd: it ended at once: %s", d.cmd.ProcessState)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start auditd: not ready after %s", startTimeout)
		}
	}
	return auditctl(append([]string{"-a"}, d.rule...)...)
}

// PID returns the daemon's process id.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// HasRule reports whether the kernel still has the daemon's rule.
func (d *Daemon) HasRule() (bool, error) {
	out, err := exec.Command("auditctl", "-l").Output()
	if err != nil {
		return false, fmt.Errorf("list audit rules: %w", err)
	}
	key := d.rule[len(d.rule)-1]
	return slices.ContainsFunc(strings.Split(string(out), "\n"), func(line string) bool {
		return strings.Contains(line, "-S execve ") && strings.Contains(line, "key="+key)
	}), nil
}

// Lost returns how many records the kernel has dropped since it was booted.
func (d *Daemon) Lost() (uint64, error) {
	status, err := kernelStatus()
	if err != nil {
		return 0, err
	}
	lost, err := strconv.ParseUint(status["lost"], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read audit status: %w", err)
	}
	return lost, nil
}

// Stop removes the rule and ends the daemon.
func (d *Daemon) Stop() error {
	removed := auditctl(append([]string{"-d"}, d.rule...)...)
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(removed, fmt.Errorf("stop auditd: %w", err))
	}
	select {
	case <-d.ended:
	case <-time.After(stopTimeout):
		_ = d.cmd.Process.Kill()
		<-d.ended
		removed = errors.Join(removed, errors.New("stop auditd: it had to be killed"))
	}
	return errors.Join(removed, auditctl("-e", d.enabled))
}

func auditctl(args ...string) error {
	if out, err := exec.Command("auditctl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("auditctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// kernelStatus returns what auditctl -s says, a word by the word before it.
func kernelStatus() (map[string]string, error) {
	out, err := exec.Command("auditctl", "-s").Output()
	if err != nil {
		return nil, fmt.Errorf("ask kernel for audit status: %w", err)
	}
	status := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), " "); found {
			status[name] = value
		}
	}
	return status, nil
}
