package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/batch"
)

// selfTestBound is how long the child of a self-test may take, and how long its events may take after it has ended.
const selfTestBound = 10 * time.Second

// subscriber gives sealed batches to whoever asks for them; sender.Sender does.
type subscriber interface {
	Subscribe() (frames <-chan sender.Frame, cancel func() map[event.Kind]uint64, err error)
}

// trial has a child do what makes events of some kinds, and looks for these events in the batches that are sealed: what
// it finds has come the whole way.
type trial struct {
	sealed subscriber
	codec  *batch.Codec
	// act starts the child, which is ended with ctx.
	act func(ctx context.Context, kinds []event.Kind) (*child, error)
	// lost counts what was lost by kind since the start, at whatever stage.
	lost func() map[event.Kind]uint64
	// ignored tells whether the settings have this program's own processes left out.
	ignored func() bool
}

// openSelfTest returns the self-test of what sources observe and s seals.
func openSelfTest(observed *sources, s *sender.Sender, log *slog.Logger) (*selfTest, error) {
	codec, err := batch.NewCodec()
	if err != nil {
		return nil, err
	}
	t := &trial{
		sealed: s, codec: codec, act: startAction, ignored: observed.ignoresSelf,
		lost: func() map[event.Kind]uint64 { return s.Ledger().LostByKind },
	}
	return newSelfTest(observed.coverage, t.run, log), nil
}

// run returns a verdict for every one of the kinds.
func (t *trial) run(ctx context.Context, kinds []event.Kind) map[event.Kind]verdict {
	before := t.lost()
	frames, cancel, err := t.sealed.Subscribe()
	if err != nil {
		return same(kinds, untested, fmt.Sprintf("its events cannot be followed: %v", err))
	}
	defer cancel()
	child, err := t.act(ctx, kinds)
	if err != nil {
		return same(kinds, untested, fmt.Sprintf("its child cannot be started: %v", err))
	}
	w := watch{codec: t.codec, pid: child.pid, begin: child.begin, seen: make(map[event.Kind]bool)}
	reports, err := t.follow(ctx, frames, &w, child, kinds)
	verdicts := make(map[event.Kind]verdict)
	after := t.lost()
	for _, kind := range kinds {
		report, done := reports[kind]
		v := judge(w.seen[kind], report, done)
		switch {
		case v.Result == failed && kind > event.ProcessExit && t.ignored():
			v = verdict{Result: untested, Reason: "events.ignored_executables names the agent's own program"}
		case v.Result == failed && err != nil:
			v = verdict{Result: untested, Reason: err.Error()}
		case v.Result == failed && after[kind] > before[kind]:
			v = verdict{Result: untested, Reason: "events of this kind were lost meanwhile"}
		}
		verdicts[kind] = v
	}
	return verdicts
}

// judge says what an action came to whose event has come, or has not.
func judge(seen bool, report actionReport, done bool) verdict {
	switch {
	case seen:
		return verdict{Result: passed}
	case !done:
		return verdict{Result: untested, Reason: "its child ended before it had done what makes the event"}
	case report.Errno == unix.ENOSYS:
		return verdict{Result: unsupported,
			Reason: "this kernel does not have it, or a seccomp filter hides it: " + report.Error}
	case report.Errno == unix.EPERM || report.Errno == unix.EACCES:
		return verdict{Result: untested, Reason: "what makes the event is not permitted to the agent: " + report.Error}
	}
	return verdict{Result: failed, Reason: "no event"}
}

func same(kinds []event.Kind, result result, reason string) map[event.Kind]verdict {
	verdicts := make(map[event.Kind]verdict)
	for _, kind := range kinds {
		verdicts[kind] = verdict{Result: result, Reason: reason}
	}
	return verdicts
}

// selfTestGrace is how long after the end of the child an event is waited for that may not come: its action was
// refused.
const selfTestGrace = 2500 * time.Millisecond

// follow looks at batches until all that is to be expected has been seen, or the bound has passed. Its error says why
// what has not been seen may have come all the same. The child has ended when it returns.
func (t *trial) follow(ctx context.Context, frames <-chan sender.Frame, w *watch, c *child, kinds []event.Kind) (
	reports map[event.Kind]actionReport, err error) {
	var bound, grace <-chan time.Time
	for reports == nil || slices.ContainsFunc(kinds, func(k event.Kind) bool {
		report, done := reports[k]
		v := judge(w.seen[k], report, done)
		return v.Result == failed || grace != nil && done && v.Result == untested
	}) {
		select {
		case frame, open := <-frames:
			if !open {
				return c.reports(reports), errors.New("the agent stopped meanwhile")
			}
			err = cmp.Or(w.look(frame.Data), err)
		case reports = <-c.ended:
			bound, grace = time.After(selfTestBound), time.After(selfTestGrace)
		case <-grace:
			grace = nil
		case <-bound:
			return reports, err
		case <-ctx.Done():
			return c.reports(reports), ctx.Err()
		}
	}
	return reports, err
}

// watch looks for the events of a process and its descendants.
type watch struct {
	codec    *batch.Codec
	pid      uint32
	begin    uint64
	id       event.ID // of the process, once an event of its own was seen; descendants have none earlier
	sequence uint64   // of the last batch
	seen     map[event.Kind]bool
}

// look notes what a batch has of them. Its error says that it may have missed some.
func (w *watch) look(frame []byte) error {
	data, err := w.codec.Decompress(nil, frame)
	if err != nil {
		return fmt.Errorf("read batch: %w", err)
	}
	b, err := batch.Decode(data)
	if err != nil {
		return fmt.Errorf("read batch: %w", err)
	}
	for i := range b.Events {
		if e := &b.Events[i]; e.Process != nil && w.member(e.Process) || w.asked(e.DNS) {
			w.seen[e.Kind] = true
		}
	}
	before := w.sequence
	if w.sequence = b.ID.Sequence; before != 0 && w.sequence != before+1 {
		return errors.New("the agent sealed batches faster than they could be looked at")
	}
	return nil
}

// startTolerance is how much earlier than it was a process's start may be said to be: a tick of /proc.
const startTolerance = uint64(10 * time.Millisecond)

func (w *watch) member(p *event.Process) bool {
	if p.PID == w.pid && (p.Start == 0 || p.Start+startTolerance >= w.begin) {
		w.id = p.ID
		return true
	}
	return w.id != event.ID{} && slices.ContainsFunc(p.Ancestors, func(a event.Ancestor) bool { return a.ID == w.id })
}

// asked tells whether a DNS message is the process's own, by the name in it.
func (w *watch) asked(d *event.DNS) bool {
	return d != nil && len(d.Questions) > 0 && d.Questions[0].Name == selfTestName(int(w.pid))
}

// kindList names kinds for a log line.
func kindList(kinds []event.Kind) string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.String()
	}
	return strings.Join(names, " ")
}
