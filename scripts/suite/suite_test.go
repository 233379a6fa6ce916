package suite

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
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
	if got, want := found.Packages("unit", "container"), []string{"./" + a, "./" + b}; !slices.Equal(got, want) {
		t.Errorf("packages %q, want %q", got, want)
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
			if failed := r.Failed(); (len(failed) > 0) != (c.want.Failed > 0) {
				t.Errorf("failed: %q", failed)
			}
			for _, text := range c.prints {
				if !strings.Contains(out.String(), text) {
					t.Errorf("%q lacks %q", out.String(), text)
				}
			}
		})
	}
}

// A package that will not end is a failure, and what its test had printed is shown.
func TestAbort(t *testing.T) {
	var out strings.Builder
	r := NewReport(&out)
	for _, line := range []string{
		`{"Action":"pass","Package":"a","Test":"TestX"}`, `{"Action":"pass","Package":"a"}`,
		`{"Action":"pass","Package":"b","Test":"TestY"}`,
		`{"Action":"output","Package":"b","Test":"TestZ","Output":"its last words\n"}`,
	} {
		if err := r.Add([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.Unended([]string{"b", "a", "c"}); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("unended %q", got)
	}
	r.Abort("b", "the machine stopped")
	r.Abort("c", "not run")
	if got, want := r.Result(), (Result{Passed: 2, Failed: 2}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
	for _, text := range []string{"FAIL b", "the machine stopped", "its last words", "FAIL c"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("%q lacks %q", out.String(), text)
		}
	}
}

func TestRungs(t *testing.T) {
	dir := t.TempDir()
	r := NewReport(io.Discard)
	for _, output := range []string{
		"    x_test.go:1: TASKGUARD-RUNG file.open fentry attach: operation not permitted",
		"TASKGUARD-RUNG file.open kprobe ok", "TASKGUARD-RUNG fs.mount fentry no such function",
		"TASKGUARD-RUNG fs.mount", "TASKGUARD",
	} {
		line, err := json.Marshal(testEvent{Action: "output", Package: "a", Test: "TestX", Output: output + "\n"})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Add(line); err != nil {
			t.Fatal(err)
		}
	}
	for kernel, rungs := range map[string][]Rung{
		"6.1": r.Rungs(), "5.10": {{"file.open", "fentry", "ok"}}, "arm64-6.1": {{"net.bind", "kprobe", "ok"}},
	} {
		if err := WriteRungs(dir, kernel, rungs); err != nil {
			t.Fatal(err)
		}
	}
	all, err := ReadRungs(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := PrintRungs(&out, all); err != nil {
		t.Fatal(err)
	}
	const want = "kind       5.10    6.1     arm64-6.1\n" +
		"file.open  fentry  kprobe  -\n" +
		"fs.mount   -       off     -\n" +
		"net.bind   -       -       kprobe\n" +
		"fs.mount on 6.1, fentry: no such function\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	if err := WriteRungs(dir, "6.1", nil); err != nil {
		t.Fatal(err)
	}
	if all, err = ReadRungs(dir); err != nil || len(all) != 2 {
		t.Errorf("after a run without rungs: %v, %v", all, err)
	}
}
