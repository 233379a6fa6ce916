package container

import (
	"errors"
	"hash/maphash"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/events"

	"github.com/taskguard/taskguard/collector/event"
)

// Sink takes what a tracker tells of the lives of containers. Its methods never wait, and may be called from several
// goroutines.
type Sink interface {
	// Wants tells whether events of a kind are to be told of.
	Wants(kind event.Kind) bool
	// Emit takes an event on loan. What it points to is never changed.
	Emit(e *event.Event)
}

// Kinds returns the kinds that a tracker tells of.
func Kinds() []event.Kind {
	return []event.Kind{event.ContainerCreate, event.ContainerStart, event.ContainerExec, event.ContainerStop}
}

// life is what is known of a container since its last start.
type life struct {
	started   time.Time // zero: it ran already when it was first heard of
	signal    uint8     // the last that the engine was asked to send
	oomKilled bool
}

// ownAttributes are what the engine adds to the labels of a container where it says what happened to it. A label of the
// same name takes their place.
var ownAttributes = [...]string{"exitCode", "execDuration", "execID", "signal"}

// disguised tells whether labels hide what the engine says.
func disguised(labels map[string]string) bool {
	for _, name := range ownAttributes {
		if _, ok := labels[name]; ok {
			return true
		}
	}
	return false
}

// observe takes one message of the engine's stream. The name, image and labels come with it.
func (t *Tracker) observe(m events.Message) {
	if m.Type != events.ContainerEventType || !isHex(m.Actor.ID, 64) {
		return
	}
	// An exec's command is part of its action.
	action, command, _ := strings.Cut(string(m.Action), ": ")
	at := time.Unix(0, m.TimeNano)
	switch events.Action(action) {
	case events.ActionCreate:
		t.emit(at, event.ContainerCreate, t.current(t.noteMessage(&m)))
	case events.ActionStart:
		t.emit(at, event.ContainerStart, t.started(t.noteMessage(&m), at))
	case events.ActionRename:
		t.noteMessage(&m)
	case events.ActionExecStart:
		t.execStarted(&m, at, command)
	case events.ActionKill:
		t.killed(&m)
	case events.ActionOOM:
		t.outOfMemory(&m)
	case events.ActionDie:
		t.stopped(&m, at)
	case events.ActionDestroy:
		t.destroyed(m.Actor.ID)
	}
}

// noteMessage adds what comes with a message that describes its container.
func (t *Tracker) noteMessage(m *events.Message) *tracked {
	a := m.Actor.Attributes
	labels := labelsOf(a)
	if m.Action != events.ActionCreate && m.Action != events.ActionStart && m.Action != events.ActionRename {
		for _, name := range ownAttributes {
			delete(labels, name)
		}
	}
	i := inspection{mask: t.config.Mask}
	f := facts{labels: labels, Container: event.Container{
		Name: nameOf(a["name"]), Image: cut(a["image"]), Labels: i.tags(labels), Truncated: i.cut,
	}}
	trim(&f.Container, maxDescription)
	return t.note(m.Actor.ID, f, time.Unix(0, m.TimeNano))
}

// about returns the container of a message. Only of one that was not heard of before does the message describe it.
func (t *Tracker) about(m *events.Message) *tracked {
	t.mu.Lock()
	c, ok := t.containers[m.Actor.ID]
	t.mu.Unlock()
	if !ok {
		c = t.noteMessage(m)
	}
	return c
}

func (t *Tracker) current(c *tracked) *event.Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	return c.known
}

// started has a container asked about again: it has addresses and ports now.
func (t *Tracker) started(c *tracked, at time.Time) *event.Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.life = life{started: at}
	if t.containers[c.known.ID] == c {
		c.stale = true
		t.waiting[c.known.ID] = c
		signal(t.pending)
	}
	return c.known
}

func (t *Tracker) killed(m *events.Message) {
	c := t.about(m)
	t.mu.Lock()
	defer t.mu.Unlock()
	n, _ := strconv.ParseUint(m.Actor.Attributes["signal"], 10, 7)
	c.life.signal = uint8(n)
}

func (t *Tracker) outOfMemory(m *events.Message) {
	c := t.about(m)
	t.mu.Lock()
	h := t.stops[m.Actor.ID]
	if h == nil {
		c.life.oomKilled = true
	}
	t.mu.Unlock()
	if h != nil {
		t.release(h, true)
	}
}

