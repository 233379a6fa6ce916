package ingest

import (
	"fmt"
	"time"

	"github.com/taskguard/taskguard/sender/batch"
)

// Limits bound what one agent may send. A zero value means the default, which is in the field's comment.
type Limits struct {
	// MaxBody bounds a request's body in bytes; more is answered with 413. At most, and by default, batch.MaxCompressed.
	MaxBody int64
	// MaxSize bounds a batch in bytes when it is decompressed; more is answered with 413. At most, and by default,
	// batch.MaxSize.
	MaxSize int64
	// MaxEvents bounds the events of a batch; more is answered with 413. At most, and by default, batch.MaxEvents.
	MaxEvents int
	// MaxEntry bounds each string, process, container and event of a batch in bytes; more is answered with 400. By
	// default DefaultMaxEntry, as much as an agent tells of a container.
	MaxEntry int
	// Rate is how many batches a second an agent may send for long; more is answered with 429. By default DefaultRate.
	// An agent that seals one batch a second catches up with an outage of an hour in 75 s at 50.
	Rate float64
	// Burst is how many batches an agent may send at once. By default DefaultBurst.
	Burst int
	// MaxAgents bounds the agents whose rate is kept in memory, some 200 bytes each. The one that was silent for longest
	// is forgotten, and may send a burst again. By default DefaultMaxAgents.
	MaxAgents int
}

// Defaults of Limits.
const (
	DefaultMaxEntry  = 1 << 20
	DefaultRate      = 50
	DefaultBurst     = 200
	DefaultMaxAgents = 16 << 10
)

func (l Limits) withDefaults() Limits {
	l.MaxBody = orDefault(l.MaxBody, batch.MaxCompressed)
	l.MaxSize = orDefault(l.MaxSize, batch.MaxSize)
	l.MaxEvents = orDefault(l.MaxEvents, batch.MaxEvents)
	l.MaxEntry = orDefault(l.MaxEntry, DefaultMaxEntry)
	l.Rate = orDefault(l.Rate, DefaultRate)
	l.Burst = orDefault(l.Burst, DefaultBurst)
	l.MaxAgents = orDefault(l.MaxAgents, DefaultMaxAgents)
	return l
}

func orDefault[T int | int64 | float64](value, otherwise T) T {
	if value == 0 {
		return otherwise
	}
	return value
}

// check says what of the limits the wire format, or sense, does not allow.
func (l Limits) check() error {
	switch {
	case l.MaxBody < 0 || l.MaxBody > batch.MaxCompressed:
		return fmt.Errorf("limit of %d bytes for a body: want at most %d", l.MaxBody, batch.MaxCompressed)
	case l.MaxSize < 0 || l.MaxSize > batch.MaxSize:
		return fmt.Errorf("limit of %d bytes for a batch: want at most %d", l.MaxSize, batch.MaxSize)
	case l.MaxEvents < 0 || l.MaxEvents > batch.MaxEvents:
		return fmt.Errorf("limit of %d events for a batch: want at most %d", l.MaxEvents, batch.MaxEvents)
	case l.MaxEntry < 0 || l.Rate < 0 || l.Burst < 0 || l.MaxAgents < 0:
		return fmt.Errorf("limits %+v: want no negative ones", l)
	}
	return nil
}

// allow says whether a decompressed batch is within the limits and its agent within its rate.
func (h *Handler) allow(data []byte, from sender, now time.Time) error {
	if int64(len(data)) > h.limits.MaxSize {
		return tooLarge("batch of %d bytes: want at most %d", len(data), h.limits.MaxSize)
	}
	outline, err := batch.ReadOutline(data)
	if err != nil {
		return malformed(err)
	}
	// Before the agent's rate is counted: nobody uses up another's.
	if err := from.isAgent(outline.Agent); err != nil {
		return err
	}
	if outline.Events > h.limits.MaxEvents {
		return tooLarge("batch of %d events: want at most %d", outline.Events, h.limits.MaxEvents)
	}
	if outline.LargestEntry > h.limits.MaxEntry {
		return malformed(fmt.Errorf("string, process, container or event of %d bytes: want at most %d",
			outline.LargestEntry, h.limits.MaxEntry))
	}
	if wait := h.rates.take(outline.Agent, now); wait > 0 {
		return tooMany(wait)
	}
	return nil
}
