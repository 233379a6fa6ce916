package ebpf

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// loadCase is a request to load a BPF program.
type loadCase struct {
	kind         uint32
	name         string
	instructions []uint64
	size         uintptr // of the request; 0 is 64 bytes
	at           uintptr // of the request, when that is to be elsewhere
	command      uintptr
	errno        syscall.Errno
	// unread says that the kernel did not get as far as to copy the request.
	unread bool
}

// returnZero is a program: r0 = 0, exit.
func returnZero() []uint64 { return []uint64{0xb7, 0x95} }

func loadCases() map[string]loadCase {
	const socketFilter, load = 1, 5
	return map[string]loadCase{
		"loaded":          {socketFilter, "tg_test", returnZero(), 0, 0, load, 0, false},
		"longest name":    {socketFilter, "tg_test_tg_test", returnZero(), 0, 0, load, 0, false},
		"old request":     {socketFilter, "", returnZero(), 48, 0, load, 0, false},
		"refused":         {socketFilter, "tg_bad", []uint64{0x95}, 0, 0, load, syscall.EACCES, false},
		"no such type":    {9999, "tg_type", returnZero(), 0, 0, load, syscall.EINVAL, false},
		"unreadable":      {socketFilter, "", nil, 0, 1, load, syscall.EFAULT, true},
		"another command": {0, "", nil, 0, 0, 99, syscall.EINVAL, false},
	}
}

// loaded says what came of a request.
type loaded struct {
	Errno syscall.Errno
	ID    uint32
}

func actLoadBPF(args []string) error {
	test, ok := loadCases()[args[0]]
	if !ok {
		return fmt.Errorf("no case %q", args[0])
	}
	c, err := newCaller(args[1] == "32-bit")
	if err != nil {
		return err
	}
	var code []byte
	for _, instruction := range test.instructions {
		code = binary.LittleEndian.AppendUint64(code, instruction)
	}
	request := make([]byte, 64)
	binary.LittleEndian.PutUint32(request, test.kind)
	binary.LittleEndian.PutUint32(request[4:], uint32(len(test.instructions)))
	binary.LittleEndian.PutUint64(request[8:], uint64(c.put(append(code, 0))))
	binary.LittleEndian.PutUint64(request[16:], uint64(c.text("GPL")))
	copy(request[48:], test.name)
	at, size := test.at, test.size
	if at == 0 {
		at = c.put(request)
	}
	if size == 0 {
		size = uintptr(len(request))
	}
	fd, errno := c.call("bpf", test.command, at, size)
	said := loaded{Errno: errno}
	if errno == 0 {
		if said.ID, err = c.programID(fd); err != nil {
			return err
		}
	}
	return say(said)
}

// programID asks the kernel.
func (c *caller) programID(fd int) (uint32, error) {
	const getInfo, idAt = 15, 4
	info := &caller{}
	answer := make([]byte, 128)
	request := binary.LittleEndian.AppendUint32(nil, uint32(fd))
	request = binary.LittleEndian.AppendUint32(request, uint32(len(answer)))
	request = binary.LittleEndian.AppendUint64(request, uint64(pointer(&answer[0])))
	_, errno := info.call("bpf", getInfo, info.put(request), uintptr(len(request)))
	if errno != 0 {
		return 0, fmt.Errorf("ask for program of descriptor %d: %w", fd, errno)
	}
	return binary.LittleEndian.Uint32(answer[idAt:]), nil
}

func TestLoadBPF(t *testing.T) {
	forRungs(t, []event.Kind{event.BPFLoad}, func(t *testing.T, o *observer) {
		for name, test := range loadCases() {
			for _, caller := range callers() {
				t.Run(name+"/"+caller, func(t *testing.T) { test.observe(t, o, name, caller) })
			}
		}
	})
}

func (test *loadCase) observe(t *testing.T, o *observer, name, caller string) {
	cmd := action("load-bpf", name, caller)
	tr := o.trace(t, cmd)
	said := heard[loaded](t, cmd)
	if said.Errno != test.errno {
		t.Fatalf("the kernel said %v, want %v", said.Errno, test.errno)
	}
	got := tr.of(event.BPFLoad)
	if test.command != 5 {
		if len(got) != 0 {
			t.Errorf("%d events, want none", len(got))
		}
		return
	}
	if len(got) != 1 {
		t.Fatalf("%d events, want 1", len(got))
	}
	want := event.BPF{
		Type: event.ProgramType(test.kind), Name: test.name, Instructions: uint32(len(test.instructions)), ProgramID: said.ID,
		Unverified: test.errno != 0 && (tracepoints(t) || test.unread),
	}
	if test.unread {
		want.Type = 0
	}
	tr.equal(t, event.Event{
		Kind: event.BPFLoad, Result: int32(test.errno), Process: tr.process("exe"), BPF: &want,
	}, got[0])
}

// A program that has another one loaded is not needed at hand to see that one, where kernel functions can be probed.
func TestLoadBPFByBPF(t *testing.T) {
	forRungs(t, []event.Kind{event.BPFLoad}, func(t *testing.T, o *observer) {
		cmd := action("load-bpf-by-bpf")
		tr := o.trace(t, cmd)
		said := heard[loaded](t, cmd)
		if said.Errno == unix.EINVAL {
			t.Log("this kernel does not have programs that make system calls")
			return
		}
		var got []event.Event
		for _, e := range tr.of(event.BPFLoad) {
			if e.BPF.Name == "tg_inner" {
				got = append(got, e)
			}
		}
		if tracepoints(t) {
			if len(got) != 0 {
				t.Errorf("%d events: say so in the package's documentation", len(got))
			}
			return
		}
		if len(got) != 1 {
			t.Fatalf("%d events, want 1", len(got))
		}
		want := event.BPF{Type: 1, Name: "tg_inner", Instructions: 2, ProgramID: said.ID}
		tr.equal(t, event.Event{Kind: event.BPFLoad, Process: tr.process("exe"), BPF: &want}, got[0])
	})
}
