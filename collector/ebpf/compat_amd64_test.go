package ebpf

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hasCompatible says that the tests can make 32-bit system calls.
const hasCompatible = true

// compatible is the memory of a process that makes 32-bit system calls: all of it is below 4 GiB.
type compatible struct {
	memory []byte
	used   int
	call   func(*[7]uint32) int
}

// compatCode makes a 32-bit system call: of the array that it is given the address of, the first is the number. It
// follows the calling convention of Go on amd64: the argument and the result are in RAX, and RBP is kept.
var compatCode = []byte{
	0x55,             // push rbp
	0x49, 0x89, 0xc3, // mov r11, rax
	0x41, 0x8b, 0x03, // mov eax, [r11]
	0x41, 0x8b, 0x5b, 0x04, // mov ebx, [r11+4]
	0x41, 0x8b, 0x4b, 0x08, // mov ecx, [r11+8]
	0x41, 0x8b, 0x53, 0x0c, // mov edx, [r11+12]
	0x41, 0x8b, 0x73, 0x10, // mov esi, [r11+16]
	0x41, 0x8b, 0x7b, 0x14, // mov edi, [r11+20]
	0x41, 0x8b, 0x6b, 0x18, // mov ebp, [r11+24]
	0xcd, 0x80, // int 0x80
	0x48, 0x98, // cdqe
	0x5d, // pop rbp
	0xc3, // ret
}

func newCompatible() (*compatible, error) {
	const size = 1 << 16
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_32BIT)
	if err != nil {
		return nil, fmt.Errorf("map memory below 4 GiB: %w", err)
	}
	c := &compatible{memory: memory}
	code := c.put(compatCode)
	// A function's value is the address of a word that has the address of its code.
	entry := new(uintptr)
	*entry = uintptr(unsafe.Pointer(unsafe.SliceData(memory))) + uintptr(code) - uintptr(c.base())
	c.call = *(*func(*[7]uint32) int)(unsafe.Pointer(&entry))
	return c, nil
}

func (c *compatible) base() uint32 {
	return uint32(uintptr(unsafe.Pointer(unsafe.SliceData(c.memory))))
}

// put copies bytes below 4 GiB and returns where they are.
func (c *compatible) put(data []byte) uint32 {
	at := c.used
	c.used += copy(c.memory[at:], data)
	c.used = (c.used + 15) &^ 15
	return c.base() + uint32(at)
}

// text copies a string with its NUL byte.
func (c *compatible) text(s string) uint32 { return c.put(append([]byte(s), 0)) }

// int80 makes a 32-bit system call.
func (c *compatible) int80(number uint32, args ...uint32) (int, syscall.Errno) {
	var regs [7]uint32
	regs[0] = number
	copy(regs[1:], args)
	ret := c.call(&regs)
	if ret < 0 && ret > -4096 {
		return -1, syscall.Errno(-ret)
	}
	return int(uint32(ret)), 0
}

// compatCaller makes a change as a 32-bit program does.
func (c *change) compatCaller(oldAt, newAt int) (func() unix.Errno, error) {
	number, ok := compatNumbers[c.Call]
	if !ok {
		return nil, fmt.Errorf("no 32-bit call %q", c.Call)
	}
	memory, err := newCompatible()
	if err != nil {
		return nil, err
	}
	var args [5]uint32
	for i, arg := range c.args(uintptr(oldAt), uintptr(memory.text(string(c.Old))), uintptr(newAt),
		uintptr(memory.text(string(c.New)))) {
		args[i] = uint32(arg)
	}
	return func() unix.Errno {
		_, errno := memory.int80(number, args[:]...)
		return errno
	}, nil
}

// openCompat opens as a 32-bit program does.
func (o *opening) openCompat(at int) (unix.Errno, error) {
	memory, err := newCompatible()
	if err != nil {
		return 0, err
	}
	path, flags, mode := memory.text(o.Path), uint32(o.Flags), uint32(0o640)
	args := map[string][]uint32{
		"open": {path, flags, mode}, "creat": {path, mode}, "openat": {uint32(at), path, flags, mode},
	}[o.Call]
	if o.Call == "openat2" {
		how := (*[unix.SizeofOpenHow]byte)(unsafe.Pointer(o.how()))
		args = []uint32{uint32(at), path, memory.put(how[:]), unix.SizeofOpenHow}
	}
	_, errno := memory.int80(compatNumbers[o.Call], args...)
	return errno, nil
}

// A system call that has a handler has a number, and nearly each one that 64-bit callers have 32-bit callers have too.
// No two handlers have the same.
func TestCallsHaveNumbers(t *testing.T) {
	only32 := []string{"chown16", "lchown16", "fchown16", "fcntl64", "mmap2", "oldumount", "socketcall"}
	only64 := []string{"accept", "mmap"} // 32-bit programs have accept4, socketcall and mmap2
	taken := map[slot]string{}
	for _, l := range ladders() {
		for _, name := range append(l.syscalls, l.traced...) {
			if _, native := nativeNumber(name); native == slices.Contains(only32, name) {
				t.Errorf("%s: number %v", name, native)
			}
			if _, compat := compatNumbers[name]; compat == slices.Contains(only64, name) {
				t.Errorf("%s: 32-bit number %v", name, compat)
			}
			for _, at := range exitCall(name, l.forms(name)).slots {
				if other := taken[at]; other != "" {
					t.Errorf("%s and %s: both %v", name, other, at)
				}
				taken[at] = name
			}
		}
	}
}
