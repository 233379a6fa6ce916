package audit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector"
)

// errReplace says that another audit daemon wants to register.
var errReplace = errors.New("another audit daemon wants to register")

// stream is where records come from.
type stream interface {
	// Next returns the type and the payload of the next message, which holds until the next call. The error
	// wraps os.ErrDeadlineExceeded when there is none until deadline, ENOBUFS when messages were dropped.
	Next(deadline time.Time) (typ uint16, payload []byte, err error)
}

// reader turns messages into events.
type reader struct {
	reassembler *reassembler
	decoder     *decoder
	sink        collector.Sink
	records     io.Writer
	logger      *slog.Logger
	// since is when the source was opened, in milliseconds since 1970: what is older waited in the kernel for a
	// daemon, and is not ours. Such records come before the first of our time, when begun is set.
	since   int64
	begun   bool
	overran bool // the socket's buffer has overrun, and that was logged
}

const (
	settlePause = time.Millisecond       // a silence that means that what was there has been taken
	settleTime  = 100 * time.Millisecond // how long to wait for one, at most
)

// clockLag is how much the kernel's record clock, which ticks with the timer, may be late.
const clockLag = 10 * time.Millisecond

func newReader(config Config, calls *atomic.Pointer[calls], sink collector.Sink, opened time.Time) *reader {
	r := &reader{
		decoder: newDecoder(calls, uint32(os.Getpid())), sink: sink, records: config.Records,
		logger: config.Logger, since: opened.Add(-clockLag).UnixMilli(),
	}
	r.reassembler = newReassembler(r)
	return r
}

// read takes messages for as long as they come, at least one or until wait has passed, and until deadlines are due.
// Before it gives up events it takes what is there already: this process may not have run for a while.
func (r *reader) read(from stream, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	var end time.Time // when not to wait for a silence any longer
	for {
		typ, payload, err := from.Next(deadline)
		now := time.Now()
		switch {
		case err == nil:
			if auparse.AuditMessageType(typ) == auparse.AUDIT_REPLACE {
				return errReplace
			}
			r.take(now, auparse.AuditMessageType(typ), payload)
		case errors.Is(err, os.ErrDeadlineExceeded):
		case errors.Is(err, unix.ENOBUFS):
			r.overrun()
		case errors.Is(err, errForeign):
		default:
			return err
		}
		if now.Before(deadline) {
			continue
		}
		if end.IsZero() {
			end = now.Add(settleTime)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) || now.After(end) {
			r.reassembler.expire(now)
			return nil
		}
		deadline = now.Add(settlePause)
	}
}

// drain takes the messages that are there, until none comes for pause, or for longest in all.
func (r *reader) drain(from stream, pause, longest time.Duration) {
	end := time.Now().Add(longest)
	for now := time.Now(); now.Before(end); now = time.Now() {
		typ, payload, err := from.Next(now.Add(pause))
		switch {
		case err == nil:
			r.take(now, auparse.AuditMessageType(typ), payload)
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, errForeign):
		default:
			return
		}
	}
}

// flush hands on all that is unfinished.
func (r *reader) flush() { r.reassembler.expire(time.Now().Add(2 * MaxDelay)) }

func (r *reader) take(now time.Time, typ auparse.AuditMessageType, payload []byte) {
	s, body, ok := parseHeader(payload)
	if !ok {
		return // an answer of the control interface
	}
	if !r.begun && s.milli < r.since && now.UnixMilli() >= r.since {
		return
	}
	r.begun = true
	if r.records != nil {
		r.copyRecord(typ, s, body)
	}
	r.reassembler.add(now, typ, s, body)
}

func (r *reader) copyRecord(typ auparse.AuditMessageType, s stamp, body []byte) {
	_, err := fmt.Fprintf(r.records, "type=%s msg=audit(%d.%03d:%d): %s\n",
		typ, s.milli/1000, s.milli%1000, s.serial, body)
	if err != nil {
		r.logger.Warn("audit stops to copy records", "error", err)
		r.records = nil
	}
}

// overrun only logs, and only once: how much was lost shows in the serial numbers and in incomplete events.
func (r *reader) overrun() {
	if !r.overran {
		r.overran = true
		r.logger.Warn("audit records came faster than they were read: some are lost, and counted")
	}
}

func (r *reader) wanted(body []byte) bool { return r.decoder.wanted(body) }

func (r *reader) skipped(n uint64) { r.sink.Lost(0, stageKernel, causeOverrun, n) }

func (r *reader) finish(g *group, why ending) {
	if why == expired && !g.syscall && len(g.records) == 0 {
		return // of a kind that has no system call
	}
	e, kind, v := r.decoder.decode(g)
	switch {
	case v == ignored:
	case why == evicted:
		r.sink.Lost(kind, stageDecode, causeInFlight, 1)
	case v == incomplete:
		r.sink.Lost(kind, stageDecode, causeIncomplete, 1)
	default:
		r.sink.Emit(e)
	}
}
