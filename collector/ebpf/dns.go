package ebpf

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/taskguard/taskguard/collector/event"
)

// A message's records are given up to these numbers; the payload has them all.
const (
	maxQuestions = 8
	maxAnswers   = 64
)

// dnsScratch is a DNS message with its lists, used again for the next.
type dnsScratch struct {
	dns       event.DNS
	questions [maxQuestions]event.Question
	answers   [maxAnswers]event.Answer
}

// parse reads a DNS message as far as it can be read. The result keeps payload.
func (s *dnsScratch) parse(payload []byte, in *interner) *event.DNS {
	s.dns = event.DNS{Payload: payload}
	if len(payload) >= 4 {
		s.dns.ID = binary.BigEndian.Uint16(payload)
		s.dns.Rcode = payload[3] & 0xf
	}
	s.dns.Malformed = !s.records(payload, in)
	return &s.dns
}

// records reads questions and answers and reports whether all could be read.
func (s *dnsScratch) records(payload []byte, in *interner) bool {
	var parser dnsmessage.Parser
	if _, err := parser.Start(payload); err != nil {
		return false
	}
	n := 0
	for ; n < maxQuestions; n++ {
		q, err := parser.Question()
		if err == dnsmessage.ErrSectionDone {
			break
		}
		if err != nil {
			return false
		}
		s.questions[n] = event.Question{Name: name(&q.Name, in), Type: typeName(q.Type)}
		s.dns.Questions = s.questions[:n+1]
	}
	if err := parser.SkipAllQuestions(); err != nil {
		return false
	}
	for n = 0; n < maxAnswers; n++ {
		h, err := parser.AnswerHeader()
		if err == dnsmessage.ErrSectionDone {
			return true
		}
		if err != nil {
			return false
		}
		data, err := answerData(&parser, h.Type, in)
		if err != nil {
			return false
		}
		s.answers[n] = event.Answer{Name: name(&h.Name, in), Type: typeName(h.Type), TTL: h.TTL, Data: data}
		s.dns.Answers = s.answers[:n+1]
	}
	return true
}

// answerData reads an address or a name; other types have none.
func answerData(parser *dnsmessage.Parser, t dnsmessage.Type, in *interner) (string, error) {
	switch t {
	case dnsmessage.TypeA:
		r, err := parser.AResource()
		return address(netip.AddrFrom4(r.A), in), err
	case dnsmessage.TypeAAAA:
		r, err := parser.AAAAResource()
		return address(netip.AddrFrom16(r.AAAA), in), err
	case dnsmessage.TypeCNAME:
		r, err := parser.CNAMEResource()
		return name(&r.CNAME, in), err
	case dnsmessage.TypeNS:
		r, err := parser.NSResource()
		return name(&r.NS, in), err
	case dnsmessage.TypePTR:
		r, err := parser.PTRResource()
		return name(&r.PTR, in), err
	case dnsmessage.TypeMX:
		r, err := parser.MXResource()
		return name(&r.MX, in), err
	case dnsmessage.TypeSRV:
		r, err := parser.SRVResource()
		return name(&r.Target, in), err
	}
	return "", parser.SkipAnswer()
}

func address(addr netip.Addr, in *interner) string {
	var buf [48]byte
	return in.get(addr.AppendTo(buf[:0]))
}

// name drops the final dot, but of the root, which is nothing else.
func name(n *dnsmessage.Name, in *interner) string {
	b := n.Data[:min(int(n.Length), len(n.Data))]
	if len(b) > 1 && b[len(b)-1] == '.' {
		b = b[:len(b)-1]
	}
	return in.get(b)
}

// typeName is the type's mnemonic, or TYPE and its number (RFC 3597).
func typeName(t dnsmessage.Type) string {
	switch t {
	case dnsmessage.TypeA:
		return "A"
	case dnsmessage.TypeAAAA:
		return "AAAA"
	case 64:
		return "SVCB"
	case 65:
		return "HTTPS"
	}
	if s, ok := strings.CutPrefix(t.String(), "Type"); ok {
		return s
	}
	return "TYPE" + strconv.Itoa(int(t))
}
