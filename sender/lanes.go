package sender

import (
	"context"
	"time"

	"github.com/taskguard/taskguard/sender/spool"
)

const (
	// maxLanes is how many epochs are uploaded at a time.
	maxLanes = 4
	// turnAt is how many batches of an epoch may wait before the next one begins: those of several can be uploaded at a
	// time when the receiver is back.
	turnAt = 512
	// turnBehind is how far uploads that work may be behind before what is new goes its own way.
	turnBehind = 2 * time.Second
	// maxEpochs is how many epochs with batches in the spool end that: each costs the receiver a mark.
	maxEpochs = 32
)

// turn begins an epoch when the batches of this one are behind.
func (s *Sender) turn() {
	lanes := s.cfg.Spool.Lanes()
	if len(lanes) == 0 || len(lanes) >= maxEpochs {
		return
	}
	newest := lanes[len(lanes)-1]
	behind := !newest.Oldest.IsZero() && time.Since(newest.Oldest) > turnBehind && s.working()
	if newest.Epoch == s.epoch && (newest.Batches >= turnAt || behind) {
		s.epoch = max(s.epoch+1, uint64(time.Now().UnixNano()))
	}
}

// working reports whether batches are accepted.
func (s *Sender) working() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.upload.Problem == "" && time.Since(s.upload.LastSuccess) < turnBehind
}

// uploads is the uploading of what is in the spool: of an epoch, one batch after another, the oldest first; of all, the
// newest epoch, which is what happens now, before the older ones, oldest first. One epoch is uploaded while there are
// failures; each success allows one more at a time, up to maxLanes.
type uploads struct {
	sender  *Sender
	done    chan outcome
	running map[uint64]*parts // the epochs of which a batch is on its way
	waiting map[uint64]*parts // those of which the receiver has a batch in part, to be tried again
	allowed int               // epochs at a time

	failures int              // in a row
	pause    <-chan time.Time // receives when the wait after a failure is over; nil when there is none
	draining bool             // nothing more is sealed
	ended    bool             // nothing more is begun
}

// outcome is what became of a batch.
type outcome struct {
	epoch uint64
	asked time.Duration
	err   error
}

// uploadAll uploads batches until ctx is done. When sealed is closed it goes on until the spool is empty or a batch is
// not accepted.
func (s *Sender) uploadAll(ctx context.Context, sealed <-chan struct{}) {
	u := uploads{
		sender: s, done: make(chan outcome, maxLanes), allowed: 1,
		running: make(map[uint64]*parts), waiting: make(map[uint64]*parts),
	}
	cancelled := ctx.Done()
	for {
		u.begin(ctx)
		if len(u.running) == 0 && (u.ended || u.draining) {
			break
		}
		select {
		case o := <-u.done:
			u.end(o)
		case <-s.cfg.Spool.Changed():
		case <-u.pause:
			u.pause = nil
		case <-sealed:
			sealed, u.draining, u.pause = nil, true, nil
		case <-cancelled:
			cancelled, u.ended = nil, true
		}
	}
	for epoch := range u.waiting {
		s.cfg.Spool.Release(epoch)
	}
}

// begin begins as many uploads as it may.
func (u *uploads) begin(ctx context.Context) {
	if u.ended || u.pause != nil || len(u.running) >= u.allowed {
		return
	}
	lanes := u.sender.cfg.Spool.Lanes()
	if n := len(lanes); n > 1 {
		lanes = append([]spool.Lane{lanes[n-1]}, lanes[:n-1]...)
	}
	for _, lane := range lanes {
		if len(u.running) >= u.allowed {
			return
		}
		if u.running[lane.Epoch] == nil {
			u.upload(ctx, lane.Epoch)
		}
	}
}

// upload begins to upload the oldest batch of an epoch.
func (u *uploads) upload(ctx context.Context, epoch uint64) {
	entry, ok := u.sender.cfg.Spool.Next(epoch)
	if !ok { // evicted meanwhile
		return
	}
	p := u.waiting[epoch]
	if p == nil {
		p = new(parts)
	}
	delete(u.waiting, epoch)
	u.running[epoch] = p
	go func() {
		asked, err := u.sender.deliver(ctx, p, entry)
		u.done <- outcome{epoch, asked, err}
	}()
}

// end notes what became of a batch.
func (u *uploads) end(o outcome) {
	if p := u.running[o.epoch]; p.batch != nil {
		u.waiting[o.epoch] = p
	}
	delete(u.running, o.epoch)
	if o.err == nil {
		u.failures, u.allowed = 0, min(u.allowed+1, maxLanes)
		return
	}
	u.allowed = 1
	switch {
	case u.draining:
		u.ended = u.ended || !rejects(o.err)
	case u.pause == nil: // or others, at the same time, were in vain before
		u.failures++
		u.pause = u.sender.pause(backoff(u.failures, o.asked))
	}
}

// pause says that the next try is after a wait, and returns what receives then.
func (s *Sender) pause(wait time.Duration) <-chan time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upload.NextTry = time.Now().Add(wait)
	return time.After(wait)
}
