package audit

import (
	"math/bits"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// useSocket reads the calls of sockets. What a socket is, the records tell only when it is made; afterwards they have
// the address that the kernel read or wrote, if any.
func (d *decoder) useSocket() verdict {
	n, args := &d.net, &d.sys.args
	d.event.Net = n
	switch d.call.kind {
	case event.NetSocket:
		return d.makeSocket()
	case event.NetListen:
		n.Backlog = uint32(args[1])
		return decoded
	case event.NetAccept:
		if d.event.Result == int32(unix.EAGAIN) || d.addressed && !wantedFamily(n.Family) {
			return ignored
		}
		return decoded
	}
	// A call that failed before it read an address is no attempt to go anywhere.
	switch {
	case !d.addressed && (d.call.kind == event.NetSend || !d.sys.succeeded):
		return ignored
	case !d.addressed:
		return incomplete
	case d.call.kind == event.NetSend && n.Family != event.INET && n.Family != event.INET6:
		return ignored
	case !wantedFamily(n.Family) && !(d.call.kind == event.NetBind && n.Family == event.Packet):
		return ignored
	case d.call.kind == event.NetBind:
		n.LocalIP, n.LocalPort = n.RemoteIP, n.RemotePort
		n.RemoteIP, n.RemotePort = netip.Addr{}, 0
	}
	return decoded
}

func wantedFamily(f event.Family) bool { return f == event.Unix || f == event.INET || f == event.INET6 }

// makeSocket reads socket(2).
func (d *decoder) makeSocket() verdict {
	const netlink, typeMask = 16, 0xf // SOCK_TYPE_MASK
	n := &d.net
	n.Family = event.Family(d.sys.args[0])
	n.Type = event.SocketType(d.sys.args[1] & typeMask)
	if uint32(d.sys.args[0]) == uint32(event.Unix) || uint32(d.sys.args[0]) == netlink {
		return ignored
	}
	n.Protocol = uint16(d.sys.args[2])
	if n.Family == event.Packet { // in network order
		n.Protocol = bits.ReverseBytes16(n.Protocol)
	}
	return decoded
}
