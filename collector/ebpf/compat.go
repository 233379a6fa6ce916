package ebpf

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
)

// compatNumbers are the numbers of 32-bit system calls on amd64 (arch/x86/entry/syscalls/syscall_32.tbl).
var compatNumbers = map[string]uint32{
	"open": 5, "creat": 8, "openat": 295, "openat2": 437,
	"execve": 11, "execveat": 358, "ptrace": 26, "setns": 346, "unshare": 310,
	"setuid": 213, "setgid": 214, "setreuid": 203, "setregid": 204, "setresuid": 208, "setresgid": 210,
	"setfsuid": 215, "setfsgid": 216, "setuid16": 23, "setgid16": 46, "setreuid16": 70, "setregid16": 71,
	"setresuid16": 164, "setresgid16": 170, "setfsuid16": 138, "setfsgid16": 139,
	"mmap2": 192, "mprotect": 125, "pkey_mprotect": 380, "process_vm_readv": 347, "process_vm_writev": 348,
	"memfd_create": 356, "userfaultfd": 374,
}

// compatCalls runs handlers for 32-bit system calls. The program that finds them looks at every system call of the
// host: it is attached only while there is a handler.
type compatCalls struct {
	finder   io.Closer
	handlers int
}

// compatCall is a handler in the table.
type compatHandler struct {
	source *Source
	number uint32
}

// add is called with the source's lock held, as is Close of what it returns.
func (c *compatCalls) add(s *Source, number uint32, program *ebpf.Program) (io.Closer, error) {
	if err := s.objects.shared[commonMapCompatCalls].Put(number, program); err != nil {
		return nil, fmt.Errorf("add 32-bit system call %d: %w", number, err)
	}
	if c.handlers == 0 {
		if err := c.find(s); err != nil {
			return nil, err
		}
	}
	c.handlers++
	return &compatHandler{source: s, number: number}, nil
}

func (c *compatCalls) find(s *Source) error {
	o, err := s.objects.open(object{"common", loadCommon})
	if err != nil {
		return err
	}
	h := rawTracepoint(commonProgCompatExit)
	finder, err := s.attachHook(o, &h)
	c.finder = finder
	return errors.Join(err, o.close())
}

// Close takes the handler out of the table.
func (h *compatHandler) Close() error {
	c := &h.source.compat
	err := h.source.objects.shared[commonMapCompatCalls].Delete(h.number)
	if c.handlers--; c.handlers == 0 {
		err = errors.Join(err, c.finder.Close())
	}
	return err
}
