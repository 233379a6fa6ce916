package stream

import (
	"errors"
	"slices"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// part makes the part of a sealed batch of six events, named a to f.
func part(t *testing.T, sequence uint64, first, count int) testBatch {
	t.Helper()
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	all := &batch.Batch{Header: batch.Header{
		ID: batch.ID{Agent: agentA, Epoch: 1, Sequence: sequence}, Host: event.Host{Hostname: "h"},
	}}
	for i, name := range []string{"a", "b", "c", "d", "e", "f"} {
		all.Events = append(all.Events, event.Event{Kind: event.ProcessExec, Process: &event.Process{
			PID: uint32(i + 1), Start: 1, Snapshot: uint64(i + 1), Name: name,
		}})
	}
	data, err := batch.Split(nil, all, first, count)
	if err != nil {
		t.Fatal(err)
	}
	b, err := batch.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return testBatch{b.Header, len(b.Events), codec.Compress(nil, data)}
}

// Parts are stored once and in order, whatever is sent again; and also when the log is opened anew after each step, or
// has no mark in memory.
func TestParts(t *testing.T) {
	const stored, repeat = -1, -2 // others: a PartialError with so many
	steps := []struct {
		sequence     uint64
		first, count int
		want         int
	}{
		{1, 0, 0, repeat}, // nothing, and it must not bring the ledger that comes with the first events
		{1, 2, 2, 0},      // a gap at the beginning
		{1, 0, 2, stored},
		{1, 0, 2, repeat},
		{1, 0, 1, repeat},
		{1, 0, 6, 2}, // the whole, after a part
		{1, 1, 3, 2}, // an overlap
		{1, 4, 2, 2}, // a gap
		{1, 2, 2, stored},
		{1, 0, 2, repeat},
		{1, 4, 2, stored},
		{1, 4, 2, repeat},
		{1, 0, 6, repeat},
		{1, 3, 2, repeat},
		{2, 0, 6, stored},
		{2, 2, 2, repeat},
		{3, 0, 3, stored},
		{5, 0, 6, stored}, // the rest of 3 was set aside
		{3, 3, 3, repeat},
		{6, 4, 2, 0},
	}
	for name, between := range map[string]func(t *testing.T, s *Store, dir string) *Store{
		"in memory": func(_ *testing.T, s *Store, _ string) *Store { return s },
		"forgotten": func(_ *testing.T, s *Store, _ string) *Store {
			s.marks = newMarks(10)
			return s
		},
		"opened again": func(t *testing.T, s *Store, dir string) *Store {
			s.Close()
			return open(t, Config{Dir: dir})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, Config{Dir: dir})
			for i, step := range steps {
				b := part(t, step.sequence, step.first, step.count)
				ok, err := s.Append(t.Context(), &b.header, b.events, b.frame)
				got := repeat
				var partial *PartialError
				switch {
				case errors.As(err, &partial):
					got = int(partial.Stored)
				case err != nil:
					t.Fatal(err)
				case ok:
					got = stored
				}
				if got != step.want {
					t.Errorf("step %d, %+v: got %d", i, step, got)
				}
				s = between(t, s, dir)
			}
			want := []string{
				"1:a", "1:b", "1:c", "1:d", "1:e", "1:f", "2:a", "2:b", "2:c", "2:d", "2:e", "2:f", "3:a", "3:b", "3:c",
				"5:a", "5:b", "5:c", "5:d", "5:e", "5:f",
			}
			if got := readAll(t, s); !slices.Equal(got, want) {
				t.Errorf("read %q, want %q", got, want)
			}
		})
	}
}
