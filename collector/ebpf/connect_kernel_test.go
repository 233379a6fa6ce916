package ebpf

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

var compareAddresses = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// dial is what the connect action is to do.
type dial struct {
	Family, Type, Protocol int
	NonBlock               bool
	IP                     netip.Addr
	Port                   uint16
	Path                   string // "@" for the abstract namespace
	Closed                 bool   // the descriptor is none
	Raw                    []byte // the address instead, in the kernel's form; empty for no readable one
	Alone                  bool   // in a network namespace of its own
	Thread                 bool   // not the first thread
	Said                   bool   // the thread's id is said before
}

// dialled is what came of it.
type dialled struct {
	Errno unix.Errno
	Local netip.AddrPort
}

func (d dial) sockaddr() unix.Sockaddr {
	switch {
	case d.Path != "":
		return &unix.SockaddrUnix{Name: d.Path}
	case d.IP.Is4():
		return &unix.SockaddrInet4{Addr: d.IP.As4(), Port: int(d.Port)}
	}
	return &unix.SockaddrInet6{Addr: d.IP.As16(), Port: int(d.Port)}
}

func actConnect(args []string) error {
	var d dial
	if err := json.Unmarshal([]byte(args[0]), &d); err != nil {
		return err
	}
	fd, err := unix.Socket(d.Family, d.Type|unix.SOCK_CLOEXEC, d.Protocol)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, d.NonBlock); err != nil {
		return err
	}
	if d.Said {
		runtime.LockOSThread()
		if err := say(unix.Gettid()); err != nil {
			return err
		}
	}
	var done dialled
	if d.Thread {
		onThread(func() { done.Errno = d.connect(fd) })
	} else {
		done.Errno = d.connect(fd)
	}
	if local, err := unix.Getsockname(fd); err == nil {
		done.Local = addrPort(local)
	}
	return say(done)
}

func (d dial) connect(fd int) unix.Errno {
	if d.Closed {
		fd = 999
	}
	if d.Raw == nil {
		errno, _ := unix.Connect(fd, d.sockaddr()).(unix.Errno)
		return errno // what a signal interrupted was made anew: Go's runtime has the kernel do so
	}
	var address uintptr
	if len(d.Raw) > 0 {
		address = pointer(&d.Raw[0])
	}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), address, 16)
	runtime.KeepAlive(d.Raw)
	return errno
}

// onThread runs f on a thread that is not the process's first one.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // without an end: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			onThread(f)
			return
		}
		f()
	}()
	<-done
}

