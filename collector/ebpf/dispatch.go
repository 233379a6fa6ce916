package ebpf

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cilium/ebpf"
)

// dispatcher is programs that find handlers in maps by numbers. They look at every system call, or every operation of
// io_uring, of the host: they are attached only while there is a handler.
type dispatcher struct {
	finders []hook

	mu       sync.Mutex
	attached []io.Closer // guarded by mu
	handlers int         // guarded by mu
}

// callDispatcher is for the exits of system calls.
func callDispatcher() *dispatcher {
	return &dispatcher{finders: []hook{rawTracepoint(commonProgCallExit)}}
}

// uringDispatcher is for operations of io_uring, by their opcodes.
func uringDispatcher() *dispatcher {
	return &dispatcher{finders: []hook{
		typedTracepoint(probe{handler: commonProgUringSubmit, function: uringSubmitted}),
		typedTracepoint(probe{handler: commonProgUringComplete, function: "io_uring_complete"}),
	}}
}

// slot is where a handler is found: a number in a map of handlers.
type slot struct {
	table  string
	number uint32
}

// dispatched is a handler in its slots.
type dispatched struct {
	dispatcher *dispatcher
	source     *Source
	slots      []slot
}

// add has a program found in slots.
func (d *dispatcher) add(s *Source, program *ebpf.Program, slots ...slot) (_ io.Closer, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := &dispatched{dispatcher: d, source: s}
	d.handlers++
	defer func() {
		if err != nil {
			err = errors.Join(err, h.remove())
		}
	}()
	if len(d.attached) == 0 {
		if err := d.find(s); err != nil {
			return nil, err
		}
	}
	for _, at := range slots {
		if err := s.objects.shared[at.table].Put(at.number, program); err != nil {
			return nil, fmt.Errorf("add handler %d to %s: %w", at.number, at.table, err)
		}
		h.slots = append(h.slots, at)
	}
	return h, nil
}

// find attaches the programs. The caller holds d.mu.
func (d *dispatcher) find(s *Source) error {
	o, err := s.objects.open(object{"common", loadCommon})
	if err != nil {
		return err
	}
	for _, h := range d.finders {
		finder, err := s.attachHook(o, &h)
		if err != nil {
			return err
		}
		d.attached = append(d.attached, finder)
	}
	return nil
}

// Close takes the handler out of its slots.
func (h *dispatched) Close() error {
	h.dispatcher.mu.Lock()
	defer h.dispatcher.mu.Unlock()
	return h.remove()
}

// remove does so, and detaches the programs behind the last one. The caller holds the dispatcher's mu.
func (h *dispatched) remove() error {
	var errs []error
	for _, at := range h.slots {
		if err := h.source.objects.shared[at.table].Delete(at.number); err != nil {
			errs = append(errs, fmt.Errorf("remove handler %d from %s: %w", at.number, at.table, err))
		}
	}
	d := h.dispatcher
	if d.handlers--; d.handlers == 0 {
		errs = append(errs, closeAll(d.attached))
		d.attached = nil
	}
	return errors.Join(errs...)
}
