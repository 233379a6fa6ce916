package ebpf

import (
	"fmt"
	"runtime"

	"github.com/taskguard/taskguard/collector/event"
)

// fileActivity decodes the file.* kinds and failed execs.
func (d *decoder) fileActivity(record []byte) error {
	r, rest, err := take[commonFileRecord](record)
	if err != nil {
		return err
	}
	s := sections{rest: rest}
	path, target := s.text(r.Path), s.text(r.Target)
	if s.short {
		return fmt.Errorf("sections exceed %d bytes", len(record))
	}
	d.file = event.File{
		RenameFlags: event.RenameFlags(r.RenameFlags), Device: event.Device(r.File.Device), Inode: r.File.Inode,
		Directory: r.Directory != 0, UpperLayer: commonRecordFlag(r.Header.Flags)&commonRecordFlagFLAG_UPPER != 0,
		Unverified: path.unverified() || target.unverified() || d.joins(path) || d.joins(target),
	}
	f := &d.file
	f.Path = d.show(path, event.FieldPath, &f.Truncated, &f.PathLength)
	f.Target = d.show(target, event.FieldTarget, &f.Truncated, &f.TargetLength)
	switch d.event.Kind {
	case event.FileOpen:
		f.Flags = openFlags(r.OpenFlags, runtime.GOARCH)
	case event.FileChmod:
		f.Mode = event.Some(event.FileMode(r.Mode & 0o7777))
	case event.FileChown:
		f.UID, f.GID = changedID(r.Uid), changedID(r.Gid)
	}
	d.event.File = f
	return nil
}

// changedID is unknown for what chown(2) leaves as it is.
func changedID(id uint32) event.Optional[uint32] {
	if id == ^uint32(0) {
		return event.Optional[uint32]{}
	}
	return event.Some(id)
}

// openFlags gives the flags of an architecture (GOARCH) the values of x86-64.
func openFlags(flags uint32, arch string) event.OpenFlags {
	if arch == "arm64" {
		return event.OpenFlagsFromArm(flags)
	}
	return event.OpenFlags(flags)
}
