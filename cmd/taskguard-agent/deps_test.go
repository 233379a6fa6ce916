package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

const module = "github.com/taskguard/taskguard"

// rule says what a package may import besides the standard library.
type rule struct {
	own   []string // packages of this module
	other []string // modules or paths of others; a dependency has its home where it is listed
}

// rules has every package of the module. scripts/* are tools of ours and may import what they need, but none may be
// imported by what is installed.
func rules() map[string]rule {
	return map[string]rule{
		"collector/event":           {},
		"collector/event/eventtest": {own: []string{"collector/event"}}, // for tests: no package has it among its own
		"collector":                 {own: []string{"collector/event"}},
		"collector/ebpf": {
			own:   []string{"collector", "collector/event"},
			other: []string{"github.com/cilium/ebpf", "golang.org/x/net/dns/dnsmessage", "golang.org/x/sys/unix"},
		},
		"collector/audit": {
			own:   []string{"collector", "collector/event"},
			other: []string{"github.com/elastic/go-libaudit/v2", "golang.org/x/sys/unix"},
		},
		"collector/hash":   {own: []string{"collector/event"}, other: []string{"golang.org/x/sys/unix"}},
		"collector/secret": {},
		"collector/replay": {own: []string{"collector", "collector/event"}},
		"collector/process": {
			own: []string{"collector/event"}, other: []string{"github.com/shirou/gopsutil/v3", "golang.org/x/sys/unix"},
		},
		"collector/container": {
			own:   []string{"collector/event"},
			other: []string{"github.com/moby/moby", "github.com/containerd/errdefs", "golang.org/x/sys/unix"},
		},
		"collector/host": {
			own:   []string{"collector/event"},
			other: []string{"github.com/aws/aws-sdk-go-v2", "github.com/shirou/gopsutil/v3", "golang.org/x/sys/unix"},
		},

		"sender/batch": {
			own:   []string{"collector/event", "sender/batch/batchpb"},
			other: []string{"github.com/klauspost/compress/zstd", "google.golang.org/protobuf"},
		},
		"sender/batch/batchpb": {other: []string{"google.golang.org/protobuf"}},
		"sender/spool":         {other: []string{"golang.org/x/sys/unix"}},
		"sender": {
			own: []string{"collector/event", "sender/batch", "sender/spool"}, other: []string{"golang.org/x/time/rate"},
		},
		"sender/https": {
			own:   []string{"collector/event", "sender", "sender/batch"},
			other: []string{"github.com/aws/aws-sdk-go-v2", "golang.org/x/net"},
		},

		"cmd/internal/settings": {other: []string{"go.yaml.in/yaml/v3"}},
		"cmd/taskguard-agent": {
			own: []string{
				"cmd/internal/settings",
				"collector", "collector/audit", "collector/container", "collector/ebpf", "collector/event", "collector/hash",
				"collector/host", "collector/process", "collector/replay", "collector/secret", "sender", "sender/batch", "sender/https", "sender/spool",
			},
			other: []string{
				"github.com/aws/aws-sdk-go-v2", "github.com/coreos/go-systemd/v22", "github.com/spf13/cobra", "golang.org/x/term",
				"golang.org/x/sys/unix",
			},
		},
		"cmd/taskguard-endpoint": {
			own: []string{
				"cmd/internal/settings", "cmd/taskguard-endpoint/internal/auth", "cmd/taskguard-endpoint/internal/coverage",
				"cmd/taskguard-endpoint/internal/ingest", "cmd/taskguard-endpoint/internal/store",
				"cmd/taskguard-endpoint/internal/stream", "collector/event", "sender/batch",
			},
			other: []string{"github.com/aws/aws-sdk-go-v2", "github.com/prometheus/client_golang", "github.com/spf13/cobra", "golang.org/x/term"},
		},
		"cmd/taskguard-endpoint/internal/auth": {own: []string{"collector/event"}},
		"cmd/taskguard-endpoint/internal/coverage": {
			own:   []string{"cmd/taskguard-endpoint/internal/stream", "collector/event", "sender/batch"},
			other: []string{"github.com/aws/aws-sdk-go-v2"},
		},
		"cmd/taskguard-endpoint/internal/ingest": {
			own:   []string{"cmd/taskguard-endpoint/internal/auth", "cmd/taskguard-endpoint/internal/stream", "collector/event", "sender/batch"},
			other: []string{"golang.org/x/time/rate"},
		},
		"cmd/taskguard-endpoint/internal/ocsf": {
			own: []string{"collector/event", "sender/batch"}, other: []string{"golang.org/x/sys/unix"},
		},
		"cmd/taskguard-endpoint/internal/store": {
			own: []string{
				"cmd/taskguard-endpoint/internal/ocsf", "cmd/taskguard-endpoint/internal/stream", "collector/event", "sender/batch",
			},
			other: []string{"github.com/parquet-go/parquet-go", "gocloud.dev"},
		},
		"cmd/taskguard-endpoint/internal/stream": {
			own:   []string{"collector/event", "sender/batch"},
			other: []string{"github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go", "golang.org/x/sys/unix"},
		},

		"packaging/aws": {}, // tests only

		"scripts/auditd": {}, "scripts/bench": {}, "scripts/capacity": {}, "scripts/cluster": {}, "scripts/demo": {}, "scripts/dockertest": {}, "scripts/e2e": {},
		"scripts/ecstest": {}, "scripts/faults": {}, "scripts/imdstest": {}, "scripts/leaktest": {}, "scripts/memory": {},
		"scripts/stack": {}, "scripts/storm": {}, "scripts/stress": {}, "scripts/suite": {}, "scripts/tiers": {},
		"scripts/tiny": {}, "scripts/vm": {}, "scripts/wire": {},
	}
}

