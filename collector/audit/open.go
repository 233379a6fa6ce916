package audit

import (
	"github.com/elastic/go-libaudit/v2/auparse"

	"github.com/taskguard/taskguard/collector/event"
)

func (d *decoder) open(g *group) verdict {
	f := &d.file
	switch d.call.flags {
	case argument1:
		f.Flags = openFlags(d.sys.key.arch, d.sys.args[1])
	case argument2:
		f.Flags = openFlags(d.sys.key.arch, d.sys.args[2])
	case record:
		if !d.openat2 {
			return incomplete // before Linux 5.16 nothing tells the flags
		}
		f.Flags = openFlags(d.sys.key.arch, uint64(f.Flags))
	case creates:
		f.Flags = 0x241 // O_WRONLY|O_CREAT|O_TRUNC, says creat(2)
	case cuts:
		f.Flags = 0x201 // O_WRONLY|O_TRUNC: what truncate(2) does without a descriptor
	}
	file := d.best()
	if f.Flags&writing == 0 || file.boring() && d.sys.succeeded {
		return ignored
	}
	d.setFile(g, file)
	return decoded
}

// setFile makes a file the event's.
func (d *decoder) setFile(g *group, file *pathRecord) {
	f := &d.file
	var whole bool
	f.Path, whole = d.whole(file, d.call.at)
	if !whole || d.lacking(g) { // the path that counts may be among what is missing
		f.Truncated |= event.FieldPath
	}
	if file.found() {
		f.Device, f.Inode = file.device, file.inode
	}
	d.event.File = f
}

// openFlags gives the flags of an architecture the values of x86-64.
func openFlags(arch uint32, flags uint64) event.OpenFlags {
	const notOfTheFile = 0o100000 | 0o2000000 // O_LARGEFILE, O_CLOEXEC
	all := event.OpenFlags(flags)
	switch auparse.AuditArch(arch) {
	case auparse.AUDIT_ARCH_AARCH64, auparse.AUDIT_ARCH_ARM:
		all = event.OpenFlagsFromArm(uint32(flags))
	}
	return all &^ notOfTheFile
}
