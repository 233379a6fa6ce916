package audit

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/taskguard/taskguard/collector/event"
)

// readAddress fills d.net from a struct sockaddr as the kernel copied it from its caller. It reports whether there
// was one.
func (d *decoder) readAddress(sa []byte) bool {
	if len(sa) < 2 {
		return false
	}
	d.net.Family = event.Family(binary.LittleEndian.Uint16(sa))
	switch d.net.Family {
	case event.Unix:
		d.net.Path = unixPath(sa[2:])
	case event.INET:
		if len(sa) < 8 {
			return false
		}
		d.net.RemotePort = binary.BigEndian.Uint16(sa[2:])
		d.net.RemoteIP = netip.AddrFrom4([4]byte(sa[4:8]))
	case event.INET6:
		if len(sa) < 24 {
			return false
		}
		d.net.RemotePort = binary.BigEndian.Uint16(sa[2:])
		d.net.RemoteIP = netip.AddrFrom16([16]byte(sa[8:24])).Unmap()
	}
	return true
}

// unixPath reads sun_path: a path ends at its NUL byte; a name in the abstract namespace starts with one and ends
// with the address.
func unixPath(path []byte) string {
	if len(path) > 1 && path[0] == 0 {
		return "@" + string(path[1:])
	}
	path, _, _ = bytes.Cut(path, []byte{0})
	return string(path)
}
