package batch_test

import (
	"testing"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

func TestOutline(t *testing.T) {
	events := mix(50)
	long := event.Process{PID: 1, Name: string(make([]byte, 5000))}
	events = append(events, event.Event{Kind: event.ProcessExec, Process: &long})
	b := batch.NewBuilder()
	for i := range events {
		b.Append(&events[i])
	}
	h := batch.Header{ID: batch.ID{Agent: event.ID{7}, Epoch: 1, Sequence: 2}}
	data := b.Seal(nil, h, batch.Late{})
	got, err := batch.ReadOutline(data)
	if want := (batch.Outline{Agent: event.ID{7}, Events: len(events), LargestEntry: 5000}); err != nil || got != want {
		t.Errorf("outline %+v, %v, want %+v", got, err, want)
	}
	if _, err := batch.ReadOutline([]byte("garbage")); err == nil {
		t.Error("garbage has an outline")
	}
}
