package container

import (
	"cmp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
	"unique"

	"github.com/taskguard/taskguard/collector/event"
)

// maxValue bounds what is kept of anything the engine says, in bytes: a label may be as long as its author likes.
const maxValue = 1024

// Describe returns all that is known now of a container that Locate returned, for so many events of it. While the
// description is Pending, what was said so far is in it; once it is complete, Updates has it.
func (t *Tracker) Describe(c *event.Container, events uint64) event.Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	tracked, ok := t.containers[c.ID]
	if !ok {
		return *c
	}
	t.countEvents(tracked, events)
	tracked.given = tracked.given || tracked.known.Pending
	return *tracked.known
}

// countEvents counts what Describe was told of. t.mu is held.
func (t *Tracker) countEvents(c *tracked, events uint64) {
	c.events += events
	if c.bound {
		t.stats.EventsBound += events
	} else {
		t.stats.EventsUnbound += events
	}
	if c.known.Pending {
		t.stats.EventsPending += events
	}
}

// Known is a container as List tells of it.
type Known struct {
	event.Container
	Events  uint64    `json:"events"`            // that Describe was told of
	EndedAt time.Time `json:"ended_at,omitzero"` // when it was removed, if it was
}

// List returns the containers that are remembered, by name.
func (t *Tracker) List() []Known {
	t.mu.Lock()
	list := make([]Known, 0, len(t.containers))
	for _, c := range t.containers {
		list = append(list, Known{*c.known, c.events, c.gone})
	}
	t.mu.Unlock()
	slices.SortFunc(list, func(a, b Known) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return list
}

// Updates returns the descriptions that were completed since the last call, of containers that Describe gave out as
// pending, or that existed before New: an agent before may have given them out. Each is returned once.
func (t *Tracker) Updates() []event.Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	updates := t.updates
	t.updates = nil
	return updates
}

// Layers returns the directories on the host that hold the files of a container's image, the topmost first, and whether
// the engine may still tell of them.
func (t *Tracker) Layers(id string) (dirs []string, pending bool) {
	t.mu.Lock()
	c, ok := t.containers[id]
	var layers unique.Handle[string]
	if ok {
		layers, pending = c.layers, !c.described
	}
	t.mu.Unlock()
	if layers == (unique.Handle[string]{}) {
		return nil, pending
	}
	return strings.Split(layers.Value(), ":"), false
}

// facts is what the engine says of a container, in one message. What is empty is not said.
type facts struct {
	event.Container
	labels    map[string]string
	endpoint  string // the id of the task metadata endpoint
	oomKilled bool   // since its last start
	layers    string // of its image
}

// note adds what the engine says in passing, of a container that existed at a time. One that did before New may have
// been given out as pending by another agent, which ended before it could be described.
func (t *Tracker) note(id string, f facts, existed time.Time) *tracked {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.track(found{id: id, runtime: docker}, true)
	c.add(f)
	t.weigh(c)
	c.given = c.given || c.known.Pending && existed.Before(t.began)
	t.bind(c)
	return c
}

// settle adds the last that the engine has to say: the container is not pending any more.
func (t *Tracker) settle(id string, f facts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.containers[id]
	if !ok {
		return
	}
	c.add(f)
	t.weigh(c)
	t.bind(c)
	if !c.stale {
		delete(t.waiting, id)
		c.life.oomKilled = c.life.oomKilled || f.oomKilled
	}
	c.asking = false
	if c.failures > 0 {
		c.failures = 0
		t.engine.failing--
	}
	c.described = true
	if c.told[fromIntrospection] == nil && !c.refused || c.endpoint != "" && c.told[fromMetadata] == nil {
		t.wishFor(c)
	}
	t.complete(c)
}

// complete ends the wait for a container's description, when all who could tell more have told, and has the update
// fetched if it was given out before. t.mu is held.
func (t *Tracker) complete(c *tracked) {
	if !c.known.Pending || !c.described || c.wish != nil {
		return
	}
	t.publish(c)
}

// conclude ends the wait for all who could tell more of containers that are known well enough.
func (t *Tracker) conclude() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.containers {
		if c.known.Pending && c.bound {
			t.publish(c)
		}
	}
}

// publish ends the wait for a container's description. t.mu is held.
func (t *Tracker) publish(c *tracked) {
	known := *c.known
	known.Pending = false
	c.known = &known
	t.described.add(time.Since(c.seen))
	if !c.given {
		return
	}
	c.given = false
	if len(t.updates) >= t.config.MaxContainers {
		t.stats.UpdatesDropped++
		return
	}
	t.updates = append(t.updates, known)
}

// destroyed notes the end of a container.
func (t *Tracker) destroyed(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.containers[id]
	if !ok {
		return
	}
	if c.gone.IsZero() {
		c.gone = time.Now()
	}
	if !c.known.Pending && !c.asking { // there is nothing more to ask
		delete(t.waiting, id)
	}
	c.stale = false
}

// add adds what the engine says to what is known.
func (c *tracked) add(f facts) {
	if task := labelled(f.labels); task != nil {
		c.told[fromLabel] = task
	}
	c.disguised = c.disguised || disguised(f.labels)
	set(&c.endpoint, f.endpoint)
	if f.layers != "" {
		c.layers = unique.Make(f.layers)
	}
	known := *c.known
	set(&known.Name, f.Name)
	set(&known.Image, f.Image)
	set(&known.ImageID, f.ImageID)
	set(&known.ImageDigest, f.ImageDigest)
	if known.Runtime == "" && f.Name != "" {
		known.Runtime = docker
	}
	if len(f.Labels) > 0 {
		known.Labels = f.Labels
	}
	if f.Posture != nil { // an inspection tells of all of these
		known.Command, known.CreatedAt = f.Command, f.CreatedAt
		known.StartedAt, known.Restarts = f.StartedAt, f.Restarts
		known.Ports, known.Networks, known.Mounts = f.Ports, f.Networks, f.Mounts
		known.Posture, known.Truncated = f.Posture, f.Truncated
	}
	known.ECS = c.told.task()
	c.known = &known
}

// tell adds what one source says of the container's task.
func (c *tracked) tell(from source, task *event.ECS) {
	c.told[from] = task
	known := *c.known
	known.ECS = c.told.task()
	c.known = &known
}

// set replaces what is known by what is said, if it is.
func set(known *string, said string) {
	if said != "" {
		*known = said
	}
}

// cut returns a copy of at most maxValue bytes of s, whole characters.
func cut(s string) string {
	if len(s) > maxValue {
		end := maxValue
		for end > maxValue-utf8.UTFMax && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end]
	}
	return strings.Clone(s)
}
