package spool

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"time"
)

// Entry names a batch in the spool.
type Entry struct {
	Epoch    uint64 // of the agent's run that sealed it
	Sequence uint64 // within the epoch
	Events   uint64 // how many events it holds
	Size     int64  // bytes of its frame; set by Put
	crc      uint32 // CRC-32C of its frame

	put    time.Time // when Put was called; zero for what Open found
	memory string    // its frame, when that could not be written to disk
}

const nameSuffix = ".batch"

// name returns the entry's file name. Names sort in the order of the queue.
func (e Entry) name() string {
	return fmt.Sprintf("%020d-%020d-%d-%08x%s", e.Epoch, e.Sequence, e.Events, e.crc, nameSuffix)
}

// parseName is the inverse of Entry.name. It accepts no other spelling.
func parseName(name string, size int64) (Entry, bool) {
	e := Entry{Size: size}
	if _, err := fmt.Sscanf(name, "%d-%d-%d-%x"+nameSuffix, &e.Epoch, &e.Sequence, &e.Events, &e.crc); err != nil {
		return Entry{}, false
	}
	return e, e.name() == name
}

func compare(a, b Entry) int {
	return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.crc, b.crc))
}

// footprint is what the entry's file takes on disk.
func (e Entry) footprint() int64 {
	if e.memory != "" {
		return 0
	}
	return footprint(e.Size)
}

func footprint(size int64) int64 { return (size + block - 1) / block * block }

func checksum(frame []byte) uint32 { return crc32.Checksum(frame, crc32.MakeTable(crc32.Castagnoli)) }
