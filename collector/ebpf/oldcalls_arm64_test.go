package ebpf

import "golang.org/x/sys/unix"

// oldCalls are those that only old architectures have.
var oldCalls []string

func (o *opening) openOld(path, mode uintptr) unix.Errno { return unix.ENOSYS }
