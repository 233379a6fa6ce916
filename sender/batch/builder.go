package batch

import (
	"cmp"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/taskguard/taskguard/collector/event"
)

// Builder encodes one batch at a time. It is not safe for concurrent use. Make one with NewBuilder.
type Builder struct {
	// body holds strings, processes and events in the order of their first use.
	body []byte
	// message is scratch for the message being written, nested for a message inside it.
	message, nested []byte

	strings    map[string]uint32
	processes  map[uint64]place  // by event.Process.Snapshot
	containers map[string]uint32 // by id
	// entries counts the process table. It exceeds len(processes): see place.
	entries uint32
	// described holds the containers in the order of their references.
	described []inContainer
	// users and groups are those whose names are asked for at Seal, in the order of their first use.
	users, groups accounts
	digests       digests

	events    int
	counts    [event.KindCount]uint64
	firstTime int64
	lastTime  int64
}

// inContainer counts the events of a container, that is those that name it and those of processes in it.
type inContainer struct {
	container *event.Container
	events    uint64
}

// place is where a process stands in the table.
type place struct {
	ref       uint32
	container uint32 // of the process
	// reach is how many of its ancestors the table links it to; event.MaxAncestors when none is missing. A process
	// first written as another's distant ancestor has too few for an event of its own, and is written again.
	reach int
}

// NewBuilder returns an empty builder.
func NewBuilder() *Builder {
	return &Builder{
		strings:    make(map[string]uint32),
		processes:  make(map[uint64]place),
		containers: make(map[string]uint32),
		users:      accounts{names: make(map[account]string)},
		groups:     accounts{names: make(map[account]string)},
		digests:    digests{refs: make(map[event.FileDigest]uint32)},
	}
}

// Events returns the number of events appended since the last Reset.
func (b *Builder) Events() int { return b.events }

// Counts returns the number of events appended since the last Reset, by kind.
func (b *Builder) Counts() [event.KindCount]uint64 { return b.counts }

// Size returns the bytes the batch takes so far, before compression, without its header.
func (b *Builder) Size() int { return len(b.body) }

// Reset empties the builder and keeps its buffers.
func (b *Builder) Reset() {
	b.body = b.body[:0]
	clear(b.strings)
	clear(b.processes)
	clear(b.containers)
	clear(b.described)
	b.described = b.described[:0]
	b.users.reset()
	b.groups.reset()
	b.digests.reset()
	b.entries, b.events, b.counts = 0, 0, [event.KindCount]uint64{}
	b.firstTime, b.lastTime = 0, 0
}

// Append adds an event. It copies what it needs: e is the caller's again when it returns, but for strings and
// containers, which are kept until Reset and must not change until then. The event's Host is not encoded: a batch has
// one host, given to Seal. Of its container, the id is encoded now, the rest at Seal.
func (b *Builder) Append(e *event.Event) {
	// What the event points to is written before the event itself.
	process, target := b.process(e.Process, 0), b.process(e.Target, 0)
	var container uint32
	if e.Container != nil && !runsIn(e.Process, e.Container) {
		container = b.container(e.Container)
	}
	if in := cmp.Or(container, process.container); in != 0 {
		b.described[in-1].events++
	}
	now := e.Time.UnixNano()
	if b.events == 0 {
		b.firstTime, b.lastTime = now, now
	}

	m := b.message[:0]
	m = appendUint(m, 1, uint64(e.Kind))
	m = appendUint(m, 2, protowire.EncodeZigZag(now-b.lastTime))
	m = appendUint(m, 3, uint64(uint32(e.Result)))
	m = appendUint(m, 4, uint64(process.ref))
	m = appendUint(m, 5, uint64(container))
	if e.Kind == event.ProcessExit && e.Process != nil {
		m = appendUint(m, 6, uint64(e.Process.Exit.Status()))
	}
	m = appendUint(m, 11, uint64(target.ref))
	m = b.appendGroup(m, e)
	b.message = m
	b.body = appendMessage(b.body, 9, m)
	b.lastTime = now
	b.events++
	if int(e.Kind) < len(b.counts) {
		b.counts[e.Kind]++
	}
}

