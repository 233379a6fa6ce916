package process

import (
	"time"
)

// pool hands out snapshots and takes them back for use again.
type pool struct {
	free      []*snapshot
	last      uint64 // the newest snapshot's number
	argsBytes int    // length of all command lines handed out
}

// maxFree bounds what is kept for use again.
const maxFree = 4096

// get returns an empty snapshot with a number of its own, which is held.
func (p *pool) get() *snapshot {
	var s *snapshot
	if n := len(p.free); n > 0 {
		s, p.free = p.free[n-1], p.free[:n-1]
	} else {
		s = new(snapshot)
	}
	s.Snapshot, s.held = p.number(), true
	return s
}

func (p *pool) number() uint64 {
	p.last++
	return p.last
}

func (p *pool) put(s *snapshot) {
	p.argsBytes -= len(s.Args)
	*s = snapshot{}
	if len(p.free) < maxFree {
		p.free = append(p.free, s)
	}
}

// exitedProcess is one that ended, at the time of its exit event.
type exitedProcess struct {
	at     time.Time
	number uint64 // as in snapshot.ended
	pid    uint32
}

// fifo is a queue that grows and is never copied while it does not.
type fifo struct {
	ring []exitedProcess
	head int
	n    int
}

func (f *fifo) push(p exitedProcess) {
	if f.n == len(f.ring) {
		bigger := make([]exitedProcess, max(64, 2*len(f.ring)))
		for i := range f.n {
			bigger[i] = f.ring[(f.head+i)%len(f.ring)]
		}
		f.ring, f.head = bigger, 0
	}
	f.ring[(f.head+f.n)%len(f.ring)] = p
	f.n++
}

// oldest must not be called on an empty queue.
func (f *fifo) oldest() exitedProcess { return f.ring[f.head] }

func (f *fifo) pop() exitedProcess {
	p := f.ring[f.head]
	f.head = (f.head + 1) % len(f.ring)
	f.n--
	return p
}

// budget allows a number of actions a second.
type budget struct {
	perSecond int
	second    int64
	used      int
}

func (b *budget) take(now time.Time) bool {
	if s := now.Unix(); s != b.second {
		b.second, b.used = s, 0
	}
	b.used++
	return b.used <= b.perSecond
}
