package audit

import "time"

// maxGaps bounds the holes that are waited for; the oldest is given up as lost for a new one.
const maxGaps = 256

// serials tells which events have not been seen, by the serial numbers the kernel gives them. A number that is
// skipped counts as lost once it has not come for the time given to expire; when it comes after that, it is
// refused, so that no event is both counted as lost and delivered. The zero value is ready.
type serials struct {
	started bool
	next    uint32 // one more than the highest number seen
	missing []gap  // disjoint, oldest first
}

// gap is the numbers from, from+1, … up to but not including to, modulo 2^32.
type gap struct {
	from, to uint32
	noticed  time.Time
}

func (g gap) size() uint64 { return uint64(g.to - g.from) }

// see takes note of a number. fresh is false for one seen before, or given up; lost is how many numbers were given
// up to make room.
func (s *serials) see(serial uint32, now time.Time) (fresh bool, lost uint64) {
	if !s.started {
		s.started, s.next = true, serial+1
		return true, 0
	}
	// The distance modulo 2^32: it is right across the wrap-around, and negative for a late number.
	ahead := int32(serial - s.next)
	if ahead < 0 {
		return s.fill(serial), 0
	}
	if ahead > 0 {
		if len(s.missing) >= maxGaps {
			lost = s.missing[0].size()
			s.missing = append(s.missing[:0], s.missing[1:]...)
		}
		s.missing = append(s.missing, gap{from: s.next, to: serial, noticed: now})
	}
	s.next = serial + 1
	return true, lost
}

// fill takes a late number out of the gap it belongs to.
func (s *serials) fill(serial uint32) bool {
	for i := range s.missing {
		g := &s.missing[i]
		if serial-g.from >= g.to-g.from {
			continue
		}
		before, after := gap{g.from, serial, g.noticed}, gap{serial + 1, g.to, g.noticed}
		switch {
		case before.size() == 0 && after.size() == 0:
			s.missing = append(s.missing[:i], s.missing[i+1:]...)
		case before.size() == 0:
			*g = after
		case after.size() == 0:
			*g = before
		default:
			*g = before
			s.missing = append(s.missing, gap{})
			copy(s.missing[i+2:], s.missing[i+1:])
			s.missing[i+1] = after
		}
		return true
	}
	return false
}

// expire gives up what was noticed missing before deadline and returns how many numbers that is.
func (s *serials) expire(deadline time.Time) (lost uint64) {
	n := 0
	for n < len(s.missing) && !s.missing[n].noticed.After(deadline) {
		lost += s.missing[n].size()
		n++
	}
	s.missing = append(s.missing[:0], s.missing[n:]...)
	return lost
}
