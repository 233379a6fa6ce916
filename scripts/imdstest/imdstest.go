// Package imdstest gives a test an EC2 instance's metadata service where every instance has it, at 169.254.169.254: AWS's
// own mock of it, or what hides it, in a network namespace of the test's own.
//
// It promises: nothing outside of the namespace is reached or changed; and when the test ends, the service and the
// namespace are gone.
package imdstest

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Address is where the service is.
const Address = "169.254.169.254"

const (
	// variable names, in the environment of the process in the namespace, the test that it runs.
	variable     = "TASKGUARD_IMDS_TEST"
	startTimeout = 30 * time.Second
)

// mock is the program, seen from the folder of a package in scripts; scripts/install-test-tools.sh installs it.
var mock = filepath.Join("..", "..", "bin", "tools", "ec2-metadata-mock")

// Enter runs the test again, in a process in a network namespace of its own, with more in its environment. It reports
// whether this is that process: there the test goes on, here it returns, having passed or failed as the other did. Where
// none can be made the test is skipped, or fails when TASKGUARD_REQUIRE names the tier "kernel".
func Enter(t *testing.T, environment ...string) (inside bool) {
	t.Helper()
	if os.Getenv(variable) == t.Name() {
		command(t, "ip", "link", "set", "lo", "up")
		return true
	}
	require(t)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = slices.Concat(os.Environ(), environment, []string{variable + "=" + t.Name(), "AWS_EC2_METADATA_DISABLED="})
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	// The signal comes when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Errorf("in the namespace: %v\n%s", err, out)
	} else {
		t.Logf("in the namespace:\n%s", out)
	}
	return false
}

// require skips or fails the test, unless a namespace and the mock can be had.
func require(t *testing.T) {
	t.Helper()
	var reasons []error
	if os.Getuid() != 0 {
		reasons = append(reasons, errors.New("a network namespace needs root"))
	}
	if _, err := exec.LookPath("ip"); err != nil {
		reasons = append(reasons, err)
	}
	if _, err := os.Stat(mock); err != nil {
		reasons = append(reasons, err)
	}
	switch err := errors.Join(reasons...); {
	case err == nil:
	case slices.Contains(strings.Split(os.Getenv("TASKGUARD_REQUIRE"), ","), "kernel"):
		t.Fatalf("%v: run scripts/install-test-tools.sh as root", err)
	default:
		t.Skipf("%v: run scripts/install-test-tools.sh as root", err)
	}
}

// Serve has the mock answer until the test or stop ends it. Its configuration is JSON that is laid over the mock's own,
// "" for none; flags are more of its command line.
func Serve(t testing.TB, configuration string, flags ...string) (stop func()) {
	t.Helper()
	command(t, "ip", "address", "add", Address+"/32", "dev", "lo")
	if configuration == "" {
		configuration = "{}"
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "mock.json")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "mock.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the mock has its own
	cmd := exec.Command(mock, append([]string{"--hostname", Address, "--port", "80", "--config-file", file}, flags...)...)
	cmd.Env = []string{"HOME=" + dir}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the metadata service: %v", err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Kill() // it keeps nothing
		_ = cmd.Wait()
		command(t, "ip", "address", "delete", Address+"/32", "dev", "lo")
	}
	t.Cleanup(stop)
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(10 * time.Millisecond) {
		connection, err := net.Dial("tcp", Address+":80")
		if err == nil {
			connection.Close()
			return stop
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("the metadata service does not answer: %v\n%s", err, text)
		}
	}
}

// Refuse has nothing listen at the address: connections are refused.
func Refuse(t testing.TB) {
	t.Helper()
	command(t, "ip", "address", "add", Address+"/32", "dev", "lo")
	t.Cleanup(func() { command(t, "ip", "address", "delete", Address+"/32", "dev", "lo") })
}

// Blackhole has all that is sent to the address vanish, as a firewall that drops it does, until the test or open ends it.
func Blackhole(t testing.TB) (open func()) {
	t.Helper()
	// What comes back over the loopback is for another host, and hosts do not forward.
	route := []string{Address + "/32", "dev", "lo"}
	command(t, "ip", append([]string{"route", "add"}, route...)...)
	opened := false
	open = func() {
		if !opened {
			opened = true
			command(t, "ip", append([]string{"route", "delete"}, route...)...)
		}
	}
	t.Cleanup(open)
	return open
}

func command(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}
