package ebpf

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// asked makes a query for a name.
func asked(id uint16, name string, t dnsmessage.Type) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, RecursionDesired: true})
	must(b.StartQuestions())
	must(b.Question(dnsmessage.Question{
		Name: dnsmessage.MustNewName(name), Type: t, Class: dnsmessage.ClassINET,
	}))
	return mustValue(b.Finish())
}

// answered makes the server's answer to a query: an alias and an address, or NXDOMAIN for a name that begins with x.
func answered(query []byte) []byte {
	var m dnsmessage.Message
	must(m.Unpack(query))
	m.Response, m.RecursionAvailable = true, true
	q := m.Questions[0]
	if q.Name.Data[0] == 'x' {
		m.RCode = dnsmessage.RCodeNameError
		return mustValue(m.Pack())
	}
	alias := dnsmessage.MustNewName("alias.example.")
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
		Body:   &dnsmessage.CNAMEResource{CNAME: alias},
	}, {
		Header: dnsmessage.ResourceHeader{Name: alias, Class: q.Class, TTL: 30},
		Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}},
	}}
	if q.Type == dnsmessage.TypeAAAA {
		m.Answers[1].Body = &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("2001:db8::7").As16()}
	}
	if q.Type == dnsmessage.TypeTXT { // a long one, the longer the later its name's first letter
		m.Answers = nil
		for range q.Name.Data[0] - 'a' {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 10},
				Body:   &dnsmessage.TXTResource{TXT: []string{string(make([]byte, 200))}},
			})
		}
	}
	return mustValue(m.Pack())
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func mustValue[T any](v T, err error) T {
	must(err)
	return v
}

// exchange is what the DNS client is to do.
type exchange struct {
	Network string // of net.Dial
	Server  string
	Connect bool // a UDP socket is connected; else each datagram is sent to the server
	Queries [][]byte
}

// actDNS serves DNS in a network namespace of its own and runs the client there: CGROUP EXCHANGE.
func actDNS(args []string) error {
	if err := loopbackUp(); err != nil {
		return err
	}
	for _, ip := range []string{"127.0.0.1", "[::1]"} {
		packets, err := net.ListenPacket("udp", ip+":53")
		if err != nil {
			return err
		}
		go serveDatagrams(packets)
		streams, err := net.Listen("tcp", ip+":53")
		if err != nil {
			return err
		}
		go serveStreams(streams)
	}
	client := action("dns-client", args...)
	client.Stdout, client.Stderr = os.Stdout, os.Stderr
	return client.Run()
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
}

func serveDatagrams(packets net.PacketConn) {
	buf := make([]byte, 512)
	for {
		n, from, err := packets.ReadFrom(buf)
		if err != nil {
			return
		}
		packets.WriteTo(answered(buf[:n]), from)
	}
}

func serveStreams(streams net.Listener) {
	for {
		conn, err := streams.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			for {
				query, err := readMessage(conn)
				if err != nil {
					return
				}
				conn.Write(framed(answered(query)))
			}
		}()
	}
}

func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, message)
	return message, err
}

func framed(messages ...[]byte) (segment []byte) {
	for _, m := range messages {
		segment = binary.BigEndian.AppendUint16(segment, uint16(len(m)))
		segment = append(segment, m...)
	}
	return segment
}

// actDNSClient joins a cgroup, asks, and says its own pid and its socket's address.
func actDNSClient(args []string) error {
	if err := os.WriteFile(filepath.Join(args[0], "cgroup.procs"), []byte("0"), 0); err != nil {
		return err
	}
	var x exchange
	if err := json.Unmarshal([]byte(args[1]), &x); err != nil {
		return err
	}
	local, err := x.run()
	if err != nil {
		return err
	}
	return say(client{PID: os.Getpid(), Local: local})
}

type client struct {
	PID   int
	Local netip.AddrPort
}

func (x *exchange) run() (local netip.AddrPort, err error) {
	var conn net.Conn
	switch {
	case x.Network == "tcp":
		conn, err = net.Dial("tcp", x.Server)
	case x.Connect:
		conn, err = net.Dial("udp", x.Server)
	default:
		return x.datagrams()
	}
	if err != nil {
		return local, err
	}
	defer conn.Close()
	if x.Network == "tcp" {
		if _, err := conn.Write(framed(x.Queries...)); err != nil {
			return local, err
		}
		for range x.Queries {
			if _, err := readMessage(conn); err != nil {
				return local, err
			}
		}
		return netip.ParseAddrPort(conn.LocalAddr().String())
	}
	for _, query := range x.Queries {
		if _, err := conn.Write(query); err != nil {
			return local, err
		}
		if _, err := conn.Read(make([]byte, 65536)); err != nil {
			return local, err
		}
	}
	return netip.ParseAddrPort(conn.LocalAddr().String())
}

func (x *exchange) datagrams() (local netip.AddrPort, err error) {
	server := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(x.Server))
	conn, err := net.ListenPacket("udp", netip.AddrPortFrom(server.AddrPort().Addr(), 0).String())
	if err != nil {
		return local, err
	}
	defer conn.Close()
	for _, query := range x.Queries {
		if _, err := conn.WriteTo(query, server); err != nil {
			return local, err
		}
		if _, _, err := conn.ReadFrom(make([]byte, 65536)); err != nil {
			return local, err
		}
	}
	return netip.ParseAddrPort(conn.LocalAddr().String())
}

