package audit

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/auparse"
	"golang.org/x/sys/unix"
)

// fakeKernel answers what a client asks of kernel audit, as kernel/audit.c does.
type fakeKernel struct {
	mu      sync.Mutex
	status  libaudit.AuditStatus
	rules   [][]byte
	refuse  func(rule []byte) bool // rules that this kernel does not understand
	changes int                    // requests that would change something
	replies []syscall.NetlinkMessage
	seq     uint32
}

// Send implements libaudit.NetlinkSender.
func (f *fakeKernel) Send(msg syscall.NetlinkMessage) (uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++
	switch auparse.AuditMessageType(msg.Header.Type) {
	case auparse.AUDIT_GET:
		f.ack(0)
		var b bytes.Buffer
		if err := binary.Write(&b, binary.NativeEndian, f.status); err != nil {
			return 0, err
		}
		f.reply(msg.Header.Type, b.Bytes())
	case auparse.AUDIT_LIST_RULES:
		f.ack(0)
		for _, rule := range f.rules {
			f.reply(msg.Header.Type, rule)
		}
		f.reply(syscall.NLMSG_DONE, nil)
	default:
		f.changes++
		f.ack(f.change(msg))
	}
	return f.seq, nil
}

func (f *fakeKernel) change(msg syscall.NetlinkMessage) syscall.Errno {
	at := slices.IndexFunc(f.rules, func(r []byte) bool { return bytes.Equal(r, msg.Data) })
	switch typ := auparse.AuditMessageType(msg.Header.Type); {
	case f.status.Enabled == immutable:
		return syscall.EPERM
	case typ == auparse.AUDIT_ADD_RULE && at >= 0:
		return syscall.EEXIST
	case typ == auparse.AUDIT_ADD_RULE && f.refuse != nil && f.refuse(msg.Data):
		return syscall.EINVAL
	case typ == auparse.AUDIT_ADD_RULE:
		f.rules = append(f.rules, slices.Clone(msg.Data))
	case typ == auparse.AUDIT_DEL_RULE && at < 0:
		return syscall.ENOENT
	case typ == auparse.AUDIT_DEL_RULE:
		f.rules = slices.Delete(f.rules, at, at+1)
	}
	return 0
}

func (f *fakeKernel) ack(errno syscall.Errno) {
	f.reply(syscall.NLMSG_ERROR, binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))))
}

func (f *fakeKernel) reply(typ uint16, data []byte) {
	f.replies = append(f.replies, syscall.NetlinkMessage{
		Header: syscall.NlMsghdr{Type: typ, Seq: f.seq}, Data: slices.Clone(data)})
}

// SendNoWait implements libaudit.NetlinkSender.
func (f *fakeKernel) SendNoWait(msg syscall.NetlinkMessage) (uint32, error) { return f.Send(msg) }

// Receive implements libaudit.NetlinkReceiver.
func (f *fakeKernel) Receive(bool, libaudit.NetlinkParser) ([]syscall.NetlinkMessage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.replies) == 0 {
		return nil, syscall.EAGAIN
	}
	msg := f.replies[0]
	f.replies = f.replies[1:]
	return []syscall.NetlinkMessage{msg}, nil
}

// Close implements io.Closer.
func (f *fakeKernel) Close() error { return nil }

// loaded returns the rules in the form of auditctl(8).
func (f *fakeKernel) loaded(t *testing.T) []string {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	return ruleTexts(f.rules)
}

// source opens a source on the fake kernel, where process 1 is the audit daemon. Its data socket is silent.
func (f *fakeKernel) source(t *testing.T, config Config) (*Source, error) {
	t.Helper()
	f.status.PID = 1
	config.key = testKey
	config = config.withDefaults()
	s, err := open(config, &kernel{
		procRoot: config.ProcRoot, key: config.key, self: os.Getpid(),
		dial: func() (*libaudit.AuditClient, error) { return &libaudit.AuditClient{Netlink: f}, nil },
		listen: func(uint32, int) (*socket, error) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			t.Cleanup(func() { unix.Close(fds[1]) })
			s := &socket{file: os.NewFile(uintptr(fds[0]), "fake"), buf: make([]byte, 1)}
			s.receive = s.receiveOnce
			s.conn, err = s.file.SyscallConn()
			return s, err
		},
	})
	if err == nil {
		t.Cleanup(func() { s.Close() })
	}
	return s, err
}

// ruleOf makes a rule in the kernel's form.
func ruleOf(t *testing.T, width, filter, key string, self int, names ...string) []byte {
	t.Helper()
	r, err := buildRule(width, names, filter, key, self)
	if err != nil {
		t.Fatal(err)
	}
	return r.wire
}
