package stream

import (
	"container/list"
	"sync"

	"github.com/taskguard/taskguard/collector/event"
)

// markKey names a run of an agent.
type markKey struct {
	agent event.ID
	epoch uint64
}

// mark is how far an agent's run has been stored: the sequence number of its last batch, and that of the message
// the log keeps it in. The zero mark is before the first batch.
type mark struct {
	sequence uint64
	last     uint64
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
		if value.sequence > entry.mark.sequence || value.last > entry.mark.last {
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
