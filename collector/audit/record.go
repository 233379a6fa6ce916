package audit

import (
	"bytes"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
)

// stamp identifies an audit event: every record of one event carries the same one.
type stamp struct {
	milli  int64  // milliseconds since 1970
	serial uint32 // counts the events of the kernel, wraps around
}

func (s stamp) time() time.Time { return time.UnixMilli(s.milli).UTC() }

// parseHeader splits "audit(SECONDS.MILLISECONDS:SERIAL): BODY".
func parseHeader(payload []byte) (s stamp, body []byte, ok bool) {
	rest, ok := bytes.CutPrefix(payload, []byte("audit("))
	if !ok {
		return stamp{}, nil, false
	}
	sec, rest, ok1 := decimal(rest, '.')
	milli, rest, ok2 := decimal(rest, ':')
	serial, rest, ok3 := decimal(rest, ')')
	if !ok1 || !ok2 || !ok3 || sec > 1<<40 || milli > 999 || serial > 1<<32-1 {
		return stamp{}, nil, false
	}
	rest = bytes.TrimPrefix(rest, []byte(":"))
	body = bytes.Trim(rest, " \n\x00")
	return stamp{milli: int64(sec)*1000 + int64(milli), serial: uint32(serial)}, body, true
}

// decimal reads digits up to end and steps over it.
func decimal(b []byte, end byte) (n uint64, rest []byte, ok bool) {
	for i, c := range b {
		switch {
		case c == end:
			return n, b[i+1:], i > 0
		case c < '0' || c > '9' || i > 18:
			return 0, b, false
		}
		n = n*10 + uint64(c-'0')
	}
	return 0, b, false
}

// nextField splits the first "name=value" off a record's body. Words without "=" are stepped over. The kernel never
// writes a space into a value that a process chose: such values are hexadecimal.
func nextField(body []byte) (name, value, rest []byte, ok bool) {
	for len(body) > 0 {
		word, rest, _ := bytes.Cut(body, []byte(" "))
		if name, value, ok := bytes.Cut(word, []byte("=")); ok {
			return name, value, rest, true
		}
		body = rest
	}
	return nil, nil, nil, false
}

// number reads an unsigned number of base 10 or 16; what is none counts as 0.
func number(b []byte, base uint64) (n uint64) {
	for _, c := range b {
		d, ok := hexDigit(c)
		if !ok || uint64(d) >= base {
			return 0
		}
		n = n*base + uint64(d)
	}
	return n
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// appendText appends a value that a process chose. The kernel writes it in quotes or, when it holds a quote, a
// space or a byte outside of printable ASCII, in hexadecimal; "(null)" and "?" stand for no value.
func appendText(dst, value []byte) (out []byte, ok bool) {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		return append(dst, value[1:len(value)-1]...), true
	}
	return appendHex(dst, value)
}

// appendHex appends decoded hexadecimal digits, or nothing when there is any other character.
func appendHex(dst, value []byte) (out []byte, ok bool) {
	if len(value) == 0 || len(value)%2 != 0 {
		return dst, false
	}
	out = dst
	for i := 0; i < len(value); i += 2 {
		high, ok1 := hexDigit(value[i])
		low, ok2 := hexDigit(value[i+1])
		if !ok1 || !ok2 {
			return dst, false
		}
		out = append(out, high<<4|low)
	}
	return out, true
}

// needed reports whether the decoder reads a record.
func needed(typ auparse.AuditMessageType, body []byte) bool {
	switch typ {
	case auparse.AUDIT_SYSCALL, auparse.AUDIT_EXECVE, auparse.AUDIT_CWD, auparse.AUDIT_PATH, auparse.AUDIT_SOCKADDR,
		auparse.AUDIT_OPENAT2, auparse.AUDIT_MMAP, auparse.AUDIT_OBJ_PID, auparse.AUDIT_KERN_MODULE,
		auparse.AUDIT_SOCKETCALL:
		return true
	case auparse.AUDIT_BPF:
		// The end of a program has no call.
		return string(fieldOf(body, "op")) == "LOAD"
	}
	return false
}

// alone reports whether records of a type are events of one record, sent by user space through the kernel
// (include/uapi/linux/audit.h: 1100-1299 and 2100-2999).
func alone(typ auparse.AuditMessageType) bool {
	return typ >= 1100 && typ < 1300 || typ >= 2100 && typ < 3000
}
