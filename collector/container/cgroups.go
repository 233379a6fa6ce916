package container

import (
	"fmt"
	"strings"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// Bootstrap learns the cgroups that exist, by one walk of the hierarchy. It fails when there is no hierarchy; the
// tracker can be used all the same, by path.
func (t *Tracker) Bootstrap() error {
	if t.config.Hierarchy.MountPoint == "" {
		return fmt.Errorf("learn cgroups: %w", ErrNoHierarchy)
	}
	if err := t.walk(); err != nil {
		return fmt.Errorf("learn cgroups: %w", err)
	}
	return nil
}

// AddCgroup takes a cgroup that the kernel reported as new: its id in the hierarchy, and its path from the root of
// the hierarchy. It does no I/O and waits for nobody.
func (t *Tracker) AddCgroup(id uint64, path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.learn(id, path)
}

// Locate returns the container that a process runs in, nil for the host. It is what is known now; Describe tells
// more later. The process is given by the id of its cgroup, or, where that is 0 or unknown, by the path of its
// cgroup as /proc/PID/cgroup has it (without "hierarchy:controllers:"); either may be missing. An unknown id whose
// path names no container counts as the host's for now and is looked for once in the background.
//
// The result is shared and must not be changed.
func (t *Tracker) Locate(id uint64, path string) *event.Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	if id != 0 {
		if c, ok := t.cgroups[id]; ok {
			return c.in.container()
		}
	}
	f, ok := find(path)
	switch {
	case ok && id != 0:
		return t.learn(id, path).container()
	case ok:
		return t.track(f, false).known
	case id != 0:
		t.seek(id)
	}
	return nil
}

func (c *tracked) container() *event.Container {
	if c == nil {
		return nil
	}
	return c.known
}

// learn remembers a cgroup and returns the container it belongs to. t.mu is held.
func (t *Tracker) learn(id uint64, path string) *tracked {
	var in *tracked
	if f, ok := find(path); ok {
		in = t.track(f, false)
	}
	old, ok := t.cgroups[id]
	if !ok && len(t.cgroups) >= t.config.MaxCgroups {
		t.evictCgroup()
	}
	if in != nil {
		in.cgroups++
	}
	if old.in != nil {
		old.in.cgroups--
	}
	t.cgroups[id] = cgroup{in: in, walk: t.generation}
	return in
}

// evictCgroup forgets any one cgroup: whichever it is, a walk finds it again when it is asked for.
func (t *Tracker) evictCgroup() {
	for id, c := range t.cgroups {
		if c.in != nil {
			c.in.cgroups--
		}
		delete(t.cgroups, id)
		t.stats.CgroupsEvicted++
		return
	}
}

// seek asks for a walk to find a cgroup.
func (t *Tracker) seek(id uint64) {
	if _, ok := t.unknown[id]; ok || len(t.unknown) >= maxSought {
		return
	}
	t.unknown[id] = struct{}{}
	t.stats.CgroupsUnknown++
	signal(t.sought)
}

// walk learns the cgroups that exist and marks those that do not any more.
func (t *Tracker) walk() error {
	t.mu.Lock()
	t.generation++
	t.stats.Walks++
	t.mu.Unlock()
	complete, err := walk(t.config.Hierarchy.MountPoint, t.config.MaxCgroups, t.see)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil || !complete {
		t.stats.WalksFailed++
	}
	for id := range t.unknown {
		if _, ok := t.cgroups[id]; ok {
			t.stats.CgroupsFound++
		} else {
			t.learn(id, "") // it is gone: not to be looked for again
		}
	}
	clear(t.unknown)
	if err == nil && complete {
		t.markGone(time.Now())
	}
	return err
}

// see is told of one cgroup by a walk. A walk does not push out what is known, unless it found what was asked for.
func (t *Tracker) see(id uint64, path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, known := t.cgroups[id]
	_, wanted := t.unknown[id]
	switch {
	case known:
		c.walk, c.gone = t.generation, time.Time{}
		t.cgroups[id] = c
	case wanted || len(t.cgroups) < t.config.MaxCgroups:
		t.learn(id, path)
	}
}