// appendGroup appends the fields of the event's kind.
func (b *Builder) appendGroup(m []byte, e *event.Event) []byte {
	switch {
	case e.File != nil:
		return appendMessage(m, 7, b.file(e.File))
	case e.Net != nil:
		return appendMessage(m, 8, b.net(e.Net))
	case e.DNS != nil:
		return appendMessage(m, 9, b.dns(e.DNS))
	case e.Agent != nil:
		return appendMessage(m, 10, appendAgent(nil, e.Agent))
	case e.SetID != nil:
		return appendMessage(m, 12, b.setID(e.SetID))
	case e.Ptrace != nil:
		return appendMessage(m, 13, b.ptrace(e.Ptrace))
	case e.Dup != nil:
		return appendMessage(m, 14, b.dup(e.Dup))
	case e.Namespace != nil:
		return appendMessage(m, 15, b.namespace(e.Namespace))
	case e.FS != nil:
		return appendMessage(m, 16, b.mount(e.FS))
	case e.Memory != nil:
		return appendMessage(m, 17, b.memory(e.Memory))
	case e.Module != nil:
		return appendMessage(m, 18, b.module(e.Module))
	case e.BPF != nil:
		return appendMessage(m, 19, b.bpf(e.BPF))
	case e.IOUring != nil:
		return appendMessage(m, 20, b.iouring(e.IOUring))
	case e.Exec != nil:
		return appendMessage(m, 21, b.exec(e.Exec))
	case e.Stop != nil:
		return appendMessage(m, 22, b.stop(e.Stop))
	}
	return m
}

// runsIn reports whether a process's container is c.
func runsIn(p *event.Process, c *event.Container) bool {
	return p != nil && p.Container != nil && p.Container.ID == c.ID
}

// Late tells at Seal what was not known, or not asked for, at Append. A nil field tells nothing.
type Late struct {
	// Describe returns the description of a container, which has so many of the batch's events, as far as it is known.
	Describe func(c *event.Container, events uint64) event.Container
	// User and Group return the name of a user or a group of a container, "" for the host; "" when it is not known.
	User, Group func(container string, id uint32) string
	// Digest returns what a version of a file holds; the zero Digest when nobody asked.
	Digest func(event.FileVersion) event.Digest
}

// Seal appends the finished batch to dst and returns it; it does not reset the builder. late is asked once for each
// container, user, group and file that the batch names.
func (b *Builder) Seal(dst []byte, h Header, late Late) []byte {
	dst = appendBytes(dst, 1, h.ID.Agent[:])
	dst = appendUint(dst, 2, h.ID.Epoch)
	dst = appendUint(dst, 3, h.ID.Sequence)
	dst = appendMessage(dst, 4, appendHost(nil, &h.Host))
	dst = appendFixed(dst, 5, uint64(b.firstTime))
	dst = append(dst, b.body...)
	told := 0
	for _, c := range b.described {
		full := *c.container
		if late.Describe != nil {
			full = late.Describe(c.container, c.events)
		}
		m := appendWithin(nil, &full, told)
		told += len(m)
		dst = appendMessage(dst, 7, m)
	}
	for i := range h.Updates.Containers {
		dst = appendMessage(dst, 10, appendContainer(nil, &h.Updates.Containers[i]))
	}
	dst = appendMessage(dst, 11, appendLedger(nil, &h.Ledger))
	dst = b.appendAccounts(dst, 12, &b.users, late.User)
	dst = b.appendAccounts(dst, 13, &b.groups, late.Group)
	dst = b.digests.appendTo(dst, 14, late.Digest)
	for i := range h.Updates.Digests {
		dst = appendDigest(dst, 15, &h.Updates.Digests[i])
	}
	dst = appendUint(dst, 16, uint64(h.First))
	return appendUint(dst, 17, uint64(h.Sealed))
}

