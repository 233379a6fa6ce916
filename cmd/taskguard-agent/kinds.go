package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// kindStatus counts the events of a kind.
type kindStatus struct {
	Observed uint64 `json:"observed"` // lost ones included
	Lost     uint64 `json:"lost"`
	Filtered uint64 `json:"filtered,omitempty"` // left out in the kernel as the settings say; not observed
}

// sourceStatus says how a kind is observed.
type sourceStatus struct {
	Via      string   `json:"via"`
	Healthy  bool     `json:"healthy"`
	Reason   string   `json:"reason"`
	SelfTest *verdict `json:"self_test,omitempty"` // the last one
}

// kindTable is what is known of every kind, by its name.
type kindTable struct {
	Kinds   map[string]kindStatus   `json:"kinds"`
	Sources map[string]sourceStatus `json:"sources"`
}

func newKindTable(states []event.SourceState, t *selfTest) kindTable {
	table := kindTable{Kinds: map[string]kindStatus{}, Sources: map[string]sourceStatus{}}
	for _, s := range states {
		table.Sources[s.Kind.String()] = sourceStatus{s.Via, s.Healthy, s.Reason, t.verdict(s.Kind)}
	}
	return table
}

// print gives a line to every kind of which something was observed, or with which something is wrong. The others share
// a line where the same is to be said of them.
func (t *kindTable) print(out io.Writer, color bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	// Of a colour's bytes a table has to know in every line, the head included.
	fmt.Fprintf(w, "KIND\tVIA\t%s\tEVENTS\tLOST\tFILTERED\tREASON\n", paint(color, plain, "HEALTH"))
	var quiet []string // what is to be said of the others
	kinds := map[string][]string{}
	for _, kind := range t.names() {
		source, known := t.Sources[kind]
		n, health := t.Kinds[kind], source.health(color)
		if !known {
			source.Via, health = "agent", paint(color, green, "ok")
		}
		if n != (kindStatus{}) || known && !source.Healthy {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", kind, source.Via, health, n.Observed, n.Lost, n.Filtered,
				event.Escape(source.note()))
			continue
		}
		say := fmt.Sprintf("%s, %s, no event yet%s", source.Via, health, brackets(source.note()))
		if source.Via == viaOff {
			say = viaOff + brackets(source.Reason)
		}
		if kinds[say] == nil {
			quiet = append(quiet, say)
		}
		kinds[say] = append(kinds[say], kind)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, say := range quiet {
		if _, err := fmt.Fprintf(out, "\n%s:\n%s", say, wrap(kinds[say])); err != nil {
			return err
		}
	}
	return nil
}

func (s *sourceStatus) health(color bool) string {
	switch {
	case !s.Healthy:
		return paint(color, red, "unhealthy")
	case s.SelfTest == nil:
		return paint(color, yellow, "untested")
	case s.SelfTest.Result != passed:
		return paint(color, yellow, string(s.SelfTest.Result))
	}
	return paint(color, green, "ok")
}

// note is the reason, and what the self-test could not do.
func (s *sourceStatus) note() string {
	if s.Healthy && s.SelfTest != nil && s.SelfTest.Result != passed {
		return join(s.Reason, "self-test: "+s.SelfTest.Reason)
	}
	return s.Reason
}

// names lists the kinds in their order; what an earlier run left in the spool is last.
func (t *kindTable) names() []string {
	var names []string
	for _, kind := range append(event.Kinds(), 0) {
		name := kindName(kind)
		_, source := t.Sources[name]
		_, counted := t.Kinds[name]
		if source || counted {
			names = append(names, name)
		}
	}
	return names
}

// kindName names a kind; what an earlier run left in the spool has none.
func kindName(kind event.Kind) string {
	if kind == 0 {
		return "recovered"
	}
	return kind.String()
}

// wrap puts words into lines of less than 100 characters.
func wrap(words []string) string {
	var text strings.Builder
	column := 0
	for _, word := range words {
		if column == 0 || column+len(word) > 96 {
			text.WriteString(strings.Repeat("\n", min(column, 1)) + " ")
			column = 1
		}
		text.WriteString(" " + word)
		column += 1 + len(word)
	}
	return text.String() + "\n"
}

// stateGroup is kinds of which the same is to be said.
type stateGroup struct {
	event.SourceState
	kinds []event.Kind
}

// groupStates puts together what is equal but for the kind.
func groupStates(states []event.SourceState) []stateGroup {
	var groups []stateGroup
	for _, s := range states {
		kind := s.Kind
		s.Kind = 0
		i := slices.IndexFunc(groups, func(g stateGroup) bool { return g.SourceState == s })
		if i < 0 {
			i, groups = len(groups), append(groups, stateGroup{SourceState: s})
		}
		groups[i].kinds = append(groups[i].kinds, kind)
	}
	return groups
}

// newestTested is the newest kernel that the tests have run on.
const newestTested = "6.18"

// untestedKernel says that a kernel is newer than any that was tested, which is no fault of it.
func untestedKernel(release string) string {
	var major, minor, testedMajor, testedMinor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return ""
	}
	_, _ = fmt.Sscanf(newestTested, "%d.%d", &testedMajor, &testedMinor)
	if major < testedMajor || major == testedMajor && minor <= testedMinor {
		return ""
	}
	return fmt.Sprintf("kernel %d.%d is newer than the newest tested (%s)", major, minor, newestTested)
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
