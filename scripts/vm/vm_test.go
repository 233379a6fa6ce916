package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/taskguard/taskguard/scripts/suite"
)

// What the archive holds is what another program unpacks from it.
func TestArchive(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox, which unpacks it, is not installed")
	}
	source, target := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"one": "1", "deep/er/five": "12345", "deep/empty": "", "no/thing": "x"} {
		file := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("deep/er", filepath.Join(source, "link")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	a := newArchive(&out)
	a.add("init", typeFile|0o755, []byte("#!"))
	if err := a.addTree(source, "src", func(name string, _ fs.DirEntry) bool { return !inAny(name, "no") }); err != nil {
		t.Fatal(err)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(busybox, "cpio", "-i")
	cmd.Dir, cmd.Stdin = target, &out
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("unpack: %v: %s", err, said)
	}
	var found []string
	err = filepath.WalkDir(target, func(path string, entry fs.DirEntry, err error) error {
		name, _ := filepath.Rel(target, path)
		switch {
		case err != nil || entry.IsDir():
		case entry.Type() == fs.ModeSymlink:
			to, err := os.Readlink(path)
			found = append(found, name+" -> "+to)
			return err
		default:
			info, infoErr := entry.Info()
			text, err := os.ReadFile(path)
			if err != nil || infoErr != nil {
				return err
			}
			found = append(found, name+" "+info.Mode().String()+" "+string(text))
		}
		return err
	})
	want := []string{"init -rwxr-xr-x #!", "src/deep/empty -rw-r----- ", "src/deep/er/five -rw-r----- 12345",
		"src/link -> deep/er", "src/one -rw-r----- 1"}
	if err != nil || !slices.Equal(found, want) {
		t.Errorf("%v, unpacked %q, want %q", err, found, want)
	}
}

// A machine that stops early leaves what it has not said behind: those packages are told of, and only those.
func TestFollow(t *testing.T) {
	const ended = `{"Action":"pass","Package":"a","Test":"TestX"}` + "\n" + `{"Action":"pass","Package":"a"}` + "\n"
	for name, c := range map[string]struct {
		text    string
		unended []string
		fails   bool
	}{
		"all ended":                  {ended + `{"Action":"pass","Package":"b"}` + "\nend\n", nil, false},
		"what follows is not read":   {ended + `{"Action":"pass","Package":"b"}` + "\nend\nnoise", nil, false},
		"stopped between":            {ended, []string{"b"}, false},
		"stopped in a line":          {ended + `{"Action":"pa`, []string{"b"}, false},
		"nothing came":               {"", []string{"a", "b"}, false},
		"what is no event":           {"noise\n", []string{"a", "b"}, true},
		"the end, but not of a test": {ended + "end\n", []string{"b"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			report := suite.NewReport(&out)
			unended, err := follow(strings.NewReader(c.text), []string{"a", "b"}, report)
			if !slices.Equal(unended, c.unended) || (err != nil) != c.fails {
				t.Errorf("unended %q, %v; want %q, failure %v", unended, err, c.unended, c.fails)
			}
		})
	}
}

func TestOrder(t *testing.T) {
	packages := func() []string { return []string{"./cmd/a", "./collector/audit", "./collector/ebpf", "./scripts/e2e"} }
	if got, want := order(packages(), false), []string{"./cmd/a", "./collector/ebpf", "./collector/audit"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	want := []string{"./cmd/a", "./collector/ebpf", "./scripts/e2e", "./collector/audit"}
	if got := order(packages(), true); !slices.Equal(got, want) {
		t.Errorf("all: %q, want %q", got, want)
	}
	if got := order([]string{"./collector/ebpf"}, true); len(got) != 1 {
		t.Errorf("without audit: %q", got)
	}
}

// A container test runs where there is an engine, and a machine that would have none to run does not start.
func TestTiers(t *testing.T) {
	both := suite.Tests{
		"unit": {"TestU": {"a"}}, "kernel": {"TestK": {"b"}}, "container": {"TestC": {"b", "c"}, "TestProgram": {"scripts/e2e"}},
	}
	for pattern, want := range map[string]string{
		"":             "5.10 [./b], 6.1 [./b ./c], 6.12 [./b], arm64-6.1 [./b]",
		"TestC$":       "6.1 [./b ./c]",
		"TestProgram$": "6.1 [./scripts/e2e]",
		"TestU$":       "",
	} {
		w := &work{tests: both.Matching(regexp.MustCompile(pattern)), partial: pattern != ""}
		var got []string
		for _, k := range w.withTests(kernels()) {
			got = append(got, fmt.Sprint(k.name, " ", w.packagesOf(k.tiers()...)))
		}
		if got := strings.Join(got, ", "); got != want {
			t.Errorf("%q: %s, want %s", pattern, got, want)
		}
	}
}

func TestChoose(t *testing.T) {
	if all, err := choose(""); err != nil || len(all) != 4 {
		t.Errorf("all: %v, %v", all, err)
	}
	if one, err := choose("arm64-6.1"); err != nil || len(one) != 1 || one[0].arch != "arm64" {
		t.Errorf("one: %v, %v", one, err)
	}
	if _, err := choose("6"); err == nil || !strings.Contains(err.Error(), "5.10, 6.1, 6.12, arm64-6.1") {
		t.Errorf("unknown: %v", err)
	}
}
