package event_test

import (
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

const boot = "8d8f401d-1be9-42e6-a133-4228e7a468b4"

// The ids are what uuidgen --sha1 --namespace BOOT --name PID:TICKS prints.
func TestProcessID(t *testing.T) {
	namespace, err := event.ParseID(boot)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		pid   uint32
		start uint64
		want  string
	}{
		{1, 0, "a6faae40-ec88-5773-bd22-b66d7b3c89f2"},                    // 1:0
		{4242, 1_234_560_000_000, "d6b1bfed-0165-5323-9fb3-2f178660387d"}, // 4242:123456
		{4242, 1_234_569_999_999, "d6b1bfed-0165-5323-9fb3-2f178660387d"}, // the same tick
		{1<<32 - 1, uint64(1<<64 - 1), event.NameID(append(namespace[:], "4294967295:1844674407370"...)).String()},
	} {
		got := event.ProcessID(namespace, test.pid, test.start)
		if got.String() != test.want {
			t.Errorf("process %d started at %d: %s, want %s", test.pid, test.start, got, test.want)
		}
		if got[6]>>4 != 5 || got[8]>>6 != 2 {
			t.Errorf("%s is no version 5 UUID", got)
		}
	}
	if event.ProcessID(namespace, 4242, 1_234_570_000_000) == event.ProcessID(namespace, 4242, 1_234_560_000_000) {
		t.Error("a process that started a tick later has the same id")
	}
}

// The example of RFC 9562, appendix A.4.
func TestNameID(t *testing.T) {
	dns, err := event.ParseID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	if err != nil {
		t.Fatal(err)
	}
	const want = "2ed6657d-e927-568b-95e1-2665a8aea6a2"
	if got := event.NameID(append(dns[:], "www.example.com"...)).String(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestParseID(t *testing.T) {
	id, err := event.ParseID(boot)
	if err != nil || id.String() != boot {
		t.Errorf("%s (%v), want %s", id, err, boot)
	}
	if upper, err := event.ParseID(strings.ToUpper(boot)); err != nil || upper != id {
		t.Errorf("%s (%v), want %s", upper, err, boot)
	}
	if (event.ID{}).String() != "00000000-0000-0000-0000-000000000000" {
		t.Errorf("the zero id is %s", event.ID{})
	}
	for _, bad := range []string{
		"", boot[1:], boot + "0", strings.ReplaceAll(boot, "-", ""), strings.Replace(boot, "-", "_", 1),
		strings.Replace(boot, "8", "g", 1), "8d8f401d-1be9-42e6-a133-4228e7a468b\n",
	} {
		if got, err := event.ParseID(bad); err == nil || got != (event.ID{}) {
			t.Errorf("%q is read as %s (%v)", bad, got, err)
		}
	}
}

// The id of a process does not depend on who reports its start: /proc in ticks, the kernel in nanoseconds.
func TestTickIsThatOfProc(t *testing.T) {
	start := uint64(12345) * uint64(time.Second/100)
	namespace := event.ID{1}
	if event.ProcessID(namespace, 1, start) != event.NameID(append(namespace[:], "1:12345"...)) {
		t.Error("a tick is not 10 ms")
	}
}
