package container

import (
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

const (
	// stopDelay is how long the end of a container that may have been for lack of memory waits for the engine to say so: on
	// a busy host that comes after the end.
	stopDelay = 2 * time.Second
	// maxStops is how many ends may wait. What comes then is told of at once.
	maxStops = 256
)

// heldStop is the end of a container that waits.
type heldStop struct {
	event event.Event
	stop  event.Stop
	timer *time.Timer
}

// stop tells of a container's end: later, if the kernel killed it and nobody is known to have asked for that.
func (t *Tracker) stop(at time.Time, c *event.Container, stop event.Stop) {
	h := &heldStop{event: event.Event{Time: at, Kind: event.ContainerStop, Container: c}, stop: stop}
	h.event.Stop = &h.stop
	const killed = 128 + 9
	if stop.ExitCode != event.Some[uint32](killed) || stop.Signal != 0 || stop.OOMKilled || !t.hold(h) {
		t.emitEvent(&h.event)
	}
}

// hold has an end wait; false when too many do, or one of the same container.
func (t *Tracker) hold(h *heldStop) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := h.event.Container.ID
	if _, waits := t.stops[id]; waits || len(t.stops) >= maxStops {
		return false
	}
	t.stops[id] = h
	h.timer = time.AfterFunc(stopDelay, func() { t.release(h, false) })
	return true
}

// release tells of an end that waits, the first time that it is called for it.
func (t *Tracker) release(h *heldStop, oomKilled bool) {
	t.mu.Lock()
	id := h.event.Container.ID
	waits := t.stops[id] == h
	if waits {
		delete(t.stops, id)
		h.timer.Stop()
	}
	t.mu.Unlock()
	if waits {
		h.stop.OOMKilled = oomKilled
		t.emitEvent(&h.event)
	}
}

// releaseStops tells of all ends that wait.
func (t *Tracker) releaseStops() {
	t.mu.Lock()
	held := make([]*heldStop, 0, len(t.stops))
	for _, h := range t.stops {
		held = append(held, h)
	}
	t.mu.Unlock()
	for _, h := range held {
		t.release(h, false)
	}
}