func TestDNS(t *testing.T) {
	o := observe(t, event.DNSQuery, event.DNSResponse)
	a := asked(7, "www.example.com.", dnsmessage.TypeA)
	aaaa := asked(8, "www.example.com.", dnsmessage.TypeAAAA)
	none := asked(9, "x.example.", dnsmessage.TypeA)
	long := asked(10, "l.example.", dnsmessage.TypeTXT)
	longer := asked(11, "w.example.", dnsmessage.TypeTXT)
	v4, v6 := "127.0.0.1:53", "[::1]:53"
	for _, test := range []struct {
		name     string
		exchange exchange
	}{
		{"udp v4", exchange{"udp", v4, true, [][]byte{a, none}}},
		{"udp v6", exchange{"udp", v6, true, [][]byte{aaaa}}},
		{"udp v4, not connected", exchange{"udp", v4, false, [][]byte{a}}},
		{"udp v6, not connected", exchange{"udp", v6, false, [][]byte{a}}},
		{"udp, long", exchange{"udp", v4, true, [][]byte{long}}},
		{"udp, too long", exchange{"udp", v4, true, [][]byte{longer}}},
		{"tcp v4", exchange{"tcp", v4, true, [][]byte{a}}},
		{"tcp v4, too long", exchange{"tcp", v4, true, [][]byte{longer}}},
		{"tcp v6, two in one segment", exchange{"tcp", v6, true, [][]byte{a, aaaa}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			o.testDNS(t, test.exchange)
		})
	}
}

func (o *observer) testDNS(t *testing.T, x exchange) {
	dir, cgroup := o.hierarchy.newCgroup(t)
	what, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	cmd := action("dns", dir, string(what))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	tr := o.trace(t, cmd)
	asker := heard[client](t, cmd)
	start := tr.events[slices.IndexFunc(tr.events, func(e event.Event) bool {
		return e.Kind == event.ProcessFork && e.Process.PID == uint32(asker.PID)
	})].Process.Start

	server := netip.MustParseAddrPort(x.Server)
	socket := event.Socket{
		Family: event.INET, Type: event.Datagram, Protocol: unix.IPPROTO_UDP,
		RemoteIP: server.Addr(), RemotePort: 53, LocalIP: asker.Local.Addr(), LocalPort: asker.Local.Port(),
	}
	if server.Addr().Is6() {
		socket.Family = event.INET6
	}
	if x.Network == "tcp" {
		socket.Type, socket.Protocol = event.Stream, unix.IPPROTO_TCP
	}
	for kind, messages := range map[event.Kind][][]byte{
		event.DNSQuery: x.Queries, event.DNSResponse: answersTo(x.Queries),
	} {
		got := tr.of(kind)
		if len(got) != len(messages) {
			t.Errorf("%d events %s, want %d", len(got), kind, len(messages))
			continue
		}
		for i, message := range messages {
			// The server is not the process, in whose sockets' names the same packets arrive.
			p := &event.Process{PID: uint32(asker.PID), Name: "exe", Start: start / tick * tick, Cgroup: cgroup}
			want := wantDNS(message)
			want.Socket = socket
			if most := payloadMax - len(framed(nil))*int(2-socket.Type); len(message) > most {
				want.Payload, want.Truncated = message[:most], event.FieldPayload
				want.Answers = want.Answers[:len(got[i].DNS.Answers)] // as many as are whole
			}
			tr.equal(t, event.Event{Kind: kind, Process: p, DNS: want}, got[i])
		}
	}
}

// payloadMax is how much of a packet's payload is kept; over TCP it holds the message's length too.
const payloadMax = 4096

func answersTo(queries [][]byte) (answers [][]byte) {
	for _, query := range queries {
		answers = append(answers, answered(query))
	}
	return answers
}

// wantDNS is what is to be said of a message, by another parser of dnsmessage.
func wantDNS(message []byte) *event.DNS {
	var m dnsmessage.Message
	must(m.Unpack(message))
	d := &event.DNS{ID: m.ID, Rcode: uint8(m.RCode), Payload: message}
	for _, q := range m.Questions {
		d.Questions = append(d.Questions, event.Question{Name: undotted(q.Name), Type: q.Type.String()[len("Type"):]})
	}
	for _, r := range m.Answers {
		a := event.Answer{Name: undotted(r.Header.Name), Type: r.Header.Type.String()[len("Type"):], TTL: r.Header.TTL}
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			a.Data = netip.AddrFrom4(body.A).String()
		case *dnsmessage.AAAAResource:
			a.Data = netip.AddrFrom16(body.AAAA).String()
		case *dnsmessage.CNAMEResource:
			a.Data = undotted(body.CNAME)
		}
		d.Answers = append(d.Answers, a)
	}
	return d
}

func undotted(n dnsmessage.Name) string { return n.String()[:n.Length-1] }
