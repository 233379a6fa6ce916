package batch_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// mix returns the events of n commands that a shell in a container runs: each forks, executes, connects and exits.
func mix(n int) []event.Event {
	var w world
	random := rand.New(rand.NewPCG(1, 2))
	c := &event.Container{ID: fmt.Sprintf("%064x", 77)}
	shell := w.process(nil, event.Process{
		PID: 900, Start: 1e9, Name: "sh", Exe: "/bin/sh", Args: "sh\x00-c\x00run\x00", Container: c,
	})
	now := time.Unix(1_700_000_000, 0)
	var events []event.Event
	add := func(e event.Event) {
		now = now.Add(time.Duration(random.IntN(400_000)))
		e.Time, e.Container, e.Host = now, c, &host
		events = append(events, e)
	}
	commands := []string{"curl", "true", "grep", "date"}
	for i := range n {
		start := uint64(2e9) + uint64(i)*1_000_000 + uint64(random.IntN(100_000))
		name := commands[random.IntN(len(commands))]
		forked := event.Process{
			PID: uint32(1000 + i), NSPID: uint32(10 + i), Start: start, Name: "sh", Exe: "/bin/sh", Container: c,
		}
		child := w.process(shell, forked)
		forked.Name, forked.Exe, forked.Cwd = name, "/usr/bin/"+name, "/srv/app"
		forked.Args = event.NewArgv([]string{name, "-x", fmt.Sprintf("--id=%d", random.IntN(1e6))})
		image := w.process(shell, forked)
		ended := *image
		ended.Exit = event.Exit{Ended: true}
		add(event.Event{Kind: event.ProcessFork, Process: child})
		add(event.Event{Kind: event.ProcessExec, Process: image})
		add(event.Event{Kind: event.NetConnect, Process: image, Net: &event.Net{Socket: event.Socket{
			Family: event.INET, Type: event.Stream, Protocol: 6, RemotePort: 443, LocalPort: uint16(32768 + random.IntN(28000)),
			RemoteIP: netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(8))}), LocalIP: netip.AddrFrom4([4]byte{10, 0, 1, 1}),
		}}})
		add(event.Event{Kind: event.ProcessExit, Process: &ended})
	}
	return events
}

func TestAppendDoesNotAllocate(t *testing.T) {
	events := mix(1000)
	for _, e := range examples() {
		if e.Agent == nil { // rare: a few an hour
			events = append(events, e)
		}
	}
	b := batch.NewBuilder()
	fill := func() {
		b.Reset()
		for i := range events {
			b.Append(&events[i])
		}
	}
	fill()
	if n := testing.AllocsPerRun(10, fill); n != 0 {
		t.Errorf("%v allocations for %d events, want none", n, len(events))
	}
}

func BenchmarkAppend(b *testing.B) {
	events := mix(1024)
	builder := batch.NewBuilder()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i == len(events) {
			builder.Reset()
			i = 0
		}
		builder.Append(&events[i])
		i++
	}
}

// BenchmarkSeal seals and compresses a full batch.
func BenchmarkSeal(b *testing.B) {
	events := mix(1024)
	codec := newCodec(b)
	builder := batch.NewBuilder()
	for i := range events {
		builder.Append(&events[i])
	}
	var data, frame []byte
	b.ReportAllocs()
	for b.Loop() {
		data = builder.Seal(data[:0], header, batch.Late{})
		frame = codec.Compress(frame[:0], data)
	}
	b.ReportMetric(float64(len(frame))/float64(len(events)), "wire-B/event")
	b.ReportMetric(float64(len(data))/float64(len(events)), "sealed-B/event")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/event")
}

func BenchmarkDecode(b *testing.B) {
	events := mix(1024)
	data := seal(b, header, events)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := batch.Decode(data); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/event")
}
