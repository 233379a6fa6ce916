package ebpf

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// A dup test makes a socket, connects it and has it become standard input, output or error.
type dupTest struct {
	name  string
	steps []step // behind those of dupSocket, whose third made the socket
	errno unix.Errno
	want  *event.Dup // of the last step, but for the socket; nil for no event
}

// dupSocket makes a socket and connects it.
func dupSocket(family int, at string) []step {
	return []step{
		{Call: "socket", A: family, B: stream | unix.SOCK_CLOEXEC},
		{Call: "bind", FD: 1, To: at},
		{Call: "socket", A: family, B: stream},
		{Call: "listen", FD: 1, A: 1},
		{Call: "connect", FD: 3, To: at},
	}
}

func dupTests() []dupTest {
	tests := []dupTest{
		{"dup", []step{{Call: "close", Number: 2}, {Call: "dup", FD: 3}}, 0, &event.Dup{Call: "dup", NewFD: 2}},
		{"dup3", []step{{Call: "dup3", FD: 3, A: 1}}, 0, &event.Dup{Call: "dup3", NewFD: 1}},
		{"dup3 failed", []step{{Call: "dup3", FD: 3, A: 1, B: 1}}, unix.EINVAL, &event.Dup{Call: "dup3", NewFD: 1}},
		{"fcntl", []step{{Call: "close"}, {Call: "fcntl", FD: 3, A: unix.F_DUPFD}}, 0, &event.Dup{Call: "fcntl"}},
		{"fcntl, close on exec", []step{{Call: "close", Number: 1}, {Call: "fcntl", FD: 3, A: unix.F_DUPFD_CLOEXEC, B: 1}}, 0,
			&event.Dup{Call: "fcntl", NewFD: 1}},
		{"not standard", []step{{Call: "dup3", FD: 3, A: 50}}, 0, nil},
		{"fcntl, not standard", []step{{Call: "fcntl", FD: 3, A: unix.F_DUPFD, B: 3}}, 0, nil},
		{"fcntl, something else", []step{{Call: "fcntl", FD: 3, A: unix.F_GETFD}}, 0, nil},
		{"no socket", []step{{Call: "dup3", Number: 0, A: 1}}, 0, nil},
		{"no descriptor", []step{{Call: "dup3", Number: 999, A: 1}}, unix.EBADF, nil},
	}
	if _, ok := nativeNumber("dup2"); ok {
		tests = append(tests, dupTest{"dup2", []step{{Call: "dup2", FD: 3}}, 0, &event.Dup{Call: "dup2"}},
			dupTest{"dup2 of itself", []step{{Call: "dup2", FD: 3, A: 0}, {Call: "dup2", Number: 0, A: 0}}, 0, nil})
	}
	return tests
}

func TestDup(t *testing.T) { testDups(t, "native") }

func testDups(t *testing.T, way string) {
	forRungs(t, []event.Kind{event.ProcessDup}, func(t *testing.T, o *observer) {
		for _, test := range dupTests() {
			t.Run(test.name, func(t *testing.T) {
				o.testDup(t, test, way, dupSocket(unix.AF_INET, "127.0.0.1:7000"), func(o outcome) event.Dup {
					s := event.Socket{Family: event.INET, Type: event.Stream, Protocol: unix.IPPROTO_TCP}
					s.LocalIP, s.LocalPort = o.Local.Addr(), o.Local.Port()
					s.RemoteIP, s.RemotePort = o.Remote.Addr(), o.Remote.Port()
					return event.Dup{Socket: s}
				})
			})
		}
		t.Run("unix", func(t *testing.T) {
			path := openTempDir(t) + "/socket"
			o.testDup(t, dupTests()[1], way, dupSocket(unix.AF_UNIX, path), func(outcome) event.Dup {
				return event.Dup{Socket: event.Socket{Family: event.Unix, Type: event.Stream}, Path: path}
			})
		})
	})
}

func (o *observer) testDup(t *testing.T, test dupTest, way string, socket []step, tell func(outcome) event.Dup) {
	steps := append(socket, test.steps...)
	cmd := netAction(t, way, steps)
	tr := o.trace(t, cmd)
	outcomes := heard[[]outcome](t, cmd)
	if last := outcomes[len(outcomes)-1]; last.Errno != test.errno {
		t.Fatalf("the kernel said %v, want %v", last.Errno, test.errno)
	}
	got := tr.of(event.ProcessDup)
	if test.want == nil {
		// The first of two is of a socket.
		if n := len(got); n > len(test.steps)-1 {
			t.Errorf("%d events, the last %+v", n, *got[n-1].Dup)
		}
		return
	}
	if len(got) != 1 {
		t.Fatalf("%d events, want 1", len(got))
	}
	want := tell(outcomes[4])
	want.Call, want.OldFD, want.NewFD = test.want.Call, int32(outcomes[2].FD), test.want.NewFD
	tr.equal(t, event.Event{
		Kind: event.ProcessDup, Result: int32(test.errno), Process: tr.process("exe"), Dup: &want,
	}, got[0])
}
