package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/stack"
)

// sourcesText says by what the kinds are observed: "process.exec, net.connect by ebpf/tracepoint; ...".
func sourcesText(sources map[string]stack.Source) string {
	var order []string
	kinds := map[string][]string{}
	for _, kind := range event.Kinds() {
		source, ok := sources[kind.String()]
		if !ok {
			continue
		}
		by := "by " + source.Via
		if !source.Healthy || source.Via == "off" {
			by = "by none (" + event.Escape(source.Reason) + ")"
		}
		if kinds[by] == nil {
			order = append(order, by)
		}
		kinds[by] = append(kinds[by], kind.String())
	}
	var parts []string
	for _, by := range order {
		parts = append(parts, strings.Join(kinds[by], ", ")+" "+by)
	}
	return strings.Join(parts, "; ")
}

// printSummary prints what the agent said of itself at the start and at the end, unless there was none, and what the
// endpoint has.
func printSummary(out io.Writer, start, end *stack.Status, stored map[string]uint64) error {
	if end == nil {
		fmt.Fprintf(out, "\n%-19s %10s\n", "KIND", "STORED")
	} else {
		fmt.Fprintf(out, "\n%-19s %10s %10s %10s\n", "KIND", "OBSERVED", "LOST", "STORED")
	}
	row := func(name string, observed, lost, stored uint64) {
		if end == nil {
			fmt.Fprintf(out, "%-19s %10d\n", name, stored)
			return
		}
		fmt.Fprintf(out, "%-19s %10d %10d %10d\n", name, observed, lost, stored)
	}
	var observed, lost, total uint64
	for _, kind := range kindsOf(end, stored) {
		var n stack.Kind
		if end != nil {
			n = end.Kinds[kind]
		}
		row(kind, n.Observed, n.Lost, stored[kind])
		observed, lost, total = observed+n.Observed, lost+n.Lost, total+stored[kind]
	}
	row("total", observed, lost, total)
	if end == nil {
		return nil
	}
	return printAgent(out, start, end)
}

func printAgent(out io.Writer, start, end *stack.Status) error {
	l := end.Ledger
	fmt.Fprintf(out, "\nledger   observed %d = acked %d + spooled %d + open %d + lost %d\n",
		l.Observed, l.Acked, l.Spooled, l.Open, l.AllLost())
	for _, cause := range slices.Sorted(maps.Keys(l.Lost)) {
		fmt.Fprintf(out, "         lost %s: %d\n", event.Escape(cause), l.Lost[cause])
	}
	fmt.Fprintf(out, "sources  %s\n", sourcesText(end.Sources))
	cpu := end.Agent.CPUSeconds - start.Agent.CPUSeconds
	elapsed := end.Agent.UptimeSeconds - start.Agent.UptimeSeconds
	_, err := fmt.Fprintf(out, "agent    %.1f %% of one core in %.0f s, after %.2f s of CPU to start; %.0f MB of memory\n",
		100*cpu/max(elapsed, 0.001), elapsed, start.Agent.CPUSeconds, float64(end.Agent.RSSBytes)/1e6)
	return err
}

// kindsOf lists the kinds of which either side has an event, in their order.
func kindsOf(end *stack.Status, stored map[string]uint64) []string {
	var kinds []string
	for _, kind := range event.Kinds() {
		name := kind.String()
		if stored[name] > 0 || end != nil && end.Kinds[name].Observed > 0 {
			kinds = append(kinds, name)
		}
	}
	return kinds
}