// asJSON writes what an action is to do.
func asJSON(t *testing.T, what any) string {
	t.Helper()
	text, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// listen opens a listener for the length of a test.
func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func portOf(l net.Listener) uint16 { return l.Addr().(*net.TCPAddr).AddrPort().Port() }

type connectTest struct {
	name  string
	dial  dial
	errno unix.Errno
	want  event.Net // without the local side
	// none: there is no event. Of a user: the tracepoint rung has only the caller's address, flagged.
	none, user bool
}

func connectTests(t *testing.T) []connectTest {
	v4, v6 := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")
	mapped := netip.MustParseAddr("::ffff:127.0.0.1")
	tcp4, tcp6 := listen(t, "tcp4", "127.0.0.1:0"), listen(t, "tcp6", "[::1]:0")
	closed := listen(t, "tcp4", "127.0.0.1:0")
	closed.Close()
	stream := func(family event.Family, ip netip.Addr, port uint16) event.Net {
		return event.Net{Socket: event.Socket{Family: family, Type: 1, Protocol: 6, RemoteIP: ip, RemotePort: port}}
	}
	dir := t.TempDir()
	path, abstract := filepath.Join(dir, "socket"), "@taskguard test \x01"+filepath.Base(dir)
	long := "/tmp/" + strings.Repeat("l", 107-len("/tmp/"))
	os.Remove(long)
	listen(t, "unix", path)
	listen(t, "unix", abstract)
	listen(t, "unix", long)
	datagrams, err := net.ListenPacket("unixgram", path+"-datagram")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { datagrams.Close() })
	unixNet := func(kind event.SocketType, path string) event.Net {
		return event.Net{Socket: event.Socket{Family: event.Unix, Type: kind}, Path: path}
	}
	udp := stream(event.INET, v4, 9)
	udp.Type, udp.Protocol = 2, 17
	udp6 := stream(event.INET6, v4, 9)
	udp6.Type, udp6.Protocol = 2, 17
	raw := stream(event.INET, v4, 0)
	raw.Type, raw.Protocol = 3, unix.IPPROTO_ICMP
	nowhere := netip.MustParseAddr("192.0.2.1")
	const S, D = unix.SOCK_STREAM, unix.SOCK_DGRAM
	return []connectTest{
		{name: "tcp v4", dial: dial{Family: unix.AF_INET, Type: S, IP: v4, Port: portOf(tcp4)},
			want: stream(event.INET, v4, portOf(tcp4))},
		{name: "tcp v6", dial: dial{Family: unix.AF_INET6, Type: S, IP: v6, Port: portOf(tcp6)},
			want: stream(event.INET6, v6, portOf(tcp6))},
		{name: "tcp v4-mapped", dial: dial{Family: unix.AF_INET6, Type: S, IP: mapped, Port: portOf(tcp4)},
			want: stream(event.INET6, v4, portOf(tcp4))},
		{name: "refused", dial: dial{Family: unix.AF_INET, Type: S, IP: v4, Port: portOf(closed)}, errno: unix.ECONNREFUSED,
			want: stream(event.INET, v4, portOf(closed))},
		{name: "unreachable", dial: dial{Family: unix.AF_INET, Type: S, IP: nowhere, Port: 9, Alone: true},
			errno: unix.ENETUNREACH, want: stream(event.INET, nowhere, 9)},
		{name: "in progress", dial: dial{Family: unix.AF_INET, Type: S, NonBlock: true, IP: v4, Port: portOf(tcp4)},
			errno: unix.EINPROGRESS, want: stream(event.INET, v4, portOf(tcp4))},
		{name: "thread", dial: dial{Family: unix.AF_INET, Type: S, IP: v4, Port: portOf(tcp4), Thread: true},
			want: stream(event.INET, v4, portOf(tcp4))},
		{name: "udp v4", dial: dial{Family: unix.AF_INET, Type: D, IP: v4, Port: 9}, want: udp},
		{name: "udp v4-mapped", dial: dial{Family: unix.AF_INET6, Type: D, IP: mapped, Port: 9}, want: udp6},
		{name: "udp v4 by a v6 socket", dial: dial{Family: unix.AF_INET6, Type: D, IP: v4, Port: 9}, want: udp6},
		{name: "raw", dial: dial{Family: unix.AF_INET, Type: unix.SOCK_RAW, Protocol: unix.IPPROTO_ICMP, IP: v4, Port: 9},
			want: raw},
		{name: "no descriptor", dial: dial{Family: unix.AF_INET, Type: S, IP: v4, Port: 9, Closed: true},
			errno: unix.EBADF, none: true},
		{name: "no address", dial: dial{Family: unix.AF_INET, Type: S, Raw: []byte{}}, errno: unix.EFAULT, none: true},
		{name: "disconnect", dial: dial{Family: unix.AF_INET, Type: D, Raw: make([]byte, 16)}, none: true},
		{name: "wrong family", dial: dial{Family: unix.AF_INET6, Type: S, IP: v4, Port: 9}, errno: unix.EINVAL,
			want: stream(event.INET6, v4, 9), user: true},
		{name: "unix", dial: dial{Family: unix.AF_UNIX, Type: S, Path: path}, want: unixNet(1, path)},
		{name: "unix, longest path", dial: dial{Family: unix.AF_UNIX, Type: S, Path: long}, want: unixNet(1, long)},
		{name: "unix datagram", dial: dial{Family: unix.AF_UNIX, Type: D, Path: path + "-datagram"},
			want: unixNet(2, path+"-datagram")},
		{name: "unix abstract", dial: dial{Family: unix.AF_UNIX, Type: S, Path: abstract}, want: unixNet(1, abstract)},
		{name: "unix, none there", dial: dial{Family: unix.AF_UNIX, Type: S, Path: "/tmp/none"}, errno: unix.ENOENT,
			want: unixNet(1, "/tmp/none"), user: true},
		{name: "unix abstract, none there", dial: dial{Family: unix.AF_UNIX, Type: S, Path: "@none"},
			errno: unix.ECONNREFUSED, want: unixNet(1, "@none"), user: true},
	}
}