func (t *Tracker) stopped(m *events.Message, at time.Time) {
	c := t.about(m)
	t.mu.Lock()
	known, disguised, life := c.known, c.disguised, c.life
	t.mu.Unlock()
	stop := event.Stop{OOMKilled: life.oomKilled, StartedAt: life.started.UTC()}
	if life.started.IsZero() {
		stop.StartedAt = known.StartedAt
	}
	code, err := strconv.ParseUint(m.Actor.Attributes["exitCode"], 10, 32)
	if err == nil && !disguised {
		stop.ExitCode = event.Some(uint32(code))
		if life.signal != 0 && code == 128+uint64(life.signal) {
			stop.Signal = life.signal
		}
	}
	t.stop(at, known, stop)
}

func (t *Tracker) emit(at time.Time, kind event.Kind, c *event.Container) {
	t.emitEvent(&event.Event{Time: at, Kind: kind, Container: c})
}

// emitEvent tells of an event. Those from before New describe containers only: an agent before may have told of them.
func (t *Tracker) emitEvent(e *event.Event) {
	if t.wants(e.Kind) && !e.Time.Before(t.began) {
		t.config.Sink.Emit(e)
	}
}

func (t *Tracker) wants(kind event.Kind) bool {
	return t.config.Sink != nil && t.config.Sink.Wants(kind)
}

// missed tells that the lives of containers were not observed for a while.
func (t *Tracker) missed(from, to time.Time) {
	for _, kind := range Kinds() {
		if t.wants(kind) {
			t.config.Sink.Emit(&event.Event{Time: to, Kind: event.AgentLoss, Agent: &event.Agent{
				Stage: "docker", Cause: "disconnected", Lost: kind, From: from, To: to,
			}})
		}
	}
}

const (
	// maxRepeated is how many of its last messages, of whatever type, an engine can repeat.
	maxRepeated = 256
	// overlap is how far apart the order of messages and that of their times may be: two that come at the same time
	// have their times before they are put in order.
	overlap = time.Second
)

// following is what is known of the engine's stream from one session to the next.
type following struct {
	began time.Time // nothing from before is asked for
	last  time.Time // of the last message
	// missing is since when there may have been messages that no session got; zero when there were none.
	missing time.Time

	seed maphash.Seed
	ring [maxRepeated]messageKey // of the last messages
	next int
	seen map[messageKey]struct{} // what is in the ring
}

// messageKey stands for a message: when it was, and what it says.
type messageKey struct {
	time int64
	hash uint64
}

func newFollowing(now time.Time) *following {
	return &following{began: now, last: now, seed: maphash.MakeSeed(), seen: make(map[messageKey]struct{}, maxRepeated)}
}

// ended notes the end of a session: from then on messages may be missed, but for those of an engine that is not there.
func (f *following) ended(at time.Time, err error) {
	gone := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
	if f.missing.IsZero() && !gone {
		f.missing = at
	}
	if errors.Is(err, errTooLong) { // it would end the next session too
		f.began = at
	}
}

// since is from when on the engine is to repeat what it has.
func (f *following) since() time.Time {
	if since := f.last.Add(-overlap); since.After(f.began) {
		return since
	}
	return f.began
}

// take notes a message and reports whether it came before.
func (f *following) take(m *events.Message) (again bool) {
	var h maphash.Hash
	h.SetSeed(f.seed)
	h.WriteString(m.Actor.ID)
	h.WriteString(string(m.Action))
	key := messageKey{m.TimeNano, h.Sum64()}
	if _, again = f.seen[key]; again {
		return true
	}
	delete(f.seen, f.ring[f.next])
	f.ring[f.next] = key
	f.seen[key] = struct{}{}
	f.next = (f.next + 1) % maxRepeated
	f.last = time.Unix(0, m.TimeNano)
	return false
}

// resumed ends the doubt whether something was missed while there was no stream. Nothing was if the engine begins by
// repeating what it said before: it has all that came after.
func (t *Tracker) resumed(f *following, repeats bool, at time.Time) {
	if !f.missing.IsZero() && !repeats {
		t.missed(f.missing, at)
	}
	f.missing = time.Time{}
}
