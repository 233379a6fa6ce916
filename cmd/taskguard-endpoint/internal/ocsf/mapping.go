// Package ocsf turns events into rows of the Open Cybersecurity Schema Framework, version 1.2.0 (schema.ocsf.io), and
// back.
//
// It promises: every row is valid by the schema, with the profiles that it names; a row's metadata.uid is that of one
// event, wherever and how often it is made; and unmapped has the event as it was, so that nothing is lost.
package ocsf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// Version is that of the schema.
const Version = "1.2.0"

const vendor = "TaskGuard"

// Numbers of the schema that several classes have.
const (
	activityOther    = 99
	severityInfo     = 1
	statusSuccess    = 1
	statusFailure    = 2
	deviceVirtual    = 6
	osLinux          = 200
	accountAWS       = 10
	fileUnknown      = 0
	fileRegular      = 1
	fileFolder       = 2
	sha256           = 3
	otherFingerprint = 99
	userUser         = 1
	userAdmin        = 2
)

// From returns the row of event i of a batch, which it keeps no reference to.
func From(b *batch.Batch, i int) (Row, error) {
	e := &b.Events[i]
	text, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("make row of event: %w", err)
	}
	row, activity := classify(e)
	class := row.Of()
	host := &b.Host
	if e.Host != nil {
		host = e.Host
	}
	c := row.common()
	c.ActivityID, c.ActivityName = activity, activityName(class.UID, activity)
	c.CategoryUID, c.CategoryName, c.ClassUID, c.ClassName = class.CategoryUID, class.CategoryName, class.UID, class.Caption
	c.TypeUID = int64(class.UID)*100 + int64(activity)
	c.SeverityID, c.Severity = severityInfo, "Informational"
	c.StatusID, c.Status = statusSuccess, "Success"
	if e.Result != 0 {
		c.StatusID, c.Status, c.StatusCode = statusFailure, "Failure", errnoName(e.Result)
	}
	c.Time, c.TimeDT = e.Time.UnixMilli(), e.Time.UTC().Truncate(time.Microsecond)
	c.Device, c.Cloud = device(host), cloud(host)
	c.Metadata = Metadata{
		Version: Version, Product: Product{VendorName: vendor, Name: "TaskGuard", UID: b.ID.Agent.String()},
		UID:       fmt.Sprintf("%s-%d-%d-%d", b.ID.Agent, b.ID.Epoch, b.ID.Sequence, uint64(b.First)+uint64(i)),
		EventCode: e.Kind.String(), Profiles: []string{"container", "datetime", "host", "linux/linux_users"},
	}
	if c.Cloud != nil {
		c.Metadata.Profiles = append([]string{"cloud"}, c.Metadata.Profiles...)
	}
	if class.UID == (*ApplicationLifecycle)(nil).Of().UID {
		c.Device.Container = container(e.Container)
	}
	c.Unmapped = Object(text)
	return row, nil
}

// Event returns the event that a row was made of.
func (o Object) Event() (*event.Event, error) {
	e := new(event.Event)
	if err := json.Unmarshal([]byte(o), e); err != nil {
		return nil, fmt.Errorf("read event of row: %w", err)
	}
	return e, nil
}

// Classes returns an empty row of every class.
func Classes() []Row {
	return []Row{
		&FileActivity{}, &KernelExtension{}, &KernelActivity{}, &MemoryActivity{}, &ModuleActivity{},
		&ProcessActivity{}, &NetworkActivity{}, &DNSActivity{}, &ApplicationLifecycle{},
	}
}

// activityName returns the caption of an activity of a class.
func activityName(class, activity int32) string {
	names := map[int32]map[int32]string{
		1001: {1: "Create", 4: "Delete", 5: "Rename", 6: "Set Attributes", 7: "Set Security", 12: "Mount", 13: "Unmount", 14: "Open"},
		1002: {1: "Load"},
		1003: {1: "Create", 4: "Invoke"},
		1004: {1: "Allocate Page", 2: "Modify Page", 7: "Read", 8: "Write"},
		1005: {1: "Load"},
		1007: {1: "Launch", 2: "Terminate", 3: "Open", 5: "Set User ID"},
		4001: {1: "Open", 4: "Fail", 5: "Refuse", 6: "Traffic"},
		4003: {1: "Query", 2: "Response"},
		6002: {1: "Install", 3: "Start", 4: "Stop"},
	}
	if name, ok := names[class][activity]; ok {
		return name
	}
	return "Other"
}

