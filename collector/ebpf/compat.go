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
	"rename": 38, "renameat": 302, "renameat2": 353, "link": 9, "linkat": 303, "symlink": 83, "symlinkat": 304,
	"unlink": 10, "unlinkat": 301, "rmdir": 40, "chmod": 15, "fchmod": 94, "fchmodat": 306, "fchmodat2": 452,
	"chown": 212, "lchown": 198, "fchown": 207, "fchownat": 298, "chown16": 182, "lchown16": 16, "fchown16": 95,
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
