package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func TestRemedies(t *testing.T) {
	verifier := func(cause error, lines ...string) error {
		return fmt.Errorf("load program: %w", &ebpf.VerifierError{Cause: cause, Log: lines})
	}
	for _, test := range []struct {
		name     string
		err      error
		lockdown string // the file's text; empty: none
		want     string
	}{
		{"not root", fmt.Errorf("create map: %w", unix.EPERM), "", "run as root, or with CAP_BPF"},
		{"seccomp or an LSM", unix.EACCES, "[none] integrity confidentiality\n", "run as root, or with CAP_BPF"},
		{"lockdown for integrity forbids us nothing", unix.EPERM, "none [integrity] confidentiality\n", "run as root"},
		{"lockdown", unix.EPERM, "none integrity [confidentiality]\n", "boot with lockdown=integrity"},
		{"lockdown, as the verifier sees it", verifier(unix.EINVAL, "unknown func bpf_probe_read_kernel#113"),
			"none integrity [confidentiality]\n", "boot with lockdown=integrity"},
		{"verifier", verifier(unix.EACCES, "0: r1 = 0", "R1 invalid mem access"), "",
			"verifier refused the program: R1 invalid mem access: permission denied"},
		{"not root, as loading says it", verifier(unix.EPERM), "", "run as root, or with CAP_BPF"},
		{"verifier, with statistics", verifier(unix.E2BIG, "the call stack of 9 frames is too deep !", "",
			"processed 9 insns (limit 1000000)"), "", "program: the call stack of 9 frames is too deep !: argument list"},
		{"memory", unix.ENOMEM, "", "LimitMEMLOCK="},
		{"old kernel", fmt.Errorf("ring: %w", ebpf.ErrNotSupported), "", "5.8 or later"},
		{"no probes", errors.New("creating probe entry: neither debugfs nor tracefs are mounted"), "", "CONFIG_KPROBES"},
		{"something else", unix.ENOSPC, "", "no space left"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "lockdown")
			if test.lockdown != "" {
				if err := os.WriteFile(file, []byte(test.lockdown), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := remedyBy(test.err, file).Error(); !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q in it", got, test.want)
			}
		})
	}
	for _, err := range []error{ebpf.ErrNotSupported, fmt.Errorf("open: %w", fs.ErrNotExist)} {
		if got := noBTF(err); !strings.Contains(got.Error(), "CONFIG_DEBUG_INFO_BTF") || !errors.Is(got, err) {
			t.Errorf("without BTF: %v, want the remedy and the cause", got)
		}
	}
	if got := noBTF(unix.EIO); got != unix.EIO {
		t.Errorf("types that cannot be read: %v, want no guess", got)
	}
}

// Where there is no tracefs, what needs it is refused with the reason, and nothing else.
func TestWithoutTracefs(t *testing.T) {
	fs := &tracefs{refused: errors.New("not mounted: mount it")}
	if _, err := fs.attach("sys_exit_open", nil); err == nil || err.Error() != "not mounted: mount it" {
		t.Errorf("attach: %v, want the reason", err)
	}
	if fs.hasNone([]string{"open"}) {
		t.Error("it says which system calls the kernel has")
	}
	if err := fs.Close(); err != nil {
		t.Error(err)
	}
}

func TestAbsentCalls(t *testing.T) {
	fs := &tracefs{dir: t.TempDir()}
	for _, name := range []string{"sys_enter_bpf", "sys_exit_bpf"} {
		if err := os.MkdirAll(filepath.Join(fs.dir, "events", "syscalls", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for calls, want := range map[string]bool{"bpf": false, "init_module": true, "init_module bpf": false, "": false} {
		if got := fs.hasNone(strings.Fields(calls)); got != want {
			t.Errorf("none of %q: %v, want %v", calls, got, want)
		}
	}
}

// A host's directory that is not tracefs is not taken for it.
func TestTracefsOfTheHost(t *testing.T) {
	empty, mounted := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(mounted, "events", "syscalls", "sys_exit_x"), 0o755); err != nil {
		t.Fatal(err)
	}
	id := filepath.Join(mounted, "events", "syscalls", "sys_exit_x", "id")
	if err := os.WriteFile(id, []byte("42\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	fs := openTracefs(empty, mounted)
	if id, err := fs.id("sys_exit_x"); fs.dir != mounted || fs.private != nil || id != 42 || err != nil {
		t.Errorf("%+v, id %d, %v, want the second directory's 42", fs, id, err)
	}
	if _, err := fs.id("none"); !errors.Is(err, errNoPlace) {
		t.Errorf("a tracepoint that is not there: %v", err)
	}
}

// The limit of locked memory is raised when the kernel refuses maps, once, and only then.
func TestMemlock(t *testing.T) {
	for _, test := range []struct {
		name    string
		refuse  []error // what creating the maps comes to, try by try
		limited error   // why the limit cannot be raised
		want    string
		raised  int
	}{
		{"a kernel that does not count", []error{nil}, nil, "", 0},
		{"a limit that is raised", []error{unix.EPERM, nil}, nil, "", 1},
		{"no right to raise it", []error{unix.EPERM}, unix.EPERM, "LimitMEMLOCK=infinity", 1},
		{"no right to create maps at all", []error{unix.EPERM, unix.EPERM}, nil, "operation not permitted", 1},
		{"something else", []error{unix.EINVAL}, nil, "invalid argument", 0},
	} {
		tries, raised := 0, 0
		create := func() error { tries++; return test.refuse[tries-1] }
		err := withMemlock(create, func() error { raised++; return test.limited })
		if got := fmt.Sprint(err); (err == nil) != (test.want == "") || !strings.Contains(got, test.want) ||
			raised != test.raised || tries != len(test.refuse) {
			t.Errorf("%s: %v after %d tries, raised %d times; want %+v", test.name, err, tries, raised, test)
		}
	}
}
