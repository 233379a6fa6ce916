package ingest

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/taskguard/taskguard/collector/event"
)

// rates limits how often each agent sends. Of those that it knows, the one silent for longest makes room for a new one.
type rates struct {
	limit rate.Limit
	burst int
	max   int

	mu     sync.Mutex
	agents map[event.ID]*list.Element // guarded by mu, as is recent
	recent *list.List                 // of *agentRate, the one that sent last in front
}

type agentRate struct {
	agent   event.ID
	limiter *rate.Limiter
}

func newRates(l Limits) *rates {
	return &rates{
		limit: rate.Limit(l.Rate), burst: l.Burst, max: l.MaxAgents,
		agents: make(map[event.ID]*list.Element), recent: list.New(),
	}
}

// take counts a batch of an agent. It returns how long the agent has to wait before it may send it, and then has not
// counted it.
func (r *rates) take(agent event.ID, now time.Time) time.Duration {
	reservation := r.limiter(agent).ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

func (r *rates) limiter(agent event.ID) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if found, ok := r.agents[agent]; ok {
		r.recent.MoveToFront(found)
		return found.Value.(*agentRate).limiter
	}
	if r.recent.Len() >= r.max {
		oldest := r.recent.Remove(r.recent.Back()).(*agentRate)
		delete(r.agents, oldest.agent)
	}
	known := &agentRate{agent, rate.NewLimiter(r.limit, r.burst)}
	r.agents[agent] = r.recent.PushFront(known)
	return known.limiter
}
