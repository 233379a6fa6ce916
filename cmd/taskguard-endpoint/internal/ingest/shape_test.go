package ingest

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

func TestShapeLimits(t *testing.T) {
	empty := func(field byte, n int) []byte { return bytes.Repeat([]byte{field<<3 | 2, 0}, n) }
	for _, c := range []struct {
		name string
		data []byte
		want string // in the error; "" for none
	}{
		{"nothing", nil, ""},
		{"as many events as may be", empty(fieldEvents, batch.MaxEvents), ""},
		{"one more", empty(fieldEvents, batch.MaxEvents+1), "field 9"},
		{"one string too many", empty(6, batch.MaxEntries+1), "field 6"},
		{"as many losses as may be", message(fieldLedger, empty(2, maxNested)), ""},
		{"one more", message(fieldLedger, empty(2, maxNested+1)), "inside"},
		{"losses in many ledgers", bytes.Repeat(message(fieldLedger, empty(2, 1000)), 66), "inside"},
		{"as many answers as may be", message(fieldEvents, message(fieldEventDNS, empty(5, maxNested))), ""},
		{"one more", message(fieldEvents, message(fieldEventDNS, empty(5, maxNested+1))), "inside"},
		{"groups of one event", message(fieldEvents, empty(fieldEventDNS, maxNested+2)), "inside"},
		{"source states", message(fieldEvents, message(fieldEventAgent, empty(8, maxNested+1))), "inside"},
		{"length beyond the end", []byte{fieldEvents<<3 | 2, 5, 0}, "truncated"},
		{"huge length", []byte{fieldEvents<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, "truncated"},
		{"short fixed", []byte{5<<3 | 1, 0, 0}, "truncated"},
		{"group", []byte{1<<3 | 3}, "wire type"},
	} {
		err := checkShape(c.data)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// Whatever batch.Decode takes within the limits, checkShape must take too: it may only refuse what is too much.
func FuzzShapeAgreesWithDecode(f *testing.F) {
	b := batch.NewBuilder()
	for _, e := range []event.Event{
		{Kind: event.ProcessExec, Process: &event.Process{PID: 1, Name: "x"}},
		{Kind: event.DNSResponse, DNS: &event.DNS{Questions: []event.Question{{Name: "a"}}, Answers: []event.Answer{{Name: "a"}}}},
		{Kind: event.AgentHeartbeat, Agent: &event.Agent{Sources: []event.SourceState{{Via: "x"}}}},
		{Kind: event.FileOpen, File: &event.File{Path: "/x"}},
	} {
		e.Time = time.Unix(1, 0)
		b.Append(&e)
	}
	f.Add(b.Seal(nil, batch.Header{
		ID:     batch.ID{Agent: event.ID{1}, Epoch: 1, Sequence: 1},
		Ledger: batch.Ledger{Observed: 1, Lost: []batch.Loss{{Stage: "s"}}},
	}, nil))
	f.Add(dangling())
	f.Fuzz(func(t *testing.T, data []byte) {
		shape := checkShape(data)
		if len(data) > 64<<10 { // the limits cannot be reached below
			return
		}
		if _, err := batch.Decode(data); err == nil && shape != nil && !strings.Contains(shape.Error(), "wire type") {
			t.Errorf("decodes, but its shape is refused: %v", shape)
		}
	})
}
