package event

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
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
	widthKind    = 15
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

func colorOf(e *Event) string {
	switch {
	case e.Kind == AgentLoss:
		return "\x1b[1;31m"
	case e.Result != 0:
		return "\x1b[33m"
	}
	switch e.Kind {
	case ProcessExec:
		return "\x1b[32m"
	case NetConnect:
		return "\x1b[36m"
	case DNSQuery, DNSResponse:
		return "\x1b[35m"
	case FileOpen:
		return "\x1b[34m"
	}
	return "\x1b[2m"
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

// What says in one line what an event's process did, without saying who it was.
func What(e *Event) string {
	var s string
	switch {
	case e.File != nil:
		s = Escape(e.File.Path) + " " + strings.Join(e.File.Flags.Names(), "|")
	case e.Net != nil:
		s = target(e.Net)
	case e.DNS != nil:
		s = dnsText(e.DNS)
	case e.Agent != nil:
		s = agentText(e)
	case e.Process != nil:
		s = processText(e)
	}
	if e.Result != 0 {
		s += " = " + errnoName(e.Result)
	}
	return s
}

func processText(e *Event) string {
	p := e.Process
	switch e.Kind {
	case ProcessExit:
		if p.Exit.Signal != 0 {
			s := "signal " + strconv.Itoa(int(p.Exit.Signal))
			if p.Exit.CoreDumped {
				s += ", core dumped"
			}
			return s
		}
		return "code " + strconv.Itoa(int(p.Exit.Code))
	case ProcessFork:
		if len(p.Ancestors) > 0 {
			return "by " + Escape(p.Ancestors[0].Name) + "[" + strconv.FormatUint(uint64(p.Ancestors[0].PID), 10) + "]"
		}
		return ""
	}
	args := make([]string, 0, 8)
	for _, arg := range p.Args.Split() {
		args = append(args, Escape(arg))
	}
	return Escape(p.Exe) + "  " + strings.Join(args, " ")
}

func target(n *Net) string {
	if n.Family == Unix {
		return "unix " + Escape(n.Path)
	}
	if n.Protocol == 0 { // audit does not tell
		return addrPort(n.RemoteIP, n.RemotePort)
	}
	return protocolName(n.Protocol) + " " + addrPort(n.RemoteIP, n.RemotePort)
}

func dnsText(d *DNS) string {
	var parts []string
	for _, q := range d.Questions {
		parts = append(parts, Escape(q.Type)+" "+Escape(q.Name))
	}
	if d.Rcode != 0 {
		parts = append(parts, rcodeName(d.Rcode))
	}
	for _, a := range d.Answers {
		if a.Data != "" {
			parts = append(parts, "-> "+Escape(a.Data))
		}
	}
	return strings.Join(parts, " ") + " (" + protocolName(d.Protocol) + " " + addrPort(d.RemoteIP, d.RemotePort) + ")"
}

func agentText(e *Event) string {
	a := e.Agent
	switch {
	case e.Kind == AgentLoss && a.Count == 0:
		return fmt.Sprintf("not observed from %s to %s: %s/%s", a.From.Local().Format("15:04:05.000"),
			a.To.Local().Format("15:04:05.000"), Escape(a.Stage), Escape(a.Cause))
	case e.Kind == AgentLoss:
		return fmt.Sprintf("%d %s lost: %s/%s", a.Count, a.Lost, Escape(a.Stage), Escape(a.Cause))
	}
	healthy := 0
	for _, s := range a.Sources {
		if s.Healthy {
			healthy++
		}
	}
	return fmt.Sprintf("taskguard %s, %d of %d kinds healthy", Escape(a.Version), healthy, len(a.Sources))
}

func addrPort(ip netip.Addr, port uint16) string {
	if !ip.IsValid() {
		return "?"
	}
	return Escape(netip.AddrPortFrom(ip, port).String()) // a zone may be anything
}

func protocolName(protocol uint16) string {
	switch protocol {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 58:
		return "icmpv6"
	}
	return "protocol " + strconv.Itoa(int(protocol))
}

// rcodeName names a DNS response code (RFC 1035, 4.1.1).
func rcodeName(rcode uint8) string {
	names := [...]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"}
	if int(rcode) < len(names) {
		return names[rcode]
	}
	return "RCODE" + strconv.Itoa(int(rcode))
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
