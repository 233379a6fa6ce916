package ebpf

import (
	"maps"

	"golang.org/x/sys/unix"
)

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

// changeCalls are the calls that change names or attributes of files.
var changeCalls = func() map[string]uintptr {
	calls := maps.Clone(atCalls)
	maps.Copy(calls, map[string]uintptr{
		"rename": unix.SYS_RENAME, "link": unix.SYS_LINK, "symlink": unix.SYS_SYMLINK, "unlink": unix.SYS_UNLINK,
		"rmdir": unix.SYS_RMDIR, "chmod": unix.SYS_CHMOD, "chown": unix.SYS_CHOWN, "lchown": unix.SYS_LCHOWN,
	})
	return calls
}()
