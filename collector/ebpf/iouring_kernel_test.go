package ebpf

import (
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
)

// ringCase is a ring that is asked for.
type ringCase struct {
	entries uintptr
	flags   uint32
	at      uintptr // of the parameters, when they are to be elsewhere
	errno   syscall.Errno
	want    event.IOUring
}

func ringCases() map[string]ringCase {
	const polled, clamped = 1, 16
	return map[string]ringCase{
		"made":        {5, clamped | polled, 0, 0, event.IOUring{Entries: 5, Flags: clamped | polled}},
		"no entries":  {0, clamped, 0, syscall.EINVAL, event.IOUring{Flags: clamped, Unverified: true}},
		"no such bit": {8, 1 << 31, 0, syscall.EINVAL, event.IOUring{Entries: 8, Flags: 1 << 31, Unverified: true}},
		"unreadable":  {8, 0, 1, syscall.EFAULT, event.IOUring{Entries: 8, Unverified: true}},
	}
}

func actSetUpRing(args []string) error {
	test, ok := ringCases()[args[0]]
	if !ok {
		return fmt.Errorf("no case %q", args[0])
	}
	c, err := newCaller(args[1] == "32-bit")
	if err != nil {
		return err
	}
	parameters := make([]byte, 120)
	binary.LittleEndian.PutUint32(parameters[8:], test.flags)
	at := test.at
	if at == 0 {
		at = c.put(parameters)
	}
	_, errno := c.call("io_uring_setup", test.entries, at)
	return say(int(errno))
}

func TestIOUringSetup(t *testing.T) {
	forRungs(t, []event.Kind{event.IOUringSetup}, func(t *testing.T, o *observer) {
		for name, test := range ringCases() {
			for _, caller := range callers() {
				t.Run(name+"/"+caller, func(t *testing.T) { test.observe(t, o, name, caller) })
			}
		}
	})
}

func (test *ringCase) observe(t *testing.T, o *observer, name, caller string) {
	cmd := action("set-up-ring", name, caller)
	tr := o.trace(t, cmd)
	if errno := syscall.Errno(heard[int](t, cmd)); errno != test.errno {
		t.Fatalf("the kernel said %v, want %v", errno, test.errno)
	}
	got := tr.of(event.IOUringSetup)
	if len(got) != 1 {
		t.Fatalf("%d events, want 1", len(got))
	}
	tr.equal(t, event.Event{
		Kind: event.IOUringSetup, Result: int32(test.errno), Process: tr.process("exe"), IOUring: &test.want,
	}, got[0])
}
