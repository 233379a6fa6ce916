package ocsf

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// MaxOriginal bounds unmapped in bytes as far as containers go: a longer event keeps only who its container is. Without
// it a batch could have one long description in each of its events.
const MaxOriginal = 64 << 10

// From gives the event at index of what was sealed as the batch with the header h, which was stored at that time. It
// refers to e.
func From(h *batch.Header, index uint32, stored time.Time, e *event.Event) (*Event, error) {
	text, err := original(e)
	if err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	m := mapper{Event: Event{Unmapped: text}, e: e, host: e.Host}
	if m.host == nil {
		m.host = &h.Host
	}
	m.origin(h, index, stored)
	m.where()
	m.what()
	if m.ClassUID == baseEvent.uid { // which has neither
		m.Actor, m.Device = nil, nil
	}
	return &m.Event, nil
}

// Original reads the event back that o was made from.
func (o *Event) Original() (*event.Event, error) {
	var e event.Event
	if err := json.Unmarshal(o.Unmapped, &e); err != nil {
		return nil, fmt.Errorf("decode original event: %w", err)
	}
	return &e, nil
}

func original(e *event.Event) ([]byte, error) {
	text, err := json.Marshal(e)
	if err != nil || len(text) <= MaxOriginal || e.Container == nil {
		return text, err
	}
	short, c := *e, e.Container
	short.Container = &event.Container{
		ID: c.ID, Name: c.Name, Image: c.Image, ImageID: c.ImageID, ImageDigest: c.ImageDigest, Runtime: c.Runtime,
		Truncated: true, Pending: c.Pending,
	}
	if c.ECS != nil {
		short.Container.ECS = &event.ECS{
			Cluster: c.ECS.Cluster, ClusterARN: c.ECS.ClusterARN, TaskARN: c.ECS.TaskARN, TaskID: c.ECS.TaskID,
			Family: c.ECS.Family, Revision: c.ECS.Revision, Container: c.ECS.Container, Service: c.ECS.Service,
		}
	}
	return json.Marshal(&short)
}

// mapper makes one event.
type mapper struct {
	Event
	e    *event.Event
	host *event.Host
}

// class is a class of the schema.
type class struct {
	uid, category int32
	name          string
}

var (
	baseEvent            = class{0, 0, "Base Event"}
	fileActivity         = class{1001, 1, "File System Activity"}
	kernelExtension      = class{1002, 1, "Kernel Extension Activity"}
	kernelActivity       = class{1003, 1, "Kernel Activity"}
	memoryActivity       = class{1004, 1, "Memory Activity"}
	moduleActivity       = class{1005, 1, "Module Activity"}
	processActivity      = class{1007, 1, "Process Activity"}
	networkActivity      = class{4001, 4, "Network Activity"}
	dnsActivity          = class{4003, 4, "DNS Activity"}
	applicationLifecycle = class{6002, 6, "Application Lifecycle"}

	categories = map[int32]string{
		0: "Uncategorized", 1: "System Activity", 4: "Network Activity", 6: "Application Activity",
	}
)

// other is the activity of every class that the schema has no number for; the event's kind is its name.
const other = 99

// as says what class and activity the event is.
func (m *mapper) as(c class, activity int32, name string) {
	m.ClassUID, m.ClassName = c.uid, c.name
	m.CategoryUID, m.CategoryName = c.category, categories[c.category]
	m.ActivityID, m.ActivityName = activity, name
	m.TypeUID = int64(c.uid)*100 + int64(activity)
}

func (m *mapper) asOther(c class) { m.as(c, other, m.e.Kind.String()) }

func (m *mapper) origin(h *batch.Header, index uint32, stored time.Time) {
	m.Time = m.e.Time.UnixMilli()
	m.Metadata = Metadata{
		Version:   Version,
		Product:   Product{VendorName: "TaskGuard", Name: "TaskGuard", UID: h.ID.Agent.String()},
		UID:       fmt.Sprintf("%s/%d/%d/%d", h.ID.Agent, h.ID.Epoch, h.ID.Sequence, index),
		EventCode: m.e.Kind.String(),
		Profiles:  []string{"host", "linux/linux_users"},
	}
	m.logged(stored)
	m.severity(1, "Informational")
	m.outcome()
}

// logged sets when the event was stored; the zero time is unknown.
func (m *mapper) logged(stored time.Time) {
	if !stored.IsZero() {
		m.Metadata.LoggedTime = stored.UnixMilli()
	}
}

func (m *mapper) severity(id int32, name string) { m.SeverityID, m.Severity = id, name }

// inProgress is EINPROGRESS: connect(2) of a socket that does not block goes on.
const inProgress = 115

func (m *mapper) outcome() {
	switch m.e.Result {
	case 0:
		m.StatusID, m.Status = 1, "Success"
		return
	case inProgress:
		m.StatusID, m.Status = 0, "Unknown"
	default:
		m.StatusID, m.Status = 2, "Failure"
	}
	m.StatusCode = strconv.Itoa(int(m.e.Result))
}

// Device types of the schema, and its number for Linux.
const (
	deviceUnknown = 0
	deviceVirtual = 6
	linux         = 200
	awsAccount    = 10
)

// where says on which host, and in which container.
func (m *mapper) where() {
	h := m.host
	m.Device = &Device{
		TypeID: deviceUnknown, UID: h.InstanceID, InstanceUID: h.InstanceID, Hostname: h.Hostname, Region: h.Region,
		OS: OS{Name: "Linux", TypeID: linux},
	}
	if h.InstanceID != "" {
		m.Device.TypeID = deviceVirtual
	} else if m.Device.UID = h.MachineID; h.MachineID == "" {
		m.Device.UID = m.Metadata.Product.UID
	}
	if h.AccountID != "" || h.Region != "" {
		m.Metadata.Profiles = append(m.Metadata.Profiles, "cloud")
		m.Cloud = &Cloud{Provider: "AWS", Region: h.Region}
		if h.AccountID != "" {
			m.Cloud.Account = &Account{UID: h.AccountID, TypeID: awsAccount}
		}
	}
	if m.e.Container != nil {
		m.Metadata.Profiles = append(m.Metadata.Profiles, "container")
		m.Device.Container = containerOf(m.e.Container)
	}
}

// or returns p, or a zero value instead of nil.
func or[T any](p *T) *T {
	if p == nil {
		return new(T)
	}
	return p
}
