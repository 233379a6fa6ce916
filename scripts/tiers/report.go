package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// result counts top-level tests. A package that does not compile, or ends before its tests, is one more failed test.
type result struct{ passed, failed, skipped int }

func (r *result) add(s result) {
	r.passed += s.passed
	r.failed += s.failed
	r.skipped += s.skipped
}

func (r result) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", r.passed, r.failed, r.skipped)
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

// reporter turns test events into lines for people.
type reporter struct {
	out    io.Writer
	output map[string]*strings.Builder // by package and test, until they end
	counts map[string]*result          // by package
	sum    result
}

// report reads go test -json to its end.
func report(in io.Reader, out io.Writer) (result, error) {
	r := reporter{out: out, output: map[string]*strings.Builder{}, counts: map[string]*result{}}
	lines := json.NewDecoder(in)
	for {
		var e testEvent
		if err := lines.Decode(&e); errors.Is(err, io.EOF) {
			return r.sum, nil
		} else if err != nil {
			return r.sum, fmt.Errorf("read test events: %w", err)
		}
		r.take(e)
	}
}

func (r *reporter) take(e testEvent) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		if r.output[key] == nil {
			r.output[key] = &strings.Builder{}
		}
		r.output[key].WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test != "" {
			r.testEnded(e, r.text(key))
		} else {
			r.packageEnded(e, r.text(key))
		}
		delete(r.output, key)
	}
}

func (r *reporter) text(key string) string {
	if r.output[key] == nil {
		return ""
	}
	return r.output[key].String()
}

func (r *reporter) testEnded(e testEvent, output string) {
	switch e.Action {
	case "fail":
		fmt.Fprintf(r.out, "FAIL %s %s (%.2fs)\n%s", short(e.Package), e.Test, e.Elapsed, indent(output))
	case "skip":
		fmt.Fprintf(r.out, "skip %s %s\n%s", short(e.Package), e.Test, indent(output))
	}
	if !strings.Contains(e.Test, "/") {
		r.of(e.Package).count(e.Action)
	}
}

func (r *result) count(action string) {
	switch action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
	case "skip":
		r.skipped++
	}
}

func (r *reporter) of(pkg string) *result {
	if r.counts[pkg] == nil {
		r.counts[pkg] = &result{}
	}
	return r.counts[pkg]
}

func (r *reporter) packageEnded(e testEvent, output string) {
	n := r.of(e.Package)
	if e.Action == "fail" {
		unended := r.unended(e.Package)
		if n.failed == 0 || unended != "" {
			n.failed++
			fmt.Fprintf(r.out, "FAIL %s\n%s%s", short(e.Package), indent(output), unended)
		}
	}
	r.sum.add(*n)
	if *n != (result{}) {
		fmt.Fprintf(r.out, "%-5s%-52s %6.2fs  %s\n", verdict(e.Action), short(e.Package), e.Elapsed, n)
	}
}

// unended returns what the tests printed that were running when their package ended: one of them may have ended it.
func (r *reporter) unended(pkg string) string {
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
