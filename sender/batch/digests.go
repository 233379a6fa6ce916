package batch

import (
	"crypto/sha256"
	"encoding/hex"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch/batchpb"
)

// digests are the files of a batch's executables, libraries and modules, in the order of their references. Of recorded
// events the digest is known.
type digests struct {
	refs map[event.FileDigest]uint32
	list []event.FileDigest
}

// ref returns a file's reference; 0 when nothing is known of it.
func (d *digests) ref(version event.FileVersion, known *event.Digest) uint64 {
	key := event.FileDigest{Version: version, Digest: *known}
	if key == (event.FileDigest{}) {
		return 0
	}
	ref, ok := d.refs[key]
	if !ok {
		d.list = append(d.list, key)
		ref = uint32(len(d.list))
		d.refs[key] = ref
	}
	return uint64(ref)
}

func (d *digests) reset() {
	clear(d.refs)
	clear(d.list)
	d.list = d.list[:0]
}

// appendTo appends the table.
func (d *digests) appendTo(m []byte, field protowire.Number, late func(event.FileVersion) event.Digest) []byte {
	for i := range d.list {
		file := d.list[i]
		if late != nil && file.Digest == (event.Digest{}) {
			file.Digest = late(file.Version)
		}
		m = appendDigest(m, field, &file)
	}
	return m
}

func appendDigest(m []byte, field protowire.Number, file *event.FileDigest) []byte {
	v, d := &file.Version, &file.Digest
	var n []byte
	n = appendUint(n, 1, uint64(v.Device))
	n = appendUint(n, 2, v.Inode)
	n = appendUint(n, 3, v.Size)
	n = appendFixed(n, 4, v.Changed)
	if sum, err := hex.DecodeString(d.SHA256); err == nil && len(sum) == sha256.Size {
		n = appendBytes(n, 5, sum)
	}
	n = appendString(n, 6, string(d.HashState))
	n = appendString(n, 7, d.FSVerity)
	return appendMessage(m, field, n)
}

func (d *decoder) fileDigest(m *batchpb.Digest) event.FileDigest {
	if n := len(m.Sha256); n != 0 && n != sha256.Size {
		d.fail("digest of %d bytes, want %d", n, sha256.Size)
	}
	return event.FileDigest{
		Version: event.FileVersion{Device: event.Device(m.Device), Inode: m.Inode, Size: m.Size, Changed: m.Changed},
		Digest: event.Digest{
			SHA256: hex.EncodeToString(m.Sha256), HashState: event.HashState(m.State), FSVerity: string(m.FsVerity),
		},
	}
}

// digest returns an entry of the table; the zero one when there is none.
func (d *decoder) digest(ref uint32) (none event.FileDigest) {
	if ref == 0 {
		return none
	}
	if int64(ref) > int64(len(d.digests)) {
		d.fail("digest %d of %d", ref, len(d.digests))
		return none
	}
	return d.digests[ref-1]
}
