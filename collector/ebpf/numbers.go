package ebpf

import "golang.org/x/sys/unix"

// nativeNumber is the number of a system call of 64-bit callers, by the name of the kernel's function for it.
func nativeNumber(name string) (number uint32, ok bool) {
	if number, ok = nativeNumbers[name]; !ok {
		number, ok = oldNumbers[name]
	}
	return number, ok
}

// nativeNumbers are those that all architectures have; oldNumbers has the others.
var nativeNumbers = map[string]uint32{
	"openat": unix.SYS_OPENAT, "openat2": unix.SYS_OPENAT2, "open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT,
	"renameat": unix.SYS_RENAMEAT, "renameat2": unix.SYS_RENAMEAT2, "linkat": unix.SYS_LINKAT,
	"symlinkat": unix.SYS_SYMLINKAT, "unlinkat": unix.SYS_UNLINKAT,
	"fchmod": unix.SYS_FCHMOD, "fchmodat": unix.SYS_FCHMODAT, "fchmodat2": unix.SYS_FCHMODAT2,
	"fchown": unix.SYS_FCHOWN, "fchownat": unix.SYS_FCHOWNAT,
	"dup": unix.SYS_DUP, "dup3": unix.SYS_DUP3, "fcntl": unix.SYS_FCNTL,
	"socket": unix.SYS_SOCKET, "connect": unix.SYS_CONNECT, "accept": unix.SYS_ACCEPT, "accept4": unix.SYS_ACCEPT4,
	"bind": unix.SYS_BIND, "listen": unix.SYS_LISTEN, "sendto": unix.SYS_SENDTO, "sendmsg": unix.SYS_SENDMSG,
	"sendmmsg": unix.SYS_SENDMMSG,
	"mount":    unix.SYS_MOUNT, "umount": unix.SYS_UMOUNT2, "fsopen": unix.SYS_FSOPEN, "fsmount": unix.SYS_FSMOUNT,
	"open_tree": unix.SYS_OPEN_TREE, "open_tree_attr": unix.SYS_OPEN_TREE_ATTR, "move_mount": unix.SYS_MOVE_MOUNT,
	"mount_setattr": unix.SYS_MOUNT_SETATTR,
	"init_module":   unix.SYS_INIT_MODULE, "finit_module": unix.SYS_FINIT_MODULE, "bpf": unix.SYS_BPF,
	"io_uring_setup": unix.SYS_IO_URING_SETUP,
	"execve":         unix.SYS_EXECVE, "execveat": unix.SYS_EXECVEAT, "ptrace": unix.SYS_PTRACE, "setns": unix.SYS_SETNS,
	"unshare": unix.SYS_UNSHARE,
	"setuid":  unix.SYS_SETUID, "setgid": unix.SYS_SETGID, "setreuid": unix.SYS_SETREUID,
	"setregid": unix.SYS_SETREGID, "setresuid": unix.SYS_SETRESUID, "setresgid": unix.SYS_SETRESGID,
	"setfsuid": unix.SYS_SETFSUID, "setfsgid": unix.SYS_SETFSGID,
	"mmap": unix.SYS_MMAP, "mprotect": unix.SYS_MPROTECT, "pkey_mprotect": unix.SYS_PKEY_MPROTECT,
	"process_vm_readv": unix.SYS_PROCESS_VM_READV, "process_vm_writev": unix.SYS_PROCESS_VM_WRITEV,
	"memfd_create": unix.SYS_MEMFD_CREATE, "userfaultfd": unix.SYS_USERFAULTFD,
}
