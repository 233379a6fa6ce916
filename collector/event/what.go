package event

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// What says in one line what an event's process did, without saying who it was.
func What(e *Event) string {
	s := deed(e)
	if e.Result != 0 {
		s += " = " + errnoName(e.Result)
	}
	return s
}

func deed(e *Event) string {
	switch {
	case e.File != nil:
		return fileText(e)
	case e.Net != nil:
		return netText(e)
	case e.DNS != nil:
		return dnsText(e.DNS)
	case e.Agent != nil:
		return agentText(e)
	case e.SetID != nil:
		return setIDText(e.SetID)
	case e.Ptrace != nil:
		return words(e.Ptrace.Request.String(), targetText(e.Target, e.Ptrace.PID))
	case e.Dup != nil:
		d := e.Dup
		return words(Escape(d.Call), fmt.Sprintf("%d -> %d", d.OldFD, d.NewFD), socketText(&d.Socket, d.Path, true))
	case e.Namespace != nil:
		n := e.Namespace
		return words(Escape(n.Call), bits(n.Flags), count(n.Inode, "inode %d"))
	case e.FS != nil:
		f, target := e.FS, Escape(e.FS.Target)
		if e.Kind == FSMount && target != "" {
			target = "on " + target
		}
		return words(Escape(f.Call), Escape(f.Source), target, Escape(f.Type), bits(f.Flags), bits(f.UmountFlags))
	case e.Memory != nil:
		return memoryText(e)
	case e.Module != nil:
		m := e.Module
		return words(Escape(m.Call), Escape(m.Name), Escape(m.Path), upper(m.UpperLayer), bits(m.Flags), Escape(m.SHA256),
			Escape(string(m.HashState)))
	case e.BPF != nil:
		b := e.BPF
		return words(b.Type.String(), Escape(b.Name), count(b.Instructions, "%d instructions"), count(b.ProgramID, "id %d"))
	case e.IOUring != nil:
		return words(fmt.Sprintf("%d entries", e.IOUring.Entries), bits(e.IOUring.Flags))
	case e.Exec != nil:
		return execText(e.Exec)
	case e.Stop != nil:
		return stopText(e.Stop)
	case e.Process != nil:
		return processText(e)
	case e.Container != nil:
		return Escape(e.Container.Image)
	}
	return ""
}

// words joins what is not empty.
func words(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

func bits(flags interface{ Names() []string }) string { return strings.Join(flags.Names(), "|") }

// count formats a number that is not 0.
func count[T ~uint32 | ~uint64](n T, format string) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(format, n)
}

// known formats a number that is known.
func known[T ~uint16 | ~uint32](n Optional[T], format string) string {
	if !n.Known {
		return ""
	}
	return fmt.Sprintf(format, n.Value)
}

func upper(layer bool) string {
	if layer {
		return "(upper layer)"
	}
	return ""
}

func targetText(target *Process, pid uint32) string {
	if target == nil {
		return count(pid, "pid %d")
	}
	return who(target)
}

func fileText(e *Event) string {
	f := e.File
	s := Escape(f.Path)
	switch e.Kind {
	case FileOpen:
		return words(s, bits(f.Flags))
	case FileRename, FileLink, FileSymlink:
		return words(s, "->", Escape(f.Target), bits(f.RenameFlags))
	case FileUnlink:
		if f.Directory {
			return s + " (directory)"
		}
	case FileChmod, FileChown:
		return words(s, known(f.Mode, "%v"), known(f.UID, "uid=%d"), known(f.GID, "gid=%d"))
	}
	return s
}

func netText(e *Event) string {
	n := e.Net
	switch e.Kind {
	case NetSocket:
		protocol := ""
		if n.Protocol != 0 {
			protocol = protocolName(n.Protocol)
		}
		return words(n.Family.String(), n.Type.String(), protocol)
	case NetAccept:
		if n.Family == Unix {
			break
		}
		return words(socketText(&n.Socket, n.Path, false), "from", addrPort(n.RemoteIP, n.RemotePort))
	case NetBind, NetListen:
		return words(socketText(&n.Socket, n.Path, false), count(n.Backlog, "backlog %d"))
	}
	return socketText(&n.Socket, n.Path, true)
}