// classify returns the row of an event, with what only its class has, and its activity.
func classify(e *event.Event) (Row, int32) {
	switch e.Kind {
	case event.ProcessExec, event.ProcessFork, event.ProcessExit, event.ProcessSetID, event.ProcessPtrace,
		event.ProcessDup, event.ProcessNamespace:
		return processActivity(e)
	case event.FileOpen, event.FileRename, event.FileLink, event.FileSymlink, event.FileUnlink, event.FileChmod,
		event.FileChown, event.FSMount, event.FSUmount:
		return fileActivity(e)
	case event.NetSocket, event.NetConnect, event.NetAccept, event.NetBind, event.NetListen, event.NetSend:
		return networkActivity(e)
	case event.DNSQuery, event.DNSResponse:
		return dnsActivity(e)
	case event.MemoryMap, event.MemoryProtect, event.MemoryVMRead, event.MemoryVMWrite, event.MemoryMemfd, event.MemoryUserfaultfd:
		return memoryActivity(e)
	case event.ModuleLoad:
		return kernelExtension(e)
	case event.BPFLoad, event.IOUringSetup:
		return kernelActivity(e)
	}
	return applicationLifecycle(e)
}

func processActivity(e *event.Event) (Row, int32) {
	r := &ProcessActivity{Process: process(e.Process, e.Container)}
	activity := int32(activityOther)
	switch e.Kind {
	case event.ProcessExec, event.ProcessFork:
		activity, r.Actor = 1, parent(e)
	case event.ProcessExit:
		activity = 2
		if e.Process != nil && e.Process.Exit.Ended {
			code := int32(e.Process.Exit.Code)
			if signal := e.Process.Exit.Signal; signal != 0 {
				code = 128 + int32(signal)
			}
			r.ExitCode = &code
		}
	case event.ProcessSetID:
		activity, r.Actor = 5, actor(e)
	case event.ProcessPtrace:
		activity, r.Actor = 3, actor(e)
		r.Process = target(e)
	default:
		r.Actor = actor(e)
	}
	return r, activity
}

func fileActivity(e *event.Event) (Row, int32) {
	r := &FileActivity{Common: Common{Actor: actor(e)}, File: File{TypeID: fileUnknown, Name: "unknown"}}
	activities := map[event.Kind]int32{
		event.FileOpen: 14, event.FileRename: 5, event.FileLink: 1, event.FileSymlink: 1, event.FileUnlink: 4,
		event.FileChmod: 6, event.FileChown: 7, event.FSMount: 12, event.FSUmount: 13,
	}
	if f := e.File; f != nil {
		r.File, r.AccessMask = file(f.Path), int64(f.Flags)
		if f.Directory {
			r.File.TypeID = fileFolder
		}
		if f.Target != "" {
			result := file(f.Target)
			r.FileResult = &result
		}
	}
	if m := e.FS; m != nil {
		r.File = file(m.Target)
		r.File.TypeID = fileFolder
	}
	return r, activities[e.Kind]
}

func networkActivity(e *event.Event) (Row, int32) {
	r := &NetworkActivity{Common: Common{Actor: actor(e)}}
	activity := int32(activityOther)
	direction := int32(0)
	switch e.Kind {
	case event.NetConnect:
		activity, direction = 1, 2
	case event.NetAccept:
		activity, direction = 1, 1
	case event.NetSend:
		activity, direction = 6, 2
	}
	switch {
	case activity != 1 || e.Result == 0 || e.Result == int32(syscall.EINPROGRESS):
	case e.Result == int32(syscall.ECONNREFUSED):
		activity = 5
	default:
		activity = 4
	}
	n := e.Net
	if n == nil {
		n = &event.Net{}
	}
	local, remote := endpoint(n.LocalIP, n.LocalPort, ""), endpoint(n.RemoteIP, n.RemotePort, n.Path)
	r.Src, r.Dst = local, remote
	if direction == 1 {
		r.Src, r.Dst = remote, local
	}
	r.ConnectionInfo = connection(&n.Socket, direction)
	return r, activity
}

func dnsActivity(e *event.Event) (Row, int32) {
	r := &DNSActivity{Common: Common{Actor: actor(e)}}
	d := e.DNS
	if d == nil {
		d = &event.DNS{}
	}
	activity, direction := int32(1), int32(2)
	r.Src, r.Dst = endpoint(d.LocalIP, d.LocalPort, ""), endpoint(d.RemoteIP, d.RemotePort, "")
	if e.Kind == event.DNSResponse {
		activity, direction = 2, 1
		code := int32(d.Rcode)
		if code > 24 || code > 11 && code < 16 { // not in the schema
			code = 99
		}
		r.RcodeID = &code
	}
	r.ConnectionInfo = connection(&d.Socket, direction)
	if len(d.Questions) > 0 {
		r.Query = &DNSQuery{Hostname: text(d.Questions[0].Name), Type: text(d.Questions[0].Type), PacketUID: int64(d.ID)}
	}
	for _, a := range d.Answers {
		r.Answers = append(r.Answers, DNSAnswer{RData: text(a.Data), Type: text(a.Type), TTL: int64(a.TTL), PacketUID: int64(d.ID)})
	}
	return r, activity
}

