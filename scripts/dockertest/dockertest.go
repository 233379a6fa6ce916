// Package dockertest gives a test a Docker engine of its own: a real dockerd with its own data, state and socket,
// beside whatever engine the machine has.
//
// It promises: nothing of the machine's own Docker is touched; the engine has no network, so nothing is downloaded
// and no firewall rule is made; and when the test ends, its containers and tasks, with their processes, mounts,
// cgroups and files, are gone.
package dockertest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Daemon is a running dockerd.
type Daemon struct {
	Socket string // the path of its unix socket

	dir      string
	process  *exec.Cmd
	ended    chan struct{} // closed when process has ended
	answered bool          // it may have containers
	tasks    []Task
}

const (
	// An engine starts in a second, and in half a minute where it is emulated beside other machines.
	startTimeout = 5 * time.Minute
	stopTimeout  = 2 * time.Minute // then it is killed
)

// Start starts an engine that ends with the test. Where none can run the test is skipped, or fails when
// TASKGUARD_REQUIRE names the tier "container".
func Start(t testing.TB) *Daemon {
	t.Helper()
	require(t)
	// Not t.TempDir: the path of a unix socket has 107 bytes at most.
	dir, err := os.MkdirTemp("", "dockertest")
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Socket: filepath.Join(dir, "docker.sock"), dir: dir}
	t.Cleanup(func() { d.remove(t) })
	d.start(t)
	return d
}

// require skips or fails the test, unless an engine can be started.
func require(t testing.TB) {
	t.Helper()
	var missing []string
	if os.Getuid() != 0 {
		missing = append(missing, "root")
	}
	for _, binary := range []string{"dockerd", "docker", "busybox"} {
		if _, err := exec.LookPath(binary); err != nil {
			missing = append(missing, binary)
		}
	}
	if len(missing) == 0 {
		return
	}
	reason := "a docker engine of the test's own needs " + strings.Join(missing, ", ") +
		" (debian: packages docker.io and busybox-static)"
	if slices.Contains(strings.Split(os.Getenv("TASKGUARD_REQUIRE"), ","), "container") {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// slowStart is the last that dockerd says when its containerd has not started in 15 seconds. It may next time.
const slowStart = "timeout waiting for containerd to start"

// start starts dockerd and waits until it answers.
func (d *Daemon) start(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(startTimeout); ; {
		d.launch(t)
		err := d.await(deadline)
		if err == nil {
			d.answered = true
			return
		}
		if tail := d.tail(); time.Now().After(deadline) || !bytes.HasSuffix(bytes.TrimSpace(tail), []byte(slowStart)) {
			t.Fatalf("%v:\n%s", err, tail)
		}
	}
}

// await returns when dockerd answers, has ended, or has not answered by then.
func (d *Daemon) await(deadline time.Time) error {
	for {
		_, err := d.docker("version")
		if err == nil {
			return nil
		}
		select {
		case <-d.ended:
			return errors.New("dockerd ended early")
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("dockerd does not answer: %w", err)
		}
	}
}

// launch starts dockerd.
func (d *Daemon) launch(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(d.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.process = exec.Command("dockerd", "--host", "unix://"+d.Socket, "--data-root", filepath.Join(d.dir, "data"),
		"--exec-root", filepath.Join(d.dir, "exec"), "--pidfile", filepath.Join(d.dir, "pid"),
		"--config-file", "", "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false",
		// As the tasks' parents are named. An engine that is not told asks systemd, where there is one with cgroup v2 only.
		"--exec-opt", "native.cgroupdriver=cgroupfs", "--live-restore")
	d.process.Stdout, d.process.Stderr = log, log
	// It outlives a signal to the test's process group, so that it can be ended in order.
	d.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.process.Start(); err != nil {
		t.Fatalf("start dockerd: %v", err)
	}
	ended, process := make(chan struct{}), d.process
	d.ended = ended
	go func() {
		process.Wait()
		close(ended)
	}()
}

// Stop ends dockerd; its containers go on without it.
func (d *Daemon) Stop(t testing.TB) {
	t.Helper()
	if err := d.stop(); err != nil {
		t.Errorf("%v\n%s", err, d.tail())
	}
}

// Freeze stops dockerd from running until Thaw: it answers nothing, and nobody's connection breaks.
func (d *Daemon) Freeze(t testing.TB) { d.signal(t, syscall.SIGSTOP) }

// Thaw has dockerd run again.
func (d *Daemon) Thaw(t testing.TB) { d.signal(t, syscall.SIGCONT) }

func (d *Daemon) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := d.process.Process.Signal(signal); err != nil {
		t.Fatalf("signal dockerd: %v", err)
	}
}

// Restart ends dockerd, unless it was stopped, and starts it again with the same data.
func (d *Daemon) Restart(t testing.TB) {
	t.Helper()
	d.Stop(t)
	d.start(t)
}

func (d *Daemon) stop() error {
	if d.ended == nil {
		return nil
	}
	d.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
		return nil
	case <-time.After(stopTimeout):
		d.process.Process.Kill()
		<-d.ended
		return errors.New("dockerd had to be killed")
	}
}

// Import makes an image with that name, for example "shop:1". It holds a static busybox and links to it for sh and
// every other command it has.
func (d *Daemon) Import(t testing.TB, name string) {
	t.Helper()
	root, err := busyboxRoot()
	if err != nil {
		t.Fatalf("make image %s: %v", name, err)
	}
	d.importRoot(t, name, root)
}

// ImportPrograms makes an image that holds nothing but static programs, by their paths, for example "/tiny".
func (d *Daemon) ImportPrograms(t testing.TB, name string, programs map[string][]byte) {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for path, program := range programs {
		w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: strings.TrimPrefix(path, "/"), Mode: 0o755, Size: int64(len(program)),
		})
		w.Write(program)
	}
	if err := w.Close(); err != nil {
		t.Fatalf("make image %s: %v", name, err)
	}
	d.importRoot(t, name, archive.Bytes())
}

