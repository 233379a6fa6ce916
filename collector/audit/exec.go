package audit

import (
	"bytes"
	"strings"

	"github.com/taskguard/taskguard/collector/event"
)

// maxArgs is how many bytes of a process's arguments are kept.
const maxArgs = 20480

func (d *decoder) exec(g *group) verdict {
	if !d.sys.succeeded {
		d.notRun(g)
		return decoded
	}
	p := &d.process
	p.Args = event.Argv(d.names.intern(g.args.bytes()))
	if !g.args.whole() {
		p.Truncated |= event.FieldArgs
		p.ArgsLength = g.args.total()
	}
	p.Cwd = d.textOf(d.cwd)
	if p.Cwd == "" || p.Cwd == tooLong || p.Cwd == noMemory {
		p.Cwd = ""
		p.Truncated |= event.FieldCwd
	}
	if p.ExeDeleted && absolute(p.Cwd, d.nameOf(0)) == p.Exe+deleted {
		// The name really ends so.
		p.Exe, p.ExeDeleted = p.Exe+deleted, false
	}
	p.Script = d.script()
	if d.lacking(g) {
		p.Truncated |= event.FieldScript
	}
	return decoded
}

// notRun reads an exec that failed. It left the process as it was, and has no arguments recorded. Of what was looked up
// the first is what was to be run; behind it comes an interpreter.
func (d *decoder) notRun(g *group) {
	var file *pathRecord
	if len(d.paths) > 0 && d.paths[0].item == 0 {
		file = &d.paths[0]
	}
	d.setFile(g, file)
}

// script returns the path of the script that the new image interprets. Of a script the kernel opens the file that
// was named, then the interpreter as its "#!" line names it, and starts the latter with that very name, at most one
// argument, and the former's path. Anything else is no script, or none that can be told from the records.
//
// Some kernels look up the script twice, and the interpreter is the third.
func (d *decoder) script() string {
	file, interpreter := d.nameOf(0), d.nameOf(1)
	if interpreter == file {
		interpreter = d.nameOf(2)
	}
	if file == "" || interpreter == "" {
		return ""
	}
	name, rest, _ := strings.Cut(string(d.process.Args), "\x00")
	first, rest, _ := strings.Cut(rest, "\x00")
	second, _, _ := strings.Cut(rest, "\x00")
	path := absolute(d.process.Cwd, file)
	if name != interpreter || file != first && file != second || path == d.process.Exe {
		return ""
	}
	return path
}

// argsReader joins the EXECVE records of an event. The kernel spreads a long list over several records, and a long
// argument over several pieces: a1_len=N a1[0]=… a1[1]=…
type argsReader struct {
	buf   []byte // NUL-terminated arguments, maxArgs at most
	count uint64 // arguments announced (argc)
	seen  uint64 // arguments begun
	piece uint64 // pieces of the last argument seen
	size  uint64 // bytes of all that was seen, with the NULs of those that are over
	wrong bool   // a piece is missing
	any   bool   // there was a record
	text  []byte
}

func (a *argsReader) reset() {
	*a = argsReader{buf: a.buf[:0], text: a.text[:0]}
}

// bytes returns the arguments as event.Argv has them.
func (a *argsReader) bytes() []byte {
	if a.seen > 0 && len(a.buf) < maxArgs {
		return append(a.buf, 0)
	}
	return a.buf
}

// whole reports whether bytes are all the arguments.
func (a *argsReader) whole() bool {
	return a.any && !a.wrong && a.seen == a.count && a.size < maxArgs
}

// total returns the length of all the arguments as far as they were seen, 0 when some were not.
func (a *argsReader) total() uint32 {
	if !a.any || a.wrong || a.seen != a.count {
		return 0
	}
	return uint32(a.size + 1)
}

func (a *argsReader) read(body []byte) {
	a.any = true
	for {
		name, value, rest, ok := nextField(body)
		if !ok {
			return
		}
		body = rest
		if string(name) == "argc" {
			a.count = number(value, 10)
			continue
		}
		if len(name) < 2 || name[0] != 'a' || bytes.HasSuffix(name, []byte("_len")) {
			continue
		}
		index, piece, _ := bytes.Cut(name[1:], []byte("["))
		a.add(number(index, 10), number(bytes.TrimSuffix(piece, []byte("]")), 10), value)
	}
}

// add takes a piece of an argument; an argument in one piece is its piece 0.
func (a *argsReader) add(index, piece uint64, value []byte) {
	switch {
	case index == a.seen && piece == 0:
		if a.seen > 0 {
			a.put([]byte{0})
		}
		a.seen, a.piece = a.seen+1, 0
	case index+1 == a.seen && piece == a.piece+1:
		a.piece = piece
	case index < a.seen && (index+1 < a.seen || piece <= a.piece):
		return // a repeated record
	default:
		a.wrong = true
		return
	}
	text, ok := appendText(a.text[:0], value)
	a.text = text
	if !ok {
		a.wrong = true
	}
	a.put(text)
}

func (a *argsReader) put(b []byte) {
	a.size += uint64(len(b))
	a.buf = append(a.buf, b[:min(len(b), maxArgs-len(a.buf))]...)
}