// ref returns a string's reference, writing the string on its first use.
func (b *Builder) ref(s string) uint32 {
	if s == "" {
		return 0
	}
	if ref, ok := b.strings[s]; ok {
		return ref
	}
	ref := uint32(len(b.strings) + 1)
	b.strings[s] = ref
	b.body = protowire.AppendTag(b.body, 6, protowire.BytesType)
	b.body = protowire.AppendString(b.body, s)
	return ref
}

// appendRef appends a reference to a string. It writes into the body, so it goes with any message in the making.
func (b *Builder) appendRef(m []byte, field protowire.Number, s string) []byte {
	return appendUint(m, field, uint64(b.ref(s)))
}

// process returns a snapshot's place, writing it, after its ancestors, on its first use. depth is how many
// generations it is above the event's process.
func (b *Builder) process(p *event.Process, depth int) place {
	if p == nil || depth > event.MaxAncestors {
		return place{}
	}
	known, ok := b.processes[p.Snapshot]
	if ok && p.Snapshot != 0 && known.reach >= event.MaxAncestors-depth {
		return known
	}
	parent := b.process(p.Parent, depth+1)
	var container uint32
	if p.Container != nil {
		container = b.container(p.Container)
	}
	name, exe, args := b.ref(p.Name), b.ref(p.Exe), b.ref(string(p.Args))
	cwd, script, env := b.ref(p.Cwd), b.ref(p.Script), b.ref(string(p.Env))

	m := b.message[:0]
	m = appendUint(m, 1, uint64(p.PID))
	m = appendUint(m, 2, uint64(p.NSPID))
	m = appendUint(m, 3, p.Start)
	m = appendUint(m, 4, uint64(parent.ref))
	m = appendUint(m, 5, uint64(container))
	m = appendUint(m, 6, uint64(name))
	m = appendUint(m, 7, uint64(exe))
	m = appendUint(m, 8, uint64(args))
	m = appendUint(m, 9, uint64(cwd))
	m = appendUint(m, 10, uint64(script))
	m = appendUint(m, 11, uint64(env))
	m = appendUint(m, 12, uint64(p.UID))
	m = appendUint(m, 13, uint64(p.EUID))
	m = appendUint(m, 14, uint64(p.GID))
	m = appendUint(m, 15, uint64(p.EGID))
	m = appendBool(m, 16, p.ExeDeleted)
	m = appendBool(m, 17, p.Partial)
	m = appendUint(m, 18, uint64(p.Truncated))
	m = appendUint(m, 19, uint64(p.ArgsLength))
	if p.Start == 0 && (p.ID != (event.ID{}) || !p.StartTime.IsZero()) {
		m = appendBytes(m, 20, p.ID[:])
		m = appendFixed(m, 21, unixNano(p.StartTime))
	}
	m = appendBool(m, 22, p.ExeUpperLayer)
	m = appendUint(m, 23, uint64(p.ExeLength))
	m = appendUint(m, 24, uint64(p.CwdLength))
	m = appendBool(m, 25, p.ArgsMasked)
	m = appendUint(m, 26, b.digests.ref(p.ExeVersion, &p.Digest))
	if p.ExeDevice != p.ExeVersion.Device || p.ExeInode != p.ExeVersion.Inode {
		m = appendUint(m, 27, uint64(p.ExeDevice))
		m = appendUint(m, 28, p.ExeInode)
	}
	b.message = m

	b.body = appendMessage(b.body, 8, m)
	b.users.add(container, p.UID, p.User)
	b.groups.add(container, p.GID, p.Group)
	b.entries++
	at := place{ref: b.entries, container: container, reach: reach(p, parent)}
	if p.Snapshot != 0 {
		b.processes[p.Snapshot] = at
	}
	return at
}

// reach is what place.reach becomes for a process whose parent is at a place, or at none because it is too far away.
func reach(p *event.Process, parent place) int {
	switch {
	case p.Parent == nil:
		return event.MaxAncestors
	case parent.ref == 0:
		return 0
	}
	return min(parent.reach+1, event.MaxAncestors)
}

func (b *Builder) container(c *event.Container) uint32 {
	if ref, ok := b.containers[c.ID]; ok {
		return ref
	}
	b.described = append(b.described, inContainer{container: c})
	ref := uint32(len(b.described))
	b.containers[c.ID] = ref
	return ref
}

