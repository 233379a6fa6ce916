package ebpf

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// step is a system call of the net action.
type step struct {
	Call    string
	FD      int    // the step that made the descriptor, counted from 1; 0 for Number
	Number  int    // the descriptor itself
	To      string // an address: IP:PORT, a path, "@name", "packet", "unspec IP:PORT", "none"
	A, B, C int    // the other arguments, in order
	Plain   bool   // not by io_uring, which would wait
}

// outcome is what came of a step.
type outcome struct {
	FD            int // its descriptor, or the one it made
	Errno         unix.Errno
	Local, Remote netip.AddrPort
	Ringed        bool // io_uring did it
}

// wayToCall makes system calls in one of the ways there are.
type wayToCall interface {
	// put copies what a call is given the address of.
	put(data []byte) uint64
	// word is the size of a pointer.
	word() int
	// call returns a result, or an errno below zero.
	call(name string, args ...uint64) int
}

// nativeCaller makes them as this program does.
type nativeCaller struct{ memory [][]byte }

func (c *nativeCaller) put(data []byte) uint64 {
	data = append([]byte(nil), data...)
	c.memory = append(c.memory, data)
	return uint64(pointer(&data[0]))
}

func (c *nativeCaller) word() int { return 8 }

func (c *nativeCaller) call(name string, args ...uint64) int {
	var a [6]uintptr
	for i, arg := range args {
		a[i] = uintptr(arg)
	}
	number, ok := nativeNumber(name)
	switch {
	case ok:
	case name == "close": // which has no handler
		number = unix.SYS_CLOSE
	default:
		panic("no number of " + name)
	}
	ret, _, errno := unix.Syscall6(uintptr(number), a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return -int(errno)
	}
	return int(ret)
}

// ringCaller has io_uring do it. What io_uring cannot do is called.
type ringCaller struct {
	nativeCaller
	ring *ring
	last uint8 // the highest opcode that this kernel knows
}

func newRingCaller() (*ringCaller, error) {
	r, err := newRing(0)
	if err != nil {
		return nil, err
	}
	const registerProbe, entries = 8, 64
	var probe [16 + 8*entries]byte // struct io_uring_probe
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerProbe, pointer(&probe), entries, 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("probe io_uring: %w", errno)
	}
	return &ringCaller{ring: r, last: probe[0]}, nil
}

// rings tells whether io_uring does a call.
func (c *ringCaller) rings(name string) bool {
	opcode, ok := ringOpcodes[name]
	return ok && opcode <= c.last
}

// include/uapi/linux/io_uring.h
var ringOpcodes = map[string]uint8{
	"sendmsg": 9, "accept4": 13, "connect": 16, "socket": 45, "bind": 56, "listen": 57,
}

func (c *ringCaller) call(name string, args ...uint64) int {
	if !c.rings(name) {
		return c.nativeCaller.call(name, args...)
	}
	s := sqe{Opcode: ringOpcodes[name], FD: int32(args[0])}
	switch name {
	case "connect", "bind":
		s.Address, s.Offset = args[1], args[2]
	case "listen":
		s.Length = uint32(args[1])
	case "socket":
		s.Offset, s.Length = args[1], uint32(args[2])
	case "accept4":
		s.OpFlags = uint32(args[3])
	case "sendmsg":
		s.Address, s.Length = args[1], 1
	}
	ret, err := c.ring.submit(s)
	if err != nil {
		panic(err)
	}
	return int(ret)
}

func callerOf(way string) (wayToCall, error) {
	switch way {
	case "native":
		return new(nativeCaller), nil
	case "io_uring":
		return newRingCaller()
	}
	return compatCaller(way)
}

// netAction returns the command that makes system calls in a network of its own.
func netAction(t *testing.T, way string, steps []step) *exec.Cmd {
	t.Helper()
	cmd := action("net", way, asJSON(t, steps))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	return cmd
}

