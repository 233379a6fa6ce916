package ocsf

import (
	"math"

	"github.com/taskguard/taskguard/collector/event"
)

// what says what happened, and who did it.
func (m *mapper) what() {
	m.Actor = m.actor()
	switch m.e.Kind {
	case event.ProcessExec, event.ProcessFork, event.ProcessExit, event.ProcessSetID, event.ProcessPtrace,
		event.ProcessDup, event.ProcessNamespace:
		m.process()
	case event.FileOpen, event.FileRename, event.FileLink, event.FileSymlink, event.FileUnlink, event.FileChmod,
		event.FileChown:
		m.file()
	case event.FSMount, event.FSUmount:
		m.mount()
	case event.MemoryMap, event.MemoryProtect, event.MemoryVMRead, event.MemoryVMWrite, event.MemoryMemfd,
		event.MemoryUserfaultfd:
		m.memory()
	case event.ModuleLoad:
		m.module()
	case event.BPFLoad:
		m.call("bpf")
	case event.IOUringSetup:
		m.call("io_uring_setup")
	case event.NetSocket, event.NetConnect, event.NetAccept, event.NetBind, event.NetListen, event.NetSend:
		m.network()
	case event.DNSQuery, event.DNSResponse:
		m.dns()
	case event.AgentStart, event.AgentHeartbeat, event.AgentLoss, event.AgentThrottle:
		m.agent()
	case event.ContainerCreate, event.ContainerStart, event.ContainerExec, event.ContainerStop:
		m.container()
	default:
		m.asOther(baseEvent)
	}
}

func (m *mapper) actor() *Actor {
	if m.e.Process == nil {
		return &Actor{AppName: unknown}
	}
	return &Actor{Process: processOf(m.e.Process, m.e.Container)}
}

func (m *mapper) process() {
	p := processOf(or(m.e.Process), m.e.Container)
	m.Process = p
	switch m.e.Kind {
	case event.ProcessExec, event.ProcessFork:
		m.as(processActivity, 1, "Launch")
		m.Actor = &Actor{AppName: unknown}
		if p.ParentProcess != nil {
			m.Actor = &Actor{Process: p.ParentProcess}
		}
	case event.ProcessExit:
		m.as(processActivity, 2, "Terminate")
		p.TerminatedTime = m.Time
		if exit := or(m.e.Process).Exit; exit.Ended {
			code := int32(exit.Code)
			if exit.Signal != 0 {
				code = 128 + int32(exit.Signal)
			}
			m.ExitCode = &code
		}
	case event.ProcessSetID:
		m.as(processActivity, 5, "Set User ID")
	case event.ProcessPtrace:
		m.Process = m.target()
		m.as(processActivity, 3, "Open")
		switch or(m.e.Ptrace).Request {
		case 4, 5, 6, 13, 15, 0x4205: // PTRACE_POKE*, PTRACE_SET*REGS, PTRACE_SETREGSET
			m.as(processActivity, 4, "Inject")
		}
	default:
		m.asOther(processActivity)
	}
}

// target is the process that it was done to, the actor itself when no other is told.
func (m *mapper) target() *Process {
	if t := m.e.Target; t != nil {
		return processOf(t, t.Container)
	}
	return processOf(or(m.e.Process), m.e.Container)
}

func (m *mapper) file() {
	f := or(m.e.File)
	m.File = fileOf(f.Path, f.Device, f.Inode)
	switch m.e.Kind {
	case event.FileOpen:
		m.as(fileActivity, 14, "Open")
		mask := uint32(f.Flags)
		m.AccessMask = &mask
	case event.FileRename:
		m.as(fileActivity, 5, "Rename")
		m.FileResult = fileOf(f.Target, f.Device, f.Inode)
	case event.FileLink:
		m.as(fileActivity, 1, "Create")
	case event.FileSymlink:
		m.as(fileActivity, 1, "Create")
		m.File.TypeID = fileSymlink
	case event.FileUnlink:
		m.as(fileActivity, 4, "Delete")
		if f.Directory {
			m.File.TypeID = fileFolder
		}
	case event.FileChmod, event.FileChown:
		m.as(fileActivity, 7, "Set Security")
	}
}

func (m *mapper) mount() {
	m.File = fileOf(or(m.e.FS).Target, 0, 0)
	m.File.TypeID = fileFolder
	if m.e.Kind == event.FSMount {
		m.as(fileActivity, 12, "Mount")
	} else {
		m.as(fileActivity, 13, "Unmount")
	}
}

// mapped is a module's load type: the file is mapped into memory.
const mapped = 4

func (m *mapper) memory() {
	mem := or(m.e.Memory)
	var address string
	if mem.Address != 0 {
		address = mem.Address.String()
	}
	if m.e.Kind == event.MemoryMap && mem.Path != "" {
		m.as(moduleActivity, 1, "Load")
		m.Module = &Module{LoadTypeID: mapped, BaseAddress: address, File: fileOf(mem.Path, mem.Device, mem.Inode)}
		m.Module.File.Hashes = hashes(&mem.Digest)
		return
	}
	m.Process = m.target()
	m.BaseAddress, m.Size = address, int64(min(mem.Length, math.MaxInt64))
	if mem.Protection != 0 {
		wanted := uint32(mem.Protection)
		m.RequestedPermissions = &wanted
	}
	switch m.e.Kind {
	case event.MemoryMap:
		m.as(memoryActivity, 1, "Allocate Page")
	case event.MemoryProtect:
		m.as(memoryActivity, 2, "Modify Page")
	case event.MemoryVMRead:
		m.as(memoryActivity, 7, "Read")
	case event.MemoryVMWrite:
		m.as(memoryActivity, 8, "Write")
	default:
		m.asOther(memoryActivity)
	}
}

func (m *mapper) module() {
	mod := or(m.e.Module)
	m.as(kernelExtension, 1, "Load")
	m.Driver = &Driver{File: *fileOf(mod.Path, mod.Device, mod.Inode)}
	m.Driver.File.Hashes = hashes(&mod.Digest)
	if mod.Path == "" && mod.Name != "" {
		m.Driver.File.Name = mod.Name
	}
}

// systemCall is what a kernel object can be.
const systemCall = 2

func (m *mapper) call(name string) {
	m.as(kernelActivity, 4, "Invoke")
	m.Kernel = &Kernel{Name: name, TypeID: systemCall, SystemCall: name}
}

func (m *mapper) agent() {
	m.Actor = nil
	m.Metadata.Product.Version = or(m.e.Agent).Version
	app := m.Metadata.Product
	m.App = &app
	switch m.e.Kind {
	case event.AgentStart:
		m.as(applicationLifecycle, 3, "Start")
		return
	case event.AgentLoss:
		m.severity(3, "Medium")
	case event.AgentThrottle:
		m.severity(2, "Low")
	}
	m.asOther(applicationLifecycle)
}

func (m *mapper) container() {
	if m.e.Process == nil {
		m.Actor = nil
	}
	c := or(m.e.Container)
	m.App = &Product{VendorName: first(c.Runtime, unknown), Name: first(c.Image, c.Name, unknown), UID: c.ID, Version: c.ImageDigest}
	switch m.e.Kind {
	case event.ContainerCreate:
		m.as(applicationLifecycle, 1, "Install")
	case event.ContainerStart:
		m.as(applicationLifecycle, 3, "Start")
	case event.ContainerStop:
		m.as(applicationLifecycle, 4, "Stop")
	default:
		m.asOther(applicationLifecycle)
	}
}
