package batch

import (
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch/batchpb"
)

// Decode reads an uncompressed batch. The result does not refer to data.
func Decode(data []byte) (*Batch, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("decode batch: %d bytes, want at most %d", len(data), MaxSize)
	}
	if err := checkLimits(data); err != nil {
		return nil, fmt.Errorf("decode batch: %w", err)
	}
	var pb batchpb.Batch
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &pb); err != nil {
		return nil, fmt.Errorf("decode batch: %w", err)
	}
	d := decoder{pb: &pb}
	if err := d.decode(); err != nil {
		return nil, fmt.Errorf("decode batch: %w", err)
	}
	return &d.out, nil
}

// decoder links one batch.
type decoder struct {
	pb         *batchpb.Batch
	out        Batch
	strings    []string
	containers []event.Container
	digests    []event.FileDigest
	processes  []event.Process
	err        error // the first reference that points nowhere
}

func (d *decoder) decode() error {
	pb := d.pb
	if err := d.header(); err != nil {
		return err
	}
	d.strings = make([]string, len(pb.Strings))
	for i, s := range pb.Strings {
		d.strings[i] = string(s)
	}
	d.containers = make([]event.Container, len(pb.Containers))
	for i, c := range pb.Containers {
		d.containers[i] = d.describe(c)
	}
	d.digests = make([]event.FileDigest, len(pb.Digests))
	for i, m := range pb.Digests {
		d.digests[i] = d.fileDigest(m)
	}
	d.processes = make([]event.Process, len(pb.Processes))
	for i, p := range pb.Processes {
		d.process(i, p)
	}
	d.names()
	d.out.Events = make([]event.Event, len(pb.Events))
	now := int64(pb.Time)
	for i, e := range pb.Events {
		now += e.Time
		d.event(&d.out.Events[i], e, now)
	}
	return d.err
}

func (d *decoder) header() error {
	pb := d.pb
	agent, err := idOf("agent_id", pb.AgentId)
	if err != nil {
		return err
	}
	if agent == (event.ID{}) || pb.Epoch == 0 || pb.Sequence == 0 {
		return fmt.Errorf("no identity: want agent_id, epoch and sequence")
	}
	host := pb.GetHost()
	boot, err := idOf("boot_id", host.GetBootId())
	if err != nil {
		return err
	}
	if err := checkPart(pb); err != nil {
		return err
	}
	h := &d.out.Header
	h.First, h.Sealed = pb.FirstEvent, pb.SealedEvents
	h.ID = ID{Agent: agent, Epoch: pb.Epoch, Sequence: pb.Sequence}
	h.Host = event.Host{
		InstanceID: host.GetInstanceId(), AccountID: host.GetAccountId(), Region: host.GetRegion(),
		MachineID: host.GetMachineId(), Hostname: host.GetHostname(),
		BootID: boot, BootTime: unixTime(host.GetBootTime()),
	}
	h.Ledger.Observed = pb.GetLedger().GetObserved()
	for _, l := range pb.GetLedger().GetLost() {
		h.Ledger.Lost = append(h.Ledger.Lost, Loss{Stage: l.Stage, Cause: l.Cause, Kind: kindOf(l.Kind), Count: l.Count})
	}
	for _, c := range pb.Updates {
		h.Updates.Containers = append(h.Updates.Containers, d.describe(c))
	}
	for _, m := range pb.DigestUpdates {
		h.Updates.Digests = append(h.Updates.Digests, d.fileDigest(m))
	}
	return nil
}

// checkPart refuses a part that is not within what was sealed.
func checkPart(pb *batchpb.Batch) error {
	if pb.SealedEvents == 0 && pb.FirstEvent == 0 {
		return nil
	}
	end := uint64(pb.FirstEvent) + uint64(len(pb.Events))
	if end > uint64(pb.SealedEvents) || pb.SealedEvents > MaxEvents {
		return fmt.Errorf("events %d to %d of %d sealed ones, want at most %d", pb.FirstEvent, end, pb.SealedEvents, MaxEvents)
	}
	return nil
}

func idOf(field string, b []byte) (event.ID, error) {
	switch len(b) {
	case 0:
		return event.ID{}, nil
	case 16:
		return event.ID(b), nil
	}
	return event.ID{}, fmt.Errorf("%s has %d bytes, want 16", field, len(b))
}

// kindOf maps numbers no Kind can hold to the unknown kind 255, so that they are shown as unknown.
func kindOf(k batchpb.Kind) event.Kind {
	if k < 0 || k > 255 {
		return 255
	}
	return event.Kind(k)
}

