package ebpf

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector"
	"github.com/taskguard/taskguard/collector/event"
)

// uringSubmitted is the tracepoint at which a request of io_uring has its own copy of names and addresses, since
// Linux 6.3. Older kernels lack it: there the tracepoint rung does not see what io_uring does.
const uringSubmitted = "io_uring_submit_req"

// Opcodes of io_uring (include/uapi/linux/io_uring.h).
const (
	opOpenat    = 18
	opOpenat2   = 28
	opRenameat  = 35
	opUnlinkat  = 36
	opSymlinkat = 38
	opLinkat    = 39
)

// operation is a handler and the operation of io_uring that it is for.
type operation struct {
	handler string
	opcode  uint32
}

func uringOperation(op operation) hook {
	return hook{program: op.handler, tracepoint: uringSubmitted, need: optional,
		attach: func(s *Source, p *ebpf.Program) (io.Closer, error) {
			return s.uring.add(s, p, slot{commonMapUringCalls, uint32(op.opcode)})
		}}
}

// maxRequest is how long the completion of a request is waited for.
const maxRequest = 10 * time.Second

// emitRequests emits what io_uring was asked for at least age ago and was not seen to do: with EINPROGRESS, as it may
// be blocked, or done without its completion having been told of.
func (s *Source) emitRequests(age time.Duration, sink collector.Sink) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return fmt.Errorf("read clock: %w", err)
	}
	for _, m := range s.requestMaps {
		var key uint64
		var record []byte
		var late []uint64
		entries := m.Iterate()
		for entries.Next(&key, &record) {
			h, _, err := take[commonHeader](record)
			if err == nil && int64(h.Time) <= now.Nano()-int64(age) {
				late = append(late, key)
			}
		}
		if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
			return fmt.Errorf("read requests of io_uring: %w", err)
		}
		for _, key := range late {
			err := m.LookupAndDelete(key, &record)
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				continue // completed meanwhile
			}
			if err != nil {
				return fmt.Errorf("take request of io_uring: %w", err)
			}
			s.emitRequest(record, sink)
		}
	}
	return nil
}

func (s *Source) emitRequest(record []byte, sink collector.Sink) {
	h, _, err := take[commonHeader](record)
	if err == nil && int(h.Size) <= len(record) {
		record = record[:h.Size]
	}
	emit := func(e *event.Event) {
		e.Result = int32(unix.EINPROGRESS)
		sink.Emit(e)
	}
	if err := s.decoder.decode(record, emit); err != nil {
		sink.Lost(event.Kind(h.Kind), "decode", "malformed", 1)
	}
}
