//go:build !amd64

package ebpf

import (
	"errors"
	"syscall"
)

// hasCompatible says that the tests can make 32-bit system calls.
const hasCompatible = false

type compatible struct{}

func newCompatible() (*compatible, error) { return nil, errors.ErrUnsupported }

func (c *compatible) text(string) uint32 { return 0 }

func (c *compatible) put([]byte) uint32 { return 0 }

func (c *compatible) int80(uint32, ...uint32) (int, syscall.Errno) { return -1, syscall.ENOSYS }