// sourcePackage is a package's files, parsed.
type sourcePackage struct {
	path  string // below the module
	files map[string]*ast.File
	set   *token.FileSet
}

// root is where the module is, seen from this package.
const root = "../.."

func readPackages(t *testing.T) []*sourcePackage {
	t.Helper()
	packages := map[string]*sourcePackage{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && path != root && (name == "testdata" || strings.HasPrefix(name, ".")) {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		p := packages[dir]
		if p == nil {
			p = &sourcePackage{path: dir, files: map[string]*ast.File{}, set: token.NewFileSet()}
			packages[dir] = p
		}
		p.files[name], err = parser.ParseFile(p.set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return slices.SortedFunc(maps.Values(packages), func(a, b *sourcePackage) int {
		return strings.Compare(a.path, b.path)
	})
}

func TestImports(t *testing.T) {
	rules := rules()
	for _, p := range readPackages(t) {
		r, ok := rules[p.path]
		if !ok {
			t.Errorf("package %s has no rule: add it to rules", p.path)
		}
		delete(rules, p.path)
		if strings.HasPrefix(p.path, "scripts/") {
			continue
		}
		for name, file := range p.files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			for _, spec := range file.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if !r.allows(imported) {
					t.Errorf("%s must not import %s", p.set.Position(spec.Pos()), imported)
				}
			}
		}
	}
	for path := range rules {
		t.Errorf("rule for %s, which is no package", path)
	}
}

func (r rule) allows(imported string) bool {
	if own, ok := strings.CutPrefix(imported, module+"/"); ok {
		return slices.Contains(r.own, own)
	}
	domain, _, _ := strings.Cut(imported, "/")
	if !strings.Contains(domain, ".") {
		return true // the standard library
	}
	return slices.ContainsFunc(r.other, func(allowed string) bool {
		return imported == allowed || strings.HasPrefix(imported, allowed+"/")
	})
}

// TestEndpointHasNoAgentCode holds what the rules above can lose one step at a time: what the endpoint reaches by way
// of others.
func TestEndpointHasNoAgentCode(t *testing.T) {
	rules := rules()
	reached := map[string]bool{}
	var reach func(path string)
	reach = func(path string) {
		if reached[path] {
			return
		}
		reached[path] = true
		for _, own := range rules[path].own {
			reach(own)
		}
	}
	reach("cmd/taskguard-endpoint")
	for path := range reached {
		agent := strings.HasPrefix(path, "collector") || strings.HasPrefix(path, "sender")
		if agent && path != "collector/event" && !strings.HasPrefix(path, "sender/batch") {
			t.Errorf("the endpoint reaches %s", path)
		}
	}
}

func TestPackageComments(t *testing.T) {
	for _, p := range readPackages(t) {
		var with []string
		onlyTests := true
		for name, file := range p.files {
			if file.Doc != nil {
				with = append(with, name)
			}
			onlyTests = onlyTests && strings.HasSuffix(name, "_test.go")
		}
		if len(with) != 1 && !generated(p) {
			slices.Sort(with)
			t.Errorf("%s has %d package comments %v, want one", p.path, len(with), with)
		}
		if len(with) == 1 && strings.HasSuffix(with[0], "_test.go") && !onlyTests {
			t.Errorf("%s has its package comment in %s, where go doc does not find it", p.path, with[0])
		}
	}
}

func generated(p *sourcePackage) bool {
	for _, file := range p.files {
		if !ast.IsGenerated(file) {
			return false
		}
	}
	return true
}

// TestForbidden holds what this module does without: init functions, panics, exits other than main's, the global
// logger.
func TestForbidden(t *testing.T) {
	for _, p := range readPackages(t) {
		for name, file := range p.files {
			if strings.HasSuffix(name, "_test.go") || ast.IsGenerated(file) {
				continue
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if what := forbidden(n); what != "" {
					t.Errorf("%s: %s", p.set.Position(n.Pos()), what)
				}
				return true
			})
		}
	}
}

