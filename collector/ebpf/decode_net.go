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
	if k := d.event.Kind; k == event.NetBind || k == event.NetListen {
		d.net.LocalIP = localIP(&r.Socket) // 0.0.0.0 and :: are addresses too
	}
	d.event.Net = &d.net
	return nil
}

// dupCalls are numbered as in bpf/dup.h.
var dupCalls = [...]string{"dup", "dup2", "dup3", "fcntl"}

// duplicate decodes process.dup.
func (d *decoder) duplicate(record []byte) error {
	r, rest, err := take[commonDupRecord](record)
	if err != nil {
		return err
	}
	s := sections{rest: rest}
	path := s.text(r.Path)
	if s.short {
		return fmt.Errorf("path of %d bytes in %d", r.Path.Len, len(rest))
	}
	if int(r.Header.Call) >= len(dupCalls) {
		return fmt.Errorf("unknown call %d", r.Header.Call)
	}
	d.dup = event.Dup{
		Call: dupCalls[r.Header.Call], OldFD: r.OldFd, NewFD: r.NewFd,
		Socket: socketOf(&r.Socket), Path: d.unixPath(path.bytes),
	}
	d.event.Dup = &d.dup
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
		Family: event.Family(i.Family), Type: event.SocketType(i.Type), Protocol: i.Protocol,
		RemotePort: i.RemotePort, LocalPort: i.LocalPort,
	}
	if ip := ipOf(s.Family, i.Remote); s.RemotePort != 0 || ip.IsValid() && !ip.IsUnspecified() {
		s.RemoteIP = ip
	}
	if ip := localIP(i); ip.IsValid() && !ip.IsUnspecified() {
		s.LocalIP = ip
	}
	return s
}

func localIP(i *commonSocketInfo) netip.Addr { return ipOf(event.Family(i.Family), i.Local) }

func ipOf(family event.Family, ip [16]byte) netip.Addr {
	switch family {
	case event.INET:
		return netip.AddrFrom4([4]byte(ip[:4]))
	case event.INET6:
		return netip.AddrFrom16(ip).Unmap()
	}
	return netip.Addr{}
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
