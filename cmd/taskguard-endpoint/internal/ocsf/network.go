package ocsf

import (
	"fmt"
	"net/netip"

	"github.com/taskguard/taskguard/collector/event"
)

// Directions of the schema, and its version for what is neither IPv4 nor IPv6.
const (
	directionUnknown  = 0
	directionInbound  = 1
	directionOutbound = 2

	versionOther = 99
)

// refused is ECONNREFUSED.
const refused = 111

func (m *mapper) network() {
	n := or(m.e.Net)
	own, peer := m.own(&n.Socket), peerOf(&n.Socket, n.Path)
	m.Src, m.Dst = own, peer
	m.ConnectionInfo = connection(&n.Socket, directionOutbound)
	switch m.e.Kind {
	case event.NetConnect:
		m.connect()
	case event.NetSend:
		m.as(networkActivity, 6, "Traffic")
	case event.NetAccept:
		m.as(networkActivity, 1, "Open")
		m.inbound(own, peer)
	case event.NetBind, event.NetListen:
		m.asOther(networkActivity)
		m.inbound(own, &Endpoint{Name: unknown})
		if n.Path != "" {
			own.Name = n.Path
		}
	default:
		m.asOther(networkActivity)
		m.ConnectionInfo.DirectionID = directionUnknown
	}
}

func (m *mapper) connect() {
	switch m.e.Result {
	case 0, inProgress:
		m.as(networkActivity, 1, "Open")
	case refused:
		m.as(networkActivity, 5, "Refuse")
	default:
		m.as(networkActivity, 4, "Fail")
	}
}

// inbound turns the sides around: the peer asks.
func (m *mapper) inbound(own, peer *Endpoint) {
	m.Src, m.Dst = peer, own
	m.ConnectionInfo.DirectionID = directionInbound
}

func (m *mapper) dns() {
	d := or(m.e.DNS)
	m.Src, m.Dst = m.own(&d.Socket), peerOf(&d.Socket, "")
	m.ConnectionInfo = connection(&d.Socket, directionOutbound)
	m.as(dnsActivity, 1, "Query")
	if len(d.Questions) > 0 {
		q := d.Questions[0]
		m.Query = &DNSQuery{Hostname: q.Name, Type: q.Type, PacketUID: int32(d.ID)}
	}
	if m.e.Kind != event.DNSResponse {
		return
	}
	m.as(dnsActivity, 2, "Response")
	m.rcode(d.Rcode)
	for _, a := range d.Answers {
		if a.Data != "" {
			m.Answers = append(m.Answers, DNSAnswer{RData: a.Data, Type: a.Type, TTL: int64(a.TTL), PacketUID: int32(d.ID)})
		}
	}
}

// rcode sets a response code. The schema has those of RFC 1035 and RFC 2136 by their numbers.
func (m *mapper) rcode(code uint8) {
	names := [...]string{
		"NoError", "FormError", "ServError", "NXDomain", "NotImp", "Refused", "YXDomain", "YXRRSet", "NXRRSet", "NotAuth",
		"NotZone",
	}
	id := int32(other)
	if int(code) < len(names) {
		id, m.Rcode = int32(code), names[code]
	} else {
		m.Rcode = fmt.Sprintf("RCODE%d", code)
	}
	m.RcodeID = &id
}

// own is this host's side of a socket.
func (m *mapper) own(s *event.Socket) *Endpoint {
	e := &Endpoint{InstanceUID: m.host.InstanceID, Hostname: m.host.Hostname}
	e.address(s.LocalIP, s.LocalPort)
	return e.named("")
}

// peerOf is the other side of a socket.
func peerOf(s *event.Socket, path string) *Endpoint {
	e := &Endpoint{}
	e.address(s.RemoteIP, s.RemotePort)
	return e.named(path)
}

func (e *Endpoint) address(ip netip.Addr, port uint16) {
	if ip.IsValid() {
		e.IP = ip.WithZone("").String()
	}
	e.Port = int32(port)
}

// named gives the endpoint a name; one that nothing else identifies is unknown.
func (e *Endpoint) named(name string) *Endpoint {
	e.Name = name
	if e.Name == "" && e.IP == "" && e.Hostname == "" && e.InstanceUID == "" {
		e.Name = unknown
	}
	return e
}

func connection(s *event.Socket, direction int32) *ConnectionInfo {
	c := &ConnectionInfo{DirectionID: direction, ProtocolVerID: versionOther, ProtocolVer: s.Family.String()}
	switch s.Family {
	case event.INET:
		c.ProtocolVerID, c.ProtocolVer = 4, ""
	case event.INET6:
		c.ProtocolVerID, c.ProtocolVer = 6, ""
	}
	if c.ProtocolVer == "" { // of other families the number is not IANA's
		c.ProtocolNum = int32(s.Protocol)
	}
	return c
}
