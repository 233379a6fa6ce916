package ebpf

import "golang.org/x/sys/unix"

// oldNumbers are the numbers of system calls that newer architectures do without.
var oldNumbers = map[string]uint32{
	"open": unix.SYS_OPEN, "creat": unix.SYS_CREAT,
	"rename": unix.SYS_RENAME, "link": unix.SYS_LINK, "symlink": unix.SYS_SYMLINK, "unlink": unix.SYS_UNLINK,
	"rmdir": unix.SYS_RMDIR,
	"chmod": unix.SYS_CHMOD, "chown": unix.SYS_CHOWN, "lchown": unix.SYS_LCHOWN,
	"dup2": unix.SYS_DUP2,
}
