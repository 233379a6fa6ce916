package batch

import (
	"cmp"
	"fmt"
)

// Split appends a part of a decoded batch to dst, before compression: count of its events from b.Events[first] on, under
// the identity of b. What the parts of a batch decode to, one after the other, are the events of the batch. Updates and
// the ledger go with the part that has the first event that was sealed. b may be a part itself.
//
// What a newer agent sealed and this version does not know is not in the parts.
func Split(dst []byte, b *Batch, first, count int) ([]byte, error) {
	if first < 0 || count < 0 || first > len(b.Events) || count > len(b.Events)-first {
		return nil, fmt.Errorf("split batch: %d events from %d on, want them among its %d", count, first, len(b.Events))
	}
	h := b.Header
	h.First, h.Sealed = b.First+uint32(first), cmp.Or(b.Sealed, uint32(len(b.Events)))
	if h.First > 0 {
		h.Ledger, h.Updates = Ledger{}, Updates{}
	}
	part := NewBuilder()
	for i := first; i < first+count; i++ {
		part.Append(&b.Events[i])
	}
	return part.Seal(dst, h, Late{}), nil
}
