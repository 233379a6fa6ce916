package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/leaktest"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/batch"
)

// staged is the child and the sealed batches of a trial, as a test says.
type staged struct {
	t       *testing.T
	codec   *batch.Codec
	frames  chan sender.Frame
	ended   chan map[event.Kind]actionReport
	lost    map[event.Kind]uint64
	refuse  error // Subscribe's
	missing error // the child's
	ignored bool
}

const (
	testPID   = 4711
	testBegin = 100e9
)

func (s *staged) Subscribe() (<-chan sender.Frame, func() map[event.Kind]uint64, error) {
	return s.frames, func() map[event.Kind]uint64 { return nil }, s.refuse
}

func (s *staged) trial() *trial {
	return &trial{
		sealed: s, codec: s.codec, ignored: func() bool { return s.ignored },
		lost: func() map[event.Kind]uint64 { return map[event.Kind]uint64{event.FileOpen: s.lost[event.FileOpen]} },
		act: func(context.Context, []event.Kind) (*child, error) {
			return &child{pid: testPID, begin: testBegin, ended: s.ended}, s.missing
		},
	}
}

// seal seals the batch of a number.
func (s *staged) seal(sequence uint64, events ...event.Event) {
	b := batch.NewBuilder()
	for i := range events {
		events[i].Time = time.Now()
		b.Append(&events[i])
	}
	data := b.Seal(nil, batch.Header{
		ID: batch.ID{Agent: event.ID{1}, Epoch: 1, Sequence: sequence}, Host: event.Host{BootID: event.ID{2}},
	}, batch.Late{})
	s.frames <- sender.Frame{Data: s.codec.Compress(nil, data)}
}

// end has the child report what it did of kinds.
func (s *staged) end(errno unix.Errno, kinds ...event.Kind) {
	reports := map[event.Kind]actionReport{}
	for _, kind := range kinds {
		reports[kind] = reportOf(kind, nil)
		if errno != 0 {
			reports[kind] = reportOf(kind, fmt.Errorf("do it: %w", errno))
		}
	}
	s.ended <- reports
}

