package audit

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// script is a stream that plays steps, then keeps silent.
type script struct{ steps []scriptStep }

type scriptStep struct {
	after   time.Duration
	stall   time.Duration // this process does not run, when there is something to read already
	typ     auparse.AuditMessageType
	payload string
	err     error
}

func (s *script) Next(deadline time.Time) (uint16, []byte, error) {
	if len(s.steps) == 0 || time.Now().Add(s.steps[0].after).After(deadline) {
		if len(s.steps) > 0 {
			s.steps[0].after -= time.Until(deadline)
		}
		time.Sleep(time.Until(deadline))
		return 0, nil, os.ErrDeadlineExceeded
	}
	step := s.steps[0]
	s.steps = s.steps[1:]
	time.Sleep(step.after + step.stall)
	return uint16(step.typ), []byte(step.payload), step.err
}

// exitOf is the SYSCALL record of an exit_group.
func exitOf(serial uint32, at time.Time) scriptStep {
	return scriptStep{typ: auparse.AUDIT_SYSCALL, payload: header(serial, at) + "arch=c000003e syscall=231 a0=0" + who}
}

func endOf(serial uint32, at time.Time) scriptStep {
	return scriptStep{typ: auparse.AUDIT_EOE, payload: header(serial, at)}
}

func header(serial uint32, at time.Time) string {
	return fmt.Sprintf("audit(%d.%03d:%d): ", at.Unix(), at.UnixMilli()%1000, serial)
}

// readFor reads a script for a time and returns when, after the start, events came, and what was lost.
func readFor(t *testing.T, duration time.Duration, make func(start time.Time) []scriptStep) (
	times []time.Duration, lost map[string]uint64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		sink := newRecorder()
		r := newReader(Config{}.withDefaults(), tableOf(Kinds()), sink, start)
		stream := &script{make(start)}
		for time.Since(start) < duration {
			if err := r.read(stream, tick); err != nil {
				t.Fatal(err)
			}
			for range sink.events[len(times):] {
				times = append(times, time.Since(start))
			}
		}
		lost = sink.lost
	})
	return times, lost
}

// An event whose end does not come is handed on after two seconds.
func TestReadExpiresEvents(t *testing.T) {
	times, lost := readFor(t, 5*time.Second, func(start time.Time) []scriptStep { return []scriptStep{exitOf(1, start)} })
	if len(times) != 1 || times[0] < MaxDelay || times[0] > MaxDelay+2*tick || len(lost) != 0 {
		t.Errorf("events at %v, lost %v", times, lost)
	}
}

// An event is not given up because this process did not run: its records are there.
func TestReadTakesWhatIsThereBeforeItGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		record := func(typ auparse.AuditMessageType, body string) scriptStep {
			return scriptStep{typ: typ, payload: header(1, now) + body}
		}
		late := record(auparse.AUDIT_CWD, `cwd="/"`)
		late.stall = 2 * MaxDelay
		steps := []scriptStep{
			record(auparse.AUDIT_SYSCALL, "arch=c000003e syscall=87 success=yes exit=0 items=1"+who), late,
			record(auparse.AUDIT_PATH, `item=0 name="f" inode=5 dev=fe:01 mode=0100644 nametype=DELETE`), endOf(1, now),
		}
		sink := newRecorder()
		r := newReader(Config{}.withDefaults(), tableOf(Kinds()), sink, now)
		if err := r.read(&script{steps}, tick); err != nil {
			t.Fatal(err)
		}
		if len(sink.events) != 1 || len(sink.lost) != 0 {
			t.Fatalf("events %+v, lost %v", sink.events, sink.lost)
		}
		if f := sink.events[0].File; f.Path != "/f" || f.Truncated != 0 {
			t.Errorf("file is %+v", *f)
		}
	})
}

// However fast records come, what is due is given up.
func TestReadEndsInAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var steps []scriptStep
		for i := range uint32(100_000) {
			steps = append(steps, scriptStep{after: 100 * time.Microsecond, typ: auparse.AUDIT_EOE, payload: header(i, start)})
		}
		r := newReader(Config{}.withDefaults(), tableOf(Kinds()), newRecorder(), start)
		if err := r.read(&script{steps}, tick); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < tick || took > tick+2*settleTime {
			t.Errorf("returned after %v", took)
		}
	})
}

