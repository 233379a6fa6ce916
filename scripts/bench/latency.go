package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// latency is how long it took from events to when they were read back from the endpoint.
type latency struct {
	Events   int
	P50, P99 time.Duration
}

// follower takes lines of `taskguard-endpoint events --json` and notes how old each event is.
type follower struct {
	mu   sync.Mutex
	rest []byte // a line that has not ended
	ages []time.Duration
}

// Write implements io.Writer.
func (f *follower) Write(p []byte) (int, error) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rest = append(f.rest, p...)
	for {
		end := bytes.IndexByte(f.rest, '\n')
		if end < 0 {
			return len(p), nil
		}
		var e struct {
			Time time.Time `json:"time"`
			Kind string    `json:"kind"`
		}
		if err := json.Unmarshal(f.rest[:end], &e); err != nil {
			return 0, err
		}
		f.rest = f.rest[end+1:]
		if e.Kind == "process.exec" {
			f.ages = append(f.ages, now.Sub(e.Time))
		}
	}
}

func (f *follower) latency() latency {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.ages)
	if n == 0 {
		return latency{}
	}
	slices.Sort(f.ages)
	return latency{Events: n, P50: f.ages[n/2], P99: f.ages[n*99/100]}
}
