package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// frames makes batches of any agent and sequence that have the same events, without sealing each: behind what is
// compressed once comes a small frame with the identity. Both are one batch, as the last value of a field is the one
// that counts, and frames that follow each other are one stream (RFC 8878).
type frames struct {
	codec  *batch.Codec
	body   []byte
	events int
}

// newFrames returns frames of n recorded events, which come again and again.
func newFrames(file string, n int) (*frames, error) {
	list, err := readEvents(file)
	if err != nil {
		return nil, fmt.Errorf("read corpus: %w", err)
	}
	codec, err := batch.NewCodec()
	if err != nil {
		return nil, err
	}
	b := batch.NewBuilder()
	for i := range n {
		b.Append(&list[i%len(list)])
	}
	data := b.Seal(nil, batch.Header{ID: batch.ID{Sequence: 1, Epoch: 1}, Host: event.Host{Hostname: "capacity"}}, batch.Late{})
	return &frames{codec, codec.Compress(nil, data), n}, nil
}

func readEvents(file string) (list []event.Event, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	if len(list) == 0 {
		return nil, errors.New("it has no events")
	}
	return list, lines.Err()
}

// append appends the batch of an agent with a sequence number to dst.
func (f *frames) append(dst []byte, agent event.ID, sequence uint64) []byte {
	const agentField, sequenceField = 1, 3 // of Batch in batch.proto
	var id [32]byte
	tail := protowire.AppendBytes(protowire.AppendTag(id[:0], agentField, protowire.BytesType), agent[:])
	tail = protowire.AppendVarint(protowire.AppendTag(tail, sequenceField, protowire.VarintType), sequence)
	return f.codec.Compress(append(dst, f.body...), tail)
}
