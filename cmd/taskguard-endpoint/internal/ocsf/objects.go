package ocsf

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/taskguard/taskguard/collector/event"
)

// unknown stands where the schema wants a name and none is known.
const unknown = "unknown"

// File types and user types of the schema.
const (
	fileUnknown = 0
	fileRegular = 1
	fileFolder  = 2
	fileSymlink = 7

	userPlain = 1
	userAdmin = 2

	sha256       = 3
	otherHashing = 99
)

func first(names ...string) string {
	for _, name := range names {
		if name != "" {
			return name
		}
	}
	return ""
}

func processOf(p *event.Process, c *event.Container) *Process {
	euid, egid := int64(p.EUID), int64(p.EGID)
	o := &Process{
		UID: idText(p.ID), PID: int64(p.PID), NamespacePID: int64(p.NSPID), Name: p.Name,
		CmdLine: strings.Join(p.Args.Split(), " "),
		User:    &User{UID: strconv.FormatUint(uint64(p.UID), 10), Name: p.User, TypeID: userPlain},
		Group:   &Group{UID: strconv.FormatUint(uint64(p.GID), 10), Name: p.Group},
		EUID:    &euid, EGID: &egid,
	}
	if p.UID == 0 {
		o.User.TypeID = userAdmin
	}
	if !p.StartTime.IsZero() {
		o.CreatedTime = p.StartTime.UnixMilli()
	}
	if p.Exe != "" {
		o.File = fileOf(p.Exe, p.ExeDevice, p.ExeInode)
		o.File.TypeID, o.File.Hashes = fileRegular, hashes(&p.Digest)
	}
	if c != nil {
		o.Container = containerOf(c)
	} else {
		o.NamespacePID = 0 // an attribute of the profile for containers
	}
	o.ancestors(p.Ancestors)
	return o
}

func (o *Process) ancestors(list []event.Ancestor) {
	for i, a := range list {
		if i == 0 {
			o.ParentProcess = &Process{UID: idText(a.ID), PID: int64(a.PID), Name: a.Name}
			if a.Exe != "" {
				o.ParentProcess.File = fileOf(a.Exe, 0, 0)
				o.ParentProcess.File.TypeID = fileRegular
			}
		}
		if a.Exe != "" {
			o.Lineage = append(o.Lineage, a.Exe)
		}
	}
}

func idText(id event.ID) string {
	if id == (event.ID{}) {
		return ""
	}
	return id.String()
}

func fileOf(name string, device event.Device, inode uint64) *File {
	f := &File{TypeID: fileUnknown, Name: unknown, Path: name}
	if name != "" {
		f.Name = path.Base(name)
	}
	if inode != 0 {
		f.UID = fmt.Sprintf("%s:%d", device, inode)
	}
	return f
}

func hashes(d *event.Digest) []Fingerprint {
	if d.SHA256 == "" {
		return nil
	}
	return []Fingerprint{{AlgorithmID: sha256, Algorithm: "SHA-256", Value: d.SHA256}}
}

func containerOf(c *event.Container) *Container {
	o := &Container{UID: c.ID, Name: c.Name, Runtime: c.Runtime}
	if id := first(c.ImageID, c.ImageDigest, c.Image); id != "" {
		o.Image = &Image{UID: id, Name: c.Image}
	}
	if c.ImageDigest != "" {
		o.Hash = fingerprint(c.ImageDigest)
	}
	if c.ECS != nil {
		o.Orchestrator = "ECS"
	}
	return o
}

// fingerprint reads a digest as registries write it, algorithm:value.
func fingerprint(digest string) *Fingerprint {
	algorithm, value, ok := strings.Cut(digest, ":")
	switch {
	case !ok:
		return &Fingerprint{AlgorithmID: otherHashing, Value: digest}
	case algorithm == "sha256":
		return &Fingerprint{AlgorithmID: sha256, Algorithm: "SHA-256", Value: value}
	}
	return &Fingerprint{AlgorithmID: otherHashing, Algorithm: algorithm, Value: value}
}
