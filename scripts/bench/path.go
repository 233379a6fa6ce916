package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// step is one of the code's steps from a kernel record to an encoded event, as a Go benchmark measures it.
type step struct {
	pkg, benchmark string

	ns     float64 // for an event
	allocs float64
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
		{pkg: "collector/ebpf", benchmark: "BenchmarkDecode"},
		{pkg: "collector/process", benchmark: "BenchmarkEnrich"},
		{pkg: "sender", benchmark: "BenchmarkEmit"},
	}}
	for i := range p.steps {
		s := &p.steps[i]
		figures, err := benchmark(ctx, s.pkg, s.benchmark)
		s.ns, s.allocs, s.err = figures["ns/op"], figures["allocs/op"], err
	}
	figures, err := benchmark(ctx, "sender/batch", "BenchmarkSeal")
	p.wireBytes, p.wireErr = figures["wire-B/event"], err
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

// benchmark runs one benchmark, all its sub-benchmarks, and returns the mean of each of its figures by unit.
func benchmark(ctx context.Context, pkg, name string) (map[string]float64, error) {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^"+name+"$", "-benchmem",
		"-benchtime", "1s", "./"+pkg).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w: %s", name, pkg, err, firstLine(out))
	}
	sums, lines := map[string]float64{}, 0
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "Benchmark") {
			continue
		}
		lines++
		for _, match := range figure.FindAllStringSubmatch(strings.ReplaceAll(line, "\t", " "), -1) {
			if value, err := strconv.ParseFloat(match[1], 64); err == nil {
				sums[match[2]] += value
			}
		}
	}
	if lines == 0 {
		return nil, fmt.Errorf("no %s in %s", name, pkg)
	}
	for unit := range sums {
		sums[unit] /= float64(lines)
	}
	return sums, nil
}

func firstLine(out []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
