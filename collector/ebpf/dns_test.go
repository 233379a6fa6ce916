package ebpf

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/taskguard/taskguard/collector/event"
)

// built makes a message by the library's builder, and what is to be said of it.
func built(t testing.TB, id uint16, names ...string) ([]byte, event.DNS) {
	t.Helper()
	want := event.DNS{ID: id, Rcode: 3}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, Response: true, RCode: dnsmessage.RCodeNameError})
	b.EnableCompression()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(b.StartQuestions())
	fqdn := func(name string) dnsmessage.Name { return dnsmessage.MustNewName(name + ".") }
	for _, name := range names {
		check(b.Question(dnsmessage.Question{Name: fqdn(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}))
		if len(want.Questions) < maxQuestions {
			want.Questions = append(want.Questions, event.Question{Name: name, Type: "A"})
		}
	}
	check(b.StartAnswers())
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, name := range names {
		h := func(ttl uint32) dnsmessage.ResourceHeader {
			return dnsmessage.ResourceHeader{Name: fqdn(name), Class: dnsmessage.ClassINET, TTL: ttl}
		}
		check(b.AResource(h(1), dnsmessage.AResource{A: v4.As4()}))
		check(b.AAAAResource(h(2), dnsmessage.AAAAResource{AAAA: v6.As16()}))
		check(b.CNAMEResource(h(3), dnsmessage.CNAMEResource{CNAME: fqdn(name)}))
		check(b.NSResource(h(4), dnsmessage.NSResource{NS: fqdn(name)}))
		check(b.PTRResource(h(5), dnsmessage.PTRResource{PTR: fqdn(name)}))
		check(b.MXResource(h(6), dnsmessage.MXResource{MX: fqdn(name)}))
		check(b.SRVResource(h(7), dnsmessage.SRVResource{Target: fqdn(name)}))
		check(b.TXTResource(h(8), dnsmessage.TXTResource{TXT: []string{"x"}}))
		check(b.UnknownResource(h(9), dnsmessage.UnknownResource{Type: 65, Data: []byte("x")}))
		check(b.UnknownResource(h(10), dnsmessage.UnknownResource{Type: 999}))
		answer := func(kind string, ttl uint32, data string) {
			if len(want.Answers) < maxAnswers {
				want.Answers = append(want.Answers, event.Answer{Name: name, Type: kind, TTL: ttl, Data: data})
			}
		}
		answer("A", 1, v4.String())
		answer("AAAA", 2, v6.String())
		for i, kind := range []string{"CNAME", "NS", "PTR", "MX", "SRV"} {
			answer(kind, uint32(3+i), name)
		}
		answer("TXT", 8, "")
		answer("HTTPS", 9, "")
		answer("TYPE999", 10, "")
	}
	payload, err := b.Finish()
	check(err)
	want.Payload = payload
	return payload, want
}

