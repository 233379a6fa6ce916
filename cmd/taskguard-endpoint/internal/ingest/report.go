package ingest

import (
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// counts are the handler's counters since start.
type counts struct {
	stored, repeats, events, bytes  atomic.Uint64
	refused4xx, limited, refused5xx atomic.Uint64
}

func (c *counts) refused(status int) {
	switch {
	case status >= 500:
		c.refused5xx.Add(1)
	case status == http.StatusTooManyRequests:
		c.limited.Add(1)
	default:
		c.refused4xx.Add(1)
	}
}

// Counts says what became of the requests since start.
type Counts struct {
	Stored      uint64 `json:"stored"`      // batches that were new
	Repeats     uint64 `json:"repeats"`     // batches the store had already
	Events      uint64 `json:"events"`      // events of the new batches
	Bytes       uint64 `json:"bytes"`       // bytes of the new batches on the wire
	Refused     uint64 `json:"refused"`     // requests answered with 4xx other than 429
	Limited     uint64 `json:"limited"`     // requests answered with 429: to be sent again, later
	Unavailable uint64 `json:"unavailable"` // requests answered with 503: to be sent again
}

// Counts returns the counters.
func (h *Handler) Counts() Counts {
	return Counts{
		Stored: h.counts.stored.Load(), Repeats: h.counts.repeats.Load(),
		Events: h.counts.events.Load(), Bytes: h.counts.bytes.Load(),
		Refused: h.counts.refused4xx.Load(), Limited: h.counts.limited.Load(), Unavailable: h.counts.refused5xx.Load(),
	}
}

const (
	// maxKnown bounds the agents that are remembered as known; beyond it they are forgotten, and logged once more.
	maxKnown = 16 << 10
	// refusalEvery is how often a refusal is logged at most, as whoever sends them chooses how many there are.
	refusalEvery = 10 * time.Second
)

// reporter logs what happens for the first time and what changes, not every request.
type reporter struct {
	log *slog.Logger

	mu          sync.Mutex
	known       map[event.ID]struct{} // guarded by mu, as are those below
	failing     bool
	lastRefusal time.Time
	unreported  int
}

// contact logs an agent's first batch.
func (r *reporter) contact(h *batch.Header, remote string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.known[h.ID.Agent]; ok {
		return
	}
	if r.known == nil || len(r.known) >= maxKnown {
		r.known = make(map[event.ID]struct{})
	}
	r.known[h.ID.Agent] = struct{}{}
	r.log.Info("first batch from agent", "agent", h.ID.Agent, "instance_id", h.Host.InstanceID,
		"hostname", h.Host.Hostname, "remote", remote)
}

// store logs when the store begins to fail, and when it works again.
func (r *reporter) store(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil && !r.failing:
		r.log.Error("batches cannot be stored, agents keep them and try again", "err", err)
	case err == nil && r.failing:
		r.log.Info("batches are stored again")
	}
	r.failing = err != nil
}

// refusal logs a refusal, with the number of those not logged since the last.
func (r *reporter) refusal(refused *refusal, remote string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.lastRefusal) >= refusalEvery {
		r.log.Warn("refused request", "status", refused.status, "reason", refused.reason, "remote", remote,
			"others_since_last_line", r.unreported)
		r.lastRefusal, r.unreported = now, 0
		return
	}
	r.unreported++
}
