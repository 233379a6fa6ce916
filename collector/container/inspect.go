package container

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/taskguard/taskguard/collector/event"
)

// What is kept of a container at most, as its author can give it as many of these as he likes.
const (
	maxCommand = 4096 // bytes
	maxLabels  = 32
	maxPorts   = 64
	maxNames   = 32 // of networks, capabilities, devices and credentials each
	maxMounts  = 64
)

// inspection turns the engine's answers into facts.
type inspection struct {
	engine     engineInfo
	mask       func(string) (string, bool)
	credential func(name, value string) string
	cut        bool // something was
}

// facts returns what the engine says of a container. Its image's digest is asked for apart.
func (i *inspection) facts(c *container.InspectResponse) facts {
	f := facts{labels: c.Config.Labels, endpoint: metadataEndpoint(c.Config.Env), Container: event.Container{
		Name: i.text(strings.TrimPrefix(c.Name, "/")), Image: i.text(c.Config.Image), ImageID: i.text(c.Image),
		Command:   i.command(c.Path, c.Args),
		CreatedAt: timeOf(c.Created),
		Labels:    i.tags(c.Config.Labels),
		Mounts:    i.mounts(c.Mounts),
		Restarts:  uint32(max(c.RestartCount, 0)),
	}}
	if c.GraphDriver != nil {
		f.layers = imageLayers(c.GraphDriver.Data["LowerDir"])
	}
	if c.State != nil {
		f.StartedAt = timeOf(c.State.StartedAt)
		f.oomKilled = c.State.OOMKilled
	}
	if c.NetworkSettings != nil {
		f.Networks = i.networks(c.NetworkSettings.Networks)
	}
	if c.HostConfig != nil {
		f.Ports = i.ports(c)
		f.Posture = i.posture(c, f.Ports)
	}
	f.Truncated = i.cut
	trim(&f.Container, maxDescription)
	return f
}

// maxLayers bounds what is kept of the directories of an image's layers, in bytes.
const maxLayers = 32 << 10

// imageLayers returns the directories that an overlay puts below a container's own, with colons between, but for the one
// that is the container's too.
func imageLayers(lower string) string {
	first, image, _ := strings.Cut(lower, ":")
	if !strings.HasSuffix(first, "-init/diff") {
		image = lower
	}
	if len(image) > maxLayers {
		return ""
	}
	return image
}

// metadataEndpoint returns the id in the address that the ECS agent gives a task's containers for their metadata.
func metadataEndpoint(env []string) string {
	const prefix = "ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/"
	for _, variable := range env {
		if id, ok := strings.CutPrefix(variable, prefix); ok && len(id) <= 128 && id != "" && all(id, isEndpointByte) {
			return strings.Clone(id)
		}
	}
	return ""
}

func isEndpointByte(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '-'
}

// timeOf reads a time as Docker writes it; before a container's first start it is that of the year 1.
func timeOf(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1970 {
		return time.Time{}
	}
	return t.UTC()
}

// text returns a copy of bounded length.
func (i *inspection) text(s string) string {
	i.cut = i.cut || len(s) > maxValue
	return cut(s)
}

// bound returns the first few of a list.
func bound[T any](i *inspection, list []T, limit int) []T {
	if len(list) <= limit {
		return list
	}
	i.cut = true
	return slices.Clip(list[:limit])
}

func (i *inspection) command(path string, args []string) event.Argv {
	if path == "" {
		return ""
	}
	text, _ := i.mask(string(event.NewArgv(append([]string{path}, args...))))
	if len(text) > maxCommand {
		i.cut = true
		text = text[:maxCommand]
	}
	return event.Argv(strings.Clone(text))
}

// tags returns the labels but for those of ECS, without what looks like a secret in them.
func (i *inspection) tags(labels map[string]string) []event.Tag {
	var tags []event.Tag
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if strings.HasPrefix(key, labelPrefix) {
			continue
		}
		if len(tags) == maxLabels {
			i.cut = true
			break
		}
		tags = append(tags, event.Tag{Key: i.text(key), Value: i.text(i.withoutSecret(key, labels[key]))})
	}
	return tags
}

// withoutSecret returns the value of a name, masked if it is a secret.
func (i *inspection) withoutSecret(name, value string) string {
	masked, _ := i.mask("\x00" + name + "=" + value)
	if v, ok := strings.CutPrefix(masked, "\x00"+name+"="); ok {
		return v
	}
	return ""
}

func (i *inspection) mounts(points []container.MountPoint) []event.ContainerMount {
	var list []event.ContainerMount
	for _, m := range bound(i, points, maxMounts) {
		list = append(list, event.ContainerMount{
			Type: i.text(string(m.Type)), Source: i.text(m.Source), Destination: i.text(m.Destination), ReadOnly: !m.RW,
		})
	}
	return list
}

func (i *inspection) networks(networks map[string]*network.EndpointSettings) []event.Network {
	var list []event.Network
	for _, name := range bound(i, slices.Sorted(maps.Keys(networks)), maxNames) {
		n := event.Network{Name: i.text(name)}
		if e := networks[name]; e != nil {
			n.IP, n.IPv6, n.MAC = e.IPAddress, e.GlobalIPv6Address, i.text(e.MacAddress.String())
		}
		list = append(list, n)
	}
	return list
}

// ports returns the ports that are published, as they are while the container runs or as they are to be, and those
// that the image exposes.
func (i *inspection) ports(c *container.InspectResponse) []event.Port {
	published := c.HostConfig.PortBindings
	if c.NetworkSettings != nil && len(c.NetworkSettings.Ports) > 0 {
		published = c.NetworkSettings.Ports
	}
	var list []event.Port
	for port, bindings := range published {
		for _, b := range bindings {
			host, _ := strconv.ParseUint(b.HostPort, 10, 16) // empty: any
			ip := b.HostIP
			if !ip.IsValid() {
				ip = netip.IPv4Unspecified()
			}
			list = append(list, event.Port{Port: port.Num(), Protocol: string(port.Proto()), HostIP: ip, HostPort: uint16(host)})
		}
	}
	for port := range c.Config.ExposedPorts {
		if len(published[port]) > 0 {
			continue
		}
		exposed := event.Port{Port: port.Num(), Protocol: string(port.Proto())}
		if c.HostConfig.PublishAllPorts {
			exposed.HostIP = netip.IPv4Unspecified()
		}
		list = append(list, exposed)
	}
	slices.SortFunc(list, func(a, b event.Port) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol), a.HostIP.Compare(b.HostIP),
			cmp.Compare(a.HostPort, b.HostPort))
	})
	return bound(i, list, maxPorts)
}
