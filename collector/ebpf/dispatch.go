package ebpf

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
)

// dispatcher is a map of handlers and the programs that find the right one. They look at every system call, or every
// operation of io_uring, of the host: they are attached only while there is a handler.
type dispatcher struct {
	table    string
	finders  []hook
	attached []io.Closer
	handlers int
}

// compatDispatcher is for 32-bit system calls, by their numbers.
func compatDispatcher() dispatcher {
	return dispatcher{table: commonMapCompatCalls, finders: []hook{rawTracepoint(commonProgCompatExit)}}
}

// uringDispatcher is for operations of io_uring, by their opcodes.
func uringDispatcher() dispatcher {
	return dispatcher{table: commonMapUringCalls, finders: []hook{
		typedTracepoint(probe{handler: commonProgUringSubmit, function: uringSubmitted}),
		typedTracepoint(probe{handler: commonProgUringComplete, function: "io_uring_complete"}),
	}}
}

// dispatched is a handler in the map.
type dispatched struct {
	dispatcher *dispatcher
	source     *Source
	number     uint32
}

// add is called with the source's lock held, as is Close of what it returns.
func (d *dispatcher) add(s *Source, number uint32, program *ebpf.Program) (io.Closer, error) {
	if d.handlers == 0 {
		if err := d.find(s); err != nil {
			return nil, errors.Join(err, d.close())
		}
	}
	if err := s.objects.shared[d.table].Put(number, program); err != nil {
		err = fmt.Errorf("add handler %d to %s: %w", number, d.table, err)
		if d.handlers == 0 {
			err = errors.Join(err, d.close())
		}
		return nil, err
	}
	d.handlers++
	return &dispatched{dispatcher: d, source: s, number: number}, nil
}

func (d *dispatcher) find(s *Source) error {
	o, err := s.objects.open(object{"common", loadCommon})
	if err != nil {
		return err
	}
	for _, h := range d.finders {
		finder, err := s.attachHook(o, &h)
		if err != nil {
			return errors.Join(err, o.close())
		}
		d.attached = append(d.attached, finder)
	}
	return o.close()
}

func (d *dispatcher) close() error {
	err := closeAll(d.attached)
	d.attached = nil
	return err
}

// Close takes the handler out of the map.
func (h *dispatched) Close() error {
	d := h.dispatcher
	err := h.source.objects.shared[d.table].Delete(h.number)
	if d.handlers--; d.handlers == 0 {
		err = errors.Join(err, d.close())
	}
	return err
}
