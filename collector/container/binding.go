package container

import (
	"slices"
	"time"
)

// Binding tells how long something was not known of containers after the first was heard of them, be it a cgroup, an
// event or the engine. The times are in seconds, of the last 1,024 containers.
type Binding struct {
	Containers uint64  `json:"containers"` // since New
	P50        float64 `json:"p50_seconds"`
	P99        float64 `json:"p99_seconds"`
	Max        float64 `json:"max_seconds"`
}

// bindings are the last of such times.
type bindings struct {
	last [1024]time.Duration
	n    uint64
}

func (b *bindings) add(d time.Duration) {
	b.last[b.n%uint64(len(b.last))] = d
	b.n++
}

func (b bindings) sum() Binding {
	times := b.last[:min(b.n, uint64(len(b.last)))]
	if len(times) == 0 {
		return Binding{}
	}
	slices.Sort(times)
	at := func(percent int) float64 { return times[(len(times)*percent+99)/100-1].Seconds() }
	return Binding{Containers: b.n, P50: at(50), P99: at(99), Max: at(100)}
}

// bind notes when a container's name and task became known. t.mu is held.
func (t *Tracker) bind(c *tracked) {
	if c.bound || c.known.Name == "" || c.known.ECS != nil && c.known.ECS.TaskARN == "" {
		return
	}
	c.bound = true
	t.bound.add(time.Since(c.seen))
}
