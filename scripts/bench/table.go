package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// printTable prints the budgets with what was measured. steady and r are nil when they were not; why says why
// not, or, when they were, why auditd is not among them.
func printTable(out io.Writer, p path, steady *steadyResult, r *rounds, why error) error {
	fmt.Fprintf(out, "%s, %d cores, Linux %s, %s, %s\n\n", processor(), runtime.NumCPU(), kernelRelease(),
		runtime.Version(), time.Now().UTC().Format(time.DateOnly))
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(what, budget, measured, peer string) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", what, budget, measured, peer)
	}
	row("WHAT", "BUDGET", "MEASURED", "AUDITD")
	kernelRows(row, steady, r, why)
	pathRows(row, p)
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(out, "\n", notes(steady, r, p))
	return err
}

type rowFunc func(what, budget, measured, peer string)

// kernelRows has what is measured with the kernel; why is as printTable has it.
func kernelRows(row rowFunc, s *steadyResult, r *rounds, why error) {
	peer := auditdFigures(s, r, why)
	if s == nil {
		s, r = &steadyResult{}, &rounds{}
	} else {
		why = nil
	}
	measured := func(format string, args ...any) string {
		if why != nil {
			return "n/a: " + why.Error()
		}
		return fmt.Sprintf(format, args...)
	}
	row("agent CPU at 1,000 exec/s, enriched and shipped", "<= 3 % of one core",
		measured("%.1f %%", s.Agent.CPU), peer.cpu)
	for i, l := range loops() {
		row("slow-down at full speed, "+l.what, "<= 3 %", measured("%+.1f %%", median(r.Loops[i].Agent)),
			peer.slowDown[i])
	}
	row("lost events in these runs", "0", measured("%s", lost(s.Lost, r.Lost)), peer.lost)
	row("resident memory, idle / under the storm", "<= 40 / 96 MB",
		measured("%.0f / %.0f MB", megabytes(s.Idle), megabytes(s.Agent.Memory)), peer.memory)
	row("event to stored and read back, p99", "<= 3 s",
		measured("%.1f s (p50 %.1f s)", s.Latency.P99.Seconds(), s.Latency.P50.Seconds()), "")
}

// lost adds up losses and names their causes.
func lost(runs ...map[string]uint64) string {
	causes := map[string]uint64{}
	var all uint64
	for _, run := range runs {
		for cause, n := range run {
			causes[cause] += n
			all += n
		}
	}
	text := strconv.FormatUint(all, 10)
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		text += fmt.Sprintf(", %s %d", cause, causes[cause])
	}
	return text
}

// peerFigures are auditd's.
type peerFigures struct {
	cpu, lost, memory string
	slowDown          [loopCount]string
}

func auditdFigures(s *steadyResult, r *rounds, why error) peerFigures {
	if s == nil {
		return peerFigures{}
	}
	if s.Auditd == nil {
		return peerFigures{cpu: "n/a: " + why.Error()}
	}
	f := peerFigures{
		cpu:    fmt.Sprintf("%.1f %% (and kauditd %.1f %%)", s.Auditd.CPU, s.KernelPart),
		lost:   fmt.Sprint(s.LostAuditd + r.LostAuditd),
		memory: fmt.Sprintf("%.0f MB", megabytes(s.Auditd.Memory)),
	}
	for i, l := range r.Loops {
		f.slowDown[i] = fmt.Sprintf("%+.1f %%", median(l.Auditd))
	}
	return f
}

func pathRows(row rowFunc, p path) {
	ns, allocs, err := p.sum()
	measured := fmt.Sprintf("%.2f us, allocations: %.0f", ns/1000, allocs)
	if err != nil {
		measured = "n/a: " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	row("kernel record -> encoded in a batch, per event", "<= 1 us, 0 allocations", measured, "")
	wire := fmt.Sprintf("%.1f", p.wireBytes)
	if p.wireErr != nil {
		wire = "n/a: " + p.wireErr.Error()
	}
	row("bytes per event on the wire, exec/connect mix", "<= 25", wire, "")
}

// notes say how it was measured.
func notes(s *steadyResult, r *rounds, p path) string {
	var b strings.Builder
	b.WriteString("Kernel record -> encoded:")
	for _, step := range p.steps {
		fmt.Fprintf(&b, " %s %.0f ns", step.what, step.ns)
	}
	b.WriteString(" (0 is not measured).\n")
	if s == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "CPU and memory: of the process alone, during %d s at %.0f exec/s; the agent took %d events, each "+
		"stored in %.1f bytes.\n", steadySeconds, s.PerSecond, s.Events, s.WireBytes)
	for i, l := range loops() {
		of := r.Loops[i]
		fmt.Fprintf(&b, "Slow-down, %s: median of %d rounds of %d, %.0f/s alone; agent %s", l.what,
			roundCount, l.size, median(of.Alone), list(of.Agent))
		if len(of.Auditd) > 0 {
			fmt.Fprintf(&b, ", auditd %s", list(of.Auditd))
		}
		b.WriteString(".\n")
	}
	b.WriteString("The endpoint runs on the same cores. auditd has one rule, for execve, and writes a raw log.\n")
	return b.String()
}

func list(values []float64) string {
	var texts []string
	for _, v := range values {
		texts = append(texts, fmt.Sprintf("%+.1f", v))
	}
	return strings.Join(texts, " ")
}

func megabytes(bytes uint64) float64 { return float64(bytes) / 1e6 }

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimLeft(name, "\t :"))
		}
	}
	return runtime.GOARCH
}

func kernelRelease() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "of unknown release"
	}
	return strings.TrimSpace(string(text))
}

// loadAverage is of the last minute.
func loadAverage() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	var load float64
	_, _ = fmt.Sscan(string(text), &load) // 0 when it is none
	return load
}