// fail keeps the first error.
func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
}

func (d *decoder) str(ref uint32) string {
	if ref == 0 {
		return ""
	}
	if int64(ref) > int64(len(d.strings)) {
		d.fail("string %d of %d", ref, len(d.strings))
		return ""
	}
	return d.strings[ref-1]
}

func (d *decoder) container(ref uint32) *event.Container {
	if ref == 0 {
		return nil
	}
	if int64(ref) > int64(len(d.containers)) {
		d.fail("container %d of %d", ref, len(d.containers))
		return nil
	}
	return &d.containers[ref-1]
}

func (d *decoder) process(i int, p *batchpb.Process) {
	out, exe := &d.processes[i], d.digest(p.Digest)
	*out = event.Process{
		ExeDevice: exe.Version.Device, ExeInode: exe.Version.Inode, ExeVersion: exe.Version, Digest: exe.Digest,
		Snapshot: uint64(i + 1), PID: p.Pid, NSPID: p.NsPid, Start: p.Start,
		Name: d.str(p.Name), Exe: d.str(p.Exe), ExeDeleted: p.ExeDeleted,
		ExeUpperLayer: p.ExeUpperLayer, ExeLength: p.ExeLength,
		Args: event.Argv(d.str(p.Args)), ArgsLength: p.ArgsLength, ArgsMasked: p.ArgsMasked, Cwd: d.str(p.Cwd), CwdLength: p.CwdLength,
		Script: d.str(p.Script), Env: event.Environ(d.str(p.Env)),
		UID: p.Uid, EUID: p.Euid, GID: p.Gid, EGID: p.Egid,
		Truncated: event.Fields(p.Truncated), Partial: p.Partial,
		Container: d.container(p.Container),
	}
	if p.ExeDevice != 0 || p.ExeInode != 0 {
		out.ExeDevice, out.ExeInode = event.Device(p.ExeDevice), p.ExeInode
	}
	if p.Start != 0 {
		out.ID = event.ProcessID(d.out.Host.BootID, p.Pid, p.Start)
		if boot := d.out.Host.BootTime; !boot.IsZero() {
			out.StartTime = boot.Add(time.Duration(p.Start))
		}
	} else {
		id, err := idOf("process id", p.Id)
		if err != nil {
			d.fail("%w", err)
		}
		out.ID, out.StartTime = id, unixTime(p.StartTime)
	}
	if p.Parent == 0 {
		return
	}
	if int64(p.Parent) > int64(i) {
		d.fail("parent %d of process %d", p.Parent, i+1)
		return
	}
	out.Parent = &d.processes[p.Parent-1]
	out.ParentID = out.Parent.ID
	out.Ancestors = ancestorsOf(out.Parent)
}

// ancestorsOf lists p and its ancestors.
func ancestorsOf(p *event.Process) []event.Ancestor {
	list := make([]event.Ancestor, 0, min(1+len(p.Ancestors), event.MaxAncestors))
	list = append(list, event.Ancestor{ID: p.ID, PID: p.PID, Name: p.Name, Exe: p.Exe})
	return append(list, p.Ancestors[:min(len(p.Ancestors), event.MaxAncestors-1)]...)
}

func (d *decoder) event(out *event.Event, e *batchpb.Event, now int64) {
	*out = event.Event{
		Time: time.Unix(0, now).UTC(), Kind: kindOf(e.Kind), Result: int32(e.Result),
		Host: &d.out.Host, Container: d.container(e.Container),
	}
	out.Process, out.Target = d.processAt(e.Process), d.processAt(e.Target)
	if out.Process != nil && out.Container == nil {
		out.Container = out.Process.Container
	}
	if out.Kind == event.ProcessExit && out.Process != nil {
		// The table's entry is shared with events from before the exit.
		ended := *out.Process
		ended.Exit = event.ExitFromStatus(e.ExitStatus)
		out.Process = &ended
	}
	d.group(out, e)
}

