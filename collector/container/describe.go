package container

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/taskguard/taskguard/collector/event"
)

// maxValue bounds what is kept of anything the engine says, in bytes: a label may be as long as its author likes.
const maxValue = 1024

// The labels that the ECS agent puts on a task's containers before it starts them.
const (
	labelCluster   = "com.amazonaws.ecs.cluster"
	labelTaskARN   = "com.amazonaws.ecs.task-arn"
	labelFamily    = "com.amazonaws.ecs.task-definition-family"
	labelRevision  = "com.amazonaws.ecs.task-definition-version"
	labelContainer = "com.amazonaws.ecs.container-name"
)

// Describe returns all that is known now of a container that Locate returned. While the description is Pending,
// what the engine said so far is in it; once it is complete, Updates has it.
func (t *Tracker) Describe(c *event.Container) event.Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	tracked, ok := t.containers[c.ID]
	if !ok {
		return *c
	}
	tracked.given = tracked.given || tracked.known.Pending
	return *tracked.known
}

// Updates returns the descriptions that were completed since the last call, of containers that Describe gave out as
// pending. Each is returned once.
func (t *Tracker) Updates() []event.Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	updates := t.updates
	t.updates = nil
	return updates
}

// facts is what the engine says of a container, in one message. What is empty is not said.
type facts struct {
	name, image, imageID string
	labels               map[string]string
}

// note adds what the engine says in passing.
func (t *Tracker) note(id string, f facts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.track(found{id: id, runtime: docker})
	c.known = described(c.known, f)
}

// settle adds the last that the engine has to say: the container is not pending any more.
func (t *Tracker) settle(id string, f facts) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.containers[id]
	if !ok {
		return
	}
	known := described(c.known, f)
	known.Pending = false
	c.known = known
	delete(t.waiting, id)
	c.asking = false
	if c.failures > 0 {
		c.failures = 0
		t.engine.failing--
	}
	if !c.given {
		return
	}
	c.given = false
	if len(t.updates) >= t.config.MaxContainers {
		t.stats.UpdatesDropped++
		return
	}
	t.updates = append(t.updates, *known)
}

// destroyed notes the end of a container.
func (t *Tracker) destroyed(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c, ok := t.containers[id]; ok && c.gone.IsZero() {
		c.gone = time.Now()
	}
}

// described returns a copy of what is known, with what the engine says added.
func described(known *event.Container, f facts) *event.Container {
	c := *known
	if f.name != "" {
		c.Name = cut(strings.TrimPrefix(f.name, "/"))
	}
	if f.image != "" {
		c.Image = cut(f.image)
	}
	if f.imageID != "" {
		c.ImageID = cut(f.imageID)
	}
	if c.Runtime == "" && f.name != "" {
		c.Runtime = docker
	}
	c.ECS = labelled(known.ECS, f.labels)
	return &c
}

// labelled returns a copy of what is known of a task, with what the labels say added; known itself when they say
// nothing. The task id of the cgroup's path counts more than that of a label, which anybody can set.
func labelled(known *event.ECS, labels map[string]string) *event.ECS {
	task := event.ECS{
		Cluster:   cut(labels[labelCluster]),
		TaskARN:   cut(labels[labelTaskARN]),
		Family:    cut(labels[labelFamily]),
		Revision:  cut(labels[labelRevision]),
		Container: cut(labels[labelContainer]),
	}
	if task == (event.ECS{}) {
		return known
	}
	if id := task.TaskARN[strings.LastIndexByte(task.TaskARN, '/')+1:]; isTask(id) {
		task.TaskID = id
	}
	if known != nil && known.TaskID != "" {
		task.TaskID = known.TaskID
	}
	return &task
}

// withTask returns a copy of what is known, with the task id of the cgroup's path.
func withTask(known *event.Container, id string) *event.Container {
	c, task := *known, event.ECS{}
	if known.ECS != nil {
		task = *known.ECS
	}
	task.TaskID = id
	c.ECS = &task
	return &c
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
