package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// stallCheck is how long a cursor waits for a message before it looks whether there is one.
	stallCheck = 5 * time.Second
	// openTimeout bounds how long a server of the cluster may take to begin to hand out messages, and openTries how many
	// are tried.
	openTimeout = 5 * time.Second
	openTries   = 4
	// consumerAge is how long a consumer that nobody reads from stays.
	consumerAge = time.Minute
)

// errQuiet says that there is nothing to read now.
var errQuiet = errors.New("no message")

// cursor reads a part of the log in order. A server of a cluster that was started just now may be given the reading, and
// then not answer, or never hand out what it has: the cursor notices, and begins anew where it is, maybe on another one.
// The client's own ordered consumer tries the same one for ever.
type cursor struct {
	store    *Store
	subject  string // of what it reads, with wildcards
	ahead    int    // how many messages are fetched before they are asked for
	headers  bool   // and nothing else is wanted
	next     uint64 // sequence number from which on it reads
	consumer jetstream.Consumer
	taken    uint64 // messages of this consumer
	messages jetstream.MessagesContext
}

// open begins to read at a sequence number.
func (c *cursor) open(ctx context.Context, sequence uint64) error {
	err := c.begin(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(sequence, 1),
	})
	c.next = max(sequence, 1)
	return err
}

// begin begins to read where from says.
func (c *cursor) begin(ctx context.Context, from jetstream.ConsumerConfig) (err error) {
	from.FilterSubject, from.HeadersOnly, from.AckPolicy = c.subject, c.headers, jetstream.AckNonePolicy
	from.MemoryStorage, from.Replicas, from.InactiveThreshold = true, 1, consumerAge
	for try := 1; ; try++ {
		wait, cancel := context.WithTimeout(ctx, openTimeout)
		consumer, err := c.store.batches.CreateConsumer(wait, from)
		cancel()
		if err == nil {
			c.consumer = consumer
			break
		}
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || try == openTries {
			return fmt.Errorf("begin to read: %w", err)
		}
	}
	c.taken, c.next = 0, c.consumer.CachedInfo().Delivered.Stream+1
	c.messages, err = c.consumer.Messages(jetstream.PullMaxMessages(c.ahead))
	return err
}

// read returns the next message. It fails with errQuiet when none came for a while and there is none.
func (c *cursor) read(ctx context.Context) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	for ctx.Err() == nil {
		wait, cancel := context.WithTimeout(ctx, stallCheck)
		msg, err := c.messages.Next(jetstream.NextContext(wait))
		cancel()
		var meta *jetstream.MsgMetadata
		if err == nil {
			meta, err = msg.Metadata()
		}
		if err == nil && meta.Sequence.Consumer == c.taken+1 {
			c.taken, c.next = c.taken+1, meta.Sequence.Stream+1
			return msg, meta, nil
		}
		// None came, the consumer is gone with its server, or a message of it was lost on the way.
		if err := c.recover(ctx, err); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, ctx.Err()
}

// recover begins anew if there is a message, as the leader of the log knows.
func (c *cursor) recover(ctx context.Context, cause error) error {
	msg, err := c.store.batches.GetMsg(ctx, c.next, jetstream.WithGetMsgSubject(c.subject))
	missing := errors.Is(err, jetstream.ErrMsgNotFound)
	if missing && errors.Is(cause, context.DeadlineExceeded) {
		return errQuiet
	}
	if err != nil && !missing {
		return fmt.Errorf("look for the next message: %w", err)
	}
	if !missing {
		c.store.log.Info("reading stalled, beginning anew", "at", c.next, "next", msg.Sequence, "cause", cause)
	}
	c.close(ctx)
	return c.open(ctx, c.next)
}

// close ends the reading. A consumer that cannot be deleted now goes by itself.
func (c *cursor) close(ctx context.Context) {
	c.messages.Stop()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := c.store.batches.DeleteConsumer(ctx, c.consumer.CachedInfo().Name); err != nil {
		c.store.log.Debug("consumer not deleted", "error", err)
	}
}
