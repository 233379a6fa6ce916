package batch_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/batch/batchpb"
)

// lawSplit checks that the parts of a sealed batch, of the sizes that next gives, are together what it is.
func lawSplit(t *testing.T, data []byte, next func() int) {
	t.Helper()
	whole, err := batch.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	same := cmp.Options{sameEvent, cmpopts.EquateEmpty()}
	var events []event.Event
	for first := 0; first < len(whole.Events); {
		count := min(1+next(), len(whole.Events)-first)
		text, err := batch.Split(nil, whole, first, count)
		if err != nil {
			t.Fatal(err)
		}
		part, err := batch.Decode(text)
		if err != nil {
			t.Fatalf("decode part of %d events from %d on: %v", count, first, err)
		}
		want := whole.Header
		want.First, want.Sealed = uint32(first), uint32(len(whole.Events))
		if first > 0 {
			want.Ledger, want.Updates = batch.Ledger{}, batch.Updates{}
		}
		if diff := cmp.Diff(want, part.Header, same); diff != "" {
			t.Fatalf("header of the part from %d on (-want +got):\n%s", first, diff)
		}
		if part.Whole(len(part.Events)) != (count == len(whole.Events)) {
			t.Fatalf("part of %d of %d events is taken for whole, or the other way", count, len(whole.Events))
		}
		// A part is split as a batch is.
		if count > 1 {
			last, err := batch.Split(nil, part, count-1, 1)
			if err != nil {
				t.Fatal(err)
			}
			one, err := batch.Decode(last)
			if err != nil || int(one.First) != first+count-1 || one.Sealed != want.Sealed {
				t.Fatalf("part of a part: %v, first %d of %d", err, one.First, one.Sealed)
			}
			part.Events = append(part.Events[:count-1], one.Events...)
		}
		events = append(events, part.Events...)
		first += count
	}
	if diff := cmp.Diff(whole.Events, events, same); diff != "" {
		t.Fatalf("events (-sealed +parts):\n%s", diff)
	}
}

// corpus reads recorded events, as a batch that was sealed of them.
func corpus(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var events []event.Event
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event.Event
		around := struct{ Event *event.Event }{&e} // as the golden file of a source has it
		if err := errors.Join(json.Unmarshal(lines.Bytes(), &e), json.Unmarshal(lines.Bytes(), &around)); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	return seal(t, header, events)
}

func TestSplitOfRecordedEvents(t *testing.T) {
	old, err := os.ReadFile("testdata/ten-kinds.batch")
	if err != nil {
		t.Fatal(err)
	}
	h := header
	h.Ledger = batch.Ledger{Observed: 9, Lost: []batch.Loss{{Stage: "queue", Cause: "full", Count: 1}}}
	h.Updates.Containers = []event.Container{{ID: "ab"}}
	for name, data := range map[string][]byte{
		"first version": old, "every kind": seal(t, h, examples()), "no events": seal(t, h, nil),
		"containers": corpus(t, "../../testdata/corpus/container.jsonl"),
		"host":       corpus(t, "../../collector/ebpf/testdata/debian-12-linux-6.18-amd64.golden"),
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 50, 1 << 20} {
				if size == 1 && len(data) > 10_000 {
					continue
				}
				lawSplit(t, data, func() int { return size - 1 })
			}
		})
	}
}

// Law: the events of a batch's parts, one after the other, are the events of the batch.
func FuzzSplit(f *testing.F) {
	f.Add([]byte{}, byte(0))
	random := rand.NewChaCha8([32]byte{1})
	for i := range 20 {
		seed := make([]byte, 4000)
		random.Read(seed)
		f.Add(seed, byte(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, size byte) {
		s := script{rest: data}
		var events []event.Event
		for len(s.rest) > 0 && len(events) < 200 {
			events = append(events, s.event())
		}
		lawSplit(t, seal(t, header, events), func() int { size += 7; return int(size % 16) })
	})
}

// A part holds what its own events point to, not the whole of the tables.
func TestPartsAreSmaller(t *testing.T) {
	var events []event.Event
	for range 100 {
		e := event.Event{Time: host.BootTime, Kind: event.FileOpen, File: &event.File{
			Path: strings.Repeat(string('a'+rune(len(events)%26)), 1000+len(events)),
		}}
		events = append(events, e)
	}
	data := seal(t, header, events)
	whole, err := batch.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	half, err := batch.Split(nil, whole, 0, 50)
	if err != nil || len(half) > len(data)*6/10 {
		t.Errorf("half of the events take %d bytes of %d (%v)", len(half), len(data), err)
	}
}

func TestSplitRefuses(t *testing.T) {
	whole, err := batch.Decode(seal(t, header, examples()))
	if err != nil {
		t.Fatal(err)
	}
	n := len(whole.Events)
	for _, part := range [][2]int{{-1, 1}, {0, -1}, {0, n + 1}, {n, 1}, {n + 1, 0}, {1, math.MaxInt}} {
		if _, err := batch.Split(nil, whole, part[0], part[1]); err == nil {
			t.Errorf("%d events from %d on of %d are split off", part[1], part[0], n)
		}
	}
}

func TestDecodeRefusesPartsOutsideOfTheSealed(t *testing.T) {
	for _, test := range []struct {
		first, sealed uint32
		ok            bool
	}{
		{0, 0, true}, {0, 2, true}, {1, 3, true}, {0, 3, true}, {0, 1, false}, {1, 2, false}, {1, 0, false},
		{math.MaxUint32, 0, false}, {math.MaxUint32, 1, false}, {0, batch.MaxEvents, true}, {0, batch.MaxEvents + 1, false},
	} {
		pb := &batchpb.Batch{
			AgentId: header.ID.Agent[:], Epoch: 1, Sequence: 1, FirstEvent: test.first, SealedEvents: test.sealed,
			Events: []*batchpb.Event{{}, {}},
		}
		if _, err := batch.Decode(marshal(t, pb)); (err == nil) != test.ok {
			t.Errorf("2 events from %d on of %d: %v", test.first, test.sealed, err)
		}
	}
}

// JSON has no number for them, so the store could not hold such an event.
func TestDecodeRefusesNumbersThatAreNone(t *testing.T) {
	for _, n := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		e := event.Event{Time: time.Unix(1, 0), Kind: event.AgentHeartbeat,
			Agent: &event.Agent{Heartbeat: &event.Heartbeat{CPUSeconds: n}}}
		if _, err := batch.Decode(seal(t, header, []event.Event{e})); err == nil || !strings.Contains(err.Error(), "cpu_seconds") {
			t.Errorf("%v: error %v", n, err)
		}
	}
}
