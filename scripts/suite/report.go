package suite

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Result counts top-level tests. A package that does not compile, or ends before its tests, is one more failed test.
type Result struct{ Passed, Failed, Skipped int }

// Add adds another's counts.
func (r *Result) Add(s Result) {
	r.Passed += s.Passed
	r.Failed += s.Failed
	r.Skipped += s.Skipped
}

func (r Result) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", r.Passed, r.Failed, r.Skipped)
}

// testEvent is a line of go test -json (go doc test2json).
type testEvent struct {
	Action     string
	Package    string
	ImportPath string // of build-output
	Test       string
	Elapsed    float64
	Output     string
}

// Report turns the lines of go test -json into lines for people. Its methods are not safe for concurrent use.
type Report struct {
	out    io.Writer
	output map[string]*strings.Builder // by package and test, until they end
	counts map[string]*Result          // by package
	ended  map[string]bool             // packages
	sum    Result
	rungs  []Rung
	failed []string
}

// maxShown is how much of a failed test's output Failed gives, from its end.
const maxShown = 400

// NewReport returns a report that is written as tests end.
func NewReport(out io.Writer) *Report {
	return &Report{
		out: out, output: map[string]*strings.Builder{}, counts: map[string]*Result{}, ended: map[string]bool{},
	}
}

// Add takes one line.
func (r *Report) Add(line []byte) error {
	var e testEvent
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("read test event %.200q: %w", line, err)
	}
	r.take(e)
	return nil
}

// AddAll takes lines until there are none.
func (r *Report) AddAll(in io.Reader) error {
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if err := r.Add(line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read test events: %w", err)
		}
	}
}

// Result returns the sum of the packages that have ended.
func (r *Report) Result() Result { return r.sum }

// Failed tells of each failed test once more: who reads only the end of a long log should see why.
func (r *Report) Failed() []string { return r.failed }

// fail shows a failed test.
func (r *Report) fail(name, output string) {
	fmt.Fprintf(r.out, "FAIL %s\n%s", name, output)
	if cut := len(output) - maxShown; cut > 0 {
		output = "    …" + strings.ToValidUTF8(output[cut:], "")
	}
	r.failed = append(r.failed, "FAIL "+name+"\n"+output)
}

// Rungs returns what the tests told of rungs, in that order.
func (r *Report) Rungs() []Rung { return r.rungs }

// Unended returns those of the packages that have not ended, in their order.
func (r *Report) Unended(packages []string) []string {
	return slices.DeleteFunc(slices.Clone(packages), func(pkg string) bool { return r.ended[pkg] })
}

// Abort fails a package that will not end any more, and shows what its tests had printed.
func (r *Report) Abort(pkg, reason string) {
	r.take(testEvent{Action: "output", Package: pkg, Output: reason + "\n"})
	r.of(pkg).Failed++
	r.fail(short(pkg), indent(r.text(pkg+" "))+r.unended(pkg))
	r.sum.Add(*r.of(pkg))
}

func (r *Report) take(e testEvent) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		if r.output[key] == nil {
			r.output[key] = &strings.Builder{}
		}
		r.output[key].WriteString(e.Output)
		if rung, found := parseRung(e.Output); found {
			r.rungs = append(r.rungs, rung)
		}
	case "pass", "fail", "skip":
		if e.Test != "" {
			r.testEnded(e, r.text(key))
		} else {
			r.packageEnded(e, r.text(key))
		}
		delete(r.output, key)
	}
}

func (r *Report) text(key string) string {
	if r.output[key] == nil {
		return ""
	}
	return r.output[key].String()
}

func (r *Report) testEnded(e testEvent, output string) {
	switch e.Action {
	case "fail":
		r.fail(fmt.Sprintf("%s %s (%.2fs)", short(e.Package), e.Test, e.Elapsed), indent(output))
	case "skip":
		fmt.Fprintf(r.out, "skip %s %s\n%s", short(e.Package), e.Test, indent(output))
	}
	if !strings.Contains(e.Test, "/") {
		r.of(e.Package).count(e.Action)
	}
}

func (r *Result) count(action string) {
	switch action {
	case "pass":
		r.Passed++
	case "fail":
		r.Failed++
	case "skip":
		r.Skipped++
	}
}

func (r *Report) of(pkg string) *Result {
	if r.counts[pkg] == nil {
		r.counts[pkg] = &Result{}
	}
	return r.counts[pkg]
}

func (r *Report) packageEnded(e testEvent, output string) {
	n := r.of(e.Package)
	r.ended[e.Package] = true
	if e.Action == "fail" {
		unended := r.unended(e.Package)
		if n.Failed == 0 || unended != "" {
			n.Failed++
			r.fail(short(e.Package), indent(output)+unended)
		}
	}
	r.sum.Add(*n)
	if *n != (Result{}) {
		fmt.Fprintf(r.out, "%-5s%-52s %6.2fs  %s\n", verdict(e.Action), short(e.Package), e.Elapsed, n)
	}
}

// unended returns what the tests printed that were running when their package ended: one of them may have ended it.
func (r *Report) unended(pkg string) string {
	var all strings.Builder
	for key, output := range r.output {
		if strings.HasPrefix(key, pkg+" Test") || strings.HasPrefix(key, pkg+" Fuzz") {
			all.WriteString(indent(output.String()))
		}
	}
	return all.String()
}

func verdict(action string) string {
	if action == "fail" {
		return "FAIL"
	}
	return "ok"
}

func short(pkg string) string { return strings.TrimPrefix(pkg, "github.com/taskguard/taskguard/") }

// indent leaves out go test's own headings.
func indent(output string) string {
	var b strings.Builder
	for line := range strings.Lines(output) {
		if text := strings.TrimSpace(line); text == "" || strings.HasPrefix(text, "=== ") || strings.HasPrefix(text, "--- ") {
			continue
		}
		b.WriteString("    " + strings.TrimRight(line, "\n") + "\n")
	}
	return b.String()
}
