package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/taskguard/taskguard/scripts/suite"
)

// A machine that is emulated is some ten times slower than the one it runs on.
const (
	testTimeout = 25 * time.Minute
	endTimeout  = 10 * time.Second // to end when told to, before it is killed
)

// resultsDir keeps what the machines said last, below the module's root: NAME.json as go test -json has it, and
// NAME.console.
const resultsDir = "bin/vm"

// testOn boots a machine, which runs the tests, and reports what they print.
func (w *work) testOn(ctx context.Context, k kernel, img image, out io.Writer) outcome {
	start := time.Now()
	report := suite.NewReport(out)
	err := w.boot(ctx, k, img, report, out)
	return outcome{Result: report.Result(), rungs: report.Rungs(), failed: report.Failed(), took: time.Since(start), err: err}
}

func (w *work) boot(ctx context.Context, k kernel, img image, report *suite.Report, out io.Writer) error {
	defer os.Remove(img.initramfs)
	if err := os.MkdirAll(resultsDir, 0o755); err != nil {
		return err
	}
	results, err := os.Create(filepath.Join(resultsDir, k.name+".json"))
	if err != nil {
		return err
	}
	defer results.Close()
	console := filepath.Join(resultsDir, k.name+".console")
	limited, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	cmd := qemu(limited, k, img, "", "-nographic", "-nodefaults", "-monitor", "none", "-serial", "file:"+console,
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=results,signal=off",
		"-device", "virtserialport,chardev=results,name=results")
	complaint := new(strings.Builder)
	cmd.Stderr = complaint
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	// At an end of its input the port would close, and the machine wait for it to open.
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start machine: %w: run scripts/install-vm-tools.sh as root", err)
	}
	unended, readErr := follow(io.TeeReader(stdout, results), img.packages, report)
	timedOut := limited.Err() != nil
	cancel() // whatever it does: all results are there, or no more will come
	_ = cmd.Wait()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if len(unended) == 0 {
		return readErr
	}
	reason := "the machine stopped before the tests had ended"
	if timedOut {
		reason = fmt.Sprintf("the tests had not ended after %s", testTimeout)
	}
	for i, pkg := range unended {
		if i == 0 {
			report.Abort(pkg, reason)
		} else {
			report.Abort(pkg, "not run")
		}
	}
	fmt.Fprintf(out, "%s; its console ends with:\n%s\n%s\n", reason, tail(console, 60), complaint)
	return readErr
}

// follow reads the results up to their end, and returns the packages that have not ended.
func follow(results io.Reader, packages []string, report *suite.Report) ([]string, error) {
	lines := bufio.NewReader(results)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil { // the machine has ended
			return report.Unended(packages), nil
		}
		if string(line) == "end\n" {
			return report.Unended(packages), nil
		}
		if err := report.Add(line); err != nil {
			return report.Unended(packages), err
		}
	}
}

// shell gives the terminal to a machine.
func (w *work) shell(ctx context.Context, k kernel) error {
	img, err := w.image(ctx, k)
	if err != nil {
		return err
	}
	cmd := qemu(ctx, k, img, "taskguard.shell", "-nographic")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// qemu returns the command that emulates a machine. It ends with the context, and when its kernel panics.
func qemu(ctx context.Context, k kernel, img image, parameters string, args ...string) *exec.Cmd {
	// The console is slow: it gets warnings, and not the audit records that no daemon takes. What protects processors
	// from speculation is slow to emulate: above all two sets of page tables.
	const common = "loglevel=5 panic=-1 oops=panic random.trust_cpu=on mitigations=off "
	// Without cx16: the emulation of cmpxchg16b (QEMU 7.2) can leave wrong flags, and Linux 6.12 falls over them.
	program, console, machine := "qemu-system-x86_64", "console=ttyS0 ", []string{"-cpu", "max,-cx16"}
	if k.arch == "arm64" {
		// The architected pointer authentication is slow to emulate.
		program, console = "qemu-system-aarch64", "console=ttyAMA0 "
		machine = []string{"-M", "virt", "-cpu", "max,pauth-impdef=on"}
	}
	// One thread emulates all CPUs: with a thread for each, code that the kernel changes while another CPU runs it (static
	// keys, which tracepoints are) can be run half changed.
	all := append(machine, "-accel", "tcg,thread=single", "-smp", "2", "-m", k.memory(), "-no-reboot",
		"-kernel", img.kernel, "-initrd", img.initramfs, "-append", console+common+parameters)
	cmd := exec.CommandContext(ctx, program, append(all, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endTimeout
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// memory is how many MiB a machine has. Until it has booted, all its files are there twice.
func (k kernel) memory() string {
	if k.engine {
		return "3072"
	}
	return "2048"
}

func tail(file string, lines int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
