package ebpf

import (
	"errors"
	"syscall"
)

// hasCompatible says that the tests can make 32-bit system calls.
const hasCompatible = false

// compatible is not there: the tests run on machines without 32-bit Arm.
type compatible struct{}

func newCompatible() (*compatible, error) { return nil, errors.ErrUnsupported }

func (*compatible) text(string) uint32 { return 0 }

func (*compatible) put([]byte) uint32 { return 0 }

func (*compatible) int80(uint32, ...uint32) (int, syscall.Errno) { return 0, syscall.ENOSYS }
