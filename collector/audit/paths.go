package audit

import (
	"bytes"
	"strings"

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

// pathRecord is what is used of a PATH record: a name that a call looked up, and what it found.
type pathRecord struct {
	item   uint64
	rank   rank
	name   []byte // as the record has it
	inode  uint64
	device event.Device
	mode   uint64
	rdev   event.Device
}

// rank is the type of a name. Of what a call looked up, the highest is what it worked on.
type rank uint8

const (
	rankNone    rank = iota
	rankParent       // the directory that the name is in
	rankUnknown      // a name that was asked for; what became of it is not told
	rankNormal       // found
	rankDelete
	rankCreate
)

func rankOf(nametype []byte) rank {
	switch string(nametype) {
	case "CREATE":
		return rankCreate
	case "DELETE":
		return rankDelete
	case "NORMAL":
		return rankNormal
	case "UNKNOWN":
		return rankUnknown
	case "PARENT":
		return rankParent
	}
	return rankNone
}

// addPath reads a PATH record and puts it where its item number belongs.
func (d *decoder) addPath(body []byte) {
	p := readPath(body)
	i := len(d.paths)
	d.paths = append(d.paths, p)
	for ; i > 0 && d.paths[i-1].item > p.item; i-- {
		d.paths[i] = d.paths[i-1]
	}
	d.paths[i] = p
}

func readPath(body []byte) (p pathRecord) {
	for {
		name, value, rest, ok := nextField(body)
		if !ok {
			return p
		}
		body = rest
		switch string(name) {
		case "item":
			p.item = number(value, 10)
		case "name":
			p.name = value
		case "inode":
			p.inode = number(value, 10)
		case "dev":
			p.device = deviceOf(value)
		case "mode":
			p.mode = number(value, 8)
		case "rdev":
			p.rdev = deviceOf(value)
		case "nametype":
			p.rank = rankOf(value)
			return p
		}
	}
}

// deviceOf reads "major:minor" in hexadecimal.
func deviceOf(value []byte) event.Device {
	major, minor, _ := bytes.Cut(value, []byte(":"))
	return event.Device(number(major, 16)<<20 | number(minor, 16)&0xfffff)
}

// named tells names from items without one: what a file system looked up for itself, a dozen of them with overlayfs,
// and files that a call was given as a descriptor.
func (p *pathRecord) named() bool { return len(p.name) > 0 && string(p.name) != "(null)" }

// found reports whether there was a file.
func (p *pathRecord) found() bool { return p != nil && p.rank >= rankNormal && p.inode != 0 }

// boring tells the character devices null, zero and full: opened for writing all the time, and to no effect.
func (p *pathRecord) boring() bool {
	const format, character = 0170000, 0020000
	if p == nil || p.mode&format != character || p.rdev>>20 != 1 {
		return false
	}
	minor := p.rdev & 0xfffff
	return minor == 3 || minor == 5 || minor == 7
}

// best returns, of all that a call looked up, what it worked on; nil when there is nothing.
func (d *decoder) best() (best *pathRecord) {
	for i := range d.paths {
		p := &d.paths[i]
		if p.rank == rankNone {
			continue
		}
		if best == nil || p.rank >= best.rank && (p.named() || !best.named()) {
			best = p
		}
	}
	return best
}

// nth returns the path of a rank that has n of its rank before it, nil when there is none. Items without a name do not
// count.
func (d *decoder) nth(r rank, n int) *pathRecord {
	for i := range d.paths {
		p := &d.paths[i]
		if p.rank != r || !p.named() {
			continue
		}
		if n == 0 {
			return p
		}
		n--
	}
	return nil
}

// nameOf returns the name of an item, "" when there is no such item.
func (d *decoder) nameOf(item uint64) string {
	for i := range d.paths {
		if d.paths[i].item == item {
			return d.textOf(d.paths[i].name)
		}
	}
	return ""
}

// lacking reports whether PATH records that belong to the event did not come, or were left out.
func (d *decoder) lacking(g *group) bool { return g.cut || uint64(len(d.paths)) < d.sys.items }

// fromCwd reports whether relative paths start from the working directory, by the argument that says so.
func (d *decoder) fromCwd(at int8) bool { return at == 0 || int32(d.sys.args[at-1]) == atCwd }

// whole returns an item's path, and whether its beginning and its end are known: the records do not tell the directory
// that a relative path starts from when that was given as a descriptor nor, of a file that was not found in its
// directory, more than that directory.
func (d *decoder) whole(p *pathRecord, at int8) (path string, whole bool) {
	if p == nil {
		return "", false
	}
	name, cwd := d.textOf(p.name), d.textOf(d.cwd)
	fromCwd := d.fromCwd(at)
	switch {
	case name == "":
		return "", false
	case p.rank == rankParent && !fromCwd && !(strings.HasSuffix(name, "/") && len(name) > 1):
		// Of a bare name's parent the kernel writes the working directory, even when it is another one.
		return "", false
	case p.rank == rankParent:
		return absolute(cwd, name), false
	case name[0] == '/':
		return absolute("", name), true
	case !fromCwd || cwd == "" || cwd[0] != '/':
		return name, false
	}
	return absolute(cwd, name), true
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
