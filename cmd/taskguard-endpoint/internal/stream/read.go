package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/taskguard/taskguard/sender/batch"
)

// clockSlack is how far a host's clock may be ahead of this one for ReadOptions.Since to find its events.
const clockSlack = 5 * time.Minute

// readAhead is how many batches are fetched before they are asked for.
const readAhead = 4

// ReadOptions says what to read.
type ReadOptions struct {
	// Since skips batches stored before it, less some minutes for clocks that differ: batches that are read may
	// hold events from before it. The zero time reads from the oldest batch on.
	Since time.Time
	// Follow goes on when all is read that was stored at the beginning, until the context is done.
	Follow bool
}

// Gaps counts the batches that a Read could not give.
type Gaps struct {
	Discarded  uint64 // by the log's limits, before they were reached
	Unreadable uint64 // damaged on disk
}

// Read hands the batches of the log to fn, in the order in which they were stored. A batch is the caller's. Read
// ends with nil at what was stored when it began, or, to follow, when ctx is done; or with the first error of fn.
// It holds a few batches in memory at most, however slow fn is.
func (s *Store) Read(ctx context.Context, o ReadOptions, fn func(*batch.Batch) error) (Gaps, error) {
	r := reader{decoder: decoder{store: s}, fn: fn, follow: o.Follow}
	err := r.run(ctx, o.Since)
	if ctx.Err() != nil && o.Follow {
		err = nil
	}
	if err != nil {
		return r.gaps, fmt.Errorf("read log: %w", err)
	}
	return r.gaps, nil
}

// reader is one Read.
type reader struct {
	fn     func(*batch.Batch) error
	follow bool
	end    uint64 // sequence number of the last message to read, unless follow
	cursor cursor
	gaps   Gaps
	decoder
}

// decoder decodes messages, into memory that it uses again.
type decoder struct {
	store *Store
	buf   []byte
}

// errUnreadable says that what a message holds is no batch.
var errUnreadable = errors.New("damaged batch")

// decode returns the batch of a message, joined with what was learnt later.
func (d *decoder) decode(ctx context.Context, msg jetstream.Msg) (*batch.Batch, error) {
	key, err := keyOf(msg.Subject())
	if err != nil {
		return nil, err
	}
	data, err := d.store.codec.Decompress(d.buf[:0], msg.Data())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	d.buf = data
	b, err := batch.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	return b, d.store.join(ctx, key.agent, b)
}

func (r *reader) run(ctx context.Context, since time.Time) error {
	info, err := r.store.batches.Info(ctx)
	if err != nil {
		return err
	}
	r.end = info.State.LastSeq
	r.cursor = cursor{store: r.store, subject: batchPrefix + ">", ahead: readAhead}
	from := jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	start := since.Add(-clockSlack)
	if !since.IsZero() {
		from.DeliverPolicy, from.OptStartTime = jetstream.DeliverByStartTimePolicy, &start
	}
	if !r.follow && (info.State.Msgs == 0 || info.State.LastTime.Before(start)) {
		return nil
	}
	if err := r.cursor.begin(ctx, from); err != nil {
		return err
	}
	defer r.cursor.close(ctx)
	for done := false; !done; {
		if done, err = r.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// step reads one message and reports whether it was the last to read.
func (r *reader) step(ctx context.Context) (bool, error) {
	next := r.cursor.next
	msg, meta, err := r.cursor.read(ctx)
	quiet := errors.Is(err, errQuiet)
	if quiet && r.follow {
		return false, nil
	}
	if err != nil && !quiet {
		return false, err
	}
	if quiet || !r.follow && meta.Sequence.Stream > r.end { // the limits have discarded what was still to be read
		r.gaps.Discarded += r.end + 1 - next
		return true, nil
	}
	seq := meta.Sequence.Stream
	r.gaps.Discarded += seq - next
	return !r.follow && seq == r.end, r.hand(ctx, msg)
}

// hand decodes a message and hands it on.
func (r *reader) hand(ctx context.Context, msg jetstream.Msg) error {
	b, err := r.decode(ctx, msg)
	if errors.Is(err, errUnreadable) {
		r.gaps.Unreadable++
		return nil
	}
	if err != nil {
		return err
	}
	return r.fn(b)
}
