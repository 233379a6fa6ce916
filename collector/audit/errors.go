package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Why audit cannot be used here. The errors that wrap these name the remedy.
var (
	ErrUnsupported  = errors.New("the kernel has no audit")
	ErrNotPermitted = errors.New("no permission to use audit")
	ErrNamespace    = errors.New("audit is not available in this namespace")
	ErrImmutable    = errors.New("the audit configuration is locked")
	ErrSwitchedOff  = errors.New("audit is switched off")
	ErrPanicMode    = errors.New("audit is set to stop the host when it loses a record")
)

// explain adds to an error of the audit interface its likely reason and the remedy.
func explain(err error, procRoot string) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		if offAtBoot(procRoot) {
			return fmt.Errorf("%w: remove audit=0 from the kernel command line and reboot: %w", ErrUnsupported, err)
		}
		return fmt.Errorf("%w: it needs one built with CONFIG_AUDIT and CONFIG_AUDITSYSCALL: %w", ErrUnsupported, err)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%w: run the agent in the host's user namespace: %w", ErrNamespace, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		if !sameNamespace(procRoot, "pid", initialPID) {
			return fmt.Errorf("%w: run the agent in the host's pid namespace: %w", ErrNamespace, err)
		}
		return fmt.Errorf("%w: give the agent CAP_AUDIT_CONTROL and CAP_AUDIT_READ: %w", ErrNotPermitted, err)
	}
	return err
}

// initialPID is what the link of the initial pid namespace reads (include/linux/proc_ns.h: PROC_PID_INIT_INO).
const initialPID = "pid:[4026531836]"

// sameNamespace reports whether this process is in a namespace, given by its link's text. Without an answer it is.
func sameNamespace(procRoot, kind, want string) bool {
	own, err := os.Readlink(filepath.Join(procRoot, "self/ns", kind))
	return err != nil || own == want
}

// inHostNetwork reports whether this process shares the network namespace of the first one. In another the kernel
// delivers no multicast records. Without an answer it does.
func inHostNetwork(procRoot string) bool {
	host, err := os.Readlink(filepath.Join(procRoot, "1/ns/net"))
	return err != nil || sameNamespace(procRoot, "net", host)
}

func offAtBoot(procRoot string) bool {
	line, err := os.ReadFile(filepath.Join(procRoot, "cmdline"))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(bytes.Fields(line), func(word []byte) bool {
		return string(word) == "audit=0" || string(word) == "audit=off"
	})
}