func forbidden(n ast.Node) string {
	switch n := n.(type) {
	case *ast.FuncDecl:
		if n.Name.Name == "init" && n.Recv == nil {
			return "init function: let main call what has to be called"
		}
		if n.Name.Name != "main" {
			return exits(n)
		}
	case *ast.CallExpr:
		if id, ok := n.Fun.(*ast.Ident); ok && id.Name == "panic" {
			return "panic: return an error"
		}
	case *ast.SelectorExpr:
		return forbiddenName(n)
	case *ast.BasicLit:
		if n.Kind == token.STRING && strings.HasPrefix(n.Value, `"failed to `) {
			return fmt.Sprintf("%s: say what was done, such as \"open file: %%w\"", n.Value)
		}
	}
	return ""
}

// exits finds os.Exit, which only main may call.
func exits(f *ast.FuncDecl) (what string) {
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok && selector(s) == "os.Exit" {
			what = "os.Exit outside of main: return an error"
		}
		return true
	})
	return what
}

func forbiddenName(s *ast.SelectorExpr) string {
	name := selector(s)
	switch {
	case strings.HasPrefix(name, "log.Fatal"), strings.HasPrefix(name, "log.Panic"), strings.HasPrefix(name, "log.Print"):
		return name + ": return an error, or log with the logger that was given"
	case slices.Contains(globalLogger(), name):
		return name + ": log with the logger that was given"
	}
	return ""
}

func globalLogger() []string {
	return []string{"slog.Default", "slog.SetDefault", "slog.Debug", "slog.Info", "slog.Warn", "slog.Error"}
}

func selector(s *ast.SelectorExpr) string {
	if id, ok := s.X.(*ast.Ident); ok {
		return id.Name + "." + s.Sel.Name
	}
	return ""
}

func TestForbiddenIsFound(t *testing.T) {
	const source = `package p
import ("log"; "log/slog"; "os")
func init() {}
func f() { panic("x"); log.Fatal("x"); slog.Info("x"); os.Exit(1); _ = "failed to x" }
func main() { os.Exit(1) }
`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if forbidden(n) != "" {
			found++
		}
		return true
	})
	if found != 6 {
		t.Errorf("found %d of 6", found)
	}
}

func TestNoReplace(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range file.Replace {
		t.Errorf("go.mod replaces %s: others who build this module would get something else", r.Old.Path)
	}
}

func TestTopLevel(t *testing.T) {
	allowed := []string{
		"ARCHITECTURE.md", "LICENSE", "Makefile", "README.md", "bin", "cmd", "collector", "go.mod", "go.sum", "packaging",
		"scripts", "sender", "ssm", "testdata",
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if name := entry.Name(); !strings.HasPrefix(name, ".") && !slices.Contains(allowed, name) {
			t.Errorf("%s at the top level: want one of %v", name, allowed)
		}
	}
}
