package batch

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch/batchpb"
)

// Each group of activity: how it is encoded, and below it how it is decoded.

func (b *Builder) setID(s *event.SetID) []byte {
	m := b.appendRef(b.nested[:0], 1, s.Call)
	m = appendOptional(m, 2, s.UID)
	m = appendOptional(m, 3, s.EUID)
	m = appendOptional(m, 4, s.SUID)
	m = appendOptional(m, 5, s.FSUID)
	m = appendOptional(m, 6, s.GID)
	m = appendOptional(m, 7, s.EGID)
	m = appendOptional(m, 8, s.SGID)
	m = appendOptional(m, 9, s.FSGID)
	b.nested = m
	return m
}

func (d *decoder) setID(m *batchpb.SetID) *event.SetID {
	return &event.SetID{
		Call: d.str(m.Call), UID: optional[uint32](m.Uid), EUID: optional[uint32](m.Euid),
		SUID: optional[uint32](m.Suid), FSUID: optional[uint32](m.Fsuid), GID: optional[uint32](m.Gid),
		EGID: optional[uint32](m.Egid), SGID: optional[uint32](m.Sgid), FSGID: optional[uint32](m.Fsgid),
	}
}

func (b *Builder) ptrace(p *event.Ptrace) []byte {
	m := appendUint(b.nested[:0], 1, uint64(p.Request))
	m = appendUint(m, 2, uint64(p.PID))
	b.nested = m
	return m
}

func ptraceOf(m *batchpb.Ptrace) *event.Ptrace {
	return &event.Ptrace{Request: event.PtraceRequest(m.Request), PID: m.Pid}
}

func (b *Builder) dup(d *event.Dup) []byte {
	m := appendSocketField(b.nested[:0], &d.Socket)
	m = b.appendRef(m, 2, d.Path)
	m = b.appendRef(m, 3, d.Call)
	m = appendUint(m, 4, protowire.EncodeZigZag(int64(d.OldFD)))
	m = appendUint(m, 5, protowire.EncodeZigZag(int64(d.NewFD)))
	b.nested = m
	return m
}

func (d *decoder) dup(m *batchpb.Dup) *event.Dup {
	return &event.Dup{
		Call: d.str(m.Call), OldFD: m.OldFd, NewFD: m.NewFd, Socket: d.socket(m.Socket), Path: d.str(m.Path),
	}
}

func (b *Builder) namespace(n *event.Namespace) []byte {
	m := b.appendRef(b.nested[:0], 1, n.Call)
	m = appendUint(m, 2, uint64(n.Flags))
	m = appendUint(m, 3, n.Inode)
	b.nested = m
	return m
}

func (d *decoder) namespace(m *batchpb.Namespace) *event.Namespace {
	return &event.Namespace{Call: d.str(m.Call), Flags: event.NamespaceFlags(m.Flags), Inode: m.Inode}
}

func (b *Builder) mount(f *event.Mount) []byte {
	m := b.appendRef(b.nested[:0], 1, f.Call)
	m = b.appendRef(m, 2, f.Source)
	m = b.appendRef(m, 3, f.Target)
	m = b.appendRef(m, 4, f.Type)
	m = appendUint(m, 5, uint64(f.Flags))
	m = appendUint(m, 6, uint64(f.UmountFlags))
	m = appendBool(m, 7, f.Unverified)
	m = appendUint(m, 8, uint64(f.Truncated))
	b.nested = m
	return m
}

func (d *decoder) mount(m *batchpb.Mount) *event.Mount {
	return &event.Mount{
		Call: d.str(m.Call), Source: d.str(m.Source), Target: d.str(m.Target), Type: d.str(m.Type),
		Flags: event.MountFlags(m.Flags), UmountFlags: event.UmountFlags(m.UmountFlags),
		Unverified: m.Unverified, Truncated: event.Fields(m.Truncated),
	}
}

func (b *Builder) memory(y *event.Memory) []byte {
	m := appendUint(b.nested[:0], 1, uint64(y.Address))
	m = appendUint(m, 2, y.Length)
	m = appendUint(m, 3, uint64(y.Protection))
	m = appendUint(m, 4, uint64(y.Flags))
	m = b.appendRef(m, 5, y.Region)
	m = b.appendRef(m, 6, y.Path)
	m = appendUint(m, 7, uint64(y.Device))
	m = appendUint(m, 8, y.Inode)
	m = appendBool(m, 9, y.UpperLayer)
	m = appendUint(m, 10, uint64(y.PathLength))
	m = appendUint(m, 11, uint64(y.PID))
	m = appendUint(m, 12, y.VMFlags)
	m = b.appendRef(m, 13, y.Name)
	m = appendUint(m, 14, uint64(y.MemfdFlags))
	m = appendUint(m, 15, uint64(y.UserfaultfdFlags))
	m = appendBool(m, 16, y.Unverified)
	m = appendUint(m, 17, uint64(y.Truncated))
	m = appendUint(m, 18, b.digests.ref(y.Version, &y.Digest))
	b.nested = m
	return m
}

