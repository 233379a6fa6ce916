package audit

import "github.com/taskguard/taskguard/collector/event"

func (d *decoder) exit() verdict {
	d.process.Exit = event.Exit{Ended: true, Code: uint8(d.sys.args[0])}
	return decoded
}

// changeID reads the calls that set the ids of a process. What is -1 stays as it is, but where there is only one.
func (d *decoder) changeID() verdict {
	s := &d.setID
	d.event.SetID = s
	s.Call = d.call.name
	one := event.Some(d.id(0))
	switch s.Call {
	case "setuid":
		s.UID = one
	case "setgid":
		s.GID = one
	case "setfsuid":
		s.FSUID = one
	case "setfsgid":
		s.FSGID = one
	case "setreuid":
		s.UID, s.EUID = d.changed(0), d.changed(1)
	case "setregid":
		s.GID, s.EGID = d.changed(0), d.changed(1)
	case "setresuid":
		s.UID, s.EUID, s.SUID = d.changed(0), d.changed(1), d.changed(2)
	case "setresgid":
		s.GID, s.EGID, s.SGID = d.changed(0), d.changed(1), d.changed(2)
	}
	return decoded
}

// trace reads ptrace(2). The kernel tells the target of an attach; of other requests only the pid that was given.
func (d *decoder) trace() verdict {
	d.ptrace = event.Ptrace{Request: event.PtraceRequest(d.sys.args[0]), PID: uint32(d.sys.args[1])}
	d.event.Ptrace = &d.ptrace
	if d.ptrace.Request == 0 { // PTRACE_TRACEME has no other argument
		d.ptrace.PID = 0
	}
	d.setTargetProcess()
	return decoded
}

// setTargetProcess sets the process that the call was done to, when there is a record of it.
func (d *decoder) setTargetProcess() {
	if d.traced {
		d.target.EUID = d.target.UID // which is the only one that the record has
		d.target.Partial = true
		d.event.Target = &d.target
	}
}

func (d *decoder) enterNamespace() verdict {
	n := &d.namespace
	d.event.Namespace = n
	n.Call = d.call.name
	flags := d.sys.args[0]
	switch n.Call {
	case "setns":
		n.Flags = event.NamespaceFlags(d.sys.args[1] & namespaces)
		return decoded
	case "clone":
		flags &^= newTime
	}
	n.Flags = event.NamespaceFlags(flags & namespaces)
	if n.Flags == 0 {
		return ignored
	}
	return decoded
}

func (d *decoder) useMemory() verdict {
	m, args := &d.memory, &d.sys.args
	d.event.Memory = m
	switch d.call.kind {
	case event.MemoryMap, event.MemoryProtect:
		return d.makeExecutable()
	case event.MemoryMemfd:
		m.MemfdFlags = event.MemfdFlags(args[1])
		m.Truncated = event.FieldName
	case event.MemoryUserfaultfd:
		m.UserfaultfdFlags = event.UserfaultfdFlags(args[0])
	default:
		m.PID = uint32(args[0])
		d.setTargetProcess()
	}
	return decoded
}

// makeExecutable reads mmap(2) and mprotect(2). Which file is mapped is not in the records.
func (d *decoder) makeExecutable() verdict {
	m, args := &d.memory, &d.sys.args
	if args[2]&executable == 0 {
		return ignored
	}
	m.Address, m.Length, m.Protection = event.Address(args[0]), args[1], event.Protection(args[2])
	if d.call.kind == event.MemoryProtect {
		return decoded
	}
	const anonymous = 0x20 // MAP_ANONYMOUS
	m.Flags, m.Region = event.MapFlags(args[3]), "anonymous"
	if args[3]&anonymous == 0 {
		m.Region, m.Truncated = "file", event.FieldPath
	}
	if d.sys.succeeded {
		m.Address = event.Address(d.sys.exit)
		if !is64(d.sys.key.arch) {
			m.Address &= 1<<32 - 1
		}
	}
	return decoded
}

// loadModule reads init_module(2) and finit_module(2). The name is the one that the kernel found in the module.
func (d *decoder) loadModule() verdict {
	d.module.Call = d.call.name
	d.event.Module = &d.module
	if d.call.name == "finit_module" {
		d.module.Flags = event.ModuleFlags(d.sys.args[2])
		d.module.Truncated = event.FieldPath
	}
	return decoded
}

func (d *decoder) loadProgram() verdict {
	const load = 5 // BPF_PROG_LOAD
	if uint32(d.sys.args[0]) != load {
		return ignored
	}
	d.event.BPF = &d.bpf
	return decoded
}

func (d *decoder) setUpRing() verdict {
	d.ring.Entries = uint32(d.sys.args[0])
	d.event.IOUring = &d.ring
	return decoded
}
