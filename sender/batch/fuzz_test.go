package batch_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskguard/taskguard/collector/event"
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

func (s *script) uint() uint64 {
	var b [8]byte
	n := copy(b[:s.byte()%9], s.rest)
	s.rest = s.rest[n:]
	return binary.LittleEndian.Uint64(b[:])
}

func (s *script) string() string {
	n := min(int(s.byte()%20), len(s.rest))
	v := string(s.rest[:n])
	s.rest = s.rest[n:]
	return v
}

func (s *script) addr() netip.Addr {
	switch s.byte() % 3 {
	case 1:
		return netip.AddrFrom4([4]byte{s.byte(), s.byte(), s.byte(), s.byte()})
	case 2:
		return netip.AddrFrom16([16]byte{0: s.byte(), 10: s.byte(), 15: s.byte()})
	}
	return netip.Addr{}
}

func (s *script) socket() event.Socket {
	return event.Socket{
		Family: event.Family(s.uint()), Type: event.SocketType(s.uint()), Protocol: uint16(s.byte()),
		RemoteIP: s.addr(), RemotePort: uint16(s.uint()), LocalIP: s.addr(), LocalPort: uint16(s.uint()),
	}
}

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
	next := event.Process{
		PID: uint32(s.uint()), NSPID: uint32(s.uint()), Start: s.uint() >> 2, Name: s.string(), Exe: s.string(),
		ExeDeleted: s.bool(), Args: event.Argv(s.string()), ArgsLength: uint32(s.uint()), Cwd: s.string(),
		UID: uint32(s.uint()), EUID: uint32(s.uint()), GID: uint32(s.uint()), EGID: uint32(s.uint()),
		Script: s.string(), Env: event.Environ(s.string()), Truncated: event.Fields(s.byte()), Partial: s.bool(),
		Container: s.container(),
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

func (s *script) event() event.Event {
	e := event.Event{
		Time: time.Unix(0, int64(s.uint()>>2)).UTC(), Kind: event.Kind(s.byte()), Result: int32(s.uint()),
		Process: s.process(), Container: s.container(), Host: &host,
	}
	if e.Process != nil && e.Container == nil {
		e.Container = e.Process.Container
	}
	if e.Kind == event.ProcessExit && e.Process != nil {
		ended := *e.Process
		ended.Exit = event.ExitFromStatus(uint32(s.uint() & 0xffff))
		e.Process = &ended
	}
	switch s.byte() % 5 {
	case 1:
		e.File = &event.File{
			Path: s.string(), Flags: event.OpenFlags(s.uint()), Device: event.Device(s.uint()), Inode: s.uint(),
			Unverified: s.bool(), Truncated: event.Fields(s.byte()),
		}
	case 2:
		e.Net = &event.Net{Socket: s.socket(), Path: s.string(), Unverified: s.bool(), Truncated: event.Fields(s.byte())}
	case 3:
		e.DNS = &event.DNS{
			Socket: s.socket(), ID: uint16(s.uint()), Rcode: s.byte(), Payload: []byte(s.string()),
			Truncated: event.Fields(s.byte()), Malformed: s.bool(),
		}
		for range s.byte() % 4 {
			e.DNS.Questions = append(e.DNS.Questions, event.Question{Name: s.string(), Type: s.string()})
			e.DNS.Answers = append(e.DNS.Answers, event.Answer{
				Name: s.string(), Type: s.string(), TTL: uint32(s.uint()), Data: s.string(),
			})
		}
	case 4:
		e.Agent = &event.Agent{Lost: event.Kind(s.byte()), Count: s.uint(), From: time.Unix(0, int64(s.uint()>>2)|1).UTC()}
	}
	return e
}

// Law: Decode(Seal(events)) == events.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x08\x00\x01\x02\x03\x04\x05\x06\x07\x01\x02\x03\x04\x05\x06\x07\x08\x09\x01\x02\x03\x01\x01\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := script{rest: data}
		var events []event.Event
		for len(s.rest) > 0 && len(events) < 500 {
			events = append(events, s.event())
		}
		roundTrip(t, events)
	})
}

// number makes decoded processes snapshots again.
func number(p *event.Process, numbers map[*event.Process]uint64) {
	for ; p != nil && numbers[p] == 0; p = p.Parent {
		numbers[p] = uint64(len(numbers) + 1)
		p.Snapshot = numbers[p]
	}
}

// Law: Decode never panics, and what it accepts it can seal and accept again with the same events.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add(seal(f, header, examples()))
	f.Add(seal(f, batch.Header{ID: header.ID, Updates: []event.Container{{ID: "x"}}}, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		decoded, err := batch.Decode(data)
		if err != nil {
			return
		}
		if len(decoded.Events) > batch.MaxEvents || len(decoded.Updates) > batch.MaxEntries {
			t.Fatalf("%d events, %d updates: beyond the limits", len(decoded.Events), len(decoded.Updates))
		}
		if len(decoded.Events) > 1000 {
			return // sealed again, a process that ended takes two places in the table: too many of them
		}
		numbers := map[*event.Process]uint64{}
		for _, e := range decoded.Events {
			number(e.Process, numbers)
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
