// Package batch is the wire format between the agent and the endpoint; batch.proto in this directory is its
// contract.
//
// Builder encodes: one append-only pass, an event at a time, without allocating once its buffers have grown.
// Decode reads a batch back with the generated code and links its events to their processes and containers.
// Compress and Decompress wrap a batch in zstd with bounded memory. The package does no I/O and keeps no state
// between batches.
//
// It promises: Decode gives back the events that were appended, in their order, field by field but for those the
// agent keeps to itself (event fields marked `json:"-"` other than Start); Decode never panics, and refuses what
// exceeds the limits below or points outside its tables.
package batch

import (
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

//go:generate protoc --proto_path=. --go_out=batchpb --go_opt=paths=source_relative batch.proto

// ContentType is the media type of a compressed batch.
const ContentType = "application/vnd.taskguard.batch.v1+zstd"

// Limits of one batch. The agent seals far below them; the endpoint refuses what exceeds them.
const (
	MaxEvents     = 64 << 10  // events
	MaxEntries    = 64 << 10  // entries of any one table
	MaxRecords    = 256 << 10 // entries of lists inside of events, containers and the ledger, together
	MaxSize       = 8 << 20   // bytes before compression
	MaxCompressed = 4 << 20   // bytes on the wire
)

// ID is a batch's identity: no two batches with different content share it.
type ID struct {
	Agent    event.ID
	Epoch    uint64 // when the agent's run began, ns since 1970
	Sequence uint64 // 1, 2, … within the epoch
}

// Loss counts events of one kind that were lost for one cause.
type Loss struct {
	Stage string // where: "kernel", "decode", "queue", "seal", "spool", "send", …
	Cause string // why: "ring_full", "evicted", …
	Kind  event.Kind
	Count uint64
}

// Ledger is what an agent's ledger gained between two batches.
type Ledger struct {
	Observed uint64
	Lost     []Loss
}

// Header is what a batch says of itself.
type Header struct {
	ID      ID
	Host    event.Host
	Ledger  Ledger
	Updates Updates

	// Of a part of a sealed batch: it has the events from First on, counted from 0, of the Sealed ones. First plus its
	// events is at most Sealed. Sealed is 0, or the number of events, when the batch is whole.
	First, Sealed uint32
}

// Whole reports whether a batch of so many events is all that was sealed.
func (h *Header) Whole(events int) bool {
	return h.Sealed == 0 || h.First == 0 && uint64(events) == uint64(h.Sealed)
}

// Updates tell what was pending in an earlier batch.
type Updates struct {
	Containers []event.Container
	Digests    []event.FileDigest
}

// Batch is a decoded batch. Its events share processes, containers and the host.
type Batch struct {
	Header
	Events []event.Event
}

func unixTime(ns uint64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(ns)).UTC()
}

func unixNano(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}