// markGone takes the cgroups that the last walk missed for gone.
func (t *Tracker) markGone(now time.Time) {
	for id, c := range t.cgroups {
		if c.walk != t.generation && c.gone.IsZero() {
			c.gone = now
			t.cgroups[id] = c
		}
	}
}

// forget drops what has been gone for as long as it is to be retained.
func (t *Tracker) forget(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, c := range t.cgroups {
		if c.gone.IsZero() || now.Sub(c.gone) < t.config.Retain {
			continue
		}
		delete(t.cgroups, id)
		if c.in == nil {
			continue
		}
		if c.in.cgroups--; c.in.cgroups == 0 {
			t.drop(c.in)
		}
	}
	for _, c := range t.containers {
		if !c.gone.IsZero() && now.Sub(c.gone) >= t.config.Retain {
			t.drop(c)
		}
	}
}

// track returns the container, new or known, which the engine names, or only a path. t.mu is held.
func (t *Tracker) track(f found, named bool) *tracked {
	if c, ok := t.containers[f.id]; ok {
		if f.task != "" && (c.told[fromCgroup] == nil || c.told[fromCgroup].TaskID != f.task) {
			c.tell(fromCgroup, &event.ECS{TaskID: strings.Clone(f.task)})
		}
		return c
	}
	known := f.container()
	c := &tracked{known: &known, told: told{fromCgroup: known.ECS}, seen: time.Now()}
	known.ECS = c.told.task()
	if len(t.containers) >= t.config.MaxContainers && !t.evictContainer(named) {
		t.stats.ContainersRefused++
		return c
	}
	t.containers[known.ID] = c
	// A path that does not name its runtime may be Docker's under a parent of the user's own.
	if t.config.Docker != "" && (known.Runtime == docker || known.Runtime == "") {
		known.Pending = true
		t.waiting[known.ID] = c
		signal(t.pending)
	} else {
		c.described = true
	}
	if known.ECS != nil {
		t.wishFor(c)
		known.Pending = known.Pending || c.wish != nil
	}
	return c
}

// evictContainer makes room for a container by forgetting another one, if a look at some finds one that may be. Those
// that the engine has not told of make room for one that it tells of, not for each other.
func (t *Tracker) evictContainer(named bool) bool {
	var victim *tracked
	least, looked := cannotGo, 0
	now := time.Now()
	for _, c := range t.containers {
		if l := t.lossOf(c, now); l < least && (l != unnamedLost || named) {
			victim, least = c, l
		}
		if looked++; looked == sample || least == nothingLost {
			break
		}
	}
	if victim == nil {
		return false
	}
	t.drop(victim)
	t.stats.ContainersEvicted++
	return true
}

// loss is what it costs to forget a container.
type loss int

const (
	nothingLost loss = iota // its path tells as much as is known
	endedLost               // events that are still on their way
	unnamedLost             // what the engine may yet say
	idleLost                // a name, of what was made and not started for long
	cannotGo
)

// unstarted is how long a container is kept at least that was made and has no cgroup yet.
const unstarted = time.Minute

func (t *Tracker) lossOf(c *tracked, now time.Time) loss {
	switch {
	case !c.bound && c.known.Name == "" && !c.known.Pending:
		return nothingLost
	case !c.gone.IsZero():
		return endedLost
	case !c.bound && c.known.Name == "":
		return unnamedLost
	case c.cgroups == 0 && t.config.Hierarchy.MountPoint != "" && now.Sub(c.seen) >= unstarted:
		return idleLost
	}
	return cannotGo
}

// drop forgets a container. Events and cgroups that point to what is known of it keep it.
func (t *Tracker) drop(c *tracked) {
	id := c.known.ID
	if t.containers[id] != c {
		return // it never had room, or was dropped before
	}
	if c.known.Pending && c.given {
		t.stats.Undescribed++
	}
	if c.failures > 0 {
		t.engine.failing--
	}
	t.bytes -= c.size
	delete(t.containers, id)
	delete(t.waiting, id)
	delete(t.wishes, id)
}
