package audit

import (
	"github.com/taskguard/taskguard/collector/event"
)

// changeFile reads the calls that change what a file is called or who may use it.
func (d *decoder) changeFile(g *group) verdict {
	f := &d.file
	switch d.call.kind {
	case event.FileRename:
		d.rename(g)
		return decoded
	case event.FileLink, event.FileSymlink:
		d.link(g)
		return decoded
	case event.FileUnlink:
		const removeDir = 0x200 // AT_REMOVEDIR
		f.Directory = d.call.name == "rmdir" || d.call.value > 0 && d.sys.args[d.call.value]&removeDir != 0
	case event.FileChmod:
		f.Mode = event.Some(event.FileMode(d.sys.args[d.call.value] & 0o7777))
	case event.FileChown:
		f.UID = d.changed(d.call.value)
		f.GID = d.changed(d.call.value + 1)
	}
	d.setFile(g, d.best())
	return decoded
}

// rename finds the old name among the names that went and the new one among those that came. With an exchange two come,
// and when a file was replaced two went. Of an attempt that failed the kernel writes less, and in no certain order:
// then only the directories are told, and these only when they are the same.
func (d *decoder) rename(g *group) {
	f := &d.file
	was, is := d.nth(rankDelete, 0), d.nth(rankCreate, 0)
	if was == nil && is == nil {
		was = d.common(rankParent)
		is = was
	}
	if d.lacking(g) && was.found() && is.found() && was.inode != is.inode {
		was = nil // the name that went is the one of a file that was replaced
	}
	d.setFile(g, was)
	d.setTarget(g, is, d.call.to)
	if is.found() {
		f.Device, f.Inode = is.device, is.inode
	}
	if d.nth(rankCreate, 1) != nil {
		f.RenameFlags = 2 // RENAME_EXCHANGE
	}
}

// link finds the new name among those that came, and what it refers to: of link(2) a file that was found, of symlink(2)
// a name that was not looked up. When both names are of that sort, the kernel does not tell which is which.
func (d *decoder) link(g *group) {
	is, of := d.nth(rankCreate, 0), d.nth(rankNormal, 0)
	if d.call.kind == event.FileSymlink || of == nil {
		of = d.nth(rankUnknown, 0)
		if d.nth(rankUnknown, 1) != nil {
			of = nil
		}
	}
	if is == nil {
		is = d.nth(rankParent, 0)
	}
	d.setFile(g, is)
	if of.found() {
		d.file.Device, d.file.Inode = of.device, of.inode
	}
	if d.call.kind == event.FileSymlink && of != nil {
		d.file.Target = d.textOf(of.name)
		return
	}
	d.setTarget(g, of, d.call.to)
}

// setTarget sets the event's other path.
func (d *decoder) setTarget(g *group, p *pathRecord, at int8) {
	var whole bool
	d.file.Target, whole = d.whole(p, at)
	if !whole || d.lacking(g) {
		d.file.Truncated |= event.FieldTarget
	}
}

// common returns the first path of a rank when all of that rank have its name, or else nil.
func (d *decoder) common(r rank) *pathRecord {
	first := d.nth(r, 0)
	for n := 1; ; n++ {
		switch p := d.nth(r, n); {
		case p == nil:
			return first
		case string(p.name) != string(first.name):
			return nil
		}
	}
}

// changed returns the user or group id in an argument; -1 leaves it as it is.
func (d *decoder) changed(argument int8) event.Optional[uint32] {
	if id := d.id(argument); id != unchanged {
		return event.Some(id)
	}
	return event.Optional[uint32]{}
}

const unchanged = 1<<32 - 1

// id returns the user or group id in an argument: the old calls of 32-bit programs have 16 bits for it.
func (d *decoder) id(argument int8) uint32 {
	id := uint32(d.sys.args[argument])
	if d.call.short {
		if id = id & 0xffff; id == 0xffff {
			return unchanged
		}
	}
	return id
}