// group decodes the fields of the event's kind.
func (d *decoder) group(out *event.Event, e *batchpb.Event) {
	switch {
	case e.File != nil:
		out.File = d.file(e.File)
	case e.Net != nil:
		out.Net = &event.Net{
			Socket: d.socket(e.Net.Socket), Path: d.str(e.Net.Path), Unverified: e.Net.Unverified,
			Truncated: event.Fields(e.Net.Truncated), Backlog: e.Net.Backlog,
		}
	case e.Dns != nil:
		out.DNS = d.dns(e.Dns)
	case e.Agent != nil:
		out.Agent = d.agent(e.Agent)
	case e.Setid != nil:
		out.SetID = d.setID(e.Setid)
	case e.Ptrace != nil:
		out.Ptrace = ptraceOf(e.Ptrace)
	case e.Dup != nil:
		out.Dup = d.dup(e.Dup)
	case e.Namespace != nil:
		out.Namespace = d.namespace(e.Namespace)
	case e.Fs != nil:
		out.FS = d.mount(e.Fs)
	case e.Memory != nil:
		out.Memory = d.memory(e.Memory)
	case e.Module != nil:
		out.Module = d.module(e.Module)
	case e.Bpf != nil:
		out.BPF = d.bpf(e.Bpf)
	case e.Iouring != nil:
		out.IOUring = iouringOf(e.Iouring)
	case e.Exec != nil:
		out.Exec = d.exec(e.Exec)
	case e.Stop != nil:
		out.Stop = stopOf(e.Stop)
	}
}

// processAt returns the process that an event points to.
func (d *decoder) processAt(ref uint32) *event.Process {
	if ref == 0 {
		return nil
	}
	if int64(ref) > int64(len(d.processes)) {
		d.fail("process %d of %d", ref, len(d.processes))
		return nil
	}
	return &d.processes[ref-1]
}

func (d *decoder) file(m *batchpb.File) *event.File {
	return &event.File{
		Path: d.str(m.Path), Target: d.str(m.Target), Flags: event.OpenFlags(m.Flags),
		RenameFlags: event.RenameFlags(m.RenameFlags), Mode: optional[event.FileMode](m.Mode),
		UID: optional[uint32](m.Uid), GID: optional[uint32](m.Gid), Directory: m.Directory,
		Device: event.Device(m.Device), Inode: m.Inode, UpperLayer: m.UpperLayer, Unverified: m.Unverified,
		Truncated: event.Fields(m.Truncated), PathLength: m.PathLength, TargetLength: m.TargetLength,
	}
}

func (d *decoder) socket(s *batchpb.Socket) event.Socket {
	return event.Socket{
		Family: event.Family(s.GetFamily()), Type: event.SocketType(s.GetType()), Protocol: uint16(s.GetProtocol()),
		RemoteIP: d.addr(s.GetRemoteIp()), RemotePort: uint16(s.GetRemotePort()),
		LocalIP: d.addr(s.GetLocalIp()), LocalPort: uint16(s.GetLocalPort()),
	}
}

func (d *decoder) addr(b []byte) netip.Addr {
	if len(b) == 0 {
		return netip.Addr{}
	}
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		d.fail("address of %d bytes, want 4 or 16", len(b))
	}
	return addr
}

func (d *decoder) dns(m *batchpb.DNS) *event.DNS {
	out := &event.DNS{
		Socket: d.socket(m.Socket), ID: uint16(m.Id), Rcode: uint8(m.Rcode), Payload: m.Payload,
		Truncated: event.Fields(m.Truncated), Malformed: m.Malformed,
	}
	for _, q := range m.Questions {
		out.Questions = append(out.Questions, event.Question{Name: d.str(q.Name), Type: d.str(q.Type)})
	}
	for _, a := range m.Answers {
		out.Answers = append(out.Answers, event.Answer{
			Name: d.str(a.Name), Type: d.str(a.Type), TTL: a.Ttl, Data: d.str(a.Data),
		})
	}
	return out
}

func (d *decoder) agent(a *batchpb.Agent) *event.Agent {
	out := &event.Agent{
		Instance: d.instance(a.Instance), Heartbeat: d.heartbeat(a.Heartbeat),
		Version: a.Version, Stage: a.Stage, Cause: a.Cause, Lost: kindOf(a.Lost), Count: a.Count,
		From: unixTime(a.From), To: unixTime(a.To), Phase: a.Phase, Cgroup: string(a.Cgroup),
	}
	for _, s := range a.Sources {
		out.Sources = append(out.Sources, event.SourceState{
			Kind: kindOf(s.Kind), Via: s.Via, Healthy: s.Healthy, Reason: s.Reason,
		})
	}
	for _, n := range a.Dropped {
		out.Dropped = append(out.Dropped, event.Dropped{Kind: kindOf(n.Kind), Count: n.Count})
	}
	return out
}