// socketText shows a socket's address: of the other side, or its own.
func socketText(s *Socket, path string, remote bool) string {
	ip, port := s.LocalIP, s.LocalPort
	if remote {
		ip, port = s.RemoteIP, s.RemotePort
	}
	switch {
	case s.Family == Unix:
		return "unix " + Escape(path)
	case s.Family == INET, s.Family == INET6:
		if s.Protocol == 0 { // audit does not tell
			return addrPort(ip, port)
		}
		return protocolName(s.Protocol) + " " + addrPort(ip, port)
	}
	return s.Family.String()
}

func setIDText(s *SetID) string {
	return words(Escape(s.Call), known(s.UID, "uid=%d"), known(s.EUID, "euid=%d"), known(s.SUID, "suid=%d"),
		known(s.FSUID, "fsuid=%d"), known(s.GID, "gid=%d"), known(s.EGID, "egid=%d"), known(s.SGID, "sgid=%d"),
		known(s.FSGID, "fsgid=%d"))
}

func memoryText(e *Event) string {
	m := e.Memory
	var target string
	if e.Kind == MemoryVMRead || e.Kind == MemoryVMWrite {
		target = targetText(e.Target, m.PID)
	}
	var address string
	if m.Address != 0 {
		address = "at " + m.Address.String()
	}
	return words(target, Escape(m.Name), bits(m.Protection), Escape(m.Region), Escape(m.Path), upper(m.UpperLayer),
		count(m.Length, "%d bytes"), address, bits(m.Flags), bits(m.MemfdFlags), bits(m.UserfaultfdFlags))
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
	args := argsText(p.Args)
	if p.ExeUpperLayer {
		args += " " + upper(true)
	}
	return Escape(p.Exe) + "  " + args
}

func argsText(args Argv) string {
	list := args.Split()
	for i, arg := range list {
		list[i] = Escape(arg)
	}
	return strings.Join(list, " ")
}

func execText(x *Exec) string {
	s := argsText(x.Command)
	if x.User != "" {
		s += " (user " + Escape(x.User) + ")"
	}
	if x.Privileged {
		s += " (privileged)"
	}
	return s
}

func stopText(s *Stop) string {
	var parts []string
	if s.ExitCode.Known {
		parts = append(parts, known(s.ExitCode, "exit %d"))
	}
	if s.Signal != 0 {
		parts = append(parts, "signal "+strconv.Itoa(int(s.Signal)))
	}
	if s.OOMKilled {
		parts = append(parts, "OOM-killed")
	}
	return strings.Join(parts, ", ")
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
		s := fmt.Sprintf("not observed from %s to %s: %s/%s", a.From.Local().Format("15:04:05.000"),
			a.To.Local().Format("15:04:05.000"), Escape(a.Stage), Escape(a.Cause))
		if a.Lost != 0 {
			s = a.Lost.String() + " " + s
		}
		return s
	case e.Kind == AgentThrottle:
		return throttleText(a)
	case e.Kind == AgentLoss:
		lost := "events"
		if a.Lost != 0 {
			lost = a.Lost.String()
		}
		return fmt.Sprintf("%d %s lost: %s/%s", a.Count, lost, Escape(a.Stage), Escape(a.Cause))
	}
	healthy := 0
	for _, s := range a.Sources {
		if s.Healthy {
			healthy++
		}
	}
	s := fmt.Sprintf("taskguard %s, %d of %d kinds healthy", Escape(a.Version), healthy, len(a.Sources))
	if h := a.Heartbeat; h != nil && len(h.Issues) > 0 {
		s += ": " + Escape(strings.Join(h.Issues, ", "))
	}
	return s
}

func throttleText(a *Agent) string {
	dropped := make([]string, len(a.Dropped))
	for i, d := range a.Dropped {
		dropped[i] = fmt.Sprintf("%d %s", d.Count, d.Kind)
	}
	s := words(Escape(a.Phase), Escape(a.Cgroup))
	if len(dropped) > 0 {
		s += ": not recorded: " + strings.Join(dropped, ", ")
	}
	return s
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