// Law: what the builder puts into a message comes back, up to the limits of what an event tells.
func TestDNSLaw(t *testing.T) {
	for _, names := range [][]string{
		nil, {"example.com"}, {"a", "b", "c"}, {strings.Repeat("long.", 50) + "x"},
		strings.Split(strings.Repeat("many.example.com ", 11)+"z", " "),
	} {
		payload, want := built(t, 7, names...)
		var d dnsScratch
		if diff := cmp.Diff(&want, d.parse(payload, new(interner)), compareAddresses); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
}

// A message of the root's name, and names with bytes that are no letters.
func TestDNSNames(t *testing.T) {
	for name, want := range map[string]string{".": ".", "a\\b.": "a\\b", "é\x01 .": "é\x01 "} {
		var d dnsScratch
		got := d.parse(query(t, name), new(interner))
		if len(got.Questions) != 1 || got.Questions[0].Name != want || got.Malformed {
			t.Errorf("%q: %+v", name, *got)
		}
	}
}

func query(t testing.TB, name string) []byte {
	t.Helper()
	n, err := dnsmessage.NewName(name)
	if err != nil {
		t.Fatal(err)
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 5}, Questions: []dnsmessage.Question{{
		Name: n, Type: dnsmessage.TypeAAAA, Class: dnsmessage.ClassINET,
	}}}
	payload, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// Of a message that was cut at any place, what is left is told, and that it is not all.
func TestDNSCutAnywhere(t *testing.T) {
	payload, want := built(t, 7, "example.com")
	for n := range len(payload) {
		var d dnsScratch
		got := d.parse(payload[:n], new(interner))
		if !got.Malformed {
			t.Errorf("cut at %d of %d: not malformed", n, len(payload))
		}
		if len(got.Questions) > 1 || len(got.Answers) >= len(want.Answers) {
			t.Errorf("cut at %d: %d questions, %d answers", n, len(got.Questions), len(got.Answers))
		}
		if diff := cmp.Diff(want.Answers[:len(got.Answers)], got.Answers, cmpEmpty); diff != "" {
			t.Errorf("cut at %d (-want +got):\n%s", n, diff)
		}
	}
}

var cmpEmpty = cmp.Transformer("empty", func(list []event.Answer) []event.Answer {
	return append([]event.Answer{}, list...)
})

func dnsRecord(kind commonKind, typ event.SocketType, flags commonRecordFlag, payload []byte) []byte {
	r := commonDnsRecord{
		Header:     header(kind, flags),
		Socket:     commonSocketInfo{Family: 10, Type: uint16(typ), Protocol: 17, RemotePort: 53, LocalPort: 999},
		PayloadLen: uint32(len(payload)),
	}
	copy(r.Socket.Remote[:], netip.MustParseAddr("::ffff:192.0.2.53").AsSlice())
	return encode(r, string(payload), "stale bytes of the ring buffer")
}

func frame(message []byte) []byte {
	return append([]byte{byte(len(message) >> 8), byte(len(message))}, message...)
}

func TestDecodeDNS(t *testing.T) {
	a, b := query(t, "a.example."), query(t, "b.example.")
	const cut = commonRecordFlagFLAG_PAYLOAD_CUT
	socket := event.Socket{
		Family: event.INET6, Type: event.Datagram, Protocol: 17, RemoteIP: netip.MustParseAddr("192.0.2.53"), RemotePort: 53,
		LocalPort: 999,
	}
	said := func(name string, payload []byte) event.DNS {
		return event.DNS{ID: 5, Payload: payload, Questions: []event.Question{{Name: name, Type: "AAAA"}}}
	}
	cutShort := event.DNS{ID: 5, Payload: b[:14], Truncated: event.FieldPayload}
	for _, test := range []struct {
		name    string
		typ     event.SocketType
		flags   commonRecordFlag
		payload []byte
		want    []event.DNS
	}{
		{"datagram", event.Datagram, 0, a, []event.DNS{said("a.example", a)}},
		{"empty datagram", event.Datagram, 0, nil, []event.DNS{{Payload: []byte{}, Malformed: true}}},
		{"cut datagram", event.Datagram, cut, b[:14], []event.DNS{cutShort}},
		{"garbage", event.Datagram, 0, []byte("0123456789abcdef"),
			[]event.DNS{{ID: 0x3031, Rcode: 3, Payload: []byte("0123456789abcdef"), Malformed: true}}},
		{"segment", event.Stream, 0, frame(a), []event.DNS{said("a.example", a)}},
		{"two messages", event.Stream, 0, append(frame(a), frame(b)...),
			[]event.DNS{said("a.example", a), said("b.example", b)}},
		{"second goes on in the next segment", event.Stream, 0, append(frame(a), frame(b)[:16]...),
			[]event.DNS{said("a.example", a), cutShort}},
		{"half a length", event.Stream, 0, append(frame(a), 0),
			[]event.DNS{said("a.example", a), {Truncated: event.FieldPayload}}},
		{"no message", event.Stream, 0, append(frame(a), 0, 0, 0, 0, 0, 0),
			[]event.DNS{said("a.example", a), {Payload: make([]byte, 4), Malformed: true}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for i := range test.want {
				test.want[i].Socket = socket
				test.want[i].Type = test.typ
			}
			var got []event.DNS
			for _, e := range decodeAll(t, testDecoder(), dnsRecord(commonKindDNS_QUERY, test.typ, test.flags, test.payload)) {
				got = append(got, *e.DNS)
			}
			if diff := cmp.Diff(test.want, got, compareAddresses); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
		})
	}
}

// Law: no panic, bounded lists, and what is not malformed is what the library's other parser says.
func FuzzDNS(f *testing.F) {
	for _, names := range [][]string{nil, {"example.com"}, {"a", "b"}} {
		payload, _ := built(f, 7, names...)
		f.Add(payload)
	}
	f.Add(query(f, "www.example.com."))
	f.Fuzz(func(t *testing.T, payload []byte) {
		var d dnsScratch
		got := d.parse(payload, new(interner))
		if len(got.Questions) > maxQuestions || len(got.Answers) > maxAnswers {
			t.Fatalf("%d questions, %d answers", len(got.Questions), len(got.Answers))
		}
		var p dnsmessage.Parser
		h, err := p.Start(payload)
		if err != nil {
			if !got.Malformed {
				t.Errorf("not malformed: %v", err)
			}
			return
		}
		if h.ID != got.ID || uint8(h.RCode) != got.Rcode {
			t.Errorf("id %d, rcode %d, want %d, %d", got.ID, got.Rcode, h.ID, h.RCode)
		}
		questions, err := p.AllQuestions()
		if err != nil {
			if !got.Malformed {
				t.Errorf("not malformed: %v", err)
			}
			return
		}
		if len(got.Questions) != min(len(questions), maxQuestions) {
			t.Fatalf("%d questions, want %d", len(got.Questions), len(questions))
		}
		for i, q := range got.Questions {
			if want := strings.TrimSuffix(questions[i].Name.String(), "."); q.Name != want && q.Name != "." {
				t.Errorf("question %d: %q, want %q", i, q.Name, want)
			}
		}
	})
}
