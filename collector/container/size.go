package container

import (
	"slices"

	"github.com/taskguard/taskguard/collector/event"
)

const (
	// maxDescription bounds a container's description in bytes: all together that its author can make as long as he likes.
	maxDescription = 16 << 10
	// maxDescriptions bounds those of all containers. What would exceed it is kept without its lists.
	maxDescriptions = 24 << 20
	// itemSize is what an item of a list takes besides its texts.
	itemSize = 48
)

// trim cuts a description's lists to a size: labels first, then mounts, networks and ports, and its posture last.
func trim(c *event.Container, limit int) {
	left := limit - textSize(c)
	eachItem(c, func(size int) bool {
		left -= size
		return left >= 0
	})
}

// sizeOf is the size of a description.
func sizeOf(c *event.Container) int {
	n, shared := textSize(c), *c
	eachItem(&shared, func(size int) bool {
		n += size
		return true
	})
	return n
}

// textSize is the size of what a description has one of.
func textSize(c *event.Container) int {
	n := len(c.ID) + len(c.Name) + len(c.Image) + len(c.ImageID) + len(c.ImageDigest) + len(c.Command)
	if p := c.Posture; p != nil {
		n += len(p.PIDMode) + len(p.NetworkMode) + len(p.IPCMode) + len(p.UTSMode) + len(p.UserMode) + len(p.CgroupMode) +
			len(p.Seccomp) + len(p.AppArmor) + len(p.User)
	}
	return n
}

// eachItem goes through the items of a description's lists, and cuts a list where an item does not fit. What is not cut is
// not written to.
func eachItem(c *event.Container, fits func(size int) bool) {
	text := func(s *string) int { return len(*s) }
	if p := c.Posture; p != nil {
		cutList(c, &p.CapabilitiesAdded, fits, text)
		cutList(c, &p.CapabilitiesDropped, fits, text)
		cutList(c, &p.Devices, fits, text)
		cutList(c, &p.Credentials, fits, func(v *event.Credential) int { return len(v.Name) + len(v.Kind) })
	}
	cutList(c, &c.Ports, fits, func(p *event.Port) int { return len(p.Protocol) })
	cutList(c, &c.Networks, fits, func(n *event.Network) int { return len(n.Name) + len(n.MAC) })
	cutList(c, &c.Mounts, fits, func(m *event.ContainerMount) int { return len(m.Type) + len(m.Source) + len(m.Destination) })
	cutList(c, &c.Labels, fits, func(t *event.Tag) int { return len(t.Key) + len(t.Value) })
}

func cutList[T any](c *event.Container, list *[]T, fits func(int) bool, size func(*T) int) {
	for i := range *list {
		if !fits(size(&(*list)[i]) + itemSize) {
			*list, c.Truncated = slices.Clone((*list)[:i]), true
			return
		}
	}
}

// weigh counts a description that has changed, and takes its lists away when all take too much. t.mu is held.
func (t *Tracker) weigh(c *tracked) {
	if t.containers[c.known.ID] != c {
		return
	}
	t.bytes -= c.size
	if c.size = sizeOf(c.known); t.bytes+c.size > maxDescriptions {
		known := *c.known
		if known.Posture != nil {
			posture := *known.Posture
			known.Posture = &posture
		}
		trim(&known, 0)
		c.known, c.size = &known, sizeOf(&known)
		t.stats.DescriptionsCut++
	}
	t.bytes += c.size
}
