package audit

import (
	"bytes"

	"github.com/elastic/go-libaudit/v2/auparse"

	"github.com/taskguard/taskguard/collector/event"
)

// verdict is what the decoder makes of a group.
type verdict uint8

const (
	ignored    verdict = iota // nothing that is collected
	decoded                   // an event
	incomplete                // an event whose essential record is missing
)

// decoder turns the records of one event into an event.Event. It is a function of the records alone, but for the
// memory it reuses: the event it returns holds until the next call.
type decoder struct {
	calls map[callKey]call
	self  uint32 // a pid whose events are ignored, 0 for none
	names interner

	event   event.Event
	process event.Process
	file    event.File
	net     event.Net

	call call
	sys  syscallRecord
	path pathPicker
	cwd  []byte
	// Per event: which records have come.
	addressed bool
	openat2   bool
	text      []byte // scratch
}

func newDecoder(wanted []event.Kind, self uint32) *decoder {
	return &decoder{calls: callTable(wanted), self: self, names: interner{}}
}

// syscallRecord is what is used of a SYSCALL record.
type syscallRecord struct {
	key       callKey
	args      [4]uint64
	returned  bool // there is a result: the call was not one that ends its thread
	succeeded bool
	exit      int64

	ppid, pid            uint32
	uid, gid, euid, egid uint32
	comm, exe            []byte
}

// wanted tells by the body of a SYSCALL record whether decode would make an event of it.
func (d *decoder) wanted(body []byte) bool {
	_, ok := d.calls[callOf(body)]
	return ok
}

// callOf reads only as far as it must: arch and syscall are the record's first fields.
func callOf(body []byte) (key callKey) {
	for seen := 0; seen < 2; {
		name, value, rest, ok := nextField(body)
		if !ok {
			return callKey{}
		}
		switch string(name) {
		case "arch":
			key.arch = uint32(number(value, 16))
			seen++
		case "syscall":
			key.number = uint32(number(value, 10))
			seen++
		}
		body = rest
	}
	return key
}

// decode returns what a group tells; the event is nil unless the verdict is decoded, and holds until the next call.
// kind is 0 when the record that tells it is missing.
func (d *decoder) decode(g *group) (e *event.Event, kind event.Kind, v verdict) {
	d.read(g)
	if !g.syscall {
		return nil, d.guess(g), incomplete
	}
	c, ok := d.calls[d.sys.key]
	if !ok || d.self != 0 && d.sys.pid == d.self {
		return nil, 0, ignored
	}
	if !d.sys.returned && c.kind != event.ProcessExit {
		return nil, c.kind, incomplete // the thread died inside the call
	}
	d.call = c
	d.begin(g)
	switch c.kind {
	case event.ProcessExec:
		v = d.exec(g)
	case event.ProcessExit:
		v = d.exit()
	case event.NetConnect:
		v = d.connect()
	case event.FileOpen:
		v = d.open(g)
	}
	if v != decoded {
		return nil, c.kind, v
	}
	return &d.event, c.kind, v
}

// guess tells the kind of an event that lost its SYSCALL record.
func (d *decoder) guess(g *group) event.Kind {
	switch {
	case g.args.any:
		return event.ProcessExec
	case d.addressed:
		return event.NetConnect
	case d.openat2:
		return event.FileOpen
	}
	return 0
}

// read takes in a group's records.
func (d *decoder) read(g *group) {
	d.sys, d.cwd, d.addressed, d.openat2 = syscallRecord{}, nil, false, false
	d.net, d.file = event.Net{}, event.File{}
	d.path.reset()
	g.each(func(typ auparse.AuditMessageType, body []byte) {
		switch typ {
		case auparse.AUDIT_SYSCALL:
			d.sys.read(body)
		case auparse.AUDIT_CWD:
			d.cwd = fieldOf(body, "cwd")
		case auparse.AUDIT_PATH:
			d.path.read(body)
		case auparse.AUDIT_SOCKADDR:
			d.text, _ = appendHex(d.text[:0], fieldOf(body, "saddr"))
			d.addressed = d.readAddress(d.text)
		case auparse.AUDIT_OPENAT2:
			d.openat2 = true
			d.file.Flags = event.OpenFlags(number(fieldOf(body, "oflag"), 8))
		}
	})
}

