package ebpf

import (
	"bytes"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

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
	dns     dnsScratch

	strings interner
	path    []byte // scratch for a path being put together
}

// decode hands the events of one record to emit: one, or none for a record that is for the agent's own use, or
// several for a TCP segment with several DNS messages. It returns an error for bytes that no program of this
// version makes.
func (d *decoder) decode(record []byte, emit func(*event.Event)) error {
	h, _, err := take[programsHeader](record)
	if err != nil {
		return fmt.Errorf("decode record: %w", err)
	}
	d.event = event.Event{Time: d.wall(h.Time), Kind: event.Kind(h.Kind), Result: h.Result}
	d.process = event.Process{
		Start: h.Task.Start, Cgroup: h.Task.Cgroup, PID: h.Task.Pid,
		UID: h.Task.Uid, EUID: h.Task.Euid, GID: h.Task.Gid, EGID: h.Task.Egid,
		Name: d.strings.get(comm(&h.Task.Comm)),
	}
	if h.Task.NsPid != h.Task.Pid {
		d.process.NSPID = h.Task.NsPid
	}
	if h.Task.Pid != 0 {
		d.event.Process = &d.process
	}
	switch programsKind(h.Kind) {
	case programsKindPROCESS_EXEC:
		err = d.exec(record)
	case programsKindPROCESS_FORK:
		err = d.fork(record)
	case programsKindPROCESS_EXIT:
		err = d.exit(record)
	case programsKindFILE_OPEN:
		err = d.open(record)
	case programsKindNET_CONNECT:
		err = d.connect(record)
	case programsKindDNS_QUERY, programsKindDNS_RESPONSE:
		return d.messages(record, emit)
	case programsKindCGROUP_MKDIR:
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

func (d *decoder) exec(record []byte) error {
	r, rest, err := take[programsExecRecord](record)
	if err != nil {
		return err
	}
	flags := programsRecordFlag(r.Header.Flags)
	s := sections{rest: rest}
	args := s.next(r.ArgsLen)
	env := s.next(r.EnvLen)
	exe := s.next(uint32(r.ExeLen))
	cwd := s.next(uint32(r.CwdLen))
	script := s.next(uint32(r.ScriptLen))
	if s.short {
		return fmt.Errorf("sections exceed %d bytes", len(record))
	}
	p := &d.process
	p.PPID, p.ParentStart = r.Parent.Pid, r.Parent.Start
	p.Args = event.Argv(d.strings.get(args))
	if flags&programsRecordFlagFLAG_ARGS_CUT != 0 {
		p.ArgsLength = r.ArgsTotal
	}
	p.Env = event.Environ(d.strings.get(d.loaderVariables(env)))
	p.Exe = d.fullPath(exe, flags&programsRecordFlagFLAG_EXE_CUT != 0)
	p.ExeDeleted = flags&programsRecordFlagFLAG_DELETED != 0
	p.Cwd = d.fullPath(cwd, flags&programsRecordFlagFLAG_CWD_CUT != 0)
	script = cstring(script)
	p.Script = d.script(script)
	if relative(script) && flags&programsRecordFlagFLAG_CWD_CUT != 0 {
		flags |= programsRecordFlagFLAG_SCRIPT_CUT
	}
	p.Truncated = cut(flags) & (event.FieldArgs | event.FieldEnv | event.FieldExe | event.FieldCwd | event.FieldScript)
	return nil
}

func (d *decoder) fork(record []byte) error {
	r, _, err := take[programsForkRecord](record)
	if err != nil {
		return err
	}
	d.process.PPID, d.process.ParentStart = r.Parent.Pid, r.Parent.Start
	return nil
}

func (d *decoder) exit(record []byte) error {
	r, _, err := take[programsExitRecord](record)
	if err != nil {
		return err
	}
	d.process.Exit = event.ExitFromStatus(r.Status)
	return nil
}

func (d *decoder) open(record []byte) error {
	r, rest, err := take[programsOpenRecord](record)
	if err != nil {
		return err
	}
	if len(rest) < int(r.PathLen) {
		return fmt.Errorf("path of %d bytes in %d", r.PathLen, len(rest))
	}
	flags := programsRecordFlag(r.Header.Flags)
	d.file = event.File{
		Flags: openFlags(r.OpenFlags, runtime.GOARCH), Device: event.Device(r.Device), Inode: r.Inode,
		Unverified: flags&programsRecordFlagFLAG_UNVERIFIED != 0, Truncated: cut(flags) & event.FieldPath,
	}
	if d.file.Unverified {
		d.file.Path = d.strings.get(cstring(rest[:r.PathLen]))
	} else {
		d.file.Path = d.fullPath(rest[:r.PathLen], d.file.Truncated != 0)
	}
	d.event.File = &d.file
	return nil
}

func (d *decoder) connect(record []byte) error {
	r, rest, err := take[programsConnectRecord](record)
	if err != nil {
		return err
	}
	if len(rest) < int(r.PathLen) {
		return fmt.Errorf("path of %d bytes in %d", r.PathLen, len(rest))
	}
	d.net = event.Net{
		Socket:     socket(r.Family, r.Type, r.Protocol, &r.Remote, r.RemotePort, &r.Local, r.LocalPort),
		Unverified: programsRecordFlag(r.Header.Flags)&programsRecordFlagFLAG_UNVERIFIED != 0,
	}
	d.net.Path = d.unixPath(rest[:r.PathLen])
	d.event.Net = &d.net
	return nil
}

func (d *decoder) messages(record []byte, emit func(*event.Event)) error {
	r, rest, err := take[programsDnsRecord](record)
	if err != nil {
		return fmt.Errorf("decode dns record: %w", err)
	}
	if len(rest) < int(r.PayloadLen) {
		return fmt.Errorf("decode dns record: payload of %d bytes in %d", r.PayloadLen, len(rest))
	}
	sock := socket(r.Family, r.Type, r.Protocol, &r.Remote, r.RemotePort, &r.Local, r.LocalPort)
	wasCut := cut(programsRecordFlag(r.Header.Flags)) & event.FieldPayload
	rest = rest[:r.PayloadLen]
	for first := true; first || len(rest) > 0; first = false {
		payload, missing := rest, false
		rest = nil
		if sock.Type == event.Stream {
			payload, rest, missing = splitMessage(payload)
		}
		m := d.dns.parse(payload, &d.strings)
		m.Socket, m.Truncated = sock, wasCut
		if missing {
			m.Truncated |= event.FieldPayload
		}
		// What was cut is not the sender's fault.
		m.Malformed = m.Malformed && m.Truncated == 0
		d.event.DNS = m
		emit(&d.event)
	}
	return nil
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
	r, rest, err := take[programsCgroupRecord](record)
	if err != nil {
		return fmt.Errorf("decode cgroup record: %w", err)
	}
	if len(rest) < int(r.PathLen) {
		return fmt.Errorf("decode cgroup record: path of %d bytes in %d", r.PathLen, len(rest))
	}
	d.cgroup(r.Header.Task.Cgroup, string(cstring(rest[:r.PathLen])))
	return nil
}

// loaderVariables picks out of an environment the variables that make the dynamic loader run other code. Nothing else of
// it leaves this function.
func (d *decoder) loaderVariables(env []byte) []byte {
	d.path = d.path[:0]
	for rest := env; len(rest) > 0; {
		end := bytes.IndexByte(rest, 0) + 1
		if end == 0 { // cut
			end = len(rest)
		}
		variable := rest[:end]
		rest = rest[end:]
		if bytes.HasPrefix(variable, []byte("LD_PRELOAD=")) || bytes.HasPrefix(variable, []byte("LD_LIBRARY_PATH=")) {
			d.path = append(d.path, variable...)
		}
	}
	return d.path
}

// socket normalises addresses: an IPv4-mapped IPv6 address is shown as IPv4.
func socket(
	family, typ, protocol uint16, remote *[16]byte, remotePort uint16, local *[16]byte, localPort uint16,
) event.Socket {
	s := event.Socket{
		Family: event.Family(family), Type: event.SocketType(typ), Protocol: uint8(protocol),
		RemotePort: remotePort, LocalPort: localPort,
	}
	switch s.Family {
	case event.INET:
		s.RemoteIP, s.LocalIP = netip.AddrFrom4([4]byte(remote[:4])), netip.AddrFrom4([4]byte(local[:4]))
	case event.INET6:
		s.RemoteIP, s.LocalIP = netip.AddrFrom16(*remote).Unmap(), netip.AddrFrom16(*local).Unmap()
	}
	if s.LocalIP.IsValid() && s.LocalIP.IsUnspecified() {
		s.LocalIP = netip.Addr{}
	}
	return s
}

// unixPath shows a name of the abstract namespace with "@" for its leading NUL byte, as ss(8) does.
func (d *decoder) unixPath(name []byte) string {
	if len(name) == 0 {
		return ""
	}
	if name[0] != 0 {
		return d.strings.get(cstring(name))
	}
	d.path = append(append(d.path[:0], '@'), name[1:]...)
	return d.strings.get(d.path)
}

// script makes execve's file name absolute. A name below /dev/fd is what the kernel gives a script that was run by
// its descriptor; it stays as it is.
func (d *decoder) script(name []byte) string {
	if !relative(name) {
		return d.strings.get(name)
	}
	name = bytes.TrimPrefix(name, []byte("./"))
	d.path = append(d.path[:0], d.process.Cwd...)
	if !strings.HasSuffix(d.process.Cwd, "/") {
		d.path = append(d.path, '/')
	}
	d.path = append(d.path, name...)
	return d.strings.get(d.path)
}

func relative(name []byte) bool { return len(name) > 0 && name[0] != '/' }

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

// cut translates the bits of fields that were cut.
func cut(flags programsRecordFlag) event.Fields {
	var fields event.Fields
	for _, f := range [...]struct {
		flag  programsRecordFlag
		field event.Fields
	}{
		{programsRecordFlagFLAG_ARGS_CUT, event.FieldArgs},
		{programsRecordFlagFLAG_CWD_CUT, event.FieldCwd},
		{programsRecordFlagFLAG_ENV_CUT, event.FieldEnv},
		{programsRecordFlagFLAG_EXE_CUT, event.FieldExe},
		{programsRecordFlagFLAG_SCRIPT_CUT, event.FieldScript},
		{programsRecordFlagFLAG_PATH_CUT, event.FieldPath},
		{programsRecordFlagFLAG_PAYLOAD_CUT, event.FieldPayload},
	} {
		if flags&f.flag != 0 {
			fields |= f.field
		}
	}
	return fields
}

// openFlags gives the flags of an architecture (GOARCH) the values of x86-64.
func openFlags(flags uint32, arch string) event.OpenFlags {
	if arch == "arm64" {
		return event.OpenFlagsFromArm(flags)
	}
	return event.OpenFlags(flags)
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
