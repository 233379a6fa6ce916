package ebpf

import "golang.org/x/sys/unix"

// oldCalls are those that only old architectures have.
var oldCalls = []string{"open", "creat"}

func (o *opening) openOld(path, mode uintptr) (errno unix.Errno) {
	if o.Call == "creat" {
		_, _, errno = unix.Syscall(unix.SYS_CREAT, path, mode, 0)
	} else {
		_, _, errno = unix.Syscall(unix.SYS_OPEN, path, uintptr(o.Flags), mode)
	}
	return errno
}
