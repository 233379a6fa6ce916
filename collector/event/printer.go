package event

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Printer writes events as an aligned table for people: time, kind, container or host, process, what it did.
// What processes chose is escaped, so that an event cannot steer a terminal.
type Printer struct {
	w       io.Writer
	color   bool
	started bool
	line    bytes.Buffer
}

// NewPrinter returns a printer; color makes it use ANSI colours.
func NewPrinter(w io.Writer, color bool) *Printer { return &Printer{w: w, color: color} }

const (
	widthKind    = 19
	widthWhere   = 24
	widthProcess = 22
	widthWhat    = 200
)

// Print writes one line, after a heading the first time.
func (p *Printer) Print(e *Event) error {
	p.line.Reset()
	if !p.started {
		p.started = true
		p.row("", "TIME", "KIND", "WHERE", "PROCESS", "WHAT")
	}
	p.row(colorOf(e), e.Time.Local().Format("15:04:05.000"), e.Kind.String(), where(e), who(e.Process), What(e))
	_, err := p.w.Write(p.line.Bytes())
	return err
}

func (p *Printer) row(color, when, kind, where, process, what string) {
	if p.color && color != "" {
		p.line.WriteString(color)
		kind = pad(kind, widthKind) + "\x1b[0m"
	} else {
		kind = pad(kind, widthKind)
	}
	fmt.Fprintf(&p.line, "%s  %s  %s  %s  %s\n", pad(when, len("15:04:05.000")), kind,
		pad(fit(where, widthWhere), widthWhere), pad(process, widthProcess), fit(what, widthWhat))
}

const dim = "\x1b[2m"

// groupColors has the colours of what needs no other one, by the first word of its kind.
var groupColors = map[string]string{
	"process": "\x1b[1m", "memory": "\x1b[1m", "module": "\x1b[1m", "bpf": "\x1b[1m", "iouring": "\x1b[1m",
	"file": "\x1b[34m", "fs": "\x1b[34m", "net": "\x1b[36m", "dns": "\x1b[35m", "container": "\x1b[32m", "agent": dim,
}

func colorOf(e *Event) string {
	switch {
	case e.Kind == AgentLoss, e.Kind == AgentThrottle:
		return "\x1b[1;31m"
	case e.Result != 0:
		return "\x1b[33m"
	case e.Kind == ProcessExec:
		return "\x1b[32m"
	case e.Kind == ProcessFork, e.Kind == ProcessExit:
		return dim
	}
	group, _, _ := strings.Cut(e.Kind.String(), ".")
	if color, ok := groupColors[group]; ok {
		return color
	}
	return dim
}

func where(e *Event) string {
	switch c := e.Container; {
	case c != nil && c.Name != "":
		return Escape(c.Name)
	case c != nil:
		return Escape(c.ID[:min(12, len(c.ID))])
	case e.Host == nil:
		return ""
	case e.Host.InstanceID != "":
		return Escape(e.Host.InstanceID)
	}
	return Escape(e.Host.Hostname)
}

func who(p *Process) string {
	if p == nil {
		return "-"
	}
	name := p.Name
	if name == "" && p.Exe != "" {
		name = path.Base(p.Exe)
	}
	if name == "" {
		name = "?"
	}
	pid := "[" + strconv.FormatUint(uint64(p.PID), 10) + "]"
	return fit(Escape(name), widthProcess-len(pid)) + pid // a long name must not hide the pid
}

// Escape makes a string safe to show: what is not printable, and what is not UTF-8, becomes a Go escape sequence.
func Escape(s string) string {
	for _, r := range s {
		if r == utf8.RuneError || !strconv.IsPrint(r) {
			quoted := strconv.Quote(s)
			return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
		}
	}
	return s
}

// fit cuts a string to a width, and ends one that was cut with "…".
func fit(s string, width int) string {
	if cells(s) <= width {
		return s
	}
	used := 0
	for i, r := range s {
		if used += runeCells(r); used >= width {
			return s[:i] + "…"
		}
	}
	return s
}

func pad(s string, width int) string {
	if n := width - cells(s); n > 0 {
		return s + strings.Repeat(" ", n)
	}
	return s
}

// cells is how wide a terminal shows a string.
func cells(s string) int {
	n := 0
	for _, r := range s {
		n += runeCells(r)
	}
	return n
}

// runeCells counts the blocks of East Asian scripts and of emoji as wide (Unicode Standard Annex 11).
func runeCells(r rune) int {
	switch {
	case r < 0x1100:
		return 1
	case r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf && r != 0x303f, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f300 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}