// After an overrun reading goes on; what was lost is told by the numbers that are missing, once it is sure.
func TestReadGoesOnAfterOverrun(t *testing.T) {
	make := func(start time.Time) []scriptStep {
		return []scriptStep{
			exitOf(1, start), endOf(1, start), {err: unix.ENOBUFS}, {err: errForeign}, exitOf(7, start), endOf(7, start),
		}
	}
	times, lost := readFor(t, 5*time.Second, make)
	if len(times) != 2 || len(lost) != 1 || lost["0 kernel/netlink_overrun"] != 5 {
		t.Errorf("events at %v, lost %v", times, lost)
	}
	if _, lost = readFor(t, MaxDelay-2*tick, make); len(lost) != 0 {
		t.Errorf("lost %v before it was sure", lost)
	}
}

// What was recorded before the source was opened is not ours, and leaves no gap.
func TestReadIgnoresTheTimeBefore(t *testing.T) {
	times, lost := readFor(t, 5*time.Second, func(start time.Time) []scriptStep {
		before := start.Add(-time.Minute)
		return []scriptStep{exitOf(1, before), endOf(1, before), exitOf(100, start), endOf(100, start)}
	})
	if len(times) != 1 || len(lost) != 0 {
		t.Errorf("events at %v, lost %v", times, lost)
	}
}

func TestReadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReader(Config{}.withDefaults(), tableOf(Kinds()), newRecorder(), time.Now())
		if err := r.read(&script{[]scriptStep{{typ: auparse.AUDIT_REPLACE}}}, tick); !errors.Is(err, errReplace) {
			t.Errorf("a newcomer was not noticed: %v", err)
		}
		if err := r.read(&script{[]scriptStep{{err: unix.EBADF}}}, tick); !errors.Is(err, unix.EBADF) {
			t.Errorf("the end of the socket was not noticed: %v", err)
		}
	})
}

func TestFinishCounts(t *testing.T) {
	const connect = "arch=c000003e syscall=42 success=yes exit=0" + who
	for _, c := range []struct {
		body, lost string
		why        ending
	}{
		{connect, fmt.Sprintf("%d decode/incomplete", event.NetConnect), complete},
		{connect, fmt.Sprintf("%d decode/incomplete", event.NetConnect), expired},
		{"", "0 decode/incomplete", complete},
		{"", "", expired},
		{"arch=c000003e syscall=231 a0=0" + who, fmt.Sprintf("%d decode/in_flight_full", event.ProcessExit), evicted},
		{"arch=c000003e syscall=0" + who, "", evicted},
	} {
		sink := newRecorder()
		g := &group{}
		if c.body != "" {
			g.add(auparse.AUDIT_SYSCALL, []byte(c.body))
			g.syscall = true
		}
		newReader(Config{}.withDefaults(), tableOf(Kinds()), sink, time.Time{}).finish(g, c.why)
		want := map[string]uint64{}
		if c.lost != "" {
			want[c.lost] = 1
		}
		if len(sink.events) != 0 || !maps.Equal(sink.lost, want) {
			t.Errorf("%q at ending %d: %d events, lost %v, want %q", c.body, c.why, len(sink.events), sink.lost, c.lost)
		}
	}
}

// What is copied reads as auditd's log, and gives the same events again.
func TestRecordsAreALog(t *testing.T) {
	text, err := os.ReadFile("testdata/debian-12-linux-6.18.log")
	if err != nil {
		t.Fatal(err)
	}
	var copied strings.Builder
	config := Config{Records: &copied}.withDefaults()
	r := newReader(config, tableOf(Kinds()), nullSink{}, time.Time{})
	for line := range strings.Lines(string(text)) {
		typ, payload := logLine(t, line)
		r.take(time.Unix(1, 0), typ, payload)
	}
	if replayLog(t, copied.String()) != replayLog(t, string(text)) {
		t.Error("the copy gives other events")
	}
}
