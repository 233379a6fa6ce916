package batch_test

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/event/eventtest"
	"github.com/taskguard/taskguard/sender/batch"
)

// script makes events out of fuzzed bytes: each decision takes the next ones.
type script struct {
	rest      []byte
	world     world
	processes []*event.Process // nil first: no process
}

func (s *script) byte() byte {
	if len(s.rest) == 0 {
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

func (s *script) bool() bool { return s.byte()&1 != 0 }

// container returns one of few, as one container has one description in a batch.
func (s *script) container() *event.Container {
	switch n := s.byte() % 4; n {
	case 0:
		return nil
	case 1:
		return &event.Container{ID: "1", Pending: true}
	default:
		return &event.Container{ID: string('0' + n), Name: "n\xff", ECS: &event.ECS{TaskID: "t"}}
	}
}

func (s *script) process() *event.Process {
	if len(s.processes) == 0 {
		s.processes = append(s.processes, nil)
	}
	p := s.processes[int(s.byte())%len(s.processes)]
	if !s.bool() {
		return p
	}
	var next event.Process
	s.rest = eventtest.Fuzzed(&next, s.rest, false)
	// These follow from others, or are encoded with the event of the exit only.
	next.User, next.Group = "", "" // which follow from the numbers, in a container
	next.ID, next.ParentID, next.Ancestors, next.Exit = event.ID{}, event.ID{}, nil, event.Exit{}
	if next.Container = s.container(); s.bool() {
		next.Start, next.StartTime = 1+uint64(s.byte())<<40, time.Time{}
	}
	if next.Start == 0 {
		next.ID = event.ID{s.byte()}
	}
	p = s.world.process(p, next)
	if s.bool() {
		p.Snapshot = 0
	}
	s.processes = append(s.processes, p)
	return p
}

// group returns an event with the fields of one group, or none.
func (s *script) group() event.Event {
	groups := append(eventtest.Groups(), "")
	name := groups[int(s.byte())%len(groups)]
	var e event.Event
	if name != "" {
		group := reflect.ValueOf(&e).Elem().FieldByName(name)
		group.Set(reflect.New(group.Type().Elem()))
		// What the agent says of itself is UTF-8.
		s.rest = eventtest.Fuzzed(group.Interface(), s.rest, name == "Agent")
	}
	return e
}

func (s *script) event() event.Event {
	e := s.group()
	for _, v := range []any{&e.Time, &e.Kind, &e.Result} {
		s.rest = eventtest.Fuzzed(v, s.rest, true)
	}
	if e.Time.IsZero() {
		e.Time = time.Unix(0, 0).UTC()
	}
	e.Process, e.Target, e.Container, e.Host = s.process(), s.process(), s.container(), &host
	if e.Process != nil && e.Container == nil {
		e.Container = e.Process.Container
	}
	if e.Kind == event.ProcessExit && e.Process != nil {
		ended := *e.Process
		ended.Exit = event.ExitFromStatus(uint32(s.byte())<<8 | uint32(s.byte()))
		e.Process = &ended
	}
	return e
}

// Law: Decode(Seal(events)) == events.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte{})
	random := rand.NewChaCha8([32]byte{})
	for range 50 {
		seed := make([]byte, 4000)
		random.Read(seed)
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := script{rest: data}
		var events []event.Event
		for len(s.rest) > 0 && len(events) < 500 {
			events = append(events, s.event())
		}
		roundTrip(t, events)
	})
}

// Law: Decode never panics, and what it accepts it can seal and accept again with the same events.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add(seal(f, header, examples()))
	f.Add(seal(f, batch.Header{ID: header.ID, Updates: batch.Updates{
		Containers: []event.Container{{ID: "x"}}, Digests: []event.FileDigest{{Version: event.FileVersion{Inode: 1}}},
	}}, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		decoded, err := batch.Decode(data)
		if err != nil {
			return
		}
		if len(decoded.Events) > batch.MaxEvents ||
			len(decoded.Updates.Containers) > batch.MaxEntries || len(decoded.Updates.Digests) > batch.MaxEntries {
			t.Fatalf("%d events, %d containers, %d digests: beyond the limits", len(decoded.Events),
				len(decoded.Updates.Containers), len(decoded.Updates.Digests))
		}
		if len(decoded.Events) > 1000 {
			return // sealed again, a process may take two places in the table: too many of them
		}
		again, err := batch.Decode(seal(t, decoded.Header, decoded.Events))
		if err != nil {
			t.Fatalf("decode what was sealed from a decoded batch: %v", err)
		}
		comparable := cmp.Options{sameEvent, cmpopts.EquateEmpty(),
			// One container has one description: the first that was sealed.
			cmpopts.IgnoreFields(event.Container{}, "Name", "Image", "ImageID", "Runtime", "ECS", "Pending")}
		if diff := cmp.Diff(decoded.Events, again.Events, comparable); diff != "" {
			t.Fatalf("events (-decoded +sealed and decoded again):\n%s", diff)
		}
	})
}
