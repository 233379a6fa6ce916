package ebpf

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/taskguard/taskguard/collector"
	"github.com/taskguard/taskguard/collector/event"
)

// throttleQuiet is how long a cgroup must have lost nothing to the throttle for that to have stopped.
const throttleQuiet = 2 * time.Second

// drops are how many events of a cgroup the throttle left out, by kind.
type drops [kinds]uint64

// throttling tells from what the kernel counts for each cgroup when it begins, and when it ceases, to lose events to
// the throttle. It remembers as many cgroups as the kernel does, and for a moment those that the kernel has forgotten.
type throttling struct {
	looked  time.Time // what is dropped later had not been at the last look
	cgroups map[uint64]*throttled
	active  int // how many of them are losing events
}

// throttled is what is known of a cgroup that has lost events.
type throttled struct {
	counted drops // what the kernel counted at the last look
	// What follows is of the time in which it loses events.
	losing   bool
	from, to time.Time // nothing was dropped before the one or after the other
	dropped  drops
	path     string
	in       *event.Container
}

func newThrottling(now time.Time) throttling {
	return throttling{looked: now, cgroups: make(map[uint64]*throttled)}
}

// look compares with what the kernel counts now for every cgroup that it remembers. It calls tell with "start" for
// those that have begun to lose events and with "stop" for those that have ceased, which is also the end of one that
// the kernel has forgotten.
func (w *throttling) look(now time.Time, counted map[uint64]drops, tell func(phase string, id uint64, c *throttled)) {
	for _, id := range slices.Sorted(maps.Keys(counted)) {
		c := w.cgroups[id]
		if c == nil && counted[id] != (drops{}) {
			c = &throttled{}
			w.cgroups[id] = c
		}
		if c == nil || !c.add(counted[id]) {
			continue
		}
		c.to = now
		if !c.losing {
			c.losing, c.from = true, w.looked
			w.active++
			tell("start", id, c)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.cgroups)) {
		c := w.cgroups[id]
		if c.losing && now.Sub(c.to) >= throttleQuiet {
			w.stop(id, c, tell)
		}
		if _, remembered := counted[id]; !remembered && !c.losing {
			delete(w.cgroups, id)
		}
	}
	w.looked = now
}

// idle is look for when nothing was dropped by anybody.
func (w *throttling) idle(now time.Time) { w.looked = now }

// end stops what has not stopped.
func (w *throttling) end(tell func(phase string, id uint64, c *throttled)) {
	for _, id := range slices.Sorted(maps.Keys(w.cgroups)) {
		if c := w.cgroups[id]; c.losing {
			w.stop(id, c, tell)
		}
	}
}

func (w *throttling) stop(id uint64, c *throttled, tell func(phase string, id uint64, c *throttled)) {
	tell("stop", id, c)
	*c = throttled{counted: c.counted}
	w.active--
}

// add takes over what the kernel counts, and reports whether that is more than before. Counters that have become less
// are new ones: the kernel had forgotten the cgroup.
func (c *throttled) add(counted drops) (more bool) {
	for kind := range counted {
		if counted[kind] < c.counted[kind] {
			c.counted = drops{}
		}
	}
	for kind := range counted {
		n := counted[kind] - c.counted[kind]
		c.dropped[kind] += n
		more = more || n > 0
	}
	c.counted = counted
	return more
}

// reportThrottle emits agent.throttle events. The counters were just read.
func (s *Source) reportThrottle(now time.Time, sink collector.Sink) error {
	if !s.throttledMore() && s.throttle.active == 0 {
		s.throttle.idle(now)
		return nil
	}
	counted, err := s.drops()
	if err != nil {
		return err
	}
	s.throttle.look(now, counted, func(phase string, id uint64, c *throttled) { s.tellThrottle(phase, id, c, sink) })
	return nil
}

// endThrottle emits the last of them: what is not attached drops nothing.
func (s *Source) endThrottle(sink collector.Sink) error {
	if err := s.reportThrottle(time.Now(), sink); err != nil {
		return err
	}
	s.throttle.end(func(phase string, id uint64, c *throttled) { s.tellThrottle(phase, id, c, sink) })
	return nil
}

// throttledMore reports whether anything was dropped since it was last asked.
func (s *Source) throttledMore() bool {
	var n uint64
	for kind := range s.reported {
		n += s.reported[kind].Throttled
	}
	more := n != s.throttledTotal
	s.throttledTotal = n
	return more
}

func (s *Source) tellThrottle(phase string, id uint64, c *throttled, sink collector.Sink) {
	if phase == "start" && s.cfg.Place != nil {
		c.path, c.in = s.cfg.Place(id)
	}
	told := event.Agent{Phase: phase, From: c.from, Cgroup: c.path}
	if phase == "stop" {
		told.To = c.to
	}
	for kind, n := range c.dropped {
		if n > 0 {
			told.Dropped = append(told.Dropped, event.Dropped{Kind: event.Kind(kind), Count: n})
		}
	}
	sink.Emit(&event.Event{Time: time.Now(), Kind: event.AgentThrottle, Container: c.in, Agent: &told})
}

// drops reads what the kernel counts for each cgroup.
func (s *Source) drops() (map[uint64]drops, error) {
	var cursor ebpf.MapBatchCursor
	ids := make([]uint64, s.throttlesMap.MaxEntries())
	states := make([]commonThrottleState, len(ids))
	counted := make(map[uint64]drops)
	for {
		n, err := s.throttlesMap.BatchLookup(&cursor, ids, states, nil)
		for i := range n {
			counted[ids[i]] = states[i].Dropped
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) { // there are no more
			return counted, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read throttled cgroups: %w", err)
		}
	}
}
