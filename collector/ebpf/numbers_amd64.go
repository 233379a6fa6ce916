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

// compatNumbers are the numbers of 32-bit system calls on amd64 (arch/x86/entry/syscalls/syscall_32.tbl).
var compatNumbers = map[string]uint32{
	"open": 5, "creat": 8, "openat": 295, "openat2": 437, "open_by_handle_at": 342,
	"rename": 38, "renameat": 302, "renameat2": 353, "link": 9, "linkat": 303, "symlink": 83, "symlinkat": 304,
	"unlink": 10, "unlinkat": 301, "rmdir": 40, "chmod": 15, "fchmod": 94, "fchmodat": 306, "fchmodat2": 452,
	"chown": 212, "lchown": 198, "fchown": 207, "fchownat": 298, "chown16": 182, "lchown16": 16, "fchown16": 95,
	"dup": 41, "fcntl": 55, "dup2": 63, "socketcall": 102, "fcntl64": 221, "dup3": 330, "sendmmsg": 345, "socket": 359,
	"bind": 361, "connect": 362, "listen": 363, "accept4": 364, "sendto": 369, "sendmsg": 370,
	"mount": 21, "fsopen": 430, "fsmount": 432, "open_tree": 428, "open_tree_attr": 467, "move_mount": 429,
	"mount_setattr": 442, "umount": 52, "oldumount": 22,
	"init_module": 128, "finit_module": 350, "bpf": 357, "io_uring_setup": 425,
	"execve": 11, "execveat": 358, "ptrace": 26, "setns": 346, "unshare": 310,
	"setuid": 213, "setgid": 214, "setreuid": 203, "setregid": 204, "setresuid": 208, "setresgid": 210,
	"setfsuid": 215, "setfsgid": 216, "setuid16": 23, "setgid16": 46, "setreuid16": 70, "setregid16": 71,
	"setresuid16": 164, "setresgid16": 170, "setfsuid16": 138, "setfsgid16": 139,
	"mmap2": 192, "mprotect": 125, "pkey_mprotect": 380, "process_vm_readv": 347, "process_vm_writev": 348,
	"memfd_create": 356, "userfaultfd": 374,
}
