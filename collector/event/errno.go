package event

import (
	"strconv"
	"syscall"
)

// errnoName says what an errno means in words, such as "connection refused".
func errnoName(errno int32) string {
	if errno <= 0 || errno > 4095 {
		return "errno " + strconv.Itoa(int(errno))
	}
	return syscall.Errno(errno).Error()
}
