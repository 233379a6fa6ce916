package container

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

func TestBindingsOfManyContainers(t *testing.T) {
	var b bindings
	if got := b.sum(); got != (Binding{}) {
		t.Errorf("of none: %+v", got)
	}
	b.add(3 * time.Second)
	if got, want := b.sum(), (Binding{Containers: 1, P50: 3, P99: 3, Max: 3}); got != want {
		t.Errorf("of one: %+v, want %+v", got, want)
	}
	for n := len(b.last) + 100; n > 0; n-- { // the last are 1 to 1,024 s
		b.add(time.Duration(n) * time.Second)
	}
	want := Binding{Containers: 1125, P50: 512, P99: 1014, Max: 1024}
	if got := b.sum(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := b.sum(); got != want {
		t.Errorf("%+v the second time: adding them up changed them", got)
	}
}

// Who heard of the container first does not matter, and a name alone is not enough where there is a task.
func TestBoundAndDescribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker := newTracker(t, Config{Docker: "unix:///nowhere"})
		tracker.AddCgroup(8, "/ecs/demo/"+task32+"/"+id1)
		c := tracker.Locate(8, "")
		time.Sleep(time.Second)
		tracker.Describe(c, 3)
		tracker.note(id1, facts{Container: event.Container{Name: "web"}}, time.Now())
		tracker.Describe(c, 4)
		time.Sleep(time.Second)
		tracker.note(id1, facts{labels: ecsLabels()}, time.Now())
		tracker.Describe(c, 50)
		time.Sleep(time.Second)
		tracker.settle(id1, facts{})
		tracker.settle(id1, facts{}) // asked again after its start
		tracker.Describe(c, 600)
		tracker.note(id2, facts{Container: event.Container{Name: "of no task"}}, time.Now())

		s := tracker.Stats()
		if want := (Binding{Containers: 2, P50: 0, P99: 2, Max: 2}); s.Bound != want {
			t.Errorf("bound %+v, want %+v", s.Bound, want)
		}
		if want := (Binding{Containers: 1, P50: 3, P99: 3, Max: 3}); s.Described != want {
			t.Errorf("described %+v, want %+v", s.Described, want)
		}
		if s.EventsBound != 650 || s.EventsUnbound != 7 || s.EventsPending != 57 {
			t.Errorf("%d events bound, %d not, %d pending; want 650, 7, 57", s.EventsBound, s.EventsUnbound, s.EventsPending)
		}
	})
}
