package audit

import (
	"bytes"
	"sync/atomic"

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
	calls *atomic.Pointer[calls] // changes while the decoder works
	self  uint32                 // a pid whose events are ignored, 0 for none
	names interner

	event event.Event
	groups

	call call
	sys  syscallRecord
	rest
	text []byte // scratch
}

// groups are what an event points to.
type groups struct {
	process, target event.Process
	file            event.File
	net             event.Net
	setID           event.SetID
	ptrace          event.Ptrace
	namespace       event.Namespace
	mount           event.Mount
	memory          event.Memory
	module          event.Module
	bpf             event.BPF
	ring            event.IOUring
}

// rest is what is used of the records beside SYSCALL. A record that is there is read into the event's groups at once,
// as far as that does not need the call.
type rest struct {
	paths     []pathRecord // in the order of their items
	cwd       []byte
	addressed bool // SOCKADDR, to net
	openat2   bool // OPENAT2, to file
	mapped    bool // MMAP
	traced    bool // OBJ_PID, to target
	loaded    bool // KERN_MODULE, to module
	program   bool // BPF, to bpf
	arguments bool // SOCKETCALL, to multiplexed
	// multiplexed are the arguments of a call by way of socketcall(2).
	multiplexed [4]uint64
}

func newDecoder(calls *atomic.Pointer[calls], self uint32) *decoder {
	return &decoder{calls: calls, self: self, names: interner{}}
}

// tableOf returns the table for newDecoder.
func tableOf(wanted []event.Kind) *atomic.Pointer[calls] {
	p := new(atomic.Pointer[calls])
	table := callTable(wanted)
	p.Store(&table)
	return p
}

// syscallRecord is what is used of a SYSCALL record.
type syscallRecord struct {
	key       callKey
	args      [4]uint64
	returned  bool // there is a result: the call was not one that ends its thread
	succeeded bool
	exit      int64
	items     uint64 // how many PATH records belong to it

	ppid, pid            uint32
	uid, gid, euid, egid uint32
	comm, exe            []byte
}

// wanted tells by the body of a SYSCALL record whether decode would make an event of it.
func (d *decoder) wanted(body []byte) bool {
	_, ok := (*d.calls.Load())[callOf(body)]
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
	c, ok := d.lookUp()
	if !ok || d.self != 0 && d.sys.pid == d.self {
		return nil, 0, ignored
	}
	if !d.sys.returned && c.kind != event.ProcessExit || c.kind == 0 {
		return nil, c.kind, incomplete // the thread died inside the call, or what it called is not told
	}
	d.call = c
	d.begin(g)
	if v = d.activity(g); v != decoded {
		return nil, c.kind, v
	}
	return &d.event, c.kind, v
}

// lookUp returns which call it was; of one by way of socketcall(2) it sets the arguments. Its kind is 0 when these are
// missing.
func (d *decoder) lookUp() (call, bool) {
	table := *d.calls.Load()
	c, ok := table[d.sys.key]
	if !ok || c.kind != 0 {
		return c, ok
	}
	c, ok = table[callKey{d.sys.key.arch, inSocketcall | uint32(d.sys.args[0])}]
	if ok && !d.arguments {
		return call{}, d.sys.succeeded // one that failed may not have got as far as to read them
	}
	d.sys.args = d.multiplexed
	return c, ok
}

// activity completes the event by its kind.
func (d *decoder) activity(g *group) verdict {
	switch d.call.kind {
	case event.ProcessExec:
		return d.exec(g)
	case event.ProcessExit:
		return d.exit()
	case event.ProcessSetID:
		return d.changeID()
	case event.ProcessPtrace:
		return d.trace()
	case event.ProcessNamespace:
		return d.enterNamespace()
	case event.FileOpen:
		return d.open(g)
	case event.FileRename, event.FileLink, event.FileSymlink, event.FileUnlink, event.FileChmod, event.FileChown:
		return d.changeFile(g)
	case event.FSMount, event.FSUmount:
		return d.changeMounts(g)
	case event.MemoryMap, event.MemoryProtect, event.MemoryVMRead, event.MemoryVMWrite, event.MemoryMemfd,
		event.MemoryUserfaultfd:
		return d.useMemory()
	case event.ModuleLoad:
		return d.loadModule()
	case event.BPFLoad:
		return d.loadProgram()
	case event.IOUringSetup:
		return d.setUpRing()
	}
	return d.useSocket()
}

// guess tells the kind of an event that lost its SYSCALL record.
func (d *decoder) guess(g *group) event.Kind {
	switch {
	case g.args.any:
		return event.ProcessExec
	case d.openat2:
		return event.FileOpen
	case d.mapped:
		return event.MemoryMap
	case d.loaded:
		return event.ModuleLoad
	case d.program:
		return event.BPFLoad
	}
	return 0
}

// read takes in a group's records.
func (d *decoder) read(g *group) {
	d.sys, d.groups = syscallRecord{}, groups{}
	d.rest = rest{paths: d.paths[:0]}
	g.each(func(typ auparse.AuditMessageType, body []byte) {
		switch typ {
		case auparse.AUDIT_SYSCALL:
			d.sys.read(body)
		case auparse.AUDIT_CWD:
			d.cwd = fieldOf(body, "cwd")
		case auparse.AUDIT_PATH:
			d.addPath(body)
		case auparse.AUDIT_SOCKADDR:
			d.text, _ = appendHex(d.text[:0], fieldOf(body, "saddr"))
			d.addressed = d.readAddress(d.text)
		case auparse.AUDIT_OPENAT2:
			d.openat2 = true
			d.file.Flags = event.OpenFlags(number(fieldOf(body, "oflag"), 8))
		default:
			d.readRare(typ, body)
		}
	})
}

// readRare takes in a record that few events have.
func (d *decoder) readRare(typ auparse.AuditMessageType, body []byte) {
	switch typ {
	case auparse.AUDIT_MMAP:
		d.mapped = true
	case auparse.AUDIT_OBJ_PID:
		d.traced = true
		d.target.PID = uint32(number(fieldOf(body, "opid"), 10))
		d.target.UID = uint32(number(fieldOf(body, "ouid"), 10))
		d.target.Name = d.textOf(fieldOf(body, "ocomm"))
	case auparse.AUDIT_KERN_MODULE:
		d.loaded = true
		d.module.Name = d.textOf(fieldOf(body, "name"))
	case auparse.AUDIT_BPF:
		d.program = true
		d.bpf.ProgramID = uint32(number(fieldOf(body, "prog-id"), 10))
	case auparse.AUDIT_SOCKETCALL:
		d.arguments = true
		for i, name := range [...]string{"a0", "a1", "a2", "a3"} {
			d.multiplexed[i] = number(fieldOf(body, name), 16)
		}
	}
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
		case "items":
			r.items = number(value, 10)
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
