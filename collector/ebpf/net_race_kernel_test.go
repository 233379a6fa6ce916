package ebpf

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// raced says how often the kernel took each of two ports.
type raced struct{ Bound, Received map[uint16]int }

// A caller that changes the address of bind(2) and sendto(2) while the kernel looks at it is told of as the kernel saw
// it.
func TestNetRace(t *testing.T) {
	forRungs(t, []event.Kind{event.NetBind, event.NetSend}, func(t *testing.T, o *observer) {
		cmd := action("net-race")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		tr := o.trace(t, cmd)
		want := heard[raced](t, cmd)
		bound, sent := map[uint16]int{}, map[uint16]int{}
		for _, e := range tr.events {
			switch {
			case e.Net == nil || e.Result != 0:
			case e.Net.Unverified:
				t.Fatalf("unverified: %+v", *e.Net)
			case e.Kind == event.NetBind && e.Net.LocalIP == netip.AddrFrom4([4]byte{127, 0, 0, 1}):
				bound[e.Net.LocalPort]++
			case e.Kind == event.NetSend:
				sent[e.Net.RemotePort]++
			}
		}
		for _, port := range []uint16{racePort, otherPort} {
			if want.Bound[port] == 0 || bound[port] != want.Bound[port] {
				t.Errorf("%d binds to port %d seen, want %d", bound[port], port, want.Bound[port])
			}
			if want.Received[port] == 0 || sent[port] != want.Received[port] {
				t.Errorf("%d datagrams to port %d seen, want %d", sent[port], port, want.Received[port])
			}
		}
	})
}

const racePort, otherPort = 0x0707, 0x0808 // the same in either order of bytes

// actNetRace binds sockets and sends while another thread changes the port, and says what the kernel made of it.
func actNetRace([]string) error {
	if err := loopbackUp(); err != nil {
		return err
	}
	raw := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: racePort, Addr: [4]byte{127, 0, 0, 1}}
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			flip(&raw.Port, otherPort)
			flip(&raw.Port, racePort)
		}
	}()
	r := raced{Bound: map[uint16]int{}, Received: map[uint16]int{}}
	both := func(counts map[uint16]int) func() bool {
		return func() bool { return counts[racePort] > 0 && counts[otherPort] > 0 }
	}
	err := race(1000, both(r.Bound), func() error {
		port, err := bindTo(&raw)
		r.Bound[port]++
		return err
	})
	if err != nil {
		return err
	}
	var receivers []unix.PollFd
	ports := []uint16{racePort, otherPort}
	for _, port := range ports {
		fd, err := unix.Socket(unix.AF_INET, datagram|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		still := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: [4]byte{127, 0, 0, 2}}
		if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), pointer(&still), unix.SizeofSockaddrInet4); errno != 0 {
			return errno
		}
		receivers = append(receivers, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	raw.Addr[3] = 2
	sender, err := unix.Socket(unix.AF_INET, datagram, 0)
	if err != nil {
		return err
	}
	data := []byte("x")
	err = race(1000, both(r.Received), func() error {
		_, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(sender), pointer(&data[0]), 1, 0, pointer(&raw),
			unix.SizeofSockaddrInet4)
		if errno != 0 {
			return errno
		}
		// The kernel may deliver it later.
		if n, err := unix.Poll(receivers, 10_000); n != 1 {
			return fmt.Errorf("wait for a datagram: %d came, error %v", n, err)
		}
		for i, port := range ports {
			if n, _, err := unix.Recvfrom(int(receivers[i].Fd), data, 0); err == nil && n == 1 {
				r.Received[port]++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	stop.Store(true)
	<-done
	return say(r)
}

// bindTo binds a socket and returns the port that it then has.
func bindTo(raw *unix.RawSockaddrInet4) (uint16, error) {
	fd, err := unix.Socket(unix.AF_INET, datagram, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), pointer(raw), unix.SizeofSockaddrInet4); errno != 0 {
		return 0, errno
	}
	local, err := unix.Getsockname(fd)
	return addrPort(local).Port(), err
}
