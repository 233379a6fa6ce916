package tiny

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func write(t *testing.T, program []byte) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "tiny")
	if err := os.WriteFile(file, program, 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestProgram(t *testing.T) {
	for _, sleep := range []time.Duration{0, 20 * time.Millisecond, 1001 * time.Millisecond} {
		file := write(t, Program(sleep))
		start := time.Now()
		if out, err := exec.Command(file, "an argument").CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v, output %q; want success and none", err, out)
		}
		if took := time.Since(start); took < sleep {
			t.Errorf("it slept for %v, want %v", took, sleep)
		}
	}
}

// A program that waits is there for ever, executes itself at a signal with the arguments it has, and can be killed.
func TestWaiter(t *testing.T) {
	cmd := exec.Command(write(t, Waiter()), "one", "two")
	cmd.Env = []string{"ONLY=BEFORE"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	proc := filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid))
	defer cmd.Wait()
	defer cmd.Process.Kill()
	await(t, "it to wait", func() bool { return waits(proc) })
	if env := read(t, proc+"/environ"); env != "ONLY=BEFORE\x00" {
		t.Errorf("environment %q", env)
	}
	for range 3 {
		if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		// What it executes itself gives it no environment.
		await(t, "it to wait again", func() bool { return read(t, proc+"/environ") == "" && waits(proc) })
	}
	if args := read(t, proc+"/cmdline"); args != cmd.Path+"\x00one\x00two\x00" {
		t.Errorf("arguments %q", args)
	}
}

// waits reports whether a process sleeps, which it does only where it waits for a signal.
func waits(proc string) bool {
	status, err := os.ReadFile(proc + "/status")
	return err == nil && strings.Contains(string(status), "State:\tS")
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}
