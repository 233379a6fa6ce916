package ebpf

import (
	"errors"

	"golang.org/x/sys/unix"
)

// oldCalls are those that only old architectures have.
var oldCalls []string

func (o *opening) openOld(path, mode uintptr) unix.Errno { return unix.ENOSYS }

func (c *change) compatCaller(int, int) (func() unix.Errno, error) { return nil, errors.ErrUnsupported }

func (o *opening) openCompat(int) (unix.Errno, error) { return 0, errors.ErrUnsupported }
