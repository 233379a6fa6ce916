package process

import "github.com/taskguard/taskguard/collector/event"

// snapshot is a process between two changes. It is kept while the table holds it, or while one that is kept can be
// asked for enough ancestors to come to it.
type snapshot struct {
	event.Process
	parent *snapshot
	held   bool   // by the table, as the current one of its pid or for the time of an event
	ended  uint64 // which end it was since the start; 0 while it runs. Exit is for the event of the end only.
	// asked counts the snapshots that have this one as their parent, by how many of its ancestors they ask for.
	asked [event.MaxAncestors]int32
}

// reach is how many ancestors a snapshot can be asked for; -1 when nobody asks for the snapshot itself.
func (s *snapshot) reach() int {
	if s.held {
		return event.MaxAncestors
	}
	n := event.MaxAncestors - 1
	for n >= 0 && s.asked[n] == 0 {
		n--
	}
	return n
}

// adopt makes parent the parent of s. Both are held, or a snapshot that is held has the same parent.
func (s *snapshot) adopt(parent *snapshot) {
	if parent == nil {
		return
	}
	s.parent, s.Parent = parent, &parent.Process
	parent.asked[event.MaxAncestors-1]++
}

// release ends the table's hold of s. What can be asked of its ancestors shrinks with it: each of them that is out of
// everybody's reach goes back to the pool. Thus a chain of processes that have ended is as long as an event can tell,
// however many generations there were.
func (p *pool) release(s *snapshot) {
	was := s.reach()
	s.held = false
	for {
		now := s.reach()
		if now == was {
			return
		}
		parent := s.parent
		parentWas := 0
		if parent != nil {
			parentWas = parent.reach()
			parent.asked[was-1]--
			if now > 0 {
				parent.asked[now-1]++
			} else {
				s.parent, s.Parent = nil, nil
			}
		}
		if now < 0 {
			p.put(s)
		}
		if parent == nil {
			return
		}
		s, was = parent, parentWas
	}
}