// memoryActivity is that of memory, or, when a file is mapped as code, of a module.
func memoryActivity(e *event.Event) (Row, int32) {
	m := e.Memory
	if m == nil {
		m = &event.Memory{}
	}
	if e.Kind == event.MemoryMap && m.Path != "" {
		f := hashed(file(m.Path), m.Digest)
		return &ModuleActivity{Common: Common{Actor: actor(e)}, Module: Module{
			LoadTypeID: 4, BaseAddress: m.Address.String(), File: &f,
		}}, 1
	}
	r := &MemoryActivity{
		Common: Common{Actor: actor(e)}, Process: process(e.Process, e.Container), BaseAddress: m.Address.String(),
		Size: int64(m.Length), RequestedPermissions: int64(m.Protection),
	}
	activity := int32(activityOther)
	switch e.Kind {
	case event.MemoryMap, event.MemoryMemfd:
		activity = 1
	case event.MemoryProtect:
		activity = 2
	case event.MemoryVMRead:
		activity, r.Process = 7, target(e)
	case event.MemoryVMWrite:
		activity, r.Process = 8, target(e)
	}
	return r, activity
}

func kernelExtension(e *event.Event) (Row, int32) {
	r := &KernelExtension{Common: Common{Actor: actor(e)}, Driver: Driver{File: File{TypeID: fileUnknown, Name: "unknown"}}}
	if m := e.Module; m != nil {
		r.Driver.File = hashed(file(m.Path), m.Digest)
		if m.Path == "" && m.Name != "" {
			r.Driver.File = File{TypeID: fileUnknown, Name: text(m.Name)}
		}
	}
	return r, 1
}

func kernelActivity(e *event.Event) (Row, int32) {
	r := &KernelActivity{Common: Common{Actor: actor(e)}}
	if e.Kind == event.BPFLoad {
		r.Kernel = Kernel{Name: "bpf", TypeID: 99, SystemCall: "bpf"}
		if e.BPF != nil && e.BPF.Name != "" {
			r.Kernel.Name = text(e.BPF.Name)
		}
		return r, 1
	}
	r.Kernel = Kernel{Name: "io_uring", TypeID: 2, SystemCall: "io_uring_setup"}
	return r, 4
}

func applicationLifecycle(e *event.Event) (Row, int32) {
	r := &ApplicationLifecycle{Common: Common{Actor: actor(e)}, App: Product{VendorName: vendor, Name: "taskguard-agent"}}
	if e.Agent != nil {
		r.App.Version = text(e.Agent.Version)
	}
	if c := e.Container; c != nil && strings.HasPrefix(e.Kind.String(), "container.") {
		r.App = Product{VendorName: "unknown", Name: text(c.Image), UID: text(c.ID)}
	}
	switch e.Kind {
	case event.ContainerCreate:
		return r, 1
	case event.AgentStart, event.ContainerStart:
		return r, 3
	case event.ContainerStop:
		return r, 4
	}
	return r, activityOther
}

// actor is the process that did it.
func actor(e *event.Event) *Actor {
	if e.Process == nil {
		return &Actor{AppName: "unknown"}
	}
	p := process(e.Process, e.Container)
	return &Actor{Process: &p}
}

// parent is the actor of what a process came from, nil if it is not known.
func parent(e *event.Event) *Actor {
	if e.Process == nil || len(e.Process.Ancestors) == 0 {
		return nil
	}
	a := e.Process.Ancestors[0]
	p := Process{UID: id(a.ID), PID: int64(a.PID), Name: text(a.Name), File: executable(a.Exe)}
	return &Actor{Process: &p}
}

// target is the process that it was done to: what is known of it, or the number that the caller gave.
func target(e *event.Event) Process {
	switch {
	case e.Target != nil:
		return process(e.Target, e.Target.Container)
	case e.Ptrace != nil:
		return Process{PID: int64(e.Ptrace.PID)}
	case e.Memory != nil:
		return Process{PID: int64(e.Memory.PID)}
	}
	return Process{}
}

