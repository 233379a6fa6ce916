package ebpf

import (
	"fmt"
	"net/netip"

	"github.com/taskguard/taskguard/collector/event"
)

// netActivity decodes the net.* kinds.
func (d *decoder) netActivity(record []byte) error {
	r, rest, err := take[commonNetRecord](record)
	if err != nil {
		return err
	}
	s := sections{rest: rest}
	path := s.text(r.Path)
	if s.short {
		return fmt.Errorf("path of %d bytes in %d", r.Path.Len, len(rest))
	}
	d.net = event.Net{
		Socket: socketOf(&r.Socket), Backlog: r.Backlog,
		Unverified: path.unverified() || commonRecordFlag(r.Header.Flags)&commonRecordFlagFLAG_UNVERIFIED != 0,
	}
	d.net.Path = d.unixPath(path.bytes)
	d.event.Net = &d.net
	return nil
}

func (d *decoder) messages(record []byte, emit func(*event.Event)) error {
	r, rest, err := take[commonDnsRecord](record)
	if err != nil {
		return fmt.Errorf("decode dns record: %w", err)
	}
	if len(rest) < int(r.PayloadLen) {
		return fmt.Errorf("decode dns record: payload of %d bytes in %d", r.PayloadLen, len(rest))
	}
	sock := socketOf(&r.Socket)
	var wasCut event.Fields
	if commonRecordFlag(r.Header.Flags)&commonRecordFlagFLAG_PAYLOAD_CUT != 0 {
		wasCut = event.FieldPayload
	}
	rest = rest[:r.PayloadLen]
	for first := true; first || len(rest) > 0; first = false {
		payload, missing := rest, false
		rest = nil
		if sock.Type == event.Stream {
			payload, rest, missing = splitMessage(payload)
		}
		m := d.dns.parse(payload, &d.strings)
		m.Socket, m.Truncated = sock, wasCut
		if missing {
			m.Truncated |= event.FieldPayload
		}
		// What was cut is not the sender's fault.
		m.Malformed = m.Malformed && m.Truncated == 0
		d.event.DNS = m
		emit(&d.event)
	}
	return nil
}

// socketOf normalises addresses: an IPv4-mapped IPv6 address is shown as IPv4.
func socketOf(i *commonSocketInfo) event.Socket {
	s := event.Socket{
		Family: event.Family(i.Family), Type: event.SocketType(i.Type), Protocol: uint8(i.Protocol),
		RemotePort: i.RemotePort, LocalPort: i.LocalPort,
	}
	switch s.Family {
	case event.INET:
		s.RemoteIP, s.LocalIP = netip.AddrFrom4([4]byte(i.Remote[:4])), netip.AddrFrom4([4]byte(i.Local[:4]))
	case event.INET6:
		s.RemoteIP, s.LocalIP = netip.AddrFrom16(i.Remote).Unmap(), netip.AddrFrom16(i.Local).Unmap()
	}
	if s.LocalIP.IsValid() && s.LocalIP.IsUnspecified() {
		s.LocalIP = netip.Addr{}
	}
	return s
}

// unixPath shows a name of the abstract namespace with "@" for its leading NUL byte, as ss(8) does.
func (d *decoder) unixPath(name []byte) string {
	if len(name) == 0 {
		return ""
	}
	if name[0] != 0 {
		return d.strings.get(cstring(name))
	}
	d.path = append(append(d.path[:0], '@'), name[1:]...)
	return d.strings.get(d.path)
}
