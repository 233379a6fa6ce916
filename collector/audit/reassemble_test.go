package audit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
)

// trace notes what a reassembler hands on.
type trace struct {
	events []string
	lost   uint64
	last   group
}

func (tr *trace) wanted(body []byte) bool { return !strings.HasPrefix(string(body), "other") }

func (tr *trace) finish(g *group, why ending) {
	bodies := []string{}
	for _, r := range g.records {
		bodies = append(bodies, string(g.bytes[r.start:r.end]))
	}
	ends := map[ending]string{complete: "complete", expired: "expired", evicted: "evicted"}
	tr.events = append(tr.events, fmt.Sprintf("%d %s %s", g.stamp.serial, ends[why], strings.Join(bodies, ",")))
	tr.last = *g
}

func (tr *trace) skipped(n uint64) { tr.lost += n }

func TestReassemble(t *testing.T) {
	const (
		sys  = auparse.AUDIT_SYSCALL
		path = auparse.AUDIT_PATH
		cwd  = auparse.AUDIT_CWD
		avc  = auparse.AUDIT_AVC
		user = auparse.AUDIT_USER_CMD
		ptit = auparse.AUDIT_PROCTITLE
		eoe  = auparse.AUDIT_EOE
	)
	type rec struct {
		at     int // seconds
		typ    auparse.AuditMessageType
		serial uint32
		body   string
	}
	const top = math.MaxUint32
	for _, c := range []struct {
		name    string
		records []rec
		want    []string
		skipped uint64
	}{
		{"normal", []rec{
			{0, sys, 1, "s"}, {0, cwd, 1, "c"}, {0, ptit, 1, ""}, {0, eoe, 1, ""}, {0, sys, 2, "t"},
			{0, eoe, 2, ""},
		}, []string{"1 complete s,c", "2 complete t"}, 0},
		{"interleaved", []rec{
			{0, sys, 1, "s"}, {0, sys, 2, "t"}, {0, cwd, 1, "c"}, {0, eoe, 2, ""}, {0, eoe, 1, ""},
		}, []string{"2 complete t", "1 complete s,c"}, 0},
		{"events out of order", []rec{
			{0, sys, 3, "u"}, {0, eoe, 3, ""}, {0, sys, 5, "v"}, {0, eoe, 5, ""}, {1, sys, 4, "t"},
			{1, eoe, 4, ""},
		}, []string{"3 complete u", "5 complete v", "4 complete t"}, 0},
		{"records out of order", []rec{
			{0, cwd, 1, "c"}, {0, sys, 1, "s"}, {0, eoe, 1, ""},
		}, []string{"1 complete c,s"}, 0},
		{"a record twice", []rec{
			{0, sys, 1, "s"}, {0, cwd, 1, "c"}, {0, cwd, 1, "c"}, {0, eoe, 1, ""},
		}, []string{"1 complete s,c"}, 0},
		{"late record makes no ghost", []rec{
			{0, sys, 1, "s"}, {0, eoe, 1, ""}, {1, path, 1, "p"}, {1, sys, 1, "s"}, {1, eoe, 1, ""},
		}, []string{"1 complete s"}, 0},
		{"late end of an expired event", []rec{
			{0, sys, 1, "s"}, {3, eoe, 1, ""}, {9, eoe, 1, ""},
		}, []string{"1 expired s"}, 0},
		{"unwanted leaves nothing", []rec{{0, sys, 1, "other"}, {0, path, 1, "p"}, {0, eoe, 1, ""}}, nil, 0},
		{"unwanted behind another record", []rec{
			{0, avc, 1, "a"}, {0, sys, 1, "other"}, {0, eoe, 1, ""},
		}, nil, 0},
		{"wanted behind another record", []rec{
			{0, avc, 1, "a"}, {0, sys, 1, "s"}, {0, eoe, 1, ""},
		}, []string{"1 complete s"}, 0},
		{"messages of user space", []rec{
			{0, user, 1, "u"}, {0, user, 2, "u"}, {0, sys, 3, "s"}, {0, eoe, 3, ""},
		}, []string{"3 complete s"}, 0},
		{"only the end came", []rec{{0, eoe, 1, ""}}, []string{"1 complete "}, 0},
		{"skipped numbers", []rec{
			{0, sys, 1, "s"}, {0, eoe, 1, ""}, {0, sys, 9, "t"}, {0, eoe, 9, ""}, {3, user, 10, ""},
		}, []string{"1 complete s", "9 complete t"}, 7},
		{"given up and then it comes", []rec{
			{0, user, 1, ""}, {0, user, 3, ""}, {3, sys, 2, "s"}, {3, eoe, 2, ""},
		}, nil, 1},
		{"wrap-around", []rec{
			{0, user, top, ""}, {0, sys, 1, "s"}, {0, eoe, 1, ""}, {1, sys, 0, "r"}, {1, eoe, 0, ""},
		}, []string{"1 complete s", "0 complete r"}, 0},
		{"skipped across the wrap-around", []rec{{0, user, top - 1, ""}, {0, user, 2, ""}}, nil, 3},
	} {
		tr := &trace{}
		r := newReassembler(tr)
		now := time.Unix(0, 0)
		for _, rec := range c.records {
			at := time.Unix(int64(rec.at), 0)
			if at.After(now) {
				r.expire(at)
				now = at
			}
			r.add(now, rec.typ, stamp{milli: 1, serial: rec.serial}, []byte(rec.body))
		}
		r.expire(now.Add(2 * MaxDelay))
		if !slices.Equal(tr.events, c.want) || tr.lost != c.skipped {
			t.Errorf("%s: %q and %d skipped, want %q and %d", c.name, tr.events, tr.lost, c.want, c.skipped)
		}
		if len(r.inFlight) != 0 {
			t.Errorf("%s: %d events are still in flight", c.name, len(r.inFlight))
		}
	}
}

