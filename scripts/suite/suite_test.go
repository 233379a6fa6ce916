package suite

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestFindTests(t *testing.T) {
	root := t.TempDir()
	for file, text := range map[string]string{
		"a/a_test.go":           "package a\nfunc TestA(t *testing.T) {}\nfunc FuzzA(f *testing.F) {}\n",
		"a/main_test.go":        "package a\nfunc TestMain(m *testing.M) {}\n",
		"a/a_kernel_test.go":    "package a\nfunc TestKernel(t *testing.T) {}\n",
		"b/b_container_test.go": "package b\nfunc TestContainer(t *testing.T) {}\nfunc helper() {}\n",
		"testdata/x_test.go":    "package x\nfunc TestHidden(t *testing.T) {}\n",
		"a/a.go":                "package a\nfunc TestNot(t *testing.T) {}\n",
	} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(file)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := Find(root)
	if err != nil {
		t.Fatal(err)
	}
	a, b := filepath.Join(root, "a"), filepath.Join(root, "b")
	want := Tests{
		"unit": {"TestA": {a}, "FuzzA": {a}}, "kernel": {"TestKernel": {a}}, "container": {"TestContainer": {b}},
	}
	if !reflect.DeepEqual(found, want) {
		t.Errorf("found %v, want %v", found, want)
	}
	if got, want := found.Pattern("kernel", "container"), "^(TestContainer|TestKernel)$"; got != want {
		t.Errorf("pattern %s, want %s", got, want)
	}
	if err := found.checkNames(); err != nil {
		t.Error(err)
	}
	found.add("unit", "TestKernel", b)
	if found.checkNames() == nil {
		t.Error("a name in two tiers was accepted")
	}
}

func TestReport(t *testing.T) {
	const module = "github.com/taskguard/taskguard/"
	for name, c := range map[string]struct {
		lines  []string
		want   Result
		prints []string
	}{
		"all pass": {[]string{
			`{"Action":"pass","Package":"` + module + `a","Test":"TestX"}`,
			`{"Action":"pass","Package":"` + module + `a","Test":"TestX/sub"}`,
			`{"Action":"pass","Package":"` + module + `a","Elapsed":1.5}`,
		}, Result{Passed: 1}, []string{"ok   a ", "1.50s"}},
		"a skip says why": {[]string{
			`{"Action":"output","Package":"` + module + `a","Test":"TestX","Output":"    x_test.go:1: needs root\n"}`,
			`{"Action":"skip","Package":"` + module + `a","Test":"TestX"}`,
			`{"Action":"pass","Package":"` + module + `a"}`,
		}, Result{Skipped: 1}, []string{"skip a TestX", "needs root"}},
		"a failure shows its output": {[]string{
			`{"Action":"output","Package":"` + module + `a","Test":"TestX","Output":"got 1, want 2\n"}`,
			`{"Action":"fail","Package":"` + module + `a","Test":"TestX"}`,
			`{"Action":"fail","Package":"` + module + `a"}`,
		}, Result{Failed: 1}, []string{"FAIL a TestX", "got 1, want 2"}},
		"what does not compile has failed": {[]string{
			`{"Action":"build-output","ImportPath":"` + module + `a","Output":"undefined: x\n"}`,
			`{"Action":"fail","Package":"` + module + `a"}`,
		}, Result{Failed: 1}, []string{"undefined: x"}},
		"a panic ends the package": {[]string{
			`{"Action":"output","Package":"` + module + `a","Test":"TestX","Output":"panic: boom\n"}`,
			`{"Action":"fail","Package":"` + module + `a"}`,
		}, Result{Failed: 1}, []string{"panic: boom"}},
		"a test that never ended": {[]string{
			`{"Action":"fail","Package":"` + module + `a","Test":"TestX"}`,
			`{"Action":"output","Package":"` + module + `a","Test":"TestY","Output":"goroutine 1\n"}`,
			`{"Action":"fail","Package":"` + module + `a"}`,
		}, Result{Failed: 2}, []string{"FAIL a TestX", "goroutine 1"}},
		"no tests": {[]string{`{"Action":"skip","Package":"` + module + `a"}`}, Result{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			r := NewReport(&out)
			for _, line := range c.lines {
				if err := r.Add([]byte(line)); err != nil {
					t.Fatal(err)
				}
			}
			if got := r.Result(); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
			for _, text := range c.prints {
				if !strings.Contains(out.String(), text) {
					t.Errorf("%q lacks %q", out.String(), text)
				}
			}
		})
	}
}
