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

// sharing is from how many kinds on that have no event yet the same is said of them in one line, also if it is bad.
const sharing = 4

// print gives a line to every kind of which something was observed, or with which something is wrong. Others share one
// where the same is to be said of them, and so do many with which the same is wrong.
func (t *kindTable) print(out io.Writer, color bool) error {
	shared := map[string][]string{} // kinds without an event, by what is to be said of them
	for _, kind := range t.names() {
		if t.Kinds[kind] == (kindStatus{}) {
			source := t.Sources[kind]
			say := source.say(color)
			shared[say] = append(shared[say], kind)
		}
	}
	rows := slices.DeleteFunc(t.names(), func(kind string) bool {
		source := t.Sources[kind]
		return t.Kinds[kind] == (kindStatus{}) && (source.Healthy || len(shared[source.say(color)]) >= sharing)
	})
	notes := t.footnotes(rows)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	// A table counts the bytes of a colour: there must be as many in every line, the head included.
	fmt.Fprintf(w, "KIND\tVIA\t%s\tEVENTS\tLOST\tFILTERED\tREASON\n", paint(color, plain, "HEALTH"))
	for _, kind := range rows {
		source, known := t.Sources[kind]
		n, health, note := t.Kinds[kind], source.health(color), event.Escape(source.note())
		if n == (kindStatus{}) { // it has a line of its own
			say := source.say(color)
			if shared[say] = shared[say][1:]; len(shared[say]) == 0 {
				delete(shared, say)
			}
		}
		if !known {
			source.Via, health = "agent", paint(color, green, "ok")
		}
		if i := slices.Index(notes, source.note()); i >= 0 {
			note = fmt.Sprintf("[%d]", i+1)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", kind, source.Via, health, n.Observed, n.Lost, n.Filtered, note)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for i, note := range notes {
		if _, err := fmt.Fprintf(out, "\n[%d] %s\n", i+1, event.Escape(note)); err != nil {
			return err
		}
	}
	for _, say := range sortedKeys(shared) {
		if _, err := fmt.Fprintf(out, "\n%s:\n%s", say, wrap(shared[say])); err != nil {
			return err
		}
	}
	return nil
}

// footnotes are the reasons that are given more than once, and too long for that.
func (t *kindTable) footnotes(rows []string) []string {
	const short = 40
	var notes []string
	count := map[string]int{}
	for _, kind := range rows {
		source := t.Sources[kind]
		note := source.note()
		if count[note]++; count[note] == 2 && len(note) > short {
			notes = append(notes, note)
		}
	}
	return notes
}

// say is what there is to say of a kind without an event.
func (s *sourceStatus) say(color bool) string {
	switch {
	case !s.Healthy:
		return fmt.Sprintf("%s, %s%s", s.Via, s.health(color), brackets(s.note()))
	case s.Via == viaOff:
		return viaOff + brackets(s.Reason)
	}
	return fmt.Sprintf("%s, %s, no event yet%s", s.Via, s.health(color), brackets(s.note()))
}

func (s *sourceStatus) health(color bool) string {
	switch {
	case !s.Healthy:
		return paint(color, red, "unhealthy")
	case s.Via == viaOff:
		return paint(color, plain, viaOff)
	case s.Via == viaDocker: // the connection is all that is to be tested
		return paint(color, green, "ok")
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
