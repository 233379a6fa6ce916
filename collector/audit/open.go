package audit

import (
	"bytes"
	"strings"

	"github.com/elastic/go-libaudit/v2/auparse"

	"github.com/taskguard/taskguard/collector/event"
)

// What the kernel says instead of a path (d_path, audit_log_d_path).
const (
	deleted  = " (deleted)"
	tooLong  = "<too_long>"
	noMemory = "<no_memory>"
)

// atCwd is AT_FDCWD (include/uapi/linux/fcntl.h).
const atCwd = -100

func (d *decoder) open(g *group) verdict {
	f := &d.file
	switch d.call.flags {
	case argument1:
		f.Flags = openFlags(d.sys.key.arch, d.sys.args[1])
	case argument2:
		f.Flags = openFlags(d.sys.key.arch, d.sys.args[2])
	case record:
		if !d.openat2 {
			return incomplete // before Linux 5.16 nothing tells the flags
		}
		f.Flags = openFlags(d.sys.key.arch, uint64(f.Flags))
	case creates:
		f.Flags = 0x241 // O_WRONLY|O_CREAT|O_TRUNC, says creat(2)
	case cuts:
		f.Flags = 0x201 // O_WRONLY|O_TRUNC: what truncate(2) does without a descriptor
	}
	if f.Flags&writing == 0 || d.path.boring() && d.sys.succeeded {
		return ignored
	}
	f.Path, f.Truncated = d.openPath()
	if g.cut {
		f.Truncated |= event.FieldPath // the path that counts may be among what was left out
	}
	if d.sys.succeeded && d.path.rank >= rankNormal {
		f.Device, f.Inode = d.path.device, d.path.inode
	}
	d.event.File = f
	return decoded
}

// openPath returns the path that was opened, and FieldPath when its beginning or its end is not known: the records
// do not tell the directory that a relative path of openat(2) starts from, nor, of a file that could not be
// created, more than its directory.
func (d *decoder) openPath() (string, event.Fields) {
	name := d.textOf(d.path.name)
	cwd := d.textOf(d.cwd)
	fromCwd := !d.call.at || int32(d.sys.args[0]) == atCwd
	switch {
	case name == "":
		return "", event.FieldPath
	case d.path.rank == rankParent && !fromCwd && !(strings.HasSuffix(name, "/") && len(name) > 1):
		// Of a bare name's parent the kernel writes the working directory, even when it is another one.
		return "", event.FieldPath
	case d.path.rank == rankParent:
		return absolute(cwd, name), event.FieldPath
	case name[0] == '/':
		return absolute("", name), 0
	case !fromCwd || cwd == "" || cwd[0] != '/':
		return name, event.FieldPath
	}
	return absolute(cwd, name), 0
}

// absolute joins a path as a process gave it with its working directory, which has no links in it. "." and empty
// elements go; ".." goes only where it leads out of the working directory: behind another element, which may be
// a link, it stays. A relative path stays one when cwd is not known.
func absolute(cwd, name string) string {
	if name == "" || name[0] != '/' && cwd == "" {
		return name
	}
	if name[0] == '/' {
		cwd = ""
	}
	cwd = strings.TrimSuffix(cwd, "/")
	out := []byte(cwd)
	leading := true
	for element := range strings.SplitSeq(name, "/") {
		switch {
		case element == "" || element == ".":
		case element == ".." && leading:
			out = out[:max(0, bytes.LastIndexByte(out, '/'))]
		default:
			leading = false
			out = append(append(out, '/'), element...)
		}
	}
	if len(out) == 0 {
		return "/"
	}
	return string(out)
}

// cutDeleted takes the mark off the path of a file that has no name any more.
func cutDeleted(path string) (string, bool) {
	return strings.CutSuffix(path, deleted)
}

// openFlags gives the flags of an architecture the values of x86-64.
func openFlags(arch uint32, flags uint64) event.OpenFlags {
	switch auparse.AuditArch(arch) {
	case auparse.AUDIT_ARCH_AARCH64, auparse.AUDIT_ARCH_ARM:
		return event.OpenFlagsFromArm(uint32(flags))
	}
	return event.OpenFlags(flags)
}

// pathPicker reads PATH records: of all that a call looked up, it picks what it worked on.
type pathPicker struct {
	first, second []byte // names of items 0 and 1, as the records have them

	rank   int // of the name below
	name   []byte
	inode  uint64
	device event.Device
	mode   uint64
	rdev   event.Device
}

// The ranks of names: a file that was created or found, one that was asked for, the directory it is in.
const (
	rankNone = iota
	rankParent
	rankUnknown
	rankNormal
	rankCreate
)

func (p *pathPicker) reset() { *p = pathPicker{} }

func (p *pathPicker) read(body []byte) {
	var item uint64
	var next pathPicker
	for {
		name, value, rest, ok := nextField(body)
		if !ok {
			break
		}
		body = rest
		switch string(name) {
		case "item":
			item = number(value, 10)
		case "name":
			next.name = value
		case "inode":
			next.inode = number(value, 10)
		case "dev":
			next.device = deviceOf(value)
		case "mode":
			next.mode = number(value, 8)
		case "rdev":
			next.rdev = deviceOf(value)
		case "nametype":
			next.rank = rankOf(value)
		}
	}
	switch item {
	case 0:
		p.first = next.name
	case 1:
		p.second = next.name
	}
	// Items without a name are what a file system looked up for itself: overlayfs has a dozen of them.
	if next.rank >= p.rank && next.rank != rankNone && (named(next.name) || !named(p.name)) {
		next.first, next.second = p.first, p.second
		*p = next
	}
}

func named(name []byte) bool { return len(name) > 0 && string(name) != "(null)" }

func rankOf(nametype []byte) int {
	switch string(nametype) {
	case "CREATE":
		return rankCreate
	case "NORMAL":
		return rankNormal
	case "UNKNOWN":
		return rankUnknown
	case "PARENT":
		return rankParent
	}
	return rankNone
}

// deviceOf reads "major:minor" in hexadecimal.
func deviceOf(value []byte) event.Device {
	major, minor, _ := bytes.Cut(value, []byte(":"))
	return event.Device(number(major, 16)<<20 | number(minor, 16)&0xfffff)
}

// boring tells the character devices null, zero and full: opened for writing all the time, and to no effect.
func (p *pathPicker) boring() bool {
	const format, character = 0170000, 0020000
	if p.mode&format != character || p.rdev>>20 != 1 {
		return false
	}
	minor := p.rdev & 0xfffff
	return minor == 3 || minor == 5 || minor == 7
}
