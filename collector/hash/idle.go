package hash

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// beIdle has the goroutine's reads wait for those of everybody else, where the disk's scheduler knows priorities. Its
// thread is not used for anything else, and ends with it.
func beIdle() {
	const (
		whoProcess = 1       // include/uapi/linux/ioprio.h: 0 is the calling thread
		idle       = 3 << 13 // IOPRIO_CLASS_IDLE
	)
	runtime.LockOSThread()
	// What fails leaves the priority as it was.
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, idle)
}