// actNet makes system calls in a network of its own: WAY STEPS.
func actNet(args []string) error {
	// Where the test listens may become a socket.
	stdout, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 100)
	if err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	c, err := callerOf(args[0])
	if err != nil {
		return err
	}
	var steps []step
	if err := json.Unmarshal([]byte(args[1]), &steps); err != nil {
		return err
	}
	var done []outcome
	for _, s := range steps {
		done = append(done, s.do(c, done))
	}
	return json.NewEncoder(os.NewFile(uintptr(stdout), "stdout")).Encode(done)
}

func (s *step) do(c wayToCall, before []outcome) (o outcome) {
	o.FD = s.Number
	if s.FD > 0 {
		o.FD = before[s.FD-1].FD
	}
	if r, ok := c.(*ringCaller); ok {
		if o.Ringed = r.rings(s.Call) && !s.Plain; !o.Ringed {
			c = &r.nativeCaller
		}
	}
	ret := c.call(s.Call, s.args(c, o.FD)...)
	if ret < 0 {
		o.Errno = unix.Errno(-ret)
	} else if s.Call == "socket" || strings.HasPrefix(s.Call, "accept") {
		o.FD = ret
	}
	if local, err := unix.Getsockname(o.FD); err == nil {
		o.Local = addrPort(local)
	}
	if remote, err := unix.Getpeername(o.FD); err == nil {
		o.Remote = addrPort(remote)
	}
	return o
}

func (s *step) args(c wayToCall, fd int) []uint64 {
	at, length := uint64(0), uint64(0)
	if address := sockaddr(s.To); len(address) > 0 {
		at, length = c.put(address), uint64(len(address))
	}
	a, b, d := uint64(uint32(s.A)), uint64(uint32(s.B)), uint64(uint32(s.C))
	switch s.Call {
	case "socket":
		return []uint64{a, b, d}
	case "connect", "bind":
		return []uint64{uint64(fd), at, length}
	case "accept", "accept4":
		return []uint64{uint64(fd), 0, 0, a}
	case "sendto":
		return []uint64{uint64(fd), c.put(make([]byte, 8)), 8, a, at, length}
	case "sendmsg":
		return []uint64{uint64(fd), c.put(s.message(c, at, length)), a}
	case "sendmmsg":
		message := append(s.message(c, at, length), make([]byte, c.word())...)
		return []uint64{uint64(fd), c.put(append(message, message...)), 2, a}
	}
	return []uint64{uint64(fd), a, b}
}

// message is a struct msghdr.
func (s *step) message(c wayToCall, at, length uint64) []byte {
	word := func(m []byte, v uint64) []byte {
		return append(m, binary.LittleEndian.AppendUint64(nil, v)[:c.word()]...)
	}
	vector := c.put(word(word(nil, c.put([]byte("x"))), 1))
	var m []byte
	for _, v := range []uint64{at, length, vector, 1, 0, 0, 0} {
		m = word(m, v)
	}
	return m
}

