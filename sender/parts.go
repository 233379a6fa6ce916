package sender

import (
	"context"
	"errors"
	"fmt"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/spool"
)

// maxConflicts is how often one delivery lets the receiver say where to go on.
const maxConflicts = 3

// parts is a batch of an epoch that is sent in parts, and how far it got. It is kept while the batch is tried again, but
// not across runs: the receiver knows what it has.
type parts struct {
	epoch, sequence uint64
	batch           *batch.Batch // nil when none is sent in parts
	next            int          // how many of its events the receiver has
	size            int          // how many events a part has at most

	// leftOut is the kind of the event at next when a placeholder stands in for it.
	leftOut     event.Kind
	placeholder bool
}

func (p *parts) of(e spool.Entry) bool {
	return p.batch != nil && p.epoch == e.Epoch && p.sequence == e.Sequence
}

// begun reports whether the receiver has a part of a batch, but not all.
func (p *parts) begun(e spool.Entry) bool { return p.of(e) && p.next > 0 }

func (p *parts) count() int { return min(p.size, len(p.batch.Events)-p.next) }

// send sends a batch, in parts if it is too large or if the receiver has the first ones. stored is how many of its events
// the receiver has when there is an error.
func (s *Sender) send(ctx context.Context, p *parts, e spool.Entry, frame []byte) (stored int, err error) {
	if p.of(e) {
		return s.sendParts(ctx, p, nil)
	}
	err = s.try(ctx, frame)
	if err == nil {
		return int(e.Events), nil
	}
	answer := asFailure(err)
	if answer.Reject != RejectTooLarge && !answer.Partial {
		return 0, err
	}
	if cutErr := p.cutUp(e, frame); cutErr != nil {
		return 0, &Failure{Err: errors.Join(err, cutErr), Remedy: answer.Remedy, Reject: RejectTooLarge}
	}
	s.cfg.Logger.Debug("sending a batch in parts", "batch", e.Sequence, "events", e.Events, "why", err)
	return s.sendParts(ctx, p, answer)
}

// try sends a frame, and once more when there are fresh credentials.
func (s *Sender) try(ctx context.Context, frame []byte) error {
	if err := s.rate.WaitN(ctx, len(frame)); err != nil {
		return fmt.Errorf("wait for the upload rate: %w", err)
	}
	err := s.cfg.Transport.Send(ctx, frame)
	if err != nil && asFailure(err).Refresh && ctx.Err() == nil {
		err = s.cfg.Transport.Send(ctx, frame)
	}
	return err
}

// cutUp makes ready to send a batch in parts.
func (p *parts) cutUp(e spool.Entry, frame []byte) error {
	b, err := decodeFrame(frame, nil)
	if err != nil {
		return fmt.Errorf("split batch: %w", err)
	}
	if len(b.Events) == 0 {
		return errors.New("split batch: it has no events")
	}
	*p = parts{epoch: e.Epoch, sequence: e.Sequence, batch: b, size: len(b.Events)}
	return nil
}

// sendParts sends what is left of the batch. answer is what the receiver said to what it was sent last; nil is nothing.
func (s *Sender) sendParts(ctx context.Context, p *parts, answer *Failure) (stored int, err error) {
	for conflicts := 0; ; {
		switch {
		case answer == nil:
		case answer.Partial && conflicts < maxConflicts && int(answer.Stored) != p.next:
			conflicts++
			p.goOn(int(answer.Stored))
		case answer.Reject == RejectTooLarge && p.count() > 1:
			p.size = (p.count() + 1) / 2
		case answer.Reject == RejectTooLarge && !p.placeholder:
			p.leaveOut()
		default:
			return p.next, answer
		}
		if p.next >= len(p.batch.Events) {
			stored, *p = p.next, parts{}
			return stored, nil
		}
		if answer = s.sendPart(ctx, p); answer == nil {
			s.stored(p)
		}
	}
}

// sendPart sends the next part and returns nil when the receiver has it.
func (s *Sender) sendPart(ctx context.Context, p *parts) *Failure {
	codec, err := batch.NewCodec()
	if err != nil {
		return &Failure{Err: fmt.Errorf("split batch: %w", err)}
	}
	data, err := batch.Split(nil, p.batch, p.next, p.count())
	if err != nil {
		return &Failure{Err: err}
	}
	if err := s.try(ctx, codec.Compress(nil, data)); err != nil {
		return asFailure(err)
	}
	return nil
}

// stored goes on behind a part that the receiver has.
func (s *Sender) stored(p *parts) {
	if p.placeholder {
		s.mu.Lock()
		s.ledger.observe(event.AgentLoss, 1)
		s.ledger.lose(p.leftOut, "send", RejectTooLarge, 1)
		s.mu.Unlock()
	}
	p.goOn(p.next + p.count())
}

func (p *parts) goOn(next int) {
	p.next, p.placeholder = min(next, len(p.batch.Events)), false
}

// leaveOut puts an agent.loss in the place of an event that no request has room for: the receiver stores a batch without
// gaps. It says when and of which kind; how many were lost is in the ledger that a later batch carries.
func (p *parts) leaveOut() {
	e := &p.batch.Events[p.next]
	p.leftOut, p.placeholder = e.Kind, true
	*e = event.Event{Time: e.Time, Kind: event.AgentLoss, Host: e.Host, Agent: &event.Agent{
		Stage: "send", Cause: RejectTooLarge, Lost: e.Kind, From: e.Time, To: e.Time,
	}}
}

// kindsFrom counts the events of the batch from one on.
func (p *parts) kindsFrom(first int) (c counts) {
	for i := first; i < len(p.batch.Events); i++ {
		if i == p.next && p.placeholder {
			c.add(p.leftOut, 1)
		} else {
			c.add(p.batch.Events[i].Kind, 1)
		}
	}
	return c
}
