package ebpf

import (
	"fmt"
	"strings"

	"github.com/taskguard/taskguard/collector/event"
)

// regions are named by what records say (bpf/record.h); what is not known has no name.
var regions = [...]string{
	commonRegionREGION_FILE: "file", commonRegionREGION_ANONYMOUS: "anonymous", commonRegionREGION_STACK: "stack",
	commonRegionREGION_HEAP: "heap",
}

// memoryActivity decodes the memory.* kinds but for memory.vm_*.
func (d *decoder) memoryActivity(record []byte) error {
	r, rest, err := take[commonMemoryRecord](record)
	if err != nil {
		return err
	}
	s := sections{rest: rest}
	path := s.text(r.Path)
	if s.short {
		return fmt.Errorf("path of %d bytes in %d", r.Path.Len, len(rest))
	}
	if int(r.Region) >= len(regions) {
		return fmt.Errorf("unknown region %d", r.Region)
	}
	flags := commonRecordFlag(r.Header.Flags)
	d.memory = event.Memory{
		Address: event.Address(r.Address), Length: r.Length, Protection: event.Protection(r.Protection),
		Region: regions[r.Region], Device: event.Device(r.File.Device), Inode: r.File.Inode, Version: versionOf(r.Version),
		UpperLayer: flags&commonRecordFlagFLAG_UPPER != 0,
		Unverified: path.unverified() || flags&commonRecordFlagFLAG_UNVERIFIED != 0,
	}
	m := &d.memory
	switch d.event.Kind {
	case event.MemoryMemfd:
		m.MemfdFlags = event.MemfdFlags(r.Flags)
		m.Name = d.show(path, event.FieldName, &m.Truncated, &m.PathLength)
		if !path.unverified() { // the file's own name
			m.Name = strings.TrimPrefix(m.Name, "memfd:")
		}
	case event.MemoryUserfaultfd:
		m.UserfaultfdFlags = event.UserfaultfdFlags(r.Flags)
	default:
		m.Flags = event.MapFlags(r.Flags)
		m.Path = d.show(path, event.FieldPath, &m.Truncated, &m.PathLength)
	}
	d.event.Memory = m
	return nil
}
