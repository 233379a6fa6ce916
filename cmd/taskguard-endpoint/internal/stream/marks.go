package stream

import (
	"cmp"
	"container/list"
	"math"
	"sync"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// markKey names a run of an agent.
type markKey struct {
	agent event.ID
	epoch uint64
}

// mark is how far an agent's run has been stored: the sequence number of its last batch, how many events of that, and
// the sequence number of the message the log keeps it in. The zero mark is before the first batch.
type mark struct {
	sequence uint64
	stored   uint32
	last     uint64
}

// whole is the stored of a mark that has all events of its batch.
const whole = math.MaxUint32

// before reports whether less is stored than another mark says.
func (m mark) before(other mark) bool {
	return cmp.Or(cmp.Compare(m.sequence, other.sequence), cmp.Compare(m.stored, other.stored)) < 0
}

// place reports whether a frame that ends at end is stored already; a PartialError if it does not begin at the mark.
func (m mark) place(h *batch.Header, end uint32) (repeat bool, err error) {
	stored := uint32(0)
	if h.ID.Sequence == m.sequence {
		stored = m.stored
	}
	switch {
	case h.ID.Sequence < m.sequence, end <= stored: // also a part without events
		return true, nil
	case h.First != stored:
		return false, &PartialError{Stored: stored}
	}
	return false, nil
}

// marks keeps the marks used last, max of them. It is a cache: the log itself has them all.
type marks struct {
	max int

	mu    sync.Mutex
	order *list.List                // of *markEntry, the one used last in front; guarded by mu
	byKey map[markKey]*list.Element // guarded by mu
}

type markEntry struct {
	key  markKey
	mark mark
}

func newMarks(max int) *marks {
	return &marks{max: max, order: list.New(), byKey: make(map[markKey]*list.Element)}
}

func (m *marks) get(key markKey) (mark, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	element, ok := m.byKey[key]
	if !ok {
		return mark{}, false
	}
	m.order.MoveToFront(element)
	return element.Value.(*markEntry).mark, true
}

// put keeps a mark, unless a higher one is kept already.
func (m *marks) put(key markKey, value mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if element, ok := m.byKey[key]; ok {
		entry := element.Value.(*markEntry)
		if entry.mark.before(value) || value.last > entry.mark.last {
			entry.mark = value
		}
		m.order.MoveToFront(element)
		return
	}
	m.byKey[key] = m.order.PushFront(&markEntry{key, value})
	if m.order.Len() > m.max {
		oldest := m.order.Remove(m.order.Back()).(*markEntry)
		delete(m.byKey, oldest.key)
	}
}
