package audit

import "github.com/taskguard/taskguard/collector/event"

// changeMounts reads the calls that change what is mounted where. The type of a file system, and a source that is no
// path, are not in the records.
func (d *decoder) changeMounts(g *group) verdict {
	m := &d.mount
	d.event.FS = m
	m.Call = d.call.name
	args := &d.sys.args
	switch m.Call {
	case "mount":
		m.Flags = mountFlags(args[3])
		d.setMountTarget(g, d.mounted(0))
		if source := d.mounted(1); source != nil {
			m.Source, _ = d.whole(source, 0)
		} else {
			m.Truncated |= event.FieldSource
		}
	case "umount":
		m.UmountFlags = event.UmountFlags(args[1])
		d.setMountTarget(g, d.mounted(0))
	case "fsmount":
		m.Flags = attributeFlags(args[2])
	case "open_tree":
		var whole bool
		if m.Source, whole = d.whole(d.mounted(0), d.call.at); !whole {
			m.Truncated |= event.FieldSource
		}
	case "move_mount":
		d.moveMount(g)
	}
	return decoded
}

// moveMount knows the target when it is the only name: the usual source is a descriptor, with an empty name. Of two the
// kernel's version decides which comes first.
func (d *decoder) moveMount(g *group) {
	if d.mounted(1) != nil {
		d.mount.Truncated |= event.FieldSource | event.FieldTarget
		return
	}
	d.setMountTarget(g, d.mounted(0))
}

func (d *decoder) setMountTarget(g *group, p *pathRecord) {
	var whole bool
	if d.mount.Target, whole = d.whole(p, d.call.at); !whole || d.lacking(g) {
		d.mount.Truncated |= event.FieldTarget
	}
}

// mounted returns the path that has n before it, but for the empty name that stands for a descriptor; nil when there is
// none.
func (d *decoder) mounted(n int) *pathRecord {
	for i := range d.paths {
		p := &d.paths[i]
		if p.rank < rankUnknown || !p.named() || string(p.name) == `""` {
			continue
		}
		if n == 0 {
			return p
		}
		n--
	}
	return nil
}

// mountFlags leaves out the mark that old programs set in the upper half (MS_MGC_VAL).
func mountFlags(flags uint64) event.MountFlags {
	const mark, mask = 0xc0ed0000, 0xffff0000
	if flags&mask == mark {
		flags &^= mask
	}
	return event.MountFlags(flags)
}

// attributeFlags gives the attributes of fsmount(2) the values of mount(2) (include/uapi/linux/mount.h).
func attributeFlags(attributes uint64) event.MountFlags {
	flags := event.MountFlags(attributes & 0xf) // read-only, no set-user-id, no devices, no programs
	for _, f := range [...]struct {
		attribute uint64
		flag      event.MountFlags
	}{{0x10, 1 << 10}, {0x20, 1 << 24}, {0x80, 1 << 11}, {0x200000, 1 << 8}} {
		if attributes&f.attribute != 0 {
			flags |= f.flag
		}
	}
	return flags
}
