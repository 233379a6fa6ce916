package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// printTable prints the budgets with what was measured. steady and rounds are nil when they were not; why says why
// not, or, when they were, why auditd is not among them.
func printTable(out io.Writer, p path, steady *steadyResult, rounds *slowDown, why error) error {
	fmt.Fprintf(out, "%s, %d cores, Linux %s, %s, %s\n\n", processor(), runtime.NumCPU(), kernelRelease(), runtime.Version(),
		time.Now().UTC().Format(time.DateOnly))
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	row := func(what, budget, measured, peer string) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", what, budget, measured, peer)
	}
	row("WHAT", "BUDGET", "MEASURED", "AUDITD")
	if steady == nil {
		for _, what := range []string{"agent CPU", "slow-down of a spawn loop", "lost events", "resident memory", "event to stored"} {
			row(what, "", "n/a: "+why.Error(), "")
		}
	} else {
		kernelRows(row, steady, rounds, why)
	}
	pathRows(row, p)
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(out, "\n", notes(steady, rounds, p))
	return err
}

type rowFunc func(what, budget, measured, peer string)

func kernelRows(row rowFunc, s *steadyResult, r *slowDown, noAuditd error) {
	cpu, slow, lost, memory := "n/a", "n/a", "n/a", "n/a"
	if noAuditd != nil {
		cpu = "n/a: " + noAuditd.Error()
	} else {
		cpu = fmt.Sprintf("%.1f %% (and kauditd %.1f %%)", s.Auditd.CPU, s.KernelPart)
		slow = fmt.Sprintf("%+.1f %%", median(r.Auditd))
		lost = fmt.Sprint(s.Auditd.Lost + r.LostAuditd)
		memory = fmt.Sprintf("%.0f MB", megabytes(s.Auditd.Memory))
	}
	row("agent CPU at 1,000 exec/s, enriched and shipped", "<= 3 % of one core",
		fmt.Sprintf("%.1f %%", s.Agent.CPU), cpu)
	row("slow-down of a spawn loop at full speed", "<= 3 %", fmt.Sprintf("%+.1f %%", median(r.Agent)), slow)
	row("lost events in these runs", "0", fmt.Sprint(s.Agent.Lost+r.Lost), lost)
	row("resident memory, idle / under the storm", "<= 40 / 96 MB",
		fmt.Sprintf("%.0f / %.0f MB", megabytes(s.Idle), megabytes(s.Agent.Memory)), memory)
	stored := "n/a: nothing was read back"
	if s.Latency.Events > 0 {
		stored = fmt.Sprintf("%.1f s (p50 %.1f s)", s.Latency.P99.Seconds(), s.Latency.P50.Seconds())
	}
	row("event to stored and read back, p99", "<= 3 s", stored, "")
}

func pathRows(row rowFunc, p path) {
	ns, allocs, err := p.sum()
	measured := fmt.Sprintf("%.2f us, %.0f allocations", ns/1000, allocs)
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
func notes(s *steadyResult, r *slowDown, p path) string {
	var b strings.Builder
	for _, step := range p.steps {
		if step.err == nil {
			fmt.Fprintf(&b, "%s %s: %.0f ns, %.0f allocations\n", step.pkg, step.benchmark, step.ns, step.allocs)
		}
	}
	if s == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "CPU and memory: of the process alone, during %d s at %.0f exec/s; the agent took %d events, each stored in %.1f bytes.\n",
		steadySeconds, s.PerSecond, s.Events, s.WireBytes)
	fmt.Fprintf(&b, "Slow-down: median of %d rounds of %d processes, %.0f/s alone; agent %s %%", roundCount, roundSize, median(r.Alone),
		list(r.Agent))
	if len(r.Auditd) > 0 {
		fmt.Fprintf(&b, ", auditd %s %%", list(r.Auditd))
	}
	b.WriteString(".\nThe endpoint runs on the same cores. auditd has one rule, for execve, and writes a raw log.\n")
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
