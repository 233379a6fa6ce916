package ebpf

import (
	"io"

	"github.com/cilium/ebpf"
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
		attach: func(s *Source, p *ebpf.Program) (io.Closer, error) { return s.uring.add(s, op.opcode, p) }}
}
