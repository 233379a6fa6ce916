package ebpf

import (
	"fmt"
	"unsafe"

	"github.com/taskguard/taskguard/collector/event"
)

// system is what events of the fs.* kinds, module.load, bpf.load and iouring.setup point to.
type system struct {
	mount   event.Mount
	module  event.Module
	bpf     event.BPF
	iouring event.IOUring
}

// The system calls by header.call.
var (
	mountCalls = [...]string{
		systemMountCallCALL_MOUNT: "mount", systemMountCallCALL_FSOPEN: "fsopen", systemMountCallCALL_FSMOUNT: "fsmount",
		systemMountCallCALL_OPEN_TREE: "open_tree", systemMountCallCALL_MOVE_MOUNT: "move_mount",
		systemMountCallCALL_MOUNT_SETATTR: "mount_setattr", systemMountCallCALL_UMOUNT: "umount",
	}
	moduleCalls = [...]string{
		systemModuleCallCALL_INIT_MODULE: "init_module", systemModuleCallCALL_FINIT_MODULE: "finit_module",
	}
)

// callName names a record's system call.
func callName(names []string, call uint32) (string, error) {
	if uint64(call) >= uint64(len(names)) {
		return "", fmt.Errorf("unknown call %d", call)
	}
	return names[call], nil
}

// mount decodes fs.mount and fs.umount.
func (d *decoder) mount(record []byte) error {
	r, rest, err := take[commonMountRecord](record)
	if err != nil {
		return err
	}
	call, err := callName(mountCalls[:], r.Header.Call)
	if err != nil {
		return err
	}
	s := sections{rest: rest}
	source, target, kind := s.text(r.Source), s.text(r.Target), s.text(r.Type)
	if s.short {
		return fmt.Errorf("sections exceed %d bytes", len(record))
	}
	d.system.mount = event.Mount{
		Call: call, Unverified: unverified(&r.Header) || source.unverified() || target.unverified() || kind.unverified(),
	}
	m := &d.system.mount
	if d.event.Kind == event.FSUmount {
		m.UmountFlags = event.UmountFlags(r.Flags)
	} else {
		m.Flags = event.MountFlags(r.Flags)
	}
	var length uint32 // which events of these kinds do not tell
	m.Source = d.show(source, event.FieldSource, &m.Truncated, &length)
	m.Target = d.show(target, event.FieldTarget, &m.Truncated, &length)
	m.Type = d.show(kind, event.FieldType, &m.Truncated, &length)
	d.event.FS = m
	return nil
}

func (d *decoder) module(record []byte) error {
	r, rest, err := take[commonModuleRecord](record)
	if err != nil {
		return err
	}
	call, err := callName(moduleCalls[:], r.Header.Call)
	if err != nil {
		return err
	}
	s := sections{rest: rest}
	path := s.text(r.Path)
	if s.short {
		return fmt.Errorf("sections exceed %d bytes", len(record))
	}
	d.system.module = event.Module{
		Call: call, Name: d.strings.get(fixed(r.Name[:])), Flags: event.ModuleFlags(r.Flags),
		Device: event.Device(r.File.Device), Inode: r.File.Inode, Version: versionOf(r.Version),
		UpperLayer: commonRecordFlag(r.Header.Flags)&commonRecordFlagFLAG_UPPER != 0, Unverified: unverified(&r.Header),
	}
	m := &d.system.module
	if r.File.Inode != 0 {
		var length uint32
		m.Path = d.show(path, event.FieldPath, &m.Truncated, &length)
	}
	d.event.Module = m
	return nil
}

func (d *decoder) bpfLoad(record []byte) error {
	r, _, err := take[commonBpfRecord](record)
	if err != nil {
		return err
	}
	d.system.bpf = event.BPF{
		Type: event.ProgramType(r.Type), Name: d.strings.get(fixed(r.Name[:])), Instructions: r.Instructions,
		ProgramID: r.Id, Unverified: unverified(&r.Header),
	}
	d.event.BPF = &d.system.bpf
	return nil
}

func (d *decoder) iouringSetup(record []byte) error {
	r, _, err := take[commonIouringRecord](record)
	if err != nil {
		return err
	}
	d.system.iouring = event.IOUring{
		Entries: r.Entries, Flags: event.IOUringFlags(r.Flags), Unverified: unverified(&r.Header),
	}
	d.event.IOUring = &d.system.iouring
	return nil
}

func unverified(h *commonHeader) bool {
	return commonRecordFlag(h.Flags)&commonRecordFlagFLAG_UNVERIFIED != 0
}

// fixed returns a text in an array of the kernel's, up to its NUL byte.
func fixed(array []int8) []byte {
	return cstring(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(array))), len(array)))
}
