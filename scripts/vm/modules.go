package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// loaded are the modules that the machine loads before the tests, in the kernels that do not have them built in. A
// test may load testModule.
func loaded() []string { return []string{"virtio_pci", "virtio_console", "overlay", "loop", "ext4"} }

const testModule = "dummy"

// module is a kernel module, ready to be loaded.
type module struct {
	path  string // in the machine
	image []byte
}

// modules reads modules of an unpacked kernel.
type modules struct {
	files   map[string]string // by name
	release string
	found   []module // dependencies first
	have    map[string]bool
}

func newModules(root string) (*modules, error) {
	m := &modules{files: map[string]string{}, have: map[string]bool{}}
	releases, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(releases) != 1 {
		return nil, fmt.Errorf("find kernel in %s: %d found, want 1", root, len(releases))
	}
	m.release = strings.TrimPrefix(filepath.Base(releases[0]), "vmlinuz-")
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if name, _, found := strings.Cut(filepath.Base(path), ".ko"); found {
			m.files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	return m, err
}

// add reads a module and those it depends on. One that is built in, which has no file, is left out.
func (m *modules) add(name string) error {
	file := m.files[name]
	if file == "" || m.have[name] {
		return nil
	}
	m.have[name] = true
	image, err := readModule(file)
	if err != nil {
		return fmt.Errorf("read module %s: %w", name, err)
	}
	dependencies, err := dependenciesOf(image)
	if err != nil {
		return fmt.Errorf("read module %s: %w", name, err)
	}
	for _, dependency := range dependencies {
		if err := m.add(strings.ReplaceAll(dependency, "-", "_")); err != nil {
			return err
		}
	}
	m.found = append(m.found, module{path: "lib/modules/" + m.release + "/" + name + ".ko", image: image})
	return nil
}

func readModule(file string) ([]byte, error) {
	if strings.HasSuffix(file, ".xz") {
		return exec.Command("xz", "-dc", file).Output()
	}
	return os.ReadFile(file)
}

// dependenciesOf reads the names from the module itself: packages have no modules.dep, which is made on installation.
func dependenciesOf(image []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("it has no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, found := strings.CutPrefix(field, "depends="); found && list != "" {
			return strings.Split(list, ","), nil
		}
	}
	return nil, nil
}
