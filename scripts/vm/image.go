package main

import (
	"context"
	_ "embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed init.sh
var initScript []byte

// image is what a machine boots.
type image struct {
	kernel, initramfs string   // files
	packages          []string // that the machine tests, in this order
}

const modulePath = "github.com/taskguard/taskguard/"

// image makes what a machine with this kernel boots: the kernel, and as its only file system the user land, modules,
// test binaries, and the files of the source that tests read.
func (w *work) image(ctx context.Context, k kernel) (image, error) {
	root, err := w.packages.kernel(ctx, k)
	if err != nil {
		return image{}, err
	}
	userland, err := w.packages.userland(ctx, k)
	if err != nil {
		return image{}, err
	}
	binaries, err := w.build(ctx, k.arch)
	if err != nil {
		return image{}, err
	}
	modules, err := readModules(root)
	if err != nil {
		return image{}, err
	}
	img := image{
		kernel:    filepath.Join(root, "boot", "vmlinuz-"+modules.release),
		initramfs: filepath.Join(w.dir, k.name+".cpio"),
	}
	file, err := os.Create(img.initramfs)
	if err != nil {
		return image{}, err
	}
	defer file.Close()
	a := newArchive(file)
	for _, dir := range []string{"dev", "proc", "sys", "tmp", "run", "usr/lib/busybox"} {
		a.add(dir, typeDir|0o755, nil)
	}
	a.add("init", typeFile|0o755, initScript)
	a.add("etc/passwd", typeFile|0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	a.add("etc/group", typeFile|0o644, []byte("root:x:0:\n"))
	a.add("bin/sh", typeSymlink|0o777, []byte("dash"))
	addModules(a, modules)
	img.packages = w.addList(a, k)
	if err := addFiles(a, userland, binaries); err != nil {
		return image{}, fmt.Errorf("make file system: %w", err)
	}
	if err := a.close(); err != nil {
		return image{}, fmt.Errorf("make file system: %w", err)
	}
	return img, nil
}

func readModules(root string) (*modules, error) {
	m, err := newModules(root)
	if err != nil {
		return nil, err
	}
	for _, name := range append(loaded(), testModule) {
		if err := m.add(name); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// addModules writes the modules, the list of those to load, and where the test's is.
func addModules(a *archiveWriter, m *modules) {
	var list strings.Builder
	for _, module := range m.found {
		a.add(module.path, typeFile|0o644, module.image)
		if filepath.Base(module.path) == testModule+".ko" {
			a.add("tests/module", typeFile|0o644, []byte("/"+module.path+"\n"))
		} else {
			fmt.Fprintln(&list, "/"+module.path)
		}
	}
	a.add("tests/modules", typeFile|0o644, []byte(list.String()))
}

// addList writes which tests to run: a line for each package, with its folder and the pattern of its tests' names.
func (w *work) addList(a *archiveWriter, k kernel) (packages []string) {
	var list strings.Builder
	pattern := w.tests.Pattern(k.tiers()...) + w.subtests
	for _, dir := range w.packagesOf(k.tiers()...) {
		dir = strings.TrimPrefix(dir, "./")
		packages = append(packages, modulePath+dir)
		fmt.Fprintf(&list, "%s %s %s\n", modulePath+dir, dir, pattern)
	}
	a.add("tests/list", typeFile|0o644, []byte(list.String()))
	return packages
}

// unneeded are the folders and files of the user land that no test reads. All that a machine has is in its memory.
func unneeded() []string {
	return []string{"bin/sh", "var", "usr/share/doc", "usr/share/locale", "usr/share/man", "usr/bin/containerd-shim",
		"usr/bin/containerd-shim-runc-v1", "usr/bin/ctr", "usr/bin/dnet", "usr/sbin/ovrouter"}
}

func addFiles(a *archiveWriter, userland, binaries string) error {
	err := a.addTree(userland, "", func(name string, _ fs.DirEntry) bool {
		return !inAny(name, unneeded()...) && filepath.Base(name) != "gconv"
	})
	if err != nil {
		return err
	}
	if err := a.addTree(binaries, "tests", func(string, fs.DirEntry) bool { return true }); err != nil {
		return err
	}
	return a.addTree(".", "src", func(name string, entry fs.DirEntry) bool {
		hidden := strings.HasPrefix(entry.Name(), ".")
		return !hidden && name != "bin" && !slices.Contains([]string{".go", ".o"}, filepath.Ext(name))
	})
}

// build builds the tests, and the programs that some of them run, for an architecture: DIRECTORY/tests for each
// package, bin/ and test2json. It returns their folder.
func (w *work) build(ctx context.Context, arch string) (string, error) {
	dir := filepath.Join(w.dir, arch)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	commands := [][]string{
		{"build", "-o", filepath.Join(dir, "test2json"), "cmd/test2json"},
		{"build", "-buildvcs=false", "-o", filepath.Join(dir, "bin") + "/", "./cmd/...", "./scripts/storm"},
	}
	for _, pkg := range w.packagesOf("kernel", "container") {
		commands = append(commands, []string{"test", "-c", "-o", filepath.Join(dir, pkg, "tests"), pkg})
	}
	for _, args := range commands {
		args = slices.Insert(args, 1, "-ldflags=-s -w")
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return dir, nil
}
