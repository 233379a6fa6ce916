package ebpf

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"
)

// caller makes system calls by name, those of 64-bit or of 32-bit programs, so that one test is for both. What it is
// given in memory stays there.
type caller struct {
	compat *compatible // nil for 64-bit
	memory [][]byte
}

// newCaller returns a caller that stays on one thread.
func newCaller(compat bool) (c *caller, err error) {
	runtime.LockOSThread()
	c = &caller{}
	if compat {
		c.compat, err = newCompatible()
	}
	return c, err
}

// put returns the address of a copy.
func (c *caller) put(data []byte) uintptr {
	if c.compat != nil {
		return uintptr(c.compat.put(data))
	}
	data = append([]byte(nil), data...)
	c.memory = append(c.memory, data)
	return uintptr(unsafe.Pointer(unsafe.SliceData(data)))
}

func (c *caller) text(s string) uintptr { return c.put(append([]byte(s), 0)) }

// call makes a system call of at most six arguments.
func (c *caller) call(name string, args ...uintptr) (int, syscall.Errno) {
	var a [6]uintptr
	copy(a[:], args)
	if c.compat != nil {
		var low []uint32
		for _, v := range a {
			low = append(low, uint32(v))
		}
		number, ok := compatNumbers[name]
		if !ok {
			panic(fmt.Sprintf("no 32-bit number of %s", name))
		}
		return c.compat.int80(number, low...)
	}
	number, ok := nativeNumber(name)
	if !ok {
		panic(fmt.Sprintf("no number of %s", name))
	}
	ret, _, errno := syscall.Syscall6(uintptr(number), a[0], a[1], a[2], a[3], a[4], a[5])
	return int(ret), errno
}