func TestTrial(t *testing.T) {
	var snapshots uint64
	process := func(pid uint32, start uint64, parent *event.Process) *event.Process {
		snapshots++
		return &event.Process{PID: pid, Start: start, Snapshot: snapshots, Parent: parent}
	}
	own := process(testPID, testBegin+5, process(1, 1, nil))
	grandchild := process(4713, testBegin+9, process(4712, testBegin+8, own))
	stranger := process(testPID, testBegin-1e9, nil)
	asked := func(name string) *event.DNS {
		return &event.DNS{Questions: []event.Question{{Name: name, Type: "A"}}}
	}
	const open, exec, dns = event.FileOpen, event.ProcessExec, event.DNSQuery
	for _, test := range []struct {
		name  string
		kinds []event.Kind
		stage func(s *staged)
		want  map[event.Kind]string // result, and reason
		took  time.Duration
	}{
		{"its own event", []event.Kind{open}, func(s *staged) {
			s.end(0, open)
			s.seal(1, event.Event{Kind: open, Process: own})
		}, map[event.Kind]string{open: "ok"}, 0},
		{"a descendant's", []event.Kind{open, exec}, func(s *staged) {
			s.seal(1, event.Event{Kind: exec, Process: own}, event.Event{Kind: open, Process: grandchild})
			s.end(0, open, exec)
		}, map[event.Kind]string{open: "ok", exec: "ok"}, 0},
		{"of a failed attempt", []event.Kind{open}, func(s *staged) {
			s.end(unix.ENOENT, open)
			s.seal(1, event.Event{Kind: open, Process: own, Result: int32(unix.ENOENT)})
		}, map[event.Kind]string{open: "ok"}, 0},
		{"an earlier process with the same pid", []event.Kind{open}, func(s *staged) {
			s.end(0, open)
			s.seal(1, event.Event{Kind: open, Process: stranger},
				event.Event{Kind: open, Process: process(9, testBegin+9, stranger)})
		}, map[event.Kind]string{open: "failed no event"}, selfTestBound},
		{"nobody's message, by its name", []event.Kind{dns}, func(s *staged) {
			s.end(0, dns)
			s.seal(1, event.Event{Kind: dns, DNS: asked("4712.self-test.taskguard.invalid")})
			s.seal(2, event.Event{Kind: dns, DNS: asked("4711.self-test.taskguard.invalid")})
		}, map[event.Kind]string{dns: "ok"}, 0},
		{"another kind", []event.Kind{open}, func(s *staged) {
			s.end(0, open)
			s.seal(1, event.Event{Kind: exec, Process: own})
		}, map[event.Kind]string{open: "failed no event"}, selfTestBound},
		{"what the kernel lacks is not waited for", []event.Kind{open}, func(s *staged) { s.end(unix.ENOSYS, open) },
			map[event.Kind]string{open: "unsupported this kernel does not have it, or a seccomp filter hides it: " +
				"do it: function not implemented"}, 0},
		{"what is forbidden is waited for a while", []event.Kind{open}, func(s *staged) { s.end(unix.EPERM, open) },
			map[event.Kind]string{open: "untested what makes the event is not permitted to the agent: " +
				"do it: operation not permitted"}, selfTestGrace},
		{"what is forbidden is an event", []event.Kind{open}, func(s *staged) {
			s.end(unix.EPERM, open)
			time.Sleep(time.Second)
			s.seal(1, event.Event{Kind: open, Process: own, Result: int32(unix.EPERM)})
		}, map[event.Kind]string{open: "ok"}, time.Second},
		{"a child that did not come to it", []event.Kind{open, exec}, func(s *staged) {
			s.end(0, exec)
			s.seal(1, event.Event{Kind: exec, Process: own})
		}, map[event.Kind]string{exec: "ok", open: "untested its child ended before it had done what makes the event"}, 0},
		{"a batch that was missed", []event.Kind{open}, func(s *staged) {
			s.end(0, open)
			s.seal(1)
			s.seal(3)
		}, map[event.Kind]string{
			open: "untested the agent sealed batches faster than they could be looked at",
		}, selfTestBound},
		{"a batch that was missed, of no matter", []event.Kind{open}, func(s *staged) {
			s.end(0, open)
			s.seal(1)
			s.seal(3, event.Event{Kind: open, Process: own})
		}, map[event.Kind]string{open: "ok"}, 0},
		{"events that were lost", []event.Kind{open, exec}, func(s *staged) {
			s.lost = map[event.Kind]uint64{open: 1}
			s.end(0, open, exec)
		}, map[event.Kind]string{
			open: "untested events of this kind were lost meanwhile", exec: "failed no event",
		}, selfTestBound},
		{"its own program ignored", []event.Kind{open, exec}, func(s *staged) {
			s.ignored = true
			s.end(0, open, exec)
		}, map[event.Kind]string{open: "untested events.ignored_executables names the agent's own program",
			exec: "failed no event"}, selfTestBound},
		{"the end of the agent", []event.Kind{open}, func(s *staged) {
			close(s.frames)
			time.Sleep(time.Second)
			s.end(0, open)
		}, map[event.Kind]string{open: "untested the agent stopped meanwhile"}, time.Second},
		{"no child", []event.Kind{open}, func(s *staged) {},
			map[event.Kind]string{open: "untested its child cannot be started: no"}, 0},
		{"too many that follow", []event.Kind{open}, func(s *staged) {},
			map[event.Kind]string{open: "untested its events cannot be followed: too many"}, 0},
		{"a batch that cannot be read", []event.Kind{open}, func(s *staged) {
			s.frames <- sender.Frame{Data: []byte("no zstd")}
			s.end(0, open)
		}, map[event.Kind]string{open: "untested read batch: "}, selfTestBound},
	} {
		t.Run(test.name, func(t *testing.T) {
			codec, err := batch.NewCodec()
			if err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				s := &staged{t: t, codec: codec, frames: make(chan sender.Frame, 16), ended: make(chan map[event.Kind]actionReport, 1)}
				switch test.name {
				case "no child":
					s.missing = errors.New("no")
				case "too many that follow":
					s.refuse = errors.New("too many")
				}
				began := time.Now()
				trial := s.trial()
				got := make(chan map[event.Kind]verdict)
				go func() { got <- trial.run(t.Context(), test.kinds) }()
				synctest.Wait()
				test.stage(s)
				verdicts := <-got
				if took := time.Since(began); took != test.took {
					t.Errorf("took %v, want %v", took, test.took)
				}
				told := map[event.Kind]string{}
				for kind, v := range verdicts {
					told[kind] = string(v.Result)
					if v.Reason != "" {
						told[kind] += " " + v.Reason
					}
				}
				if want := test.want[event.FileOpen]; want == "untested read batch: " && len(told[event.FileOpen]) > len(want) {
					told[event.FileOpen] = told[event.FileOpen][:len(want)]
				}
				if diff := cmp.Diff(test.want, told); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// A trial ends with its context, and not before its child has.
func TestTrialEnds(t *testing.T) {
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := &staged{t: t, codec: codec, frames: make(chan sender.Frame), ended: make(chan map[event.Kind]actionReport, 1)}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan map[event.Kind]verdict, 1)
		trial := s.trial()
		go func() { done <- trial.run(ctx, []event.Kind{event.FileOpen}) }()
		stop()
		synctest.Wait()
		select {
		case <-done:
			t.Error("ended before its child")
		default:
		}
		s.end(0, event.FileOpen)
		if v := (<-done)[event.FileOpen]; v.Result != untested {
			t.Errorf("%+v, want it untested", v)
		}
	})
}

// A child is killed with its children when it takes too long or when nobody wants it any more; what it has reported
// until then counts, up to a bound.
func TestChildIsBounded(t *testing.T) {
	nothingIsLeft := leaktest.Check(t)
	const script = `echo '{"kind":"file.open","errno":2,"error":"none"}'; sleep 1000 & echo '{"kind":"net'; wait`
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name  string
		ctx   context.Context
		bound time.Duration
	}{{"its time is over", t.Context(), 3 * time.Second}, {"its context is done", ended, time.Hour}} {
		c, err := startChild(test.ctx, test.bound, 0, "/bin/sh", "-c", script)
		if err != nil {
			if test.ctx == ended { // it was not even started
				continue
			}
			t.Fatal(err)
		}
		got := c.reports(nil)
		want := map[event.Kind]actionReport{event.FileOpen: {Kind: event.FileOpen, Errno: unix.ENOENT, Error: "none"}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
		deadline := time.Now().Add(10 * time.Second)
		for err := error(nil); !errors.Is(err, unix.ESRCH); err = unix.Kill(-int(c.pid), 0) { // init has to bury the sleeper
			if time.Now().After(deadline) {
				t.Fatalf("%s: its process group is still there", test.name)
			}
		}
	}
	c, err := startChild(t.Context(), time.Hour, 0, "/bin/sh", "-c", "yes | head -c 10000000")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.reports(nil); len(got) != 0 {
		t.Errorf("reports of one that babbles: %v", got)
	}
	nothingIsLeft()
}
