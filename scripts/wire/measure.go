package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/batch"
)

// size is what the events of a corpus take, in bytes.
type size struct {
	corpus  string
	sealed  string // when batches are: "every second" or "once"
	events  int
	batches int
	wire    int // batches, as they are posted
	ndjson  int // the same events, a line each, compressed by gzip for each batch
}

func (s *size) perEvent() (wire, ndjson float64) {
	return float64(s.wire) / float64(s.events), float64(s.ndjson) / float64(s.events)
}

// measure seals a corpus as the agent does, by the time of its events, and all at once, as a busy host fills batches.
func measure(c *corpus) ([]size, error) {
	second := size{corpus: c.name, sealed: "every second", events: len(c.events)}
	for first := 0; first < len(c.events); {
		end := first + 1
		for end < len(c.events) && end-first < sender.DefaultMaxEvents && within(c.events[first].Time, c.events[end].Time) {
			end++
		}
		if err := second.add(c, first, end); err != nil {
			return nil, err
		}
		first = end
	}
	once := size{corpus: c.name, sealed: "once", events: len(c.events)}
	err := once.add(c, 0, len(c.events))
	return []size{second, once}, err
}

func within(first, now time.Time) bool { return now.Sub(first) < sender.DefaultSealInterval }

// add adds a batch of the events from first to before end.
func (s *size) add(c *corpus, first, end int) error {
	codec, err := batch.NewCodec()
	if err != nil {
		return err
	}
	b := batch.NewBuilder()
	var text bytes.Buffer
	w := gzip.NewWriter(&text)
	lines := json.NewEncoder(w)
	for i := first; i < end; i++ {
		b.Append(&c.events[i])
		if err := lines.Encode(&c.events[i]); err != nil {
			return fmt.Errorf("encode event: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	// An identity of random bytes, as an agent has.
	id := batch.ID{Agent: agent, Epoch: uint64(c.events[0].Time.UnixNano()), Sequence: uint64(s.batches + 1)}
	frame := codec.Compress(nil, b.Seal(nil, batch.Header{
		ID: id, Host: c.host, Ledger: batch.Ledger{Observed: uint64(end - first)},
	}, batch.Late{}))
	s.batches++
	s.wire += len(frame)
	s.ndjson += text.Len()
	return nil
}

var agent = event.ID{0x3d, 0x12, 0x19, 0xc7, 0xc4, 0xc5, 0x40, 0x4a, 0xaa, 0x1f, 0x6d, 0x2a, 0x48, 0xad, 0xfd, 0xa4}