func TestReassembleIsBounded(t *testing.T) {
	tr := &trace{}
	r := newReassembler(tr)
	now := time.Unix(0, 0)
	const events = 10 * maxInFlight
	for i := range uint32(events) {
		s := stamp{milli: 1, serial: i}
		r.add(now, auparse.AUDIT_SYSCALL, s, []byte("s"))
		if len(r.inFlight) > maxInFlight || len(r.queue) > 2*maxInFlight {
			t.Fatalf("%d events in flight, %d queued", len(r.inFlight), len(r.queue))
		}
	}
	if n := len(tr.events); n != events-maxInFlight || tr.events[0] != "0 evicted s" {
		t.Errorf("%d events were evicted, the first is %q", n, tr.events[0])
	}

	s := stamp{milli: 1, serial: events}
	r.add(now, auparse.AUDIT_SYSCALL, s, []byte("s"))
	for i := range 100 {
		r.add(now, auparse.AUDIT_PATH, s, fmt.Appendf(nil, "%04d%s", i, strings.Repeat("p", 1000)))
		r.add(now, auparse.AUDIT_EXECVE, s, fmt.Appendf(nil, "a%d=\"%s\"", i, strings.Repeat("p", 1000)))
	}
	r.add(now, auparse.AUDIT_EOE, s, nil)
	if g := tr.last; !g.cut || len(g.bytes) > maxEventBytes || len(g.args.buf) != maxArgs || g.args.size != 100*1001-1 {
		t.Errorf("kept %d bytes and %d of %d bytes of arguments, cut: %v", len(g.bytes), len(g.args.buf), g.args.size, g.cut)
	}
	r.expire(now.Add(MaxDelay))
	if len(r.free) > maxFree {
		t.Errorf("%d groups are kept for reuse", len(r.free))
	}
}

// Each number is handed on, or counted as skipped, exactly once: whatever the order, wherever the count starts.
func FuzzSerials(f *testing.F) {
	f.Add(uint64(1), uint32(math.MaxUint32-100), uint8(10))
	f.Add(uint64(2), uint32(0), uint8(200))
	f.Fuzz(func(t *testing.T, seed uint64, first uint32, swaps uint8) {
		random := rand.New(rand.NewPCG(seed, 0))
		const total = 2000
		order := make([]uint32, total)
		for i := range order {
			order[i] = first + uint32(i)
		}
		for range swaps {
			i := 1 + random.IntN(total-2)
			j := min(total-1, i+random.IntN(200))
			order[i], order[j] = order[j], order[i]
		}
		var s serials
		var seen, lost uint64
		now := time.Unix(0, 0)
		for i, serial := range order {
			if i > 0 && i < total-1 && random.IntN(10) == 0 {
				continue // dropped
			}
			now = now.Add(time.Duration(random.IntN(20)) * time.Millisecond)
			fresh, gone := s.see(serial, now)
			again, _ := s.see(serial, now)
			if again {
				t.Fatalf("%d is fresh twice", serial)
			}
			if fresh {
				seen++
			}
			lost += gone + s.expire(now.Add(-MaxDelay))
			if len(s.missing) > maxGaps+1 {
				t.Fatalf("%d gaps are kept", len(s.missing))
			}
		}
		lost += s.expire(now)
		if span := uint64(s.next - first); seen+lost != span {
			t.Fatalf("%d seen and %d lost of %d", seen, lost, span)
		}
	})
}

func TestSerialsAreBounded(t *testing.T) {
	var s serials
	var lost uint64
	for i := range uint32(4 * maxGaps) {
		_, n := s.see(2*i, time.Unix(0, 0))
		lost += n
	}
	// Taking a number out of a gap may cut it in two.
	if len(s.missing) != maxGaps || lost != 4*maxGaps-1-maxGaps {
		t.Errorf("%d gaps are kept, %d numbers were given up", len(s.missing), lost)
	}
}

func TestParseHeader(t *testing.T) {
	for _, c := range []struct {
		payload, body string
		want          stamp
		ok            bool
	}{
		{"audit(1700000000.123:456): a=b\n\x00", "a=b", stamp{1_700_000_000_123, 456}, true},
		{"audit(0.001:4294967295): ", "", stamp{1, math.MaxUint32}, true},
		{"audit(1.000:4294967296): ", "", stamp{}, false},
		{"audit(1.0000:1): ", "", stamp{1000, 1}, true},
		{"audit(1.1000:1): ", "", stamp{}, false},
		{"audit(99999999999999999999.000:1): ", "", stamp{}, false},
		{"audit(.000:1): ", "", stamp{}, false},
		{"audit(1.000:1", "", stamp{}, false},
		{"", "", stamp{}, false},
		{"\x01\x02\x03\x04", "", stamp{}, false},
	} {
		s, body, ok := parseHeader([]byte(c.payload))
		if ok != c.ok || ok && (s != c.want || string(body) != c.body) {
			t.Errorf("%q: %+v %q %v", c.payload, s, body, ok)
		}
	}
}
