package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// step is one of the code's steps from a kernel record to an encoded event, as a Go benchmark measures it.
type step struct {
	what           string
	pkg, benchmark string // the benchmark as go test -bench takes it

	ns     float64 // for an event: the mean of the sub-benchmarks
	allocs float64 // the most of any of them
	err    error
}

// path is what an event goes through in the agent.
type path struct {
	steps []step
	// wireBytes is the compressed size of an event in a full batch of commands that fork, exec, connect and exit.
	wireBytes float64
	wireErr   error
}

const restTimeout, deliverTimeout = 5 * time.Second, time.Minute

func measurePath(ctx context.Context) path {
	p := path{steps: []step{
		// The kinds that the mix of the other benchmarks is made of.
		{what: "decode", pkg: "collector/ebpf", benchmark: `^BenchmarkDecode$/^(process\.(exec|fork|exit)|net\.connect)$`},
		{what: "enrich", pkg: "collector/process", benchmark: "^BenchmarkEnrich$"},
		{what: "encode", pkg: "sender", benchmark: "^BenchmarkEmit$"},
	}}
	for i := range p.steps {
		s := &p.steps[i]
		figures, err := benchmark(ctx, s.pkg, s.benchmark)
		s.ns, s.allocs, s.err = mean(figures["ns/op"]), most(figures["allocs/op"]), err
	}
	figures, err := benchmark(ctx, "sender/batch", "^BenchmarkSeal$")
	p.wireBytes, p.wireErr = mean(figures["wire-B/event"]), err
	return p
}

// sum returns what an event costs on the whole path.
func (p *path) sum() (ns, allocs float64, err error) {
	for _, s := range p.steps {
		ns, allocs = ns+s.ns, allocs+s.allocs
		err = errors.Join(err, s.err)
	}
	return ns, allocs, err
}

var figure = regexp.MustCompile(`([0-9.e+]+) (\S+)`)

// benchmark runs one benchmark, or several sub-benchmarks, and returns their figures by unit.
func benchmark(ctx context.Context, pkg, name string) (map[string][]float64, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", name, "-benchmem",
		"-benchtime", "1s", "./"+pkg).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w: %s", name, pkg, err, firstLine(out))
	}
	figures := map[string][]float64{}
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "Benchmark") {
			continue
		}
		for _, match := range figure.FindAllStringSubmatch(strings.ReplaceAll(line, "\t", " "), -1) {
			if value, err := strconv.ParseFloat(match[1], 64); err == nil {
				figures[match[2]] = append(figures[match[2]], value)
			}
		}
	}
	if len(figures) == 0 {
		return nil, fmt.Errorf("no benchmark %s in %s", name, pkg)
	}
	return figures, nil
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(max(len(values), 1))
}

func most(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Max(values)
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
