package stream

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// Partitions is how many parts the log has, by agent, for replicas of a role to share.
const Partitions = 16

// PartitionOf returns the partition of an agent's batches, from 0 on: FNV-1a (32 bits) of its id, modulo Partitions.
func PartitionOf(agent event.ID) int {
	h := fnv.New32a()
	h.Write(agent[:])
	return int(h.Sum32() % Partitions)
}

// Message is a batch as it was stored, joined with what was learnt later.
type Message struct {
	Sequence uint64    // in the log; it rises
	Stored   time.Time // when it was
	Batch    *batch.Batch
}

// ReadPartition hands the batches of one partition that were stored behind a sequence number of the log to each, in
// order, and goes on with what comes, until ctx is done, which is no error, or each fails. A batch is each's. gap is told
// of what cannot be given: how many messages of the whole log the limits had discarded before they were reached, and how
// many batches are damaged.
func (s *Store) ReadPartition(
	ctx context.Context, partition int, after uint64, each func(Message) error, gap func(discarded, damaged uint64),
) error {
	err := s.readPartition(ctx, partition, after, each, gap)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("read partition %d: %w", partition, err)
	}
	return nil
}

func (s *Store) readPartition(
	ctx context.Context, partition int, after uint64, each func(Message) error, gap func(discarded, damaged uint64),
) error {
	info, err := s.batches.Info(ctx)
	if err != nil {
		return err
	}
	if first := info.State.FirstSeq; first > after+1 {
		gap(first-after-1, 0)
	}
	c := cursor{store: s, subject: fmt.Sprintf("%s%d.*.*", batchPrefix, partition), ahead: readAhead}
	if err := c.open(ctx, after+1); err != nil {
		return err
	}
	defer c.close(ctx)
	d := decoder{store: s}
	for {
		msg, meta, err := c.read(ctx)
		if errors.Is(err, errQuiet) {
			continue
		}
		if err != nil {
			return err
		}
		b, err := d.decode(ctx, msg)
		if errors.Is(err, errUnreadable) {
			gap(0, 1)
			continue
		}
		if err != nil {
			return err
		}
		if err := each(Message{meta.Sequence.Stream, meta.Timestamp, b}); err != nil {
			return err
		}
	}
}
