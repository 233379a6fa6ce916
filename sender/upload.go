package sender

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"

	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/spool"
)

// Failure is what a Transport knows about a frame that was not accepted.
type Failure struct {
	Err    error  // what is wrong
	Remedy string // what an operator can do about it; may be empty
	// After is how long the receiver asks to wait; 0 when it does not say.
	After time.Duration
	// Refresh says that the credentials were refused and that the next try uses fresh ones: it is made at once, but once
	// only.
	Refresh bool
	// Reject says that the receiver will never accept this frame, and is the cause it is counted under: RejectMalformed,
	// for which the batch is set aside, or RejectTooLarge, for which it is sent in parts. Empty means: try again.
	Reject string
	// Partial says that the receiver has the first Stored events of the sealed batch that the frame is or is of. The
	// others are sent at once.
	Partial bool
	Stored  uint32
}

// Causes of rejection.
const (
	RejectMalformed = "rejected"
	RejectTooLarge  = "too_large"
)

// Error returns what is wrong, without the remedy.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns Err.
func (f *Failure) Unwrap() error { return f.Err }

// Upload is the state of uploading.
type Upload struct {
	Problem     string    `json:"problem,omitempty"`     // why the last try was in vain; absent when it was not
	Remedy      string    `json:"remedy,omitempty"`      // what can be done about it
	Since       time.Time `json:"since,omitzero"`        // the first try in vain since a batch was accepted
	NextTry     time.Time `json:"next_try,omitzero"`     // when the wait after a problem ends
	LastSuccess time.Time `json:"last_success,omitzero"` // when a batch was accepted
	Retries     uint64    `json:"retries"`               // tries in vain since the start
	Rejected    uint64    `json:"rejected"`              // batches the receiver refused for good since the start
}

// Upload returns the state of uploading.
func (s *Sender) Upload() Upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.upload
}

const (
	minBackoff    = time.Second
	maxBackoff    = time.Minute
	maxRetryAfter = 5 * time.Minute
	// retryAfterJitter spreads agents that were all told the same Retry-After.
	retryAfterJitter = time.Second
)

// backoff returns how long to wait after a number of failures in a row: as long as the receiver asked, within limits,
// or else about twice as long each time. Both are spread at random.
func backoff(failures int, asked time.Duration) time.Duration {
	if asked > 0 {
		return min(asked+rand.N(retryAfterJitter), maxRetryAfter)
	}
	half := min(minBackoff<<min(failures-1, 10), maxBackoff/2)
	return half + rand.N(half)
}

func newRate(bytes int64) *rate.Limiter {
	if bytes == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(bytes), int(min(max(bytes, batch.MaxCompressed), math.MaxInt32)))
}

// deliver sends a batch that is held, and ends the hold by what becomes of it, unless the receiver has a part of it. asked
// is how long the receiver wants the next try to wait.
func (s *Sender) deliver(ctx context.Context, p *parts, e spool.Entry) (asked time.Duration, err error) {
	frame, err := s.cfg.Spool.Read(e)
	if errors.Is(err, spool.ErrCorrupt) {
		s.setAside(p, e, 0, "spool", "corrupt", err)
		return 0, nil
	}
	stored := 0
	if err == nil {
		stored, err = s.send(ctx, p, e, frame)
	}
	if err == nil {
		s.leave(e, counts{}, "", "", "")
		s.save()
		s.cfg.Spool.Remove(e.Epoch)
		s.left(e)
		s.succeeded()
		return 0, nil
	}
	if ctx.Err() != nil {
		return 0, err // not the receiver's fault
	}
	failure := asFailure(err)
	if failure.Reject != "" {
		s.setAside(p, e, stored, "send", failure.Reject, err)
	} else {
		if !p.begun(e) { // or it might be evicted, and counted as lost whole
			s.cfg.Spool.Release(e.Epoch)
		}
		s.uplink.is(failure.Error(), "cannot upload", "error", err, "remedy", failure.Remedy)
	}
	s.failed(failure)
	return failure.After, err
}

func asFailure(err error) *Failure {
	var failure *Failure
	if !errors.As(err, &failure) {
		failure = &Failure{Err: err}
	}
	return failure
}

func rejects(err error) bool {
	var failure *Failure
	return errors.As(err, &failure) && failure.Reject != ""
}

// setAside moves a batch out of the way of those behind it. Of its events the receiver has the first stored ones; the
// others are lost.
func (s *Sender) setAside(p *parts, e spool.Entry, stored int, stage, cause string, why error) {
	var lost counts
	if p.of(e) {
		lost, *p = p.kindsFrom(stored), parts{}
	} else {
		lost = s.kinds(e, nil)
	}
	s.leave(e, lost, stage, cause, cause)
	s.save()
	if err := s.cfg.Spool.SetAside(e.Epoch, cause); err != nil {
		s.cfg.Logger.Warn("cannot keep a batch that was set aside", "batch", e.Sequence, "error", err)
	}
	s.left(e)
	s.cfg.Logger.Warn("batch set aside, its events are lost", "batch", e.Sequence, "events", lost.total(),
		"cause", stage+"/"+cause, "error", why)
}

// leave counts a batch that is about to leave the spool: those of its events that are in lost as lost.
func (s *Sender) leave(e spool.Entry, lost counts, stage, cause, aside string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.ledger.landing; l != nil && l.batch == keyOf(e) {
		s.ledger.land()
	}
	delete(s.ledger.inSpool, keyOf(e))
	s.ledger.unspool(e, lost, stage, cause)
	s.ledger.leave(e, aside)
}

// left notes that the files of batches were removed, as far as they could be.
func (s *Sender) left(list ...spool.Entry) {
	leftover := s.cfg.Spool.Leftover() > 0
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.left(list, leftover)
}

func (s *Sender) succeeded() {
	s.uplink.isOver()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upload.LastSuccess = time.Now()
	s.upload.Problem, s.upload.Remedy = "", ""
	s.upload.Since, s.upload.NextTry = time.Time{}, time.Time{}
}

func (s *Sender) failed(f *Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upload.Since.IsZero() {
		s.upload.Since = time.Now()
	}
	s.upload.Problem, s.upload.Remedy = f.Error(), f.Remedy
	if f.Reject != "" {
		s.upload.Rejected++
	} else {
		s.upload.Retries++
	}
}
