package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packages are Debian's, downloaded once and unpacked in a cache. A folder of the cache is complete when it has its
// name: apt has verified each archive before it is unpacked, and the folder is renamed when all of them are. What is
// there is used as it is; removing the cache gets newer ones.
type packages struct{ cache string }

func newPackages() (packages, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return packages{}, fmt.Errorf("find cache: %w", err)
	}
	return packages{cache: filepath.Join(cache, "taskguard", "vm")}, nil
}

// The user land comes from one release, whatever the kernel: its file system is not yet merged into /usr.
const userlandSuite = "bookworm"

// kernel returns the folder with a kernel's files.
func (p packages) kernel(ctx context.Context, k kernel) (string, error) {
	return p.unpacked(ctx, "linux-"+k.suite+"-"+k.arch, func(apt apt) error {
		image, err := apt.dependency(ctx, "linux-image-cloud-"+k.arch, "linux-image-")
		if err != nil {
			return err
		}
		return apt.run(ctx, "apt-get", "download", image)
	}, k.suite, k.arch)
}

// userland returns a folder with the programs that tests run, and what these need.
func (p packages) userland(ctx context.Context, k kernel) (string, error) {
	programs := []string{"auditd", "busybox-static", "coreutils", "dash", "e2fsprogs"}
	if k.engine {
		// Debian's kernel has AppArmor, and there dockerd starts no container without AppArmor's parser.
		programs = append(programs, "apparmor", "docker.io")
	}
	name := "userland-" + userlandSuite + "-" + k.arch + "-" + strings.Join(programs, "-")
	return p.unpacked(ctx, name, func(apt apt) error {
		return apt.run(ctx, "apt-get", append([]string{"install", "-y", "--download-only", "--no-install-recommends"}, programs...)...)
	}, userlandSuite, k.arch)
}

// unpacked returns a folder of the cache, which is filled first where it is missing.
func (p packages) unpacked(
	ctx context.Context, name string, download func(apt) error, suite, arch string,
) (string, error) {
	dir := filepath.Join(p.cache, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(p.cache, 0o755); err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	tmp, err := os.MkdirTemp(p.cache, "new-")
	if err != nil {
		return "", fmt.Errorf("make cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	fmt.Fprintf(os.Stderr, "vm: downloading %s\n", name)
	apt, err := newApt(ctx, tmp, suite, arch)
	if err != nil {
		return "", err
	}
	if err := download(apt); err != nil {
		return "", fmt.Errorf("download %s: %w", name, err)
	}
	root := filepath.Join(tmp, "root")
	if err := apt.unpack(ctx, root); err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	if err := os.Rename(root, dir); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("fill cache: %w", err)
	}
	return dir, nil
}

// apt is a package manager of our own: one suite and one architecture of Debian, from the servers that this machine's
// apt uses, with an empty system to install into.
type apt struct{ dir string }

// archive says which of Debian's two archives holds a suite.
func archive(suite string) string {
	if strings.HasSuffix(suite, "-security") {
		return "Debian-Security"
	}
	return "Debian"
}

func newApt(ctx context.Context, dir, suite, arch string) (apt, error) {
	uri, err := archiveURI(ctx, archive(suite))
	if err != nil {
		return apt{}, err
	}
	for _, sub := range []string{"lists/partial", "archives/partial", "parts"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return apt{}, err
		}
	}
	const keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
	for name, text := range map[string]string{
		"sources.list": fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keys, uri, suite),
		// It would pull in Perl, for scripts that nothing here runs.
		"status": "Package: init-system-helpers\nStatus: install ok installed\nVersion: 999\nMulti-Arch: foreign\n" +
			"Architecture: all\nMaintainer: nobody\nDescription: assumed\n",
		"apt.conf": fmt.Sprintf(`Dir::State::lists "%[1]s/lists"; Dir::State::status "%[1]s/status"; Dir::Cache "%[1]s";
Dir::Cache::archives "%[1]s/archives"; Dir::Etc::sourcelist "%[1]s/sources.list"; Dir::Etc::sourceparts "%[1]s/parts";
#clear APT::Architectures;
APT::Architecture "%[2]s"; APT::Architectures { "%[2]s"; }; APT::Sandbox::User "root"; Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false"; Acquire::Retries "3"; APT::Update::Error-Mode "any";
`, dir, arch),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return apt{}, err
		}
	}
	a := apt{dir: dir}
	if err := a.run(ctx, "apt-get", "update"); err != nil {
		return apt{}, fmt.Errorf("read the list of packages of %s: %w", suite, err)
	}
	return a, nil
}

// archiveURI asks this machine's apt where it gets one of Debian's archives from.
func archiveURI(ctx context.Context, label string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for its sources: %w: the kernels are Debian's, and are got by a Debian's apt", err)
	}
	for line := range strings.Lines(string(out)) {
		if name, uri, _ := strings.Cut(strings.TrimSpace(line), " "); name == label {
			return uri, nil
		}
	}
	return "", fmt.Errorf("apt has no source of %s: add one to its sources and run apt-get update", label)
}

// run runs one of apt's programs where archives are kept.
func (a apt) run(ctx context.Context, program string, args ...string) error {
	_, err := a.output(ctx, program, args...)
	return err
}

func (a apt) output(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = filepath.Join(a.dir, "archives")
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "LC_ALL=C")
	var stdout, all bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &all
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", args[0], err, strings.TrimSpace(all.String()))
	}
	return stdout.String(), nil
}

// dependency returns the package whose name begins with prefix that a package depends on.
func (a apt) dependency(ctx context.Context, name, prefix string) (string, error) {
	out, err := a.output(ctx, "apt-cache", "depends", name)
	if err != nil {
		return "", err
	}
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		word, target, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if word == "Depends:" && strings.HasPrefix(target, prefix) {
			return target, nil
		}
	}
	return "", fmt.Errorf("%s depends on no %s*", name, prefix)
}

// unpack unpacks all archives into one folder.
func (a apt) unpack(ctx context.Context, root string) error {
	archives, err := filepath.Glob(filepath.Join(a.dir, "archives", "*.deb"))
	if err != nil {
		return err
	}
	if len(archives) == 0 {
		return errors.New("no package was downloaded")
	}
	for _, archive := range archives {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", archive, root).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", filepath.Base(archive), err, out)
		}
	}
	return nil
}