// sockaddr gives an address in the kernel's form.
func sockaddr(to string) []byte {
	family := func(f uint16) []byte { return binary.LittleEndian.AppendUint16(nil, f) }
	rest, unspecified := strings.CutPrefix(to, "unspec ")
	switch {
	case to == "":
		return nil
	case to == "packet": // every protocol, on lo
		return append(family(unix.AF_PACKET), 0, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	case to[0] == '@':
		return append(append(family(unix.AF_UNIX), 0), to[1:]...)
	case to[0] == '/':
		return append(append(family(unix.AF_UNIX), to...), 0)
	}
	ap := netip.MustParseAddrPort(rest)
	if ap.Addr().Is4() {
		f := family(unix.AF_INET)
		if unspecified {
			f = family(unix.AF_UNSPEC)
		}
		return append(append(binary.BigEndian.AppendUint16(f, ap.Port()), ap.Addr().AsSlice()...), make([]byte, 8)...)
	}
	address := append(binary.BigEndian.AppendUint16(family(unix.AF_INET6), ap.Port()), make([]byte, 4)...)
	return append(append(address, ap.Addr().AsSlice()...), make([]byte, 4)...)
}

// done is an event that is to come of a step.
type done struct {
	step          int // counted from 1
	kind          event.Kind
	net           event.Net
	local, remote bool // the addresses are what the kernel then says
	// user: the tracepoint rung has only the caller's address, flagged.
	user bool
}

type netTest struct {
	name  string
	steps []step
	want  []done
	errno map[int]unix.Errno // of the steps that are to fail
}

func ip(family event.Family, t event.SocketType, protocol uint16) event.Net {
	return event.Net{Socket: event.Socket{Family: family, Type: t, Protocol: protocol}}
}

func from(n event.Net, address string) event.Net {
	ap := netip.MustParseAddrPort(address)
	n.LocalIP, n.LocalPort = ap.Addr().Unmap(), ap.Port()
	return n
}

func to(n event.Net, address string) event.Net {
	ap := netip.MustParseAddrPort(address)
	n.RemoteIP, n.RemotePort = ap.Addr().Unmap(), ap.Port()
	return n
}

func backlog(n event.Net, b uint32) event.Net {
	n.Backlog = b
	return n
}

const (
	stream   = unix.SOCK_STREAM
	datagram = unix.SOCK_DGRAM
)

// dialTest is a server and a client that connects to it.
func dialTest(name string, family int, server, client string) netTest {
	n := ip(event.Family(family), event.Stream, unix.IPPROTO_TCP)
	return netTest{name: name, steps: []step{
		{Call: "socket", A: family, B: stream | unix.SOCK_CLOEXEC},
		{Call: "bind", FD: 1, To: server},
		{Call: "listen", FD: 1, A: 5},
		{Call: "socket", A: family, B: stream},
		{Call: "connect", FD: 4, To: client},
		{Call: "accept4", FD: 1, A: unix.SOCK_CLOEXEC},
	}, want: []done{
		{step: 1, kind: event.NetSocket, net: n},
		{step: 2, kind: event.NetBind, net: from(n, server)},
		{step: 3, kind: event.NetListen, net: backlog(from(n, server), 5)},
		{step: 4, kind: event.NetSocket, net: n},
		{step: 5, kind: event.NetConnect, net: to(n, client), local: true},
		{step: 6, kind: event.NetAccept, net: n, local: true, remote: true},
	}}
}

func unixTest(name, path string, kind int) netTest {
	n := event.Net{Socket: event.Socket{Family: event.Unix, Type: event.SocketType(kind)}, Path: path}
	return netTest{name: name, steps: []step{
		{Call: "socket", A: unix.AF_UNIX, B: kind},
		{Call: "bind", FD: 1, To: path},
		{Call: "listen", FD: 1, A: 3},
		{Call: "socket", A: unix.AF_UNIX, B: kind},
		{Call: "connect", FD: 4, To: path},
		{Call: "accept4", FD: 1},
		{Call: "bind", FD: 4, To: path},
	}, errno: map[int]unix.Errno{7: unix.EADDRINUSE}, want: []done{
		{step: 2, kind: event.NetBind, net: n},
		{step: 3, kind: event.NetListen, net: backlog(n, 3)},
		{step: 5, kind: event.NetConnect, net: n},
		{step: 6, kind: event.NetAccept, net: n},
		{step: 7, kind: event.NetBind, net: n, user: true},
	}}
}

func netTests(dir string) []netTest {
	tcp4, udp4 := ip(event.INET, event.Stream, unix.IPPROTO_TCP), ip(event.INET, event.Datagram, unix.IPPROTO_UDP)
	udp6, icmp := ip(event.INET6, event.Datagram, unix.IPPROTO_UDP), ip(event.INET, 3, unix.IPPROTO_ICMP)
	packet := ip(event.Family(unix.AF_PACKET), 3, unix.ETH_P_ALL)
	failed := ip(event.INET, event.Stream, 9)
	return []netTest{
		dialTest("tcp v4", unix.AF_INET, "127.0.0.1:7000", "127.0.0.1:7000"),
		dialTest("tcp v6", unix.AF_INET6, "[::1]:7000", "[::1]:7000"),
		dialTest("tcp v4-mapped", unix.AF_INET6, "[::ffff:127.0.0.1]:7000", "[::ffff:127.0.0.1]:7000"),
		dialTest("tcp, any address", unix.AF_INET6, "[::]:7000", "[::1]:7000"),
		unixTest("unix path", dir+"/socket", unix.SOCK_STREAM),
		unixTest("unix abstract", "@"+dir, unix.SOCK_SEQPACKET),
		{name: "tcp failures", steps: []step{
			{Call: "socket", A: unix.AF_INET, B: stream, C: 9},
			{Call: "socket", A: unix.AF_INET, B: stream | unix.SOCK_NONBLOCK},
			{Call: "bind", FD: 2, To: "127.0.0.1:7000"},
			{Call: "listen", FD: 2, A: 0},
			{Call: "socket", A: unix.AF_INET, B: stream},
			{Call: "bind", FD: 5, To: "127.0.0.1:7000"},
			{Call: "bind", FD: 5, To: "192.0.2.1:80"},
			{Call: "accept4", FD: 5},
			{Call: "accept4", FD: 2, Plain: true},
			{Call: "bind", Number: 999, To: "127.0.0.1:7000"},
			{Call: "listen", Number: 999},
			{Call: "accept4", Number: 999},
			{Call: "bind", FD: 5},
		}, errno: map[int]unix.Errno{1: unix.EPROTONOSUPPORT, 6: unix.EADDRINUSE, 7: unix.EADDRNOTAVAIL, 8: unix.EINVAL,
			9: unix.EAGAIN, 10: unix.EBADF, 11: unix.EBADF, 12: unix.EBADF, 13: unix.EINVAL}, want: []done{
			{step: 1, kind: event.NetSocket, net: failed},
			{step: 2, kind: event.NetSocket, net: tcp4},
			{step: 3, kind: event.NetBind, net: from(tcp4, "127.0.0.1:7000")},
			{step: 4, kind: event.NetListen, net: from(tcp4, "127.0.0.1:7000")},
			{step: 5, kind: event.NetSocket, net: tcp4},
			{step: 6, kind: event.NetBind, net: from(tcp4, "127.0.0.1:7000"), user: true},
			{step: 7, kind: event.NetBind, net: from(tcp4, "192.0.2.1:80"), user: true},
			{step: 8, kind: event.NetAccept, net: tcp4},
		}},
		{name: "udp", steps: []step{
			{Call: "socket", A: unix.AF_INET, B: datagram},
			{Call: "sendto", FD: 1, To: "127.0.0.1:9"},
			{Call: "sendto", FD: 1, To: "unspec 127.0.0.1:10"},
			{Call: "sendmsg", FD: 1, To: "127.0.0.1:11"},
			{Call: "sendmmsg", FD: 1, To: "127.0.0.1:12"},
			{Call: "sendto", FD: 1, To: "192.0.2.1:13"},
			{Call: "bind", FD: 1, To: "127.0.0.1:7000"},
			{Call: "connect", FD: 1, To: "127.255.255.255:9"},
			{Call: "connect", FD: 1, To: "127.0.0.1:9"},
			{Call: "sendto", FD: 1, To: "127.0.0.1:9"},
			{Call: "sendto", FD: 1},
			{Call: "sendto", FD: 1, To: "127.0.0.1:14"},
			{Call: "listen", FD: 1, A: 1},
		}, errno: map[int]unix.Errno{6: unix.ENETUNREACH, 7: unix.EINVAL, 8: unix.EACCES, 11: unix.ECONNREFUSED,
			13: unix.EOPNOTSUPP}, want: []done{
			{step: 1, kind: event.NetSocket, net: udp4},
			{step: 2, kind: event.NetSend, net: to(udp4, "127.0.0.1:9"), local: true},
			{step: 3, kind: event.NetSend, net: to(udp4, "127.0.0.1:10"), local: true},
			{step: 4, kind: event.NetSend, net: to(udp4, "127.0.0.1:11"), local: true},
			{step: 5, kind: event.NetSend, net: to(udp4, "127.0.0.1:12"), local: true},
			{step: 5, kind: event.NetSend, net: to(udp4, "127.0.0.1:12"), local: true},
			{step: 6, kind: event.NetSend, net: to(udp4, "192.0.2.1:13"), local: true},
			{step: 7, kind: event.NetBind, net: from(udp4, "127.0.0.1:7000"), user: true},
			{step: 8, kind: event.NetConnect, net: to(udp4, "127.255.255.255:9"), local: true},
			{step: 9, kind: event.NetConnect, net: to(udp4, "127.0.0.1:9"), local: true},
			{step: 12, kind: event.NetSend, net: to(udp4, "127.0.0.1:14"), local: true},
			{step: 13, kind: event.NetListen, net: backlog(udp4, 1), local: true, remote: true},
		}},
		{name: "udp v6", steps: []step{
			{Call: "socket", A: unix.AF_INET6, B: datagram},
			{Call: "sendto", FD: 1, To: "[::1]:9"},
			{Call: "sendto", FD: 1, To: "[::ffff:127.0.0.1]:10"},
			{Call: "sendto", FD: 1, To: "127.0.0.1:11"},
			{Call: "sendmsg", FD: 1, To: "[::ffff:127.0.0.1]:12"},
			{Call: "sendto", FD: 1, To: "[2001:db8::1]:13"},
		}, errno: map[int]unix.Errno{6: unix.ENETUNREACH}, want: []done{
			{step: 1, kind: event.NetSocket, net: udp6},
			{step: 2, kind: event.NetSend, net: to(udp6, "[::1]:9"), local: true},
			{step: 3, kind: event.NetSend, net: to(udp6, "127.0.0.1:10"), local: true},
			{step: 4, kind: event.NetSend, net: to(udp6, "127.0.0.1:11"), local: true},
			{step: 5, kind: event.NetSend, net: to(udp6, "127.0.0.1:12"), local: true},
			{step: 6, kind: event.NetSend, net: to(udp6, "[2001:db8::1]:13"), local: true},
		}},
		{name: "fast open", steps: []step{
			{Call: "socket", A: unix.AF_INET, B: stream},
			{Call: "bind", FD: 1, To: "127.0.0.1:7000"},
			{Call: "listen", FD: 1, A: 5},
			{Call: "socket", A: unix.AF_INET, B: stream},
			{Call: "sendto", FD: 4, To: "127.0.0.1:7000", A: unix.MSG_FASTOPEN},
		}, want: []done{
			{step: 1, kind: event.NetSocket, net: tcp4},
			{step: 2, kind: event.NetBind, net: from(tcp4, "127.0.0.1:7000")},
			{step: 3, kind: event.NetListen, net: backlog(from(tcp4, "127.0.0.1:7000"), 5)},
			{step: 4, kind: event.NetSocket, net: tcp4},
			{step: 5, kind: event.NetSend, net: to(tcp4, "127.0.0.1:7000"), local: true},
		}},
		{name: "raw", steps: []step{
			{Call: "socket", A: unix.AF_INET, B: unix.SOCK_RAW, C: unix.IPPROTO_ICMP},
			{Call: "bind", FD: 1, To: "127.0.0.1:0"},
			{Call: "sendto", FD: 1, To: "127.0.0.2:0"},
			{Call: "socket", A: unix.AF_PACKET, B: unix.SOCK_RAW, C: 0x300},
			{Call: "bind", FD: 4, To: "packet"},
			{Call: "socket", A: unix.AF_NETLINK, B: unix.SOCK_RAW},
			{Call: "bind", FD: 6, To: "packet"},
		}, errno: map[int]unix.Errno{7: unix.EINVAL}, want: []done{
			{step: 1, kind: event.NetSocket, net: icmp},
			{step: 2, kind: event.NetBind, net: from(icmp, "127.0.0.1:0")},
			{step: 3, kind: event.NetSend, net: to(from(icmp, "127.0.0.1:0"), "127.0.0.2:0"), user: true},
			{step: 4, kind: event.NetSocket, net: packet},
			{step: 5, kind: event.NetBind, net: packet},
		}},
	}
}

// netKinds are those that netTests makes.
var netKinds = []event.Kind{
	event.NetSocket, event.NetConnect, event.NetAccept, event.NetBind, event.NetListen, event.NetSend,
}

func TestNet(t *testing.T)          { testNet(t, "native") }
func TestNetByIOUring(t *testing.T) { testNet(t, "io_uring") }

func testNet(t *testing.T, way string) {
	forRungs(t, netKinds, func(t *testing.T, o *observer) {
		tracepoint := strings.HasSuffix(t.Name(), "/tracepoint")
		for _, test := range netTests(openTempDir(t)) {
			t.Run(test.name, func(t *testing.T) { o.testNet(t, test, way, tracepoint) })
		}
	})
}

func (o *observer) testNet(t *testing.T, test netTest, way string, tracepoint bool) {
	cmd := netAction(t, way, test.steps)
	tr := o.trace(t, cmd)
	outcomes := heard[[]outcome](t, cmd)
	for i, outcome := range outcomes {
		if outcome.Errno != test.errno[i+1] {
			t.Errorf("step %d, %s: the kernel said %v, want %v", i+1, test.steps[i].Call, outcome.Errno, test.errno[i+1])
		}
	}
	var got []event.Event
	for _, e := range tr.events {
		if e.Net != nil {
			got = append(got, e)
		}
	}
	if len(got) == 0 {
		t.Fatal("no event at all")
	}
	got = got[1:] // the socket that the loopback interface was brought up with
	for _, d := range test.want {
		want := d.event(outcomes[d.step-1], way, tracepoint)
		if want.Kind == 0 {
			continue
		}
		want.Process = tr.process("exe")
		if len(got) == 0 {
			t.Fatalf("no event of step %d, %s", d.step, test.steps[d.step-1].Call)
		}
		// On old kernels io_uring connects again when the first attempt did not end at once.
		if o := outcomes[d.step-1]; o.Ringed && want.Kind == event.NetConnect && want.Result == 0 && len(got) > 1 &&
			got[0].Kind == want.Kind && got[0].Result == int32(unix.EINPROGRESS) {
			got = got[1:]
		}
		tr.equal(t, want, got[0])
		got = got[1:]
	}
	for _, e := range got {
		t.Errorf("unexpected %s, result %d: %+v", e.Kind, e.Result, *e.Net)
	}
}

// event is what is to be recorded; of kind 0 when that cannot be.
func (d *done) event(o outcome, way string, tracepoint bool) event.Event {
	n := d.net
	if d.local {
		n.LocalPort = o.Local.Port()
		if local := o.Local.Addr().Unmap(); !local.IsUnspecified() || d.kind == event.NetListen {
			n.LocalIP = local
		}
	}
	if d.remote {
		n.RemoteIP, n.RemotePort = o.Remote.Addr().Unmap(), o.Remote.Port()
	}
	result := int32(o.Errno)
	if o.Ringed && tracepoint {
		switch {
		case d.kind != event.NetConnect && d.kind != event.NetSend, n.Family == event.Unix:
			return event.Event{} // no hook tells of it
		default: // a hook tells that it began
			result, n.LocalIP = int32(unix.EINPROGRESS), netip.Addr{}
			if n.Type == event.Stream { // has no port yet
				n.LocalPort = 0
			}
		}
	}
	n.Unverified = tracepoint && d.user
	if way == "socketcall" && tracepoint && (d.kind == event.NetListen || d.kind == event.NetSocket && o.Errno != 0) {
		n.Unverified = true
	}
	return event.Event{Kind: d.kind, Result: result, Net: &n}
}