func (d *Daemon) importRoot(t testing.TB, name string, root []byte) {
	t.Helper()
	cmd := exec.Command("docker", "--host", "unix://"+d.Socket, "import", "-", name)
	cmd.Stdin = bytes.NewReader(root)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docker import %s: %v: %s", name, err, out)
	}
}

// busyboxRoot returns a root file system as a tar archive.
func busyboxRoot() ([]byte, error) {
	binary, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(binary, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's commands: %w", err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, dir := range []string{"bin/", "etc/", "tmp/", "proc/", "sys/", "dev/"} {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
	}
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(content))})
	w.Write(content)
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"})
		}
	}
	return archive.Bytes(), w.Close()
}

// Run runs the docker command with these arguments and returns what it printed, without white space around it.
// Containers have no network of their own; give them --net host or --net none. The test fails if the command does.
func (d *Daemon) Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := d.docker(args...)
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// Try runs the docker command as Run does, and returns its error too.
func (d *Daemon) Try(args ...string) (string, error) { return d.docker(args...) }

func (d *Daemon) docker(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker", append([]string{"--host", "unix://" + d.Socket}, args...)...)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// remove ends the engine and what it left.
func (d *Daemon) remove(t testing.TB) {
	if d.answered {
		if _, err := d.docker("version"); err != nil { // only the engine can end its containers in order
			d.start(t)
		}
		if ids, _ := d.docker("ps", "--all", "--quiet"); ids != "" {
			if out, err := d.docker(append([]string{"rm", "--force"}, strings.Fields(ids)...)...); err != nil {
				t.Errorf("remove containers: %v: %s", err, out)
			}
		}
	}
	d.Stop(t)
	mounts, err := readMounts()
	if err != nil {
		t.Error(err)
	}
	for _, m := range slices.Backward(mounts) {
		if strings.HasPrefix(m.point, d.dir+"/") {
			syscall.Unmount(m.point, syscall.MNT_DETACH)
		}
		if strings.HasPrefix(m.kind, "cgroup") {
			removeTasks(m.point, d.tasks)
		}
	}
	if err := os.RemoveAll(d.dir); err != nil {
		t.Errorf("remove the engine's files: %v", err)
	}
}

func (d *Daemon) log() string { return filepath.Join(d.dir, "log") }

// tail returns the end of dockerd's log.
func (d *Daemon) tail() []byte {
	log, _ := os.ReadFile(d.log())
	return log[max(0, len(log)-4096):]
}