// testConnects makes every connect. copies says whether the tracepoint rung has the kernel's copies of addresses.
func (o *observer) testConnects(t *testing.T, copies bool) {
	onTracepoints := strings.HasSuffix(t.Name(), "/tracepoint")
	for _, test := range connectTests(t) {
		t.Run(test.name, func(t *testing.T) {
			cmd := action("connect", asJSON(t, test.dial))
			if test.dial.Alone {
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
			}
			tr := o.trace(t, cmd)
			done := heard[dialled](t, cmd)
			if done.Errno != test.errno {
				t.Fatalf("the kernel said %v, want %v", done.Errno, test.errno)
			}
			events := tr.of(event.NetConnect)
			if test.none {
				if len(events) > 0 {
					t.Errorf("recorded %+v", *events[0].Net)
				}
				return
			}
			if ip := done.Local.Addr().Unmap(); ip.IsValid() && !ip.IsUnspecified() {
				test.want.LocalIP = ip
			}
			if test.dial.Type != unix.SOCK_RAW {
				test.want.LocalPort = done.Local.Port()
			}
			noCopy := test.user || !copies && test.errno != 0 && test.errno != unix.EINPROGRESS
			test.want.Unverified = onTracepoints && noCopy
			want := event.Event{
				Kind: event.NetConnect, Result: int32(test.errno), Process: tr.process("exe"), Net: &test.want,
			}
			if len(events) != 1 {
				t.Fatalf("%d events, want 1", len(events))
			}
			tr.equal(t, want, events[0])
		})
	}
}

func TestConnect(t *testing.T) {
	forRungs(t, []event.Kind{event.NetConnect}, func(t *testing.T, o *observer) { o.testConnects(t, true) })
}

// Without a cgroup hook the address of a connect that succeeded still comes from the kernel.
func TestConnectWithoutCgroupHooks(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	hooked := []event.Kind{event.DNSQuery, event.DNSResponse, event.NetSend}
	cfg := configOf(t, h, append(hooked, event.NetConnect)...)
	cfg.CgroupRoot = ""
	cfg.Rungs = []string{rungTracepoint}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range s.State() {
		if cfg.wants(state.Kind) && state.Healthy == slices.Contains(hooked, state.Kind) {
			t.Errorf("%s: healthy %v, reason %q", state.Kind, state.Healthy, state.Reason)
		}
	}
	o := newObserver(h)
	o.run(t, s)
	t.Run("tracepoint", func(t *testing.T) { o.testConnects(t, false) })
}

// A caller that changes the address while the kernel looks at it hides nothing.
func TestConnectRace(t *testing.T) {
	l := listen(t, "tcp4", "127.0.0.1:0")
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Close()
		}
	}()
	forRungs(t, []event.Kind{event.NetConnect}, func(t *testing.T, o *observer) {
		cmd := action("connect-race", l.Addr().String())
		tr := o.trace(t, cmd)
		connected := heard[int](t, cmd)
		seen, interrupted := 0, 0
		for _, e := range tr.of(event.NetConnect) {
			if e.Result == int32(unix.EINTR) {
				interrupted++
			}
			if e.Result == 0 && e.Net.RemotePort == portOf(l) {
				seen++
				if e.Net.Unverified || e.Net.Family != event.INET || e.Net.RemoteIP.String() != "127.0.0.1" {
					t.Errorf("connect to %+v", *e.Net)
				}
			}
		}
		if connected == 0 || seen != connected {
			t.Errorf("%d connects seen, %d were interrupted, want %d", seen, interrupted, connected)
		}
	})
}

// actConnectRace flips the address's family between AF_INET and AF_NETLINK, which no event tells of, while it connects.
// It says how often the kernel connected.
func actConnectRace(args []string) error {
	to := netip.MustParseAddrPort(args[0])
	raw := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.Addr().As4()}
	raw.Port = to.Port()>>8 | to.Port()<<8
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			flip(&raw.Family, unix.AF_NETLINK)
			flip(&raw.Family, unix.AF_INET)
		}
	}()
	connected := 0
	err := race(2000, func() bool { return connected > 0 }, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), pointer(&raw), unix.SizeofSockaddrInet4)
		if errno == 0 {
			connected++
		}
		return unix.Close(fd)
	})
	if err != nil {
		return err
	}
	stop.Store(true)
	<-done
	return say(connected)
}

// race does something n times, and then until it is enough: on few CPUs the thread that it races with may not run for
// long. There is an end to it even so.
func race(n int, enough func() bool, do func() error) error {
	for i := 0; i < n || i < 20*n && !enough(); i++ {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// flip writes where the kernel reads at the same time: a race that is wanted, out of the race detector's sight. The
// value stays long enough to be seen.
//
//go:norace
//go:noinline
func flip[T any](at *T, v T) {
	*at = v
	for range 500 {
		runtime.KeepAlive(at)
	}
	runtime.Gosched() // without signals nothing else takes a thread from this one, on one CPU or for the garbage collector
}
