package ebpf

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sqe asks io_uring for an operation (struct io_uring_sqe).
type sqe struct {
	Opcode, Flags      uint8
	Priority           uint16
	FD                 int32
	Offset, Address    uint64
	Length, OpFlags    uint32
	UserData           uint64
	Buffer, Creds      uint16
	FileIndex          uint32
	Address3, Reserved uint64
}

// cqe is what came of it (struct io_uring_cqe).
type cqe struct {
	UserData uint64
	Result   int32
	Flags    uint32
}

// ring is an instance of io_uring.
type ring struct {
	fd     int
	params ringParams
	queues []byte // of indices: submissions and completions
	sqes   []byte
}

// ringParams is struct io_uring_params.
type ringParams struct {
	SQEntries, CQEntries, Flags, ThreadCPU, ThreadIdle, Features, WorkFD uint32
	Reserved                                                             [3]uint32
	SQ                                                                   struct {
		Head, Tail, Mask, Entries, Flags, Dropped, Array, Reserved uint32
		Address                                                    uint64
	}
	CQ struct {
		Head, Tail, Mask, Entries, Overflow, CQEs, Flags, Reserved uint32
		Address                                                    uint64
	}
}

const (
	setupThread   = 1 << 1  // IORING_SETUP_SQPOLL
	featureSkip   = 1 << 11 // IORING_FEAT_CQE_SKIP
	enterGet      = 1       // IORING_ENTER_GETEVENTS
	enterWake     = 2       // IORING_ENTER_SQ_WAKEUP
	offsetSQEs    = 0x10000000
	registerFiles = 2 // IORING_REGISTER_FILES
	allocateSlot  = ^uint32(0)
)

// newRing makes a ring of 8 entries. flags are those of io_uring_setup(2).
func newRing(flags uint32) (*ring, error) {
	r := &ring{params: ringParams{Flags: flags, ThreadIdle: 1000}}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 8, pointer(&r.params), 0)
	if errno != 0 {
		return nil, fmt.Errorf("set up io_uring: %w", errno)
	}
	r.fd = int(fd)
	p := &r.params
	size := max(p.SQ.Array+4*p.SQEntries, p.CQ.CQEs+p.CQEntries*uint32(unsafe.Sizeof(cqe{})))
	var err, err2 error
	r.queues, err = unix.Mmap(r.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	r.sqes, err2 = unix.Mmap(r.fd, offsetSQEs, int(p.SQEntries)*int(unsafe.Sizeof(sqe{})),
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("map io_uring: %w", err)
	}
	return r, nil
}

func (r *ring) word(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.queues[offset])) }

// push puts an operation into the queue of submissions.
func (r *ring) push(s sqe) {
	p := &r.params
	tail := *r.word(p.SQ.Tail)
	index := tail & *r.word(p.SQ.Mask)
	*(*sqe)(unsafe.Pointer(&r.sqes[index*uint32(unsafe.Sizeof(s))])) = s
	*r.word(p.SQ.Array + 4*index) = index
	atomic.StoreUint32(r.word(p.SQ.Tail), tail+1)
}

// enter hands the queue to the kernel and waits for completions, also when a signal ends the wait.
func (r *ring) enter(submit, wait int) error {
	flags := uintptr(enterGet)
	if r.params.Flags&setupThread != 0 {
		flags |= enterWake
	}
	for {
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(submit), uintptr(wait), flags, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return fmt.Errorf("enter io_uring: %w", errno)
		}
		if int(atomic.LoadUint32(r.word(r.params.CQ.Tail))-*r.word(r.params.CQ.Head)) >= wait {
			return nil
		}
		submit = 0
	}
}

// pop takes a completion; there must be one.
func (r *ring) pop() (cqe, error) {
	p := &r.params
	head := *r.word(p.CQ.Head)
	if atomic.LoadUint32(r.word(p.CQ.Tail)) == head {
		return cqe{}, errors.New("no completion")
	}
	c := *(*cqe)(unsafe.Pointer(&r.queues[p.CQ.CQEs+(head&*r.word(p.CQ.Mask))*uint32(unsafe.Sizeof(cqe{}))]))
	atomic.StoreUint32(r.word(p.CQ.Head), head+1)
	return c, nil
}

// submit has one operation done and returns its result. What the operation points to must live until then: keep is
// that.
func (r *ring) submit(s sqe, keep ...any) (int32, error) {
	r.push(s)
	if err := r.enter(1, 1); err != nil {
		return 0, err
	}
	c, err := r.pop()
	runtime.KeepAlive(keep)
	return c.Result, err
}

// slots gives the ring a table of files.
func (r *ring) slots(n int) error {
	files := make([]int32, n)
	for i := range files {
		files[i] = -1
	}
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), registerFiles, pointer(&files[0]),
		uintptr(n), 0, 0)
	runtime.KeepAlive(files)
	if errno != 0 {
		return fmt.Errorf("register files: %w", errno)
	}
	return nil
}

func (r *ring) close() error {
	return errors.Join(unix.Munmap(r.queues), unix.Munmap(r.sqes), unix.Close(r.fd))
}