func (d *decoder) memory(m *batchpb.Memory) *event.Memory {
	file := d.digest(m.Digest)
	return &event.Memory{
		Version: file.Version, Digest: file.Digest,
		Address: event.Address(m.Address), Length: m.Length,
		Protection: event.Protection(m.Protection), Flags: event.MapFlags(m.Flags), Region: d.str(m.Region),
		Path: d.str(m.Path), Device: event.Device(m.Device), Inode: m.Inode, UpperLayer: m.UpperLayer,
		PathLength: m.PathLength, PID: m.Pid, VMFlags: m.VmFlags, Name: d.str(m.Name),
		MemfdFlags: event.MemfdFlags(m.MemfdFlags), UserfaultfdFlags: event.UserfaultfdFlags(m.UserfaultfdFlags),
		Unverified: m.Unverified, Truncated: event.Fields(m.Truncated),
	}
}

func (b *Builder) module(l *event.Module) []byte {
	m := b.appendRef(b.nested[:0], 1, l.Call)
	m = b.appendRef(m, 2, l.Name)
	m = b.appendRef(m, 3, l.Path)
	m = appendUint(m, 4, uint64(l.Device))
	m = appendUint(m, 5, l.Inode)
	m = appendBool(m, 6, l.UpperLayer)
	m = appendUint(m, 7, uint64(l.Flags))
	m = appendUint(m, 8, b.digests.ref(l.Version, &l.Digest))
	m = appendUint(m, 10, uint64(l.Truncated))
	m = appendBool(m, 11, l.Unverified)
	b.nested = m
	return m
}

func (d *decoder) module(m *batchpb.Module) *event.Module {
	file := d.digest(m.Digest)
	return &event.Module{
		Version: file.Version, Digest: file.Digest,
		Call: d.str(m.Call), Name: d.str(m.Name), Path: d.str(m.Path), Device: event.Device(m.Device), Inode: m.Inode,
		UpperLayer: m.UpperLayer, Flags: event.ModuleFlags(m.Flags),
		Truncated: event.Fields(m.Truncated), Unverified: m.Unverified,
	}
}

func (b *Builder) bpf(p *event.BPF) []byte {
	m := appendUint(b.nested[:0], 1, uint64(p.Type))
	m = b.appendRef(m, 2, p.Name)
	m = appendUint(m, 3, uint64(p.Instructions))
	m = appendUint(m, 4, uint64(p.ProgramID))
	m = appendBool(m, 5, p.Unverified)
	b.nested = m
	return m
}

func (d *decoder) bpf(m *batchpb.BPF) *event.BPF {
	return &event.BPF{
		Type: event.ProgramType(m.Type), Name: d.str(m.Name), Instructions: m.Instructions, ProgramID: m.ProgramId,
		Unverified: m.Unverified,
	}
}

func (b *Builder) iouring(u *event.IOUring) []byte {
	m := appendUint(b.nested[:0], 1, uint64(u.Entries))
	m = appendUint(m, 2, uint64(u.Flags))
	m = appendBool(m, 3, u.Unverified)
	b.nested = m
	return m
}

func iouringOf(m *batchpb.IOUring) *event.IOUring {
	return &event.IOUring{Entries: m.Entries, Flags: event.IOUringFlags(m.Flags), Unverified: m.Unverified}
}

func (b *Builder) exec(x *event.Exec) []byte {
	m := b.appendRef(b.nested[:0], 1, x.ExecID)
	m = b.appendRef(m, 2, string(x.Command))
	m = b.appendRef(m, 3, x.User)
	m = appendBool(m, 4, x.Privileged)
	m = appendBool(m, 5, x.Unverified)
	m = appendBool(m, 6, x.Truncated)
	b.nested = m
	return m
}

func (d *decoder) exec(m *batchpb.Exec) *event.Exec {
	return &event.Exec{
		ExecID: d.str(m.ExecId), Command: event.Argv(d.str(m.Command)), User: d.str(m.User), Privileged: m.Privileged,
		Unverified: m.Unverified, Truncated: m.Truncated,
	}
}

func (b *Builder) stop(s *event.Stop) []byte {
	m := appendOptional(b.nested[:0], 1, s.ExitCode)
	m = appendUint(m, 2, uint64(s.Signal))
	m = appendBool(m, 3, s.OOMKilled)
	m = appendFixed(m, 4, unixNano(s.StartedAt))
	b.nested = m
	return m
}

func stopOf(m *batchpb.Stop) *event.Stop {
	return &event.Stop{
		ExitCode: optional[uint32](m.ExitCode), Signal: uint8(m.Signal), OOMKilled: m.OomKilled,
		StartedAt: unixTime(m.StartedAt),
	}
}

// optional is the inverse of appendOptional.
func optional[T ~uint16 | ~uint32](v uint64) event.Optional[T] {
	if v == 0 {
		return event.Optional[T]{}
	}
	return event.Some(T(v - 1))
}
