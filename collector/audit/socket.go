package audit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/elastic/go-libaudit/v2"
	"golang.org/x/sys/unix"
)

// errForeign says that a message came from another process than the kernel.
var errForeign = errors.New("message is not from the kernel")

// socket is a netlink socket on which the kernel delivers audit records. It is also the transport of the library's
// client, which registers it. It is not safe for concurrent use, but for Close.
type socket struct {
	file *os.File
	conn syscall.RawConn
	port uint32
	seq  atomic.Uint32
	buf  []byte

	deadline time.Time // of the file's reads
	// The arguments and results of receive, which the poller calls back.
	nonBlocking bool
	n           int
	err         error
	receive     func(fd uintptr) bool
}

// readLogGroup is the bit of AUDIT_NLGRP_READLOG.
const readLogGroup = 1

// openSocket opens a socket that is a member of the multicast groups, with a receive buffer of that many bytes.
func openSocket(groups uint32, buffer int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_AUDIT)
	if err != nil {
		return nil, fmt.Errorf("open audit socket: %w", err)
	}
	s := &socket{
		file: os.NewFile(uintptr(fd), "audit"),
		buf:  make([]byte, unix.NLMSG_HDRLEN+libaudit.AuditMessageMaxLength),
	}
	s.receive = s.receiveOnce
	if err := s.setUp(fd, groups, buffer); err != nil {
		return nil, errors.Join(fmt.Errorf("set up audit socket: %w", err), s.file.Close())
	}
	return s, nil
}

func (s *socket) setUp(fd int, groups uint32, buffer int) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	// Forced, as the limit for everybody (net.core.rmem_max) is that of a few dozen records.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer); err != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer); err != nil {
			return fmt.Errorf("set receive buffer: %w", err)
		}
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("read address: %w", err)
	}
	s.port = name.(*unix.SockaddrNetlink).Pid
	s.conn, err = s.file.SyscallConn()
	return err
}

// Next returns the type and the payload of the next message; the payload holds until the next call. The error
// wraps os.ErrDeadlineExceeded when there is none until deadline, and ENOBUFS when messages were lost before it.
func (s *socket) Next(deadline time.Time) (typ uint16, payload []byte, err error) {
	if deadline != s.deadline {
		if err := s.file.SetReadDeadline(deadline); err != nil {
			return 0, nil, err
		}
		s.deadline = deadline
	}
	s.nonBlocking = false
	if err := s.conn.Read(s.receive); err != nil {
		return 0, nil, err
	}
	if s.err != nil {
		return 0, nil, s.err
	}
	header, payload, err := s.message()
	return header.Type, payload, err
}

// receiveOnce reads one message; it reports false when it should be called again once there is one.
func (s *socket) receiveOnce(fd uintptr) bool {
	var from unix.Sockaddr
	s.n, from, s.err = unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT)
	if s.err == unix.EAGAIN || s.err == unix.EINTR {
		return s.nonBlocking
	}
	if s.err != nil {
		return true
	}
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		s.err = errForeign
	}
	return true
}

// message splits what was received. The length in the header of an audit record is not to be trusted: some kernels
// leave the header out of it.
func (s *socket) message() (unix.NlMsghdr, []byte, error) {
	if s.n < unix.NLMSG_HDRLEN {
		return unix.NlMsghdr{}, nil, fmt.Errorf("audit message of %d bytes", s.n)
	}
	header := *(*unix.NlMsghdr)(unsafe.Pointer(&s.buf[0]))
	return header, s.buf[unix.NLMSG_HDRLEN:s.n], nil
}

// Send implements libaudit.NetlinkSender.
func (s *socket) Send(msg syscall.NetlinkMessage) (uint32, error) { return s.SendNoWait(msg) }

// SendNoWait implements libaudit.NetlinkSender.
func (s *socket) SendNoWait(msg syscall.NetlinkMessage) (uint32, error) {
	msg.Header.Len = uint32(unix.NLMSG_HDRLEN + len(msg.Data))
	msg.Header.Pid = s.port
	msg.Header.Seq = s.seq.Add(1)
	var b bytes.Buffer
	b.Write((*[unix.NLMSG_HDRLEN]byte)(unsafe.Pointer(&msg.Header))[:])
	b.Write(msg.Data)
	var err error
	if ctlErr := s.conn.Control(func(fd uintptr) {
		err = unix.Sendto(int(fd), b.Bytes(), unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}); ctlErr != nil {
		return 0, ctlErr
	}
	return msg.Header.Seq, err
}

// Receive implements libaudit.NetlinkReceiver. It does not wait.
func (s *socket) Receive(_ bool, parse libaudit.NetlinkParser) ([]syscall.NetlinkMessage, error) {
	s.nonBlocking = true
	if err := s.conn.Control(func(fd uintptr) { s.receiveOnce(fd) }); err != nil {
		return nil, err
	}
	if s.err != nil {
		return nil, s.err
	}
	return parse(s.buf[:s.n])
}

// Close closes the socket.
func (s *socket) Close() error { return s.file.Close() }