func (b *Builder) file(f *event.File) []byte {
	m := b.appendRef(b.nested[:0], 1, f.Path)
	m = appendUint(m, 2, uint64(f.Flags))
	m = appendUint(m, 3, uint64(f.Device))
	m = appendUint(m, 4, f.Inode)
	m = appendBool(m, 5, f.Unverified)
	m = appendUint(m, 6, uint64(f.Truncated))
	m = b.appendRef(m, 7, f.Target)
	m = appendUint(m, 8, uint64(f.RenameFlags))
	m = appendOptional(m, 9, f.Mode)
	m = appendOptional(m, 10, f.UID)
	m = appendOptional(m, 11, f.GID)
	m = appendBool(m, 12, f.Directory)
	m = appendBool(m, 13, f.UpperLayer)
	m = appendUint(m, 14, uint64(f.PathLength))
	m = appendUint(m, 15, uint64(f.TargetLength))
	b.nested = m
	return m
}

func (b *Builder) net(n *event.Net) []byte {
	m := appendSocketField(b.nested[:0], &n.Socket)
	m = b.appendRef(m, 2, n.Path)
	m = appendBool(m, 3, n.Unverified)
	m = appendUint(m, 4, uint64(n.Truncated))
	m = appendUint(m, 5, uint64(n.Backlog))
	b.nested = m
	return m
}

func (b *Builder) dns(d *event.DNS) []byte {
	m := appendSocketField(b.nested[:0], &d.Socket)
	m = appendUint(m, 2, uint64(d.ID))
	m = appendUint(m, 3, uint64(d.Rcode))
	for i := range d.Questions {
		q := &d.Questions[i]
		name, kind := uint64(b.ref(q.Name)), uint64(b.ref(q.Type))
		m = protowire.AppendTag(m, 4, protowire.BytesType)
		m = protowire.AppendVarint(m, uint64(sizeUint(1, name)+sizeUint(2, kind)))
		m = appendUint(m, 1, name)
		m = appendUint(m, 2, kind)
	}
	for i := range d.Answers {
		a := &d.Answers[i]
		name, kind, data := uint64(b.ref(a.Name)), uint64(b.ref(a.Type)), uint64(b.ref(a.Data))
		ttl := uint64(a.TTL)
		m = protowire.AppendTag(m, 5, protowire.BytesType)
		m = protowire.AppendVarint(m, uint64(sizeUint(1, name)+sizeUint(2, kind)+sizeUint(3, ttl)+sizeUint(4, data)))
		m = appendUint(m, 1, name)
		m = appendUint(m, 2, kind)
		m = appendUint(m, 3, ttl)
		m = appendUint(m, 4, data)
	}
	m = appendBytes(m, 6, d.Payload)
	m = appendUint(m, 7, uint64(d.Truncated))
	m = appendBool(m, 8, d.Malformed)
	b.nested = m
	return m
}

// appendSocketField appends s as field 1 of a message.
func appendSocketField(m []byte, s *event.Socket) []byte {
	size := sizeUint(1, uint64(s.Family)) + sizeUint(2, uint64(s.Type)) + sizeUint(3, uint64(s.Protocol)) +
		sizeAddr(s.RemoteIP) + sizeUint(5, uint64(s.RemotePort)) + sizeAddr(s.LocalIP) + sizeUint(7, uint64(s.LocalPort))
	m = protowire.AppendTag(m, 1, protowire.BytesType)
	m = protowire.AppendVarint(m, uint64(size))
	m = appendUint(m, 1, uint64(s.Family))
	m = appendUint(m, 2, uint64(s.Type))
	m = appendUint(m, 3, uint64(s.Protocol))
	m = appendAddr(m, 4, s.RemoteIP)
	m = appendUint(m, 5, uint64(s.RemotePort))
	m = appendAddr(m, 6, s.LocalIP)
	return appendUint(m, 7, uint64(s.LocalPort))
}

