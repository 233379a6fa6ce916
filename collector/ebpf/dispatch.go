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

// dispatched is a handler in a map.
type dispatched struct {
	dispatcher *dispatcher
	source     *Source
	table      string
	number     uint32
}

// add has a program handle what has a number in a table, which is a map's name.
func (d *dispatcher) add(s *Source, table string, number uint32, program *ebpf.Program) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.handlers == 0 {
		if err := d.find(s); err != nil {
			return nil, errors.Join(err, d.close())
		}
	}
	if err := s.objects.shared[table].Put(number, program); err != nil {
		err = fmt.Errorf("add handler %d to %s: %w", number, table, err)
		if d.handlers == 0 {
			err = errors.Join(err, d.close())
		}
		return nil, err
	}
	d.handlers++
	return &dispatched{dispatcher: d, source: s, table: table, number: number}, nil
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

// close detaches them. The caller holds d.mu.
func (d *dispatcher) close() error {
	err := closeAll(d.attached)
	d.attached = nil
	return err
}

// Close takes the handler out of the map.
func (h *dispatched) Close() error {
	d := h.dispatcher
	d.mu.Lock()
	defer d.mu.Unlock()
	err := h.source.objects.shared[h.table].Delete(h.number)
	if err != nil {
		err = fmt.Errorf("remove handler %d from %s: %w", h.number, h.table, err)
	}
	if d.handlers--; d.handlers == 0 {
		err = errors.Join(err, d.close())
	}
	return err
}