func fieldOf(body []byte, want string) []byte {
	for {
		name, value, rest, ok := nextField(body)
		if !ok {
			return nil
		}
		if string(name) == want {
			return value
		}
		body = rest
	}
}

func (r *syscallRecord) read(body []byte) {
	for {
		name, value, rest, ok := nextField(body)
		if !ok {
			return
		}
		body = rest
		switch string(name) {
		case "arch":
			r.key.arch = uint32(number(value, 16))
		case "syscall":
			r.key.number = uint32(number(value, 10))
		case "success":
			r.returned, r.succeeded = true, string(value) == "yes"
		case "exit":
			digits, negative := bytes.CutPrefix(value, []byte("-"))
			r.exit = int64(number(digits, 10))
			if negative {
				r.exit = -r.exit
			}
		case "a0", "a1", "a2", "a3":
			r.args[name[1]-'0'] = number(value, 16)
		case "ppid":
			r.ppid = uint32(number(value, 10))
		case "pid":
			r.pid = uint32(number(value, 10))
		case "uid":
			r.uid = uint32(number(value, 10))
		case "gid":
			r.gid = uint32(number(value, 10))
		case "euid":
			r.euid = uint32(number(value, 10))
		case "egid":
			r.egid = uint32(number(value, 10))
		case "comm":
			r.comm = value
		case "exe":
			r.exe = value
			// What follows may hold labels of security modules, which are no concern of ours.
			return
		}
	}
}

// begin fills what all kinds have.
func (d *decoder) begin(g *group) {
	sys := &d.sys
	d.process = event.Process{
		PID: sys.pid, PPID: sys.ppid, Name: d.textOf(sys.comm),
		UID: sys.uid, GID: sys.gid, EUID: sys.euid, EGID: sys.egid,
	}
	d.process.Exe = d.textOf(sys.exe)
	if d.process.Exe == tooLong || d.process.Exe == noMemory {
		d.process.Exe = ""
		d.process.Truncated |= event.FieldExe
	}
	d.process.Exe, d.process.ExeDeleted = cutDeleted(d.process.Exe)
	d.event = event.Event{Time: g.stamp.time(), Kind: d.call.kind, Process: &d.process}
	if sys.returned && !sys.succeeded && sys.exit < 0 {
		d.event.Result = int32(-sys.exit)
	}
}

func (d *decoder) exit() verdict {
	d.process.Exit = event.Exit{Ended: true, Code: uint8(d.sys.args[0])}
	return decoded
}

// connect needs the address that the kernel read. A call that failed before it read one is no attempt to connect
// anywhere.
func (d *decoder) connect() verdict {
	if !d.addressed {
		if d.sys.succeeded {
			return incomplete
		}
		return ignored
	}
	switch d.net.Family {
	case event.Unix, event.INET, event.INET6:
	default:
		return ignored
	}
	d.event.Net = &d.net
	return decoded
}

func (d *decoder) textOf(value []byte) string {
	text, ok := appendText(d.text[:0], value)
	d.text = text
	if !ok {
		return ""
	}
	return d.names.intern(text)
}

// interner keeps strings that come again and again: names of programs and folders.
type interner map[string]string

// maxInterned bounds an interner; it starts anew when it is full.
const maxInterned = 4096

func (in interner) intern(b []byte) string {
	if s, ok := in[string(b)]; ok {
		return s
	}
	if len(in) >= maxInterned {
		clear(in)
	}
	s := string(b)
	if len(s) <= 256 {
		in[s] = s
	}
	return s
}
