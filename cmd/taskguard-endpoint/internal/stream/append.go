package stream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

const (
	batchPrefix   = "taskguard.batches."
	batchSubjects = batchPrefix + "*.*.*" // partition, agent, epoch

	// headerSequence holds a batch's sequence number, headerStored how many of its events are stored with this message,
	// unless that is all.
	headerSequence = "Taskguard-Sequence"
	headerStored   = "Taskguard-Stored"
	// appendAttempts is how often Append looks again when another append to the same subject came first.
	appendAttempts = 3
)

// PartialError says that a frame does not begin where the log ends: of its sealed batch, the log has the first Stored
// events. What is left from there on can be appended.
type PartialError struct{ Stored uint32 }

func (e *PartialError) Error() string {
	return fmt.Sprintf("the log has the first %d events of this batch: send it from there on", e.Stored)
}

// StoredEvents is how many events of the sealed batch are in the log.
func (e *PartialError) StoredEvents() uint32 { return e.Stored }

// Append stores a batch or a part of one, given as the frame it came in, and the header and the number of events that
// were decoded from it, unless the log has it: then it returns false. Batches of one agent and epoch must come in the
// order of their sequence numbers, and parts in the order of their events; what ends where the log ends, or before, is
// a repeat, and what begins elsewhere a PartialError. When Append returns true the batch is on stable storage; when it
// returns another error the batch may be stored all the same, and appending it again tells.
func (s *Store) Append(ctx context.Context, h *batch.Header, events int, frame []byte) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	stored, err := s.append(ctx, h, endOf(h, events), frame)
	var partial *PartialError
	if err != nil && !errors.As(err, &partial) {
		s.noticeFailure()
	}
	if err != nil {
		return false, fmt.Errorf("append batch: %w", err)
	}
	return stored, nil
}

// endOf returns the position behind a frame: how many events of its sealed batch are stored when it is.
func endOf(h *batch.Header, events int) uint32 {
	if end := h.First + uint32(events); h.Sealed != 0 && end < h.Sealed {
		return end
	}
	return whole
}

func (s *Store) append(ctx context.Context, h *batch.Header, end uint32, frame []byte) (bool, error) {
	key := markKey{h.ID.Agent, h.ID.Epoch}
	m, known := s.marks.get(key)
	if !known {
		var err error
		if m, err = s.loadMark(ctx, key); err != nil {
			return false, err
		}
	}
	described := false
	for range appendAttempts {
		repeat, err := m.place(h, end)
		if err != nil && known {
			// What is remembered may be old: the agent's batches may have come to another replica since.
			known = false
			if m, err = s.loadMark(ctx, key); err == nil {
				s.marks.put(key, m)
				continue
			}
		}
		if err != nil {
			return false, err
		}
		if repeat {
			s.marks.put(key, m)
			return false, s.dir.sync()
		}
		if !described {
			if err := s.prepare(ctx, h); err != nil {
				return false, err
			}
			described = true
		}
		seq, err := s.publish(ctx, h.ID, end, frame, m.last)
		if err == nil {
			s.marks.put(key, mark{sequence: h.ID.Sequence, stored: end, last: seq})
			return true, s.dir.sync()
		}
		if !isWrongLast(err) {
			return false, err
		}
		// Somebody else appended to the subject, or the limits discarded the batch the mark came from.
		found, err := s.loadMark(ctx, key)
		if err != nil {
			return false, err
		}
		if found.before(m) {
			found.sequence, found.stored = m.sequence, m.stored
		}
		m = found
	}
	return false, errors.New("others append the same agent's batches at the same time")
}

// prepare does what must be done before a batch is stored: what it tells of earlier events is stored first, as
// nobody would do it for a batch that is a repeat.
func (s *Store) prepare(ctx context.Context, h *batch.Header) error {
	if err := s.hasRoom(); err != nil {
		return err
	}
	return s.putUpdates(ctx, h.ID.Agent, &h.Updates)
}

// hasRoom looks at the disk of an embedded log. A cluster's servers look at theirs.
func (s *Store) hasRoom() error {
	if s.cfg.URL != "" {
		return nil
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(s.cfg.Dir, &fs); err != nil {
		return fmt.Errorf("inspect disk: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < s.cfg.MinFree {
		return fmt.Errorf("%w: %d bytes free in %s, want %d", ErrDiskFull, free, s.cfg.Dir, s.cfg.MinFree)
	}
	return nil
}

// publish stores a frame if the last message of its subject is the one with sequence number last, which JetStream
// checks under its lock, so that of several appends one succeeds.
func (s *Store) publish(ctx context.Context, id batch.ID, end uint32, frame []byte, last uint64) (uint64, error) {
	msg := &nats.Msg{Subject: subjectOf(markKey{id.Agent, id.Epoch}), Data: frame, Header: nats.Header{}}
	mark{sequence: id.Sequence, stored: end}.setOn(msg.Header)
	ack, err := s.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(last))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// loadMark reads a mark from the log, or, when the limits have discarded all batches of that agent and epoch, from what
// was kept of them; the zero mark when there never was one.
func (s *Store) loadMark(ctx context.Context, key markKey) (mark, error) {
	msg, err := s.batches.GetLastMsgForSubject(ctx, subjectOf(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		kept, err := s.keptMark(ctx, key)
		return kept.mark, err
	}
	if err != nil {
		return mark{}, fmt.Errorf("read high-water mark: %w", err)
	}
	m, err := markOf(msg.Header)
	if err != nil {
		return mark{}, fmt.Errorf("read high-water mark of message %d: %w", msg.Sequence, err)
	}
	m.last = msg.Sequence
	return m, nil
}

// setOn writes a mark into the header of a message.
func (m mark) setOn(header nats.Header) {
	header.Set(headerSequence, strconv.FormatUint(m.sequence, 10))
	if m.stored != whole {
		header.Set(headerStored, strconv.FormatUint(uint64(m.stored), 10))
	}
}

// markOf reads the mark that a message sets, without its own number.
func markOf(header nats.Header) (m mark, err error) {
	if m.sequence, err = strconv.ParseUint(header.Get(headerSequence), 10, 64); err != nil {
		return mark{}, err
	}
	stored := uint64(whole)
	if text := header.Get(headerStored); text != "" {
		if stored, err = strconv.ParseUint(text, 10, 32); err != nil {
			return mark{}, err
		}
	}
	m.stored = uint32(stored)
	return m, nil
}

func subjectOf(key markKey) string {
	return fmt.Sprintf("%s%d.%s.%d", batchPrefix, PartitionOf(key.agent), key.agent, key.epoch)
}

// keyOf is the inverse of subjectOf.
func keyOf(subject string) (key markKey, err error) {
	tokens := strings.Split(strings.TrimPrefix(subject, batchPrefix), ".")
	if len(tokens) != 3 {
		return markKey{}, fmt.Errorf("no agent and epoch in subject %q", subject)
	}
	if key.agent, err = event.ParseID(tokens[1]); err != nil {
		return markKey{}, err
	}
	key.epoch, err = strconv.ParseUint(tokens[2], 10, 64)
	return key, err
}

func isWrongLast(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}
