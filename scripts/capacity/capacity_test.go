package main

import (
	"os"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

func TestFramesAreBatches(t *testing.T) {
	f, err := newFrames("../../testdata/corpus/container.jsonl", 100)
	if err != nil {
		t.Fatal(err)
	}
	for sequence := range uint64(3) {
		agent := event.ID{byte(sequence), 7}
		data, err := f.codec.Decompress(nil, f.append(nil, agent, sequence+5))
		if err != nil {
			t.Fatal(err)
		}
		b, err := batch.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		want := batch.ID{Agent: agent, Epoch: 1, Sequence: sequence + 5}
		if b.ID != want || len(b.Events) != 100 || b.Events[99].Kind == 0 {
			t.Errorf("batch %v of %d events, want %v of 100", b.ID, len(b.Events), want)
		}
	}
}

func TestUsage(t *testing.T) {
	if cpu, memory, err := usage(os.Getpid()); err != nil || cpu < 0 || memory < 1<<20 {
		t.Errorf("cpu %v, %d bytes, %v", cpu, memory, err)
	}
}
