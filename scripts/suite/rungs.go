package suite

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// Rung is what a test found out about one way of observing one kind of event on the kernel it ran on. A test tells it
// by a line of its output, one for each rung that was tried, in the order of the ladder:
//
//	TASKGUARD-RUNG file.open fentry ok
//	TASKGUARD-RUNG file.open fentry attach: operation not permitted
type Rung struct {
	Kind, Name string
	Outcome    string // "ok", or why it could not be used
}

// RungsDir is where they are kept, below the module's root.
const RungsDir = "bin/rungs"

func (r Rung) ok() bool { return r.Outcome == "ok" }

// parseRung finds a rung in a line, behind whatever the test wrote before it.
func parseRung(line string) (Rung, bool) {
	_, text, found := strings.Cut(line, "TASKGUARD-RUNG ")
	fields := strings.Fields(text)
	if !found || len(fields) < 3 {
		return Rung{}, false
	}
	return Rung{Kind: fields[0], Name: fields[1], Outcome: strings.Join(fields[2:], " ")}, true
}

// WriteRungs keeps the rungs of one kernel in a folder, as KERNEL.tsv. Without rungs it removes what was there.
func WriteRungs(dir, kernel string, rungs []Rung) error {
	file := filepath.Join(dir, kernel+".tsv")
	if len(rungs) == 0 {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write rungs: %w", err)
		}
		return nil
	}
	var text strings.Builder
	for _, r := range rungs {
		fmt.Fprintf(&text, "%s\t%s\t%s\n", r.Kind, r.Name, r.Outcome)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write rungs: %w", err)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("write rungs: %w", err)
	}
	return nil
}

// ReadRungs reads what WriteRungs has kept, by kernel.
func ReadRungs(dir string) (map[string][]Rung, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.tsv"))
	if err != nil {
		return nil, err
	}
	all := map[string][]Rung{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read rungs: %w", err)
		}
		kernel := strings.TrimSuffix(filepath.Base(file), ".tsv")
		for line := range strings.Lines(string(text)) {
			fields := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 3)
			if len(fields) != 3 {
				return nil, fmt.Errorf("read rungs: %s: line %q has not three fields", file, line)
			}
			all[kernel] = append(all[kernel], Rung{Kind: fields[0], Name: fields[1], Outcome: fields[2]})
		}
	}
	return all, nil
}

// PrintRungs prints which rung won, kind by kernel, and below it why kinds have none.
func PrintRungs(out io.Writer, all map[string][]Rung) error {
	kernels := slices.SortedFunc(maps.Keys(all), byVersion)
	cells, kinds := map[[2]string]string{}, map[string]bool{}
	var reasons []string
	for _, kernel := range kernels {
		for kind, rungs := range byKind(all[kernel]) {
			kinds[kind] = true
			won := slices.IndexFunc(rungs, Rung.ok)
			if won >= 0 {
				cells[[2]string{kind, kernel}] = rungs[won].Name
				continue
			}
			cells[[2]string{kind, kernel}] = "off"
			for _, r := range rungs {
				reasons = append(reasons, fmt.Sprintf("%s on %s, %s: %s", kind, kernel, r.Name, r.Outcome))
			}
		}
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "kind\t"+strings.Join(kernels, "\t"))
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		row := []string{kind}
		for _, kernel := range kernels {
			row = append(row, orDash(cells[[2]string{kind, kernel}]))
		}
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	slices.Sort(reasons)
	for _, reason := range reasons {
		fmt.Fprintln(out, reason)
	}
	return nil
}

// byVersion puts 5.10 before 6.1 before 6.12, and other architectures, which a word precedes, after them.
func byVersion(a, b string) int {
	return slices.Compare(versionOf(a), versionOf(b))
}

func versionOf(kernel string) []int {
	arch, version, found := strings.Cut(kernel, "-")
	if !found {
		arch, version = "", kernel
	}
	numbers := []int{len(arch)}
	for part := range strings.SplitSeq(version, ".") {
		var n int
		_, _ = fmt.Sscan(part, &n) // what is no number is 0
		numbers = append(numbers, n)
	}
	return numbers
}

func byKind(rungs []Rung) map[string][]Rung {
	kinds := map[string][]Rung{}
	for _, r := range rungs {
		kinds[r.Kind] = append(kinds[r.Kind], r)
	}
	return kinds
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
