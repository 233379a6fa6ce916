package event

import (
	"strconv"
	"syscall"
)

// errnoName gives what errno(3) says of a number, such as "ECONNREFUSED (connection refused)" has in words.
func errnoName(errno int32) string {
	if errno <= 0 || errno > 4095 {
		return "errno " + strconv.Itoa(int(errno))
	}
	return syscall.Errno(errno).Error()
}
