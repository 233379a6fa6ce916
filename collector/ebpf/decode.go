package ebpf

import (
	"bytes"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// decoder turns the kernel's records into events. It keeps what an event points to and uses it again for the next
// one: an event is valid until the next call of decode.
type decoder struct {
	// wall converts nanoseconds since boot.
	wall func(boot uint64) time.Time
	// cgroup is told of every new cgroup.
	cgroup func(id uint64, path string)

	event   event.Event
	process event.Process
	file    event.File
	net     event.Net
	dup     event.Dup
	target  event.Process
	setid   event.SetID
	ptrace  event.Ptrace
	ns      event.Namespace
	memory  event.Memory
	dns     dnsScratch
	system  system

	strings interner
	path    []byte // scratch for a path being put together
}

// decode hands the events of one record to emit: one, or none for a record that is for the agent's own use, or
// several for a TCP segment with several DNS messages. It returns an error for bytes that no program of this
// version makes.
func (d *decoder) decode(record []byte, emit func(*event.Event)) error {
	h, _, err := take[commonHeader](record)
	if err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	d.event = event.Event{Time: d.wall(h.Time), Kind: event.Kind(h.Kind), Result: h.Result}
	d.process = d.processOf(&h.Task)
	if h.Task.Pid != 0 {
		d.event.Process = &d.process
	}
	switch kind := commonKind(h.Kind); kind {
	case commonKindPROCESS_EXEC:
		if h.Result != 0 {
			err = d.fileActivity(record)
		} else {
			err = d.exec(record)
		}
	case commonKindPROCESS_FORK:
		err = d.fork(record)
	case commonKindPROCESS_EXIT:
		err = d.exit(record)
	case commonKindPROCESS_SETID:
		err = d.setID(record)
	case commonKindPROCESS_PTRACE, commonKindMEMORY_VM_READ, commonKindMEMORY_VM_WRITE:
		err = d.targeted(record)
	case commonKindPROCESS_NAMESPACE:
		err = d.namespace(record)
	case commonKindMEMORY_MAP, commonKindMEMORY_PROTECT, commonKindMEMORY_MEMFD, commonKindMEMORY_USERFAULTFD:
		err = d.memoryActivity(record)
	case commonKindFILE_OPEN, commonKindFILE_RENAME, commonKindFILE_LINK, commonKindFILE_SYMLINK,
		commonKindFILE_UNLINK, commonKindFILE_CHMOD, commonKindFILE_CHOWN:
		err = d.fileActivity(record)
	case commonKindNET_SOCKET, commonKindNET_CONNECT, commonKindNET_ACCEPT, commonKindNET_BIND, commonKindNET_LISTEN,
		commonKindNET_SEND:
		err = d.netActivity(record)
	case commonKindPROCESS_DUP:
		err = d.duplicate(record)
	case commonKindFS_MOUNT, commonKindFS_UMOUNT:
		err = d.mount(record)
	case commonKindMODULE_LOAD:
		err = d.module(record)
	case commonKindBPF_LOAD:
		err = d.bpfLoad(record)
	case commonKindIOURING_SETUP:
		err = d.iouringSetup(record)
	case commonKindDNS_QUERY, commonKindDNS_RESPONSE:
		return d.messages(record, emit)
	case commonKindCGROUP_MKDIR:
		return d.newCgroup(record)
	default:
		err = fmt.Errorf("unknown kind %d", h.Kind)
	}
	if err != nil {
		return fmt.Errorf("decode %s record: %w", event.Kind(h.Kind), err)
	}
	emit(&d.event)
	return nil
}

// processOf is what the kernel says of a process with every record.
func (d *decoder) processOf(t *commonTask) event.Process {
	p := event.Process{
		Start: t.Start, Cgroup: t.Cgroup, PID: t.Pid, UID: t.Uid, EUID: t.Euid, GID: t.Gid, EGID: t.Egid,
		Name: d.strings.get(comm(&t.Comm)),
	}
	if t.NsPid != t.Pid {
		p.NSPID = t.NsPid
	}
	return p
}

// dnsHeader is the length of a DNS message without records (RFC 1035, 4.1.1).
const dnsHeader = 12

// splitMessage takes a DNS message off the front of what a TCP segment holds; missing says that the segment ended
// before the message did.
func splitMessage(segment []byte) (message, rest []byte, missing bool) {
	if len(segment) < 2 {
		return nil, nil, true
	}
	n := int(segment[0])<<8 | int(segment[1])
	segment = segment[2:]
	switch {
	case n > len(segment):
		return segment, nil, true
	case n < dnsHeader: // no message, and so no telling where the next one begins
		return segment, nil, false
	}
	return segment[:n], segment[n:], false
}

func (d *decoder) newCgroup(record []byte) error {
	r, rest, err := take[commonCgroupRecord](record)
	if err != nil {
		return fmt.Errorf("decode cgroup record: %w", err)
	}
	s := sections{rest: rest}
	path := s.text(r.Path)
	if s.short {
		return fmt.Errorf("decode cgroup record: path of %d bytes in %d", r.Path.Len, len(rest))
	}
	d.cgroup(r.Header.Task.Cgroup, string(path.bytes))
	return nil
}

// sections takes the parts behind a record's struct one after another.
type sections struct {
	rest  []byte
	short bool // a part was longer than what was left
}

func (s *sections) next(n uint32) []byte {
	if uint64(n) > uint64(len(s.rest)) {
		s.short = true
		return nil
	}
	part := s.rest[:n]
	s.rest = s.rest[n:]
	return part
}

// text is a section with what its record says of it.
type text struct {
	bytes []byte
	flags commonTextFlag
	total uint32
}

func (t *text) cut() bool        { return t.flags&commonTextFlagTEXT_CUT != 0 }
func (t *text) unverified() bool { return t.flags&commonTextFlagTEXT_UNVERIFIED != 0 }

func (s *sections) text(t commonText) text {
	return text{bytes: s.next(uint32(t.Len)), flags: commonTextFlag(t.Flags), total: t.Total}
}

// show returns a text as events have it. When it was cut it notes so, and its length where that is known.
func (d *decoder) show(t text, field event.Fields, truncated *event.Fields, length *uint32) string {
	if t.cut() {
		*truncated |= field
		*length = t.total
	}
	switch {
	case t.flags&commonTextFlagTEXT_PATH != 0:
		return d.fullPath(t.bytes, t.cut())
	case d.joins(t):
		return d.joined(t)
	}
	return d.strings.get(cstring(t.bytes))
}

// joins tells whether a name is shown with the directory it is relative to: not one of an attempt that failed. Links in
// it may have led elsewhere.
func (d *decoder) joins(t text) bool {
	return t.flags&commonTextFlagTEXT_AT != 0 && (d.event.Result == 0 || d.event.Result == int32(unix.EINPROGRESS))
}

// joined puts a name behind the directory that it is relative to; an absolute one behind the process's root.
func (d *decoder) joined(t text) string {
	name, components, _ := bytes.Cut(t.bytes, []byte{0})
	directory := d.fullPath(components, t.cut())
	if directory == "/" {
		directory = ""
	}
	d.path = append(d.path[:0], directory...)
	if !bytes.HasPrefix(name, []byte("/")) {
		d.path = append(d.path, '/')
	}
	d.path = append(d.path, name...)
	return d.strings.get(d.path)
}

// fullPath joins components that come last one first, each ended by a NUL byte. A path that was cut lacks its first
// components and is shown without the leading slash. What has no name, such as a pipe, has no path.
func (d *decoder) fullPath(components []byte, cut bool) string {
	if len(components) == 0 {
		if cut {
			return ""
		}
		return "/"
	}
	if len(components) == 1 {
		return ""
	}
	d.path = d.path[:0]
	end := len(components) - 1
	for end >= 0 {
		begin := bytes.LastIndexByte(components[:end], 0) + 1
		if !cut || len(d.path) > 0 {
			d.path = append(d.path, '/')
		}
		d.path = append(d.path, components[begin:end]...)
		end = begin - 1
	}
	return d.strings.get(d.path)
}

// take copies a record's struct and returns the bytes behind it. T is one of the types that bpf2go made from the C
// structs: it has no pointers, and its layout is the kernel's.
func take[T any](record []byte) (t T, rest []byte, err error) {
	size := int(unsafe.Sizeof(t))
	if len(record) < size {
		return t, nil, fmt.Errorf("%d bytes, want at least %d", len(record), size)
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&t)), size), record)
	return t, record[size:], nil
}

// comm returns a task's name.
func comm(c *[16]int8) []byte {
	return cstring(unsafe.Slice((*byte)(unsafe.Pointer(c)), len(c)))
}

// cstring returns what is before the first NUL byte.
func cstring(b []byte) []byte {
	if i := slices.Index(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}
