package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

func TestFollowerTakesLinesInPieces(t *testing.T) {
	var f follower
	now := time.Now()
	var text strings.Builder
	for i := range 100 {
		at := now.Add(-time.Duration(i) * time.Hour)
		fmt.Fprintf(&text, `{"time":%q,"kind":"process.exec"}`+"\n", at.Format(time.RFC3339Nano))
	}
	fmt.Fprintln(&text, `{"time":"2000-01-01T00:00:00Z","kind":"file.open"}`)
	for s := text.String(); s != ""; {
		n := min(7, len(s))
		if _, err := io.WriteString(&f, s[:n]); err != nil {
			t.Fatal(err)
		}
		s = s[n:]
	}
	l := f.latency()
	if l.Events != 100 || l.P50.Round(time.Hour) != 50*time.Hour || l.P99.Round(time.Hour) != 99*time.Hour {
		t.Errorf("latency %+v", l)
	}
}

func TestOwnUsage(t *testing.T) {
	cpu, err := cpuTime(os.Getpid())
	if err != nil || cpu < 0 || cpu > time.Hour {
		t.Errorf("CPU time %v, %v", cpu, err)
	}
	if memory, err := residentMemory(os.Getpid()); err != nil || memory < 1<<20 {
		t.Errorf("memory %d, %v", memory, err)
	}
	if _, err := cpuTime(-1); err == nil {
		t.Error("a process that is not there has CPU time")
	}
}

func TestMissingBenchmarkIsAnError(t *testing.T) {
	t.Chdir("../..")
	if figures, err := benchmark(context.Background(), "scripts/bench", "^BenchmarkOfNothing$"); err == nil {
		t.Errorf("figures %v of a benchmark that is not there", figures)
	}
}

func TestTableSaysWhatWasNotMeasured(t *testing.T) {
	p := path{steps: []step{{what: "decode", err: errors.New("no benchmark")}}, wireErr: errors.New("no benchmark")}
	var out strings.Builder
	if err := printTable(&out, p, nil, nil, errors.New("needs root")); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "n/a: "); n != 9 {
		t.Errorf("%d figures are n/a, want 9:\n%s", n, &out)
	}
}

func TestMedian(t *testing.T) {
	if m := median([]float64{9, 1, 3}); m != 3 {
		t.Errorf("median %v, want 3", m)
	}
	if m := median(nil); m != 0 {
		t.Errorf("median of nothing %v, want 0", m)
	}
}

func TestLost(t *testing.T) {
	for want, runs := range map[string][]map[string]uint64{
		"0":                                   {nil, {}},
		"6, kernel/throttled 3, spool/full 3": {{"kernel/throttled": 1}, {"kernel/throttled": 2, "spool/full": 3}},
	} {
		if got := lost(runs...); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
