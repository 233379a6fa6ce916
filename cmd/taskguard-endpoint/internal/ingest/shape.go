package ingest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/taskguard/taskguard/sender/batch"
)

// Field numbers of sender/batch/batch.proto under which messages repeat. Each message costs two bytes on the wire
// and a hundred in memory, so they are counted before anything is decoded: otherwise 8 MiB become half a gigabyte.
const (
	fieldEvents = 9
	fieldLedger = 11

	fieldEventDNS   = 9
	fieldEventAgent = 10
)

// maxNested bounds the messages inside events and the ledger: questions and answers, source states, losses.
const maxNested = batch.MaxEntries

var errTruncated = errors.New("truncated")

// checkShape refuses a batch with more messages than its limits allow. What else is wrong with it is for
// batch.Decode to find.
func checkShape(data []byte) error {
	var top [fieldLedger + 1]int
	nested := 0
	err := eachField(data, func(field uint64, value []byte) error {
		if field >= uint64(len(top)) {
			return nil
		}
		if top[field]++; top[field] > batch.MaxEntries {
			return fmt.Errorf("more than %d entries of field %d", batch.MaxEntries, field)
		}
		n, err := countNested(field, value)
		if err != nil {
			return err
		}
		if nested += n; nested > maxNested {
			return fmt.Errorf("more than %d messages inside events", maxNested)
		}
		return nil
	})
	return err
}

// countNested counts the messages inside an event or the ledger.
func countNested(field uint64, value []byte) (n int, err error) {
	count := func(uint64, []byte) error { n++; return nil }
	switch field {
	case fieldLedger:
		err = eachField(value, count)
	case fieldEvents:
		err = eachField(value, func(field uint64, value []byte) error {
			n++
			if field == fieldEventDNS || field == fieldEventAgent {
				return eachField(value, count)
			}
			return nil
		})
		n = max(0, n-1) // an event has one group of its own
	}
	return n, err
}

// eachField calls fn for every length-delimited field of a message, and passes over the others.
func eachField(data []byte, fn func(field uint64, value []byte) error) error {
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 {
			return errTruncated
		}
		data = data[n:]
		size, err := valueSize(tag&7, data)
		if err != nil {
			return err
		}
		if tag&7 == 2 {
			prefix, n := binary.Uvarint(data)
			if err := fn(tag>>3, data[n:n+int(prefix)]); err != nil {
				return err
			}
		}
		data = data[size:]
	}
	return nil
}

// valueSize returns the bytes that a value of a wire type takes at the start of data.
func valueSize(wireType uint64, data []byte) (int, error) {
	size := 0
	switch wireType {
	case 0:
		_, size = binary.Uvarint(data)
		if size <= 0 {
			return 0, errTruncated
		}
	case 1:
		size = 8
	case 2:
		length, n := binary.Uvarint(data)
		if n <= 0 || length > uint64(len(data)-n) {
			return 0, errTruncated
		}
		size = n + int(length)
	case 5:
		size = 4
	default:
		return 0, fmt.Errorf("wire type %d", wireType)
	}
	if size > len(data) {
		return 0, errTruncated
	}
	return size, nil
}
