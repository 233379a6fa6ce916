package audit

import (
	"bytes"
	"slices"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
)

// MaxDelay is how long an event may be held: until its last record has come, or a skipped serial number.
const MaxDelay = 2 * time.Second

// Limits of reassembly. The kernel writes an event's records one after the other, so what is in flight at one time
// is about one event per CPU; there is room for storms and for lost ends.
const (
	maxInFlight   = 256      // events
	maxEventBytes = 64 << 10 // bytes of one event's records, but for arguments, of which maxArgs are kept
	maxFree       = 16       // groups kept for reuse
)

// group is the records of one event, as far as they have come.
type group struct {
	stamp   stamp
	opened  time.Time
	records []span
	bytes   []byte // the records' bodies, one after the other
	args    argsReader
	syscall bool // the record that says what the event is has come
	cut     bool // records were left out for maxEventBytes
}

// span is a record in group.bytes.
type span struct {
	typ        auparse.AuditMessageType
	start, end int
}

// each calls f for the records in the order they came.
func (g *group) each(f func(typ auparse.AuditMessageType, body []byte)) {
	for _, r := range g.records {
		f(r.typ, g.bytes[r.start:r.end])
	}
}

// add keeps a record, unless it has come before. Arguments are read at once: their records have no limit.
func (g *group) add(typ auparse.AuditMessageType, body []byte) {
	if typ == auparse.AUDIT_EXECVE {
		g.args.read(body)
		return
	}
	if len(g.bytes)+len(body) > maxEventBytes {
		g.cut = true
		return
	}
	for _, r := range g.records {
		if r.typ == typ && bytes.Equal(g.bytes[r.start:r.end], body) {
			return
		}
	}
	start := len(g.bytes)
	g.bytes = append(g.bytes, body...)
	g.records = append(g.records, span{typ, start, len(g.bytes)})
}

// ending says why a group is handed on.
type ending uint8

const (
	complete ending = iota // its last record came
	expired                // the last record did not come in time
	evicted                // room was needed
)

// assembly is what a reassembler needs of its user.
type assembly interface {
	// wanted reports, by the body of a SYSCALL record, whether the event is worth keeping.
	wanted(body []byte) bool
	// finish takes an event. The group is on loan.
	finish(g *group, why ending)
	// skipped reports events of which no record came.
	skipped(n uint64)
}

// reassembler groups records into events. Records of different events may be interleaved; records and events may
// come in any order, twice, or not at all. An event is handed on once: what comes for it afterwards is dropped.
// It is not safe for concurrent use.
type reassembler struct {
	to       assembly
	serials  serials
	inFlight map[stamp]*group
	queue    []stamp // in the order they were opened; may hold stamps that are no longer in flight
	free     []*group
}

func newReassembler(to assembly) *reassembler {
	return &reassembler{to: to, inFlight: make(map[stamp]*group, maxInFlight)}
}

// add takes the next record. It copies what it keeps of body.
func (r *reassembler) add(now time.Time, typ auparse.AuditMessageType, s stamp, body []byte) {
	g := r.inFlight[s]
	if g == nil {
		fresh, lost := r.serials.see(s.serial, now)
		if lost > 0 {
			r.to.skipped(lost)
		}
		if !fresh || alone(typ) {
			return
		}
		if typ == auparse.AUDIT_SYSCALL && !r.to.wanted(body) {
			return
		}
		g = r.open(now, s)
	}
	switch typ {
	case auparse.AUDIT_EOE, auparse.AUDIT_PROCTITLE:
		r.finish(g, complete)
		return
	case auparse.AUDIT_SYSCALL:
		if !r.to.wanted(body) {
			r.release(g)
			return
		}
		g.syscall = true
	}
	if needed(typ, body) {
		g.add(typ, body)
	}
}

// expire hands on what has waited for too long.
func (r *reassembler) expire(now time.Time) {
	deadline := now.Add(-MaxDelay)
	for {
		g := r.oldest()
		if g == nil || g.opened.After(deadline) {
			break
		}
		r.finish(g, expired)
	}
	if lost := r.serials.expire(deadline); lost > 0 {
		r.to.skipped(lost)
	}
}

// open makes room for an event and starts it.
func (r *reassembler) open(now time.Time, s stamp) *group {
	if len(r.inFlight) >= maxInFlight {
		r.finish(r.oldest(), evicted)
	}
	g := &group{}
	if n := len(r.free); n > 0 {
		g, r.free = r.free[n-1], r.free[:n-1]
	}
	g.args.reset()
	*g = group{stamp: s, opened: now, records: g.records[:0], bytes: g.bytes[:0], args: g.args}
	r.inFlight[s] = g
	if len(r.queue) >= 2*maxInFlight {
		r.queue = slices.DeleteFunc(r.queue, func(s stamp) bool { return r.inFlight[s] == nil || s == g.stamp })
	}
	r.queue = append(r.queue, s)
	return g
}

// oldest returns the event that has been in flight for longest, nil when there is none.
func (r *reassembler) oldest() *group {
	for i, s := range r.queue {
		if g := r.inFlight[s]; g != nil {
			r.queue = append(r.queue[:0], r.queue[i:]...)
			return g
		}
	}
	r.queue = r.queue[:0]
	return nil
}

func (r *reassembler) finish(g *group, why ending) {
	r.to.finish(g, why)
	r.release(g)
}

func (r *reassembler) release(g *group) {
	delete(r.inFlight, g.stamp)
	if len(r.free) < maxFree {
		r.free = append(r.free, g)
	}
}
