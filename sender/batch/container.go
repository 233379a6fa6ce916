package batch

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch/batchpb"
)

const (
	// maxDescribed is how many bytes of a batch tell of its containers in full, and maxBrief in full or briefly. The rest are
	// told apart by their ids.
	maxDescribed = 1 << 20
	maxBrief     = 3 << 20
)

// appendWithin appends a container: less of it the more bytes were told of others.
func appendWithin(m []byte, c *event.Container, told int) []byte {
	before := len(m)
	m = appendContainer(m, c)
	if told+len(m)-before <= maxDescribed {
		return m
	}
	brief := event.Container{
		ID: c.ID, Name: c.Name, Image: c.Image, ImageID: c.ImageID, Runtime: c.Runtime, Pending: c.Pending, Truncated: true,
	}
	if c.ECS != nil {
		task := *c.ECS
		task.Tags = nil
		brief.ECS = &task
	}
	if m = appendContainer(m[:before], &brief); told+len(m)-before <= maxBrief {
		return m
	}
	return appendContainer(m[:before], &event.Container{ID: c.ID, Runtime: c.Runtime, Pending: c.Pending, Truncated: true})
}

// ContainerSize returns how many bytes a container takes in a batch's updates.
func ContainerSize(c *event.Container) int { return len(appendContainer(nil, c)) }

func appendContainer(m []byte, c *event.Container) []byte {
	m = appendText(m, 1, c.ID)
	m = appendString(m, 2, c.Name)
	m = appendString(m, 3, c.Image)
	m = appendString(m, 4, c.ImageID)
	m = appendText(m, 5, c.Runtime)
	if c.ECS != nil {
		m = appendMessage(m, 6, appendECS(nil, c.ECS))
	}
	m = appendBool(m, 7, c.Pending)
	m = appendString(m, 8, c.ImageDigest)
	m = appendString(m, 9, string(c.Command))
	m = appendFixed(m, 10, unixNano(c.CreatedAt))
	m = appendFixed(m, 11, unixNano(c.StartedAt))
	m = appendUint(m, 12, uint64(c.Restarts))
	m = appendTags(m, 13, c.Labels)
	for _, p := range c.Ports {
		n := appendUint(nil, 1, uint64(p.Port))
		n = appendText(n, 2, p.Protocol)
		n = appendAddr(n, 3, p.HostIP)
		m = appendMessage(m, 14, appendUint(n, 4, uint64(p.HostPort)))
	}
	for _, network := range c.Networks {
		n := appendString(nil, 1, network.Name)
		n = appendAddr(n, 2, network.IP)
		n = appendAddr(n, 3, network.IPv6)
		m = appendMessage(m, 15, appendString(n, 4, network.MAC))
	}
	for _, mount := range c.Mounts {
		n := appendString(nil, 1, mount.Type)
		n = appendString(n, 2, mount.Source)
		n = appendString(n, 3, mount.Destination)
		m = appendMessage(m, 16, appendBool(n, 4, mount.ReadOnly))
	}
	if c.Posture != nil {
		m = appendMessage(m, 17, appendPosture(nil, c.Posture))
	}
	return appendBool(m, 18, c.Truncated)
}

func appendPosture(m []byte, p *event.Posture) []byte {
	m = appendBool(m, 1, p.Privileged)
	m = appendStrings(m, 2, p.CapabilitiesAdded)
	m = appendStrings(m, 3, p.CapabilitiesDropped)
	m = appendString(m, 4, p.PIDMode)
	m = appendString(m, 5, p.NetworkMode)
	m = appendString(m, 6, p.IPCMode)
	m = appendString(m, 7, p.UTSMode)
	m = appendString(m, 8, p.UserMode)
	m = appendString(m, 9, p.CgroupMode)
	m = appendBool(m, 10, p.NoNewPrivileges)
	m = appendString(m, 11, p.Seccomp)
	m = appendString(m, 12, p.AppArmor)
	m = appendString(m, 13, p.User)
	m = appendBool(m, 14, p.ReadOnlyRoot)
	m = appendStrings(m, 15, p.Devices)
	for _, c := range p.Credentials {
		m = appendMessage(m, 16, appendString(appendString(nil, 1, c.Name), 2, c.Kind))
	}
	return appendUint(m, 17, uint64(p.Traits))
}

