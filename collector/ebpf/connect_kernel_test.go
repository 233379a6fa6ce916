package ebpf

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
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
	at := fd
	if d.Closed {
		at = 999
	}
	var done dialled
	done.Errno, _ = unix.Connect(at, d.sockaddr()).(unix.Errno)
	if local, err := unix.Getsockname(fd); err == nil {
		done.Local = addrPort(local)
	}
	return say(done)
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
	unverified := func(n event.Net) event.Net { n.Unverified = true; return n }
	udp := stream(event.INET, v4, 9)
	udp.Type, udp.Protocol = 2, 17
	udp6 := stream(event.INET6, v4, 9)
	udp6.Type, udp6.Protocol = 2, 17
	const S, D = unix.SOCK_STREAM, unix.SOCK_DGRAM
	return []connectTest{
		{"tcp v4", dial{Family: unix.AF_INET, Type: S, IP: v4, Port: portOf(tcp4)}, 0,
			stream(event.INET, v4, portOf(tcp4))},
		{"tcp v6", dial{Family: unix.AF_INET6, Type: S, IP: v6, Port: portOf(tcp6)}, 0,
			stream(event.INET6, v6, portOf(tcp6))},
		{"tcp v4-mapped", dial{Family: unix.AF_INET6, Type: S, IP: mapped, Port: portOf(tcp4)}, 0,
			stream(event.INET6, v4, portOf(tcp4))},
		{"refused", dial{Family: unix.AF_INET, Type: S, IP: v4, Port: portOf(closed)}, unix.ECONNREFUSED,
			stream(event.INET, v4, portOf(closed))},
		{"in progress", dial{Family: unix.AF_INET, Type: S, NonBlock: true, IP: v4, Port: portOf(tcp4)}, unix.EINPROGRESS,
			stream(event.INET, v4, portOf(tcp4))},
		{"udp v4", dial{Family: unix.AF_INET, Type: D, IP: v4, Port: 9}, 0, udp},
		{"udp v4-mapped", dial{Family: unix.AF_INET6, Type: D, IP: mapped, Port: 9}, 0, udp6},
		{"no descriptor", dial{Family: unix.AF_INET, Type: S, IP: v4, Port: 9, Closed: true}, unix.EBADF,
			unverified(event.Net{Socket: event.Socket{Family: event.INET, RemoteIP: v4, RemotePort: 9}})},
		{"wrong family", dial{Family: unix.AF_INET6, Type: S, IP: v4, Port: 9}, unix.EINVAL,
			unverified(stream(event.INET, v4, 9))},
		{"unix", dial{Family: unix.AF_UNIX, Type: S, Path: path}, 0, unixNet(1, path)},
		{"unix, longest path", dial{Family: unix.AF_UNIX, Type: S, Path: long}, 0, unixNet(1, long)},
		{"unix datagram", dial{Family: unix.AF_UNIX, Type: D, Path: path + "-datagram"}, 0, unixNet(2, path+"-datagram")},
		{"unix abstract", dial{Family: unix.AF_UNIX, Type: S, Path: abstract}, 0, unixNet(1, abstract)},
		{"unix, none there", dial{Family: unix.AF_UNIX, Type: S, Path: "/tmp/none"}, unix.ENOENT,
			unverified(unixNet(1, "/tmp/none"))},
		{"unix abstract, none there", dial{Family: unix.AF_UNIX, Type: S, Path: "@none"}, unix.ECONNREFUSED,
			unverified(unixNet(1, "@none"))},
	}
}

func (o *observer) testConnects(t *testing.T, unverified func(connectTest) bool) {
	for _, test := range connectTests(t) {
		t.Run(test.name, func(t *testing.T) {
			what, err := json.Marshal(test.dial)
			if err != nil {
				t.Fatal(err)
			}
			cmd := action("connect", string(what))
			tr := o.trace(t, cmd)
			done := heard[dialled](t, cmd)
			if done.Errno != test.errno {
				t.Fatalf("the kernel said %v, want %v", done.Errno, test.errno)
			}
			if ip := done.Local.Addr().Unmap(); ip.IsValid() && !ip.IsUnspecified() {
				test.want.LocalIP = ip
			}
			test.want.LocalPort = done.Local.Port()
			if test.dial.Closed {
				test.want.LocalIP, test.want.LocalPort = netip.Addr{}, 0
			}
			test.want.Unverified = test.want.Unverified || unverified(test)
			want := event.Event{
				Kind: event.NetConnect, Result: int32(test.errno), Process: tr.process("exe"), Net: &test.want,
			}
			events := tr.of(event.NetConnect)
			if len(events) != 1 {
				t.Fatalf("%d events, want 1", len(events))
			}
			tr.equal(t, want, events[0])
		})
	}
}

func TestConnect(t *testing.T) {
	observe(t).testConnects(t, func(connectTest) bool { return false })
}

// Without a cgroup hook the address of a connect that succeeded still comes from the kernel.
func TestConnectWithoutCgroupHooks(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	cfg := configFor(t, h)
	cfg.CgroupRoot = ""
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range s.State() {
		if dns := state.Kind == event.DNSQuery || state.Kind == event.DNSResponse; state.Healthy == dns {
			t.Errorf("%s: healthy %v, reason %q", state.Kind, state.Healthy, state.Reason)
		}
	}
	o := newObserver(h)
	o.run(t, s)
	o.testConnects(t, func(test connectTest) bool { return test.errno != 0 && test.errno != unix.EINPROGRESS })
}

// A caller that changes the address while the kernel looks at it hides nothing.
func TestConnectRace(t *testing.T) {
	o := observe(t)
	l := listen(t, "tcp4", "127.0.0.1:0")
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Close()
		}
	}()
	cmd := action("connect-race", l.Addr().String())
	tr := o.trace(t, cmd)
	connected := heard[int](t, cmd)
	seen := 0
	for _, e := range tr.of(event.NetConnect) {
		if e.Result == 0 && e.Net.RemotePort == portOf(l) {
			seen++
			if e.Net.Unverified || e.Net.Family != event.INET || e.Net.RemoteIP.String() != "127.0.0.1" {
				t.Errorf("connect to %+v", *e.Net)
			}
		}
	}
	if connected == 0 || seen != connected {
		t.Errorf("%d connects seen, want %d", seen, connected)
	}
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
	for range 2000 {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), pointer(&raw), unix.SizeofSockaddrInet4)
		if errno == 0 {
			connected++
		}
		unix.Close(fd)
	}
	stop.Store(true)
	<-done
	return say(connected)
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
}