func process(p *event.Process, in *event.Container) Process {
	if p == nil {
		return Process{}
	}
	euid, egid := int64(p.EUID), int64(p.EGID)
	out := Process{
		UID: id(p.ID), PID: int64(p.PID), NamespacePID: int64(p.NSPID), Name: text(p.Name),
		CmdLine: text(strings.Join(p.Args.Split(), " ")), File: executable(p.Exe), Container: container(in),
		User:  &User{UID: strconv.FormatUint(uint64(p.UID), 10), Name: text(p.User), TypeID: userUser},
		Group: &Group{UID: strconv.FormatUint(uint64(p.GID), 10), Name: text(p.Group)}, EUID: &euid, EGID: &egid,
	}
	if p.UID == 0 {
		out.User.TypeID = userAdmin
	}
	if out.File != nil {
		*out.File = hashed(*out.File, p.Digest)
	}
	if !p.StartTime.IsZero() {
		out.CreatedTime = p.StartTime.UnixMilli()
	}
	for i, a := range p.Ancestors {
		if i == 0 {
			out.ParentProcess = &ParentProcess{UID: id(a.ID), PID: int64(a.PID), Name: text(a.Name), File: executable(a.Exe)}
		}
		out.Lineage = append(out.Lineage, text(a.Exe))
	}
	return out
}

func id(v event.ID) string {
	if v == (event.ID{}) {
		return ""
	}
	return v.String()
}

func executable(exe string) *File {
	if exe == "" {
		return nil
	}
	f := file(exe)
	f.TypeID = fileRegular
	return &f
}

func file(name string) File {
	name = text(name)
	if name == "" {
		return File{TypeID: fileUnknown, Name: "unknown"}
	}
	return File{TypeID: fileUnknown, Name: path.Base(name), Path: name}
}

// hashed adds what is known of a file's content.
func hashed(f File, d event.Digest) File {
	f.Hashes = nil
	if d.SHA256 != "" {
		f.Hashes = append(f.Hashes, Fingerprint{sha256, d.SHA256})
	}
	if d.FSVerity != "" {
		f.Hashes = append(f.Hashes, Fingerprint{otherFingerprint, text(d.FSVerity)})
	}
	return f
}

func container(c *event.Container) *Container {
	if c == nil || c.ID == "" && c.Name == "" {
		return nil
	}
	out := &Container{UID: text(c.ID), Name: text(c.Name), Runtime: text(c.Runtime)}
	if c.Image != "" || c.ImageID != "" {
		out.Image = &Image{UID: text(c.ImageID), Name: text(c.Image)}
		if out.Image.UID == "" {
			out.Image.UID = text(c.Image)
		}
	}
	if _, digest, ok := strings.Cut(c.ImageDigest, "sha256:"); ok {
		out.Hash = &Fingerprint{sha256, text(digest)}
	}
	if c.ECS != nil {
		out.Orchestrator = "ECS"
	}
	return out
}

func device(h *event.Host) Device {
	d := Device{
		UID: text(h.MachineID), InstanceUID: text(h.InstanceID), Hostname: text(h.Hostname), Region: text(h.Region),
		OS: OS{Name: "Linux", TypeID: osLinux},
	}
	if h.InstanceID != "" {
		d.TypeID = deviceVirtual
	}
	if d.UID == "" && d.InstanceUID == "" && d.Hostname == "" {
		d.Hostname = "unknown"
	}
	return d
}

func cloud(h *event.Host) *Cloud {
	if h.AccountID == "" && h.InstanceID == "" {
		return nil
	}
	c := &Cloud{Provider: "AWS", Region: text(h.Region)}
	if h.AccountID != "" {
		c.Account = &Account{UID: text(h.AccountID), TypeID: accountAWS}
	}
	return c
}

// endpoint is one side of a connection. It has a name at least, as the schema wants one of several.
func endpoint(ip netip.Addr, port uint16, name string) Endpoint {
	out := Endpoint{Port: int32(port), Name: text(name)}
	if ip.IsValid() {
		out.IP = ip.String()
	} else if out.Name == "" {
		out.Name = "unknown"
	}
	return out
}

func connection(s *event.Socket, direction int32) ConnectionInfo {
	c := ConnectionInfo{DirectionID: direction, ProtocolNum: int32(s.Protocol)}
	switch s.Family {
	case unix.AF_INET:
		c.ProtocolVerID = 4
	case unix.AF_INET6:
		c.ProtocolVerID = 6
	default:
		c.ProtocolVerID, c.ProtocolVer = 99, s.Family.String()
	}
	return c
}

func errnoName(errno int32) string {
	if name := unix.ErrnoName(syscall.Errno(errno)); name != "" {
		return name
	}
	return strconv.Itoa(int(errno))
}

// text is a process's or a remote party's bytes as a string of Parquet and JSON.
func text(s string) string {
	return strings.ToValidUTF8(s, "\uFFFD")
}