func appendECS(m []byte, e *event.ECS) []byte {
	m = appendString(m, 1, e.Cluster)
	m = appendString(m, 2, e.TaskARN)
	m = appendString(m, 3, e.TaskID)
	m = appendString(m, 4, e.Family)
	m = appendString(m, 5, e.Revision)
	m = appendString(m, 6, e.Container)
	m = appendString(m, 7, e.ClusterARN)
	m = appendString(m, 8, e.ContainerInstanceARN)
	m = appendString(m, 9, e.Service)
	m = appendString(m, 10, e.LaunchType)
	m = appendString(m, 11, e.DesiredStatus)
	m = appendString(m, 12, e.KnownStatus)
	m = appendFixed(m, 13, unixNano(e.StartedAt))
	m = appendTags(m, 14, e.Tags)
	m = appendUint(m, 15, uint64(e.Sources.Cgroup))
	m = appendUint(m, 16, uint64(e.Sources.Metadata))
	m = appendUint(m, 17, uint64(e.Sources.Introspection))
	m = appendUint(m, 18, uint64(e.Sources.Label))
	return appendBool(m, 19, e.Disputed)
}

func appendTags(m []byte, field protowire.Number, tags []event.Tag) []byte {
	for _, t := range tags {
		m = appendMessage(m, field, appendString(appendString(nil, 1, t.Key), 2, t.Value))
	}
	return m
}

// appendStrings appends a repeated field, in which an empty string counts.
func appendStrings(m []byte, field protowire.Number, list []string) []byte {
	for _, s := range list {
		m = protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), s)
	}
	return m
}

func (d *decoder) describe(c *batchpb.Container) event.Container {
	out := event.Container{
		ID: c.Id, Name: string(c.Name), Image: string(c.Image), ImageID: string(c.ImageId),
		ImageDigest: string(c.ImageDigest), Runtime: c.Runtime, Command: event.Argv(c.Command),
		CreatedAt: unixTime(c.CreatedAt), StartedAt: unixTime(c.StartedAt), Restarts: c.Restarts,
		Labels: tagsOf(c.Labels), Truncated: c.Truncated, Pending: c.Pending,
	}
	if c.Ecs != nil {
		out.ECS = ecsOf(c.Ecs)
	}
	if c.Posture != nil {
		out.Posture = postureOf(c.Posture)
	}
	for _, p := range c.Ports {
		out.Ports = append(out.Ports, event.Port{
			Port: uint16(p.Port), Protocol: p.Protocol, HostIP: d.addr(p.HostIp), HostPort: uint16(p.HostPort),
		})
	}
	for _, n := range c.Networks {
		out.Networks = append(out.Networks, event.Network{
			Name: string(n.Name), IP: d.addr(n.Ip), IPv6: d.addr(n.Ipv6), MAC: string(n.Mac),
		})
	}
	for _, m := range c.Mounts {
		out.Mounts = append(out.Mounts, event.ContainerMount{
			Type: string(m.Type), Source: string(m.Source), Destination: string(m.Destination), ReadOnly: m.ReadOnly,
		})
	}
	return out
}

func postureOf(p *batchpb.Posture) *event.Posture {
	out := &event.Posture{
		Privileged: p.Privileged, CapabilitiesAdded: stringsOf(p.CapabilitiesAdded),
		CapabilitiesDropped: stringsOf(p.CapabilitiesDropped), PIDMode: string(p.PidMode),
		NetworkMode: string(p.NetworkMode), IPCMode: string(p.IpcMode), UTSMode: string(p.UtsMode),
		UserMode: string(p.UserMode), CgroupMode: string(p.CgroupMode), NoNewPrivileges: p.NoNewPrivileges,
		Seccomp: string(p.Seccomp), AppArmor: string(p.Apparmor), User: string(p.User), ReadOnlyRoot: p.ReadOnlyRoot,
		Devices: stringsOf(p.Devices), Traits: event.Traits(p.Traits),
	}
	for _, c := range p.Credentials {
		out.Credentials = append(out.Credentials, event.Credential{Name: string(c.Name), Kind: string(c.Kind)})
	}
	return out
}

func ecsOf(e *batchpb.ECS) *event.ECS {
	return &event.ECS{
		Cluster: string(e.Cluster), ClusterARN: string(e.ClusterArn),
		ContainerInstanceARN: string(e.ContainerInstanceArn), TaskARN: string(e.TaskArn), TaskID: string(e.TaskId),
		Family: string(e.Family), Revision: string(e.Revision), Container: string(e.Container),
		Service: string(e.Service), LaunchType: string(e.LaunchType), DesiredStatus: string(e.DesiredStatus),
		KnownStatus: string(e.KnownStatus), Disputed: e.Disputed, StartedAt: unixTime(e.StartedAt), Tags: tagsOf(e.Tags),
		Sources: event.ECSSources{
			Cgroup: event.ECSFacts(e.FromCgroup), Metadata: event.ECSFacts(e.FromMetadata),
			Introspection: event.ECSFacts(e.FromIntrospection), Label: event.ECSFacts(e.FromLabel),
		},
	}
}

func tagsOf(tags []*batchpb.Tag) (out []event.Tag) {
	for _, t := range tags {
		out = append(out, event.Tag{Key: string(t.Key), Value: string(t.Value)})
	}
	return out
}

func stringsOf(list [][]byte) (out []string) {
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}
