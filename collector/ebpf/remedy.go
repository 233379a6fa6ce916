package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// lockdownFile says how far the kernel is locked down (kernel_lockdown(7)): "none [integrity] confidentiality".
const lockdownFile = "/sys/kernel/security/lockdown"

// remedy puts what the operator can do before what the kernel said.
func remedy(err error) error { return remedyBy(err, lockdownFile) }

func remedyBy(err error, lockdownFile string) error {
	var verifier *ebpf.VerifierError
	refused := errors.As(err, &verifier)
	forbidden := errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
	switch {
	// Such a kernel has no helpers that read its memory: its verifier does not know them.
	case (refused || forbidden) && lockedDown(lockdownFile):
		return fmt.Errorf("the kernel is locked down for confidentiality (%s), which forbids BPF to read its memory: "+
			"boot with lockdown=integrity, or have audit observe: %w", lockdownFile, cause(err))
	case refused && len(verifier.Log) > 0:
		return fmt.Errorf("the kernel's verifier refused the program: %s: %w", complaint(verifier.Log), verifier.Cause)
	case forbidden:
		// The library adds a guess about locked memory, which kernels since 5.11 do not need.
		return fmt.Errorf("not permitted by the kernel: run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN: %w",
			cause(err))
	// The library's last resort; it has no name for this error.
	case strings.Contains(err.Error(), "neither debugfs nor tracefs are mounted"):
		return errors.New("no kernel probes: the kernel needs CONFIG_KPROBES with CONFIG_PERF_EVENTS, or tracefs mounted: " +
			"mount -t tracefs tracefs /sys/kernel/tracing")
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("no memory: raise the memory limit of the unit (MemoryMax=), and before kernel 5.11 that of "+
			"locked memory (LimitMEMLOCK=): %w", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("not supported: needs a kernel with BPF ring buffers and BTF, 5.8 or later: %w", err)
	}
	return err
}

// complaint is what a verifier's log ends with, but for its statistics.
func complaint(log []string) string {
	for _, line := range slices.Backward(log) {
		statistics := strings.HasPrefix(line, "processed ") || strings.HasPrefix(line, "verification time ") ||
			strings.HasPrefix(line, "stack depth ")
		if line = strings.TrimSpace(line); line != "" && !statistics {
			return line
		}
	}
	return "it does not say why"
}

// lockedDown tells whether the kernel keeps its memory from everybody. Where nobody can say, it does not.
func lockedDown(file string) bool {
	text, err := os.ReadFile(file)
	return err == nil && strings.Contains(string(text), "[confidentiality]")
}

// noBTF says what to do when the kernel's types cannot be read.
func noBTF(err error) error {
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the kernel has no BTF (/sys/kernel/btf/vmlinux): use one that was built with "+
			"CONFIG_DEBUG_INFO_BTF, or have audit observe: %w", err)
	}
	return err
}

// cause is the errno an error stands for, which errors.Is has found in it.
func cause(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