func appendAddr(m []byte, field protowire.Number, addr netip.Addr) []byte {
	switch {
	case addr.Is4():
		ip := addr.As4()
		return appendBytes(m, field, ip[:])
	case addr.Is6():
		ip := addr.As16()
		return appendBytes(m, field, ip[:])
	}
	return m
}

// sizeAddr is the size of what appendAddr appends for a field number below 16.
func sizeAddr(addr netip.Addr) int {
	switch {
	case addr.Is4():
		return 2 + 4
	case addr.Is6():
		return 2 + 16
	}
	return 0
}

func appendHost(m []byte, h *event.Host) []byte {
	m = appendText(m, 1, h.InstanceID)
	m = appendText(m, 2, h.AccountID)
	m = appendText(m, 3, h.Region)
	m = appendText(m, 4, h.MachineID)
	m = appendText(m, 5, h.Hostname)
	m = appendBytes(m, 6, h.BootID[:])
	return appendFixed(m, 7, unixNano(h.BootTime))
}

func appendAgent(m []byte, a *event.Agent) []byte {
	m = appendText(m, 1, a.Version)
	m = appendText(m, 2, a.Stage)
	m = appendText(m, 3, a.Cause)
	m = appendUint(m, 4, uint64(a.Lost))
	m = appendUint(m, 5, a.Count)
	m = appendFixed(m, 6, unixNano(a.From))
	m = appendFixed(m, 7, unixNano(a.To))
	for i := range a.Sources {
		s := &a.Sources[i]
		var n []byte
		n = appendUint(n, 1, uint64(s.Kind))
		n = appendText(n, 2, s.Via)
		n = appendBool(n, 3, s.Healthy)
		n = appendText(n, 4, s.Reason)
		m = appendMessage(m, 8, n)
	}
	m = appendText(m, 9, a.Phase)
	m = appendString(m, 10, a.Cgroup)
	for i := range a.Dropped {
		n := appendUint(nil, 1, uint64(a.Dropped[i].Kind))
		m = appendMessage(m, 11, appendUint(n, 2, a.Dropped[i].Count))
	}
	if a.Instance != nil {
		m = appendMessage(m, 12, appendInstance(nil, a.Instance))
	}
	if a.Heartbeat != nil {
		m = appendMessage(m, 13, appendHeartbeat(nil, a.Heartbeat))
	}
	return m
}

func appendLedger(m []byte, l *Ledger) []byte {
	m = appendUint(m, 1, l.Observed)
	for i := range l.Lost {
		loss := &l.Lost[i]
		var n []byte
		n = appendText(n, 1, loss.Stage)
		n = appendText(n, 2, loss.Cause)
		n = appendUint(n, 3, uint64(loss.Kind))
		n = appendUint(n, 4, loss.Count)
		m = appendMessage(m, 2, n)
	}
	return m
}

// The helpers below write one field of proto3: a zero value is left out.

func appendUint(m []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return m
	}
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), v)
}

func sizeUint(field protowire.Number, v uint64) int {
	if v == 0 {
		return 0
	}
	return protowire.SizeTag(field) + protowire.SizeVarint(v)
}

// appendOptional appends a number plus one, so that 0 is unknown.
func appendOptional[T ~uint16 | ~uint32](m []byte, field protowire.Number, v event.Optional[T]) []byte {
	if !v.Known {
		return m
	}
	return appendUint(m, field, uint64(v.Value)+1)
}

func appendBool(m []byte, field protowire.Number, v bool) []byte {
	return appendUint(m, field, protowire.EncodeBool(v))
}

func appendFixed(m []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return m
	}
	return protowire.AppendFixed64(protowire.AppendTag(m, field, protowire.Fixed64Type), v)
}

func appendString(m []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return m
	}
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), s)
}

// appendText appends a field of type string, which must be UTF-8: a batch with one that is not would be refused.
func appendText(m []byte, field protowire.Number, s string) []byte {
	return appendString(m, field, strings.ToValidUTF8(s, "\uFFFD"))
}

func appendBytes(m []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return m
	}
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), v)
}

// appendMessage appends a nested message, also an empty one: its presence counts.
func appendMessage(m []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), v)
}
