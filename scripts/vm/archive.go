package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// archiveWriter writes the format of an initial RAM file system: cpio, "newc" (Linux, Documentation/driver-api/
// early-userspace/buffer-format.rst). After an error it does nothing; close returns it.
type archiveWriter struct {
	out   *bufio.Writer
	inode int
	dirs  map[string]bool
	err   error
}

func newArchive(out io.Writer) *archiveWriter {
	return &archiveWriter{out: bufio.NewWriterSize(out, 1<<20), dirs: map[string]bool{}}
}

const (
	typeDir     = 0o040000
	typeFile    = 0o100000
	typeSymlink = 0o120000
)

// add writes a file, and the folders it is in. Names have no slash at their beginning.
func (a *archiveWriter) add(name string, mode uint32, content []byte) {
	if dir := path.Dir(name); dir != "." && !a.dirs[dir] {
		a.add(dir, typeDir|0o755, nil)
	}
	if mode&typeDir == typeDir {
		if a.dirs[name] {
			return
		}
		a.dirs[name] = true
	}
	a.inode++
	a.record(name, mode, content)
}

func (a *archiveWriter) record(name string, mode uint32, content []byte) {
	const links, noTime, noDevice, noSum = 1, 0, 0, 0
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, links, noTime, len(content), noDevice, noDevice, noDevice, noDevice, len(name)+1, noSum)
	a.write(header + name + "\x00")
	a.pad(len(header) + len(name) + 1)
	a.write(string(content))
	a.pad(len(content))
}

func (a *archiveWriter) write(text string) {
	if a.err == nil {
		_, a.err = a.out.WriteString(text)
	}
}

// pad fills up to four bytes.
func (a *archiveWriter) pad(written int) { a.write("\x00\x00\x00"[:-written&3]) }

// addTree writes the files of a folder that keep says yes to, by their path below it, at a place in the archive.
func (a *archiveWriter) addTree(root, at string, keep func(name string, entry fs.DirEntry) bool) error {
	return filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, file)
		if err != nil || name == "." {
			return err
		}
		if !keep(name, entry) {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		return a.addFile(path.Join(at, name), file)
	})
}

// addFile writes a file of this machine, with its permissions.
func (a *archiveWriter) addFile(name, file string) error {
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	permissions := uint32(info.Mode().Perm())
	switch {
	case info.IsDir():
		a.add(name, typeDir|permissions, nil)
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(file)
		if err != nil {
			return err
		}
		a.add(name, typeSymlink|0o777, []byte(target))
	case info.Mode().IsRegular():
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		a.add(name, typeFile|permissions, content)
	}
	return a.err
}

func (a *archiveWriter) close() error {
	a.record("TRAILER!!!", 0, nil)
	if a.err != nil {
		return a.err
	}
	return a.out.Flush()
}

// inAny reports whether a path is one of these folders' or below.
func inAny(name string, dirs ...string) bool {
	for _, dir := range dirs {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	return false
}
