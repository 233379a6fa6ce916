package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// markPrefix is of the marks that outlive their batches: agent, epoch.
	markPrefix = "taskguard.marks."
	// marksKey is the state of keepMarks: up to where in the log it has kept marks.
	marksKey = "marks"
	// maxKeeping is how many marks are gathered before they are written.
	maxKeeping = 16 << 10
)

// keptMark is a mark that outlives its batches, and the message that it is in: 0 is none.
type keptMark struct {
	mark
	revision uint64
}

// keepMarks keeps the marks of what was appended since it was last done, by whichever replica, so that a batch that
// comes again when the limits have discarded it is still known. What replicas do at the same time is done twice, and
// right: a kept mark only rises.
func (s *Store) keepMarks(ctx context.Context) error {
	value, revision, err := s.State(ctx, marksKey)
	if err != nil {
		return err
	}
	var done uint64
	if value != nil {
		if err := json.Unmarshal(value, &done); err != nil {
			return fmt.Errorf("read how far marks are kept: %w", err)
		}
	}
	info, err := s.batches.Info(ctx)
	if err != nil {
		return err
	}
	if first := info.State.FirstSeq; done > 0 && first > done+1 {
		s.log.Warn("batches were discarded before their marks were kept: repeats of them would be stored again",
			"batches", first-done-1)
	}
	for done < info.State.LastSeq {
		gathered, err := s.gatherMarks(ctx, done, info.State.LastSeq)
		if err != nil {
			return err
		}
		for key, m := range gathered.marks {
			if err := s.keepMark(ctx, key, m); err != nil {
				return err
			}
		}
		done = gathered.upTo
		if value, err = json.Marshal(done); err != nil {
			return err
		}
		revision, err = s.PutState(ctx, marksKey, value, revision)
		if errors.Is(err, ErrConflict) {
			return nil // another replica goes on from where it is
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// gathered is the marks of a stretch of the log.
type gathered struct {
	marks map[markKey]mark
	upTo  uint64
}

// gatherMarks reads the headers of what is in the log behind a sequence number and up to another.
func (s *Store) gatherMarks(ctx context.Context, after, last uint64) (gathered, error) {
	g := gathered{make(map[markKey]mark), after}
	c := cursor{store: s, subject: batchPrefix + ">", ahead: 1024, headers: true}
	if err := c.open(ctx, after+1); err != nil {
		return g, err
	}
	defer c.close(ctx)
	for g.upTo < last && len(g.marks) < maxKeeping {
		msg, meta, err := c.read(ctx)
		if errors.Is(err, errQuiet) { // the limits have discarded the rest
			g.upTo = last
			return g, nil
		}
		if err != nil {
			return g, err
		}
		key, keyErr := keyOf(msg.Subject())
		m, markErr := markOf(msg.Headers())
		if err := errors.Join(keyErr, markErr); err != nil {
			return g, fmt.Errorf("read mark of message %d: %w", meta.Sequence.Stream, err)
		}
		g.marks[key], g.upTo = m, meta.Sequence.Stream
	}
	return g, nil
}

// keepMark keeps a mark unless a higher one is kept.
func (s *Store) keepMark(ctx context.Context, key markKey, m mark) error {
	for {
		kept, err := s.keptMark(ctx, key)
		if err != nil {
			return err
		}
		if !kept.mark.before(m) {
			return nil
		}
		msg := &nats.Msg{Subject: keptSubject(key), Header: nats.Header{}}
		m.setOn(msg.Header)
		_, err = s.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(kept.revision))
		if !isWrongLast(err) {
			return err
		}
	}
}

// keptMark returns the mark that is kept of an agent's run; the zero mark if there is none. Its last is 0: the log has no
// message of it.
func (s *Store) keptMark(ctx context.Context, key markKey) (keptMark, error) {
	msg, err := s.kept.GetLastMsgForSubject(ctx, keptSubject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return keptMark{}, nil
	}
	if err != nil {
		return keptMark{}, fmt.Errorf("read kept mark: %w", err)
	}
	m, err := markOf(msg.Header)
	if err != nil {
		return keptMark{}, fmt.Errorf("read kept mark: %w", err)
	}
	return keptMark{m, msg.Sequence}, nil
}

func keptSubject(key markKey) string { return fmt.Sprintf("%s%s.%d", markPrefix, key.agent, key.epoch) }
