// Package coverage is the role that knows which hosts are watched: per instance and per ECS cluster whether its agent
// delivers, and why not, in the words of GuardDuty's coverage; and it tells of each change.
//
// It promises: an instance is UNHEALTHY when its agent was not heard of for Config.Unseen, is kept from observing, or
// says that a kind of events is not observed; while no endpoint was there, nobody counts as silent; a change is told to
// each sink at least once, with the same id when it is told again, whatever is killed; and what it keeps is bounded, of which what was not seen for the longest time is forgotten first.
package coverage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
)

// Defaults of Config, and bounds.
const (
	DefaultUnseen = 5 * time.Minute
	// MaxInstances is how many instances of one of the log's partitions are remembered, and maxBytes how many bytes they
	// may take as JSON, which together with maxPending is what one state may have.
	MaxInstances = 1000
	maxBytes     = 850 << 10
	// forgetAfter is when an instance that is not heard of is forgotten.
	forgetAfter = 7 * 24 * time.Hour

	lookEvery = 10 * time.Second
	leaseFor  = 30 * time.Second
	tellFor   = 20 * time.Second // bounds telling of one change to one sink
	// maxPending bounds the changes that wait to be told: of more, the oldest are dropped, and counted.
	maxPending = 150
)

// Log is the log that the role reads.
type Log interface {
	// ReadPartition is stream.Store's.
	ReadPartition(
		ctx context.Context, partition int, after uint64, each func(stream.Message) error, gap func(discarded, damaged uint64),
	) error
}

// States keeps what the role knows.
type States interface {
	// State and PutState are stream.Store's.
	State(ctx context.Context, key string) (value []byte, revision uint64, err error)
	PutState(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
}

// Leases decides who does what.
type Leases interface {
	// Lease is stream.Store's.
	Lease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error)
}

// Sink takes changes.
type Sink interface {
	// Name tells it from the other sinks, also in the next run.
	Name() string
	// Tell returns nil when the change was taken. It is told again later when it was not, and holds up those behind it for
	// this sink, but for no other.
	Tell(ctx context.Context, c *Change) error
}

// Config says what a role works with.
type Config struct {
	Log    Log    // required
	States States // required
	Leases Leases // required
	Owner  string // of this replica, which no other has; required
	Sinks  []Sink // each is told of every change
	// ECS says how many container instances a cluster has. Nil: those that were heard of.
	ECS    ListContainerInstances
	Unseen time.Duration // after which an agent counts as disconnected; 0 is DefaultUnseen
	Logger *slog.Logger  // nil is no log
}

// Role is the role of one replica. Make one with New.
type Role struct {
	cfg  Config
	told [3]atomic.Uint64
}

// Stats counts since the start.
type Stats struct {
	Told      uint64 `json:"told"`      // changes
	Dropped   uint64 `json:"dropped"`   // changes that no sink took for so long that there was no room for more
	Forgotten uint64 `json:"forgotten"` // instances that made room for others
}

const (
	statTold = iota
	statDropped
	statForgotten
)

// New returns a role.
func New(cfg Config) (*Role, error) {
	if cfg.Log == nil || cfg.States == nil || cfg.Leases == nil || cfg.Owner == "" {
		return nil, errors.New("create coverage: want Log, States, Leases and Owner")
	}
	cfg.Unseen = cmp.Or(cfg.Unseen, DefaultUnseen)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("component", "coverage")
	return &Role{cfg: cfg}, nil
}

// Stats returns the counts.
func (r *Role) Stats() Stats {
	return Stats{r.told[statTold].Load(), r.told[statDropped].Load(), r.told[statForgotten].Load()}
}

// Run works until ctx is done, and then returns nil.
func (r *Role) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for partition := range stream.Partitions {
		running.Go(func() {
			r.attend(ctx, fmt.Sprint("coverage-", partition), func(ctx context.Context) error {
				return (&worker{role: r, partition: partition}).run(ctx)
			})
		})
	}
	running.Go(func() {
		r.attend(ctx, clustersKey, func(ctx context.Context) error { return (&clusters{role: r}).run(ctx) })
	})
	running.Wait()
	return nil
}

// attend works while this replica has the lease, until ctx is done, whatever fails.
func (r *Role) attend(ctx context.Context, lease string, work func(context.Context) error) {
	for ctx.Err() == nil {
		mine, err := r.cfg.Leases.Lease(ctx, lease, r.cfg.Owner, leaseFor)
		if err == nil && mine {
			err = r.hold(ctx, lease, work)
		}
		if err != nil && ctx.Err() == nil {
			r.cfg.Logger.Warn("following coverage failed, it is tried again", "part", lease, "error", err)
		}
		wait(ctx, lookEvery)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// hold works as long as the lease can be renewed.
func (r *Role) hold(ctx context.Context, lease string, work func(context.Context) error) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- work(working) }()
	for {
		select {
		case err := <-done:
			return err
		case <-time.After(leaseFor / 3):
		}
		if mine, err := r.cfg.Leases.Lease(ctx, lease, r.cfg.Owner, leaseFor); err != nil || !mine {
			stop()
			return errors.Join(err, errors.New("lost the lease"), <-done)
		}
	}
}

// kept is what is kept under a key: T and the changes of it that are not told to every sink yet, in order.
type kept[T any] struct {
	Now     T         `json:"now"`
	Pending []pending `json:"pending,omitempty"`
}

// pending is a change that is not told to every sink yet.
type pending struct {
	Change Change   `json:"change"`
	Taken  []string `json:"taken,omitempty"` // by which sinks
}

// load reads what is kept, the zero value if nothing is.
func load[T any](ctx context.Context, from States, key string) (k kept[T], revision uint64, err error) {
	value, revision, err := from.State(ctx, key)
	if err != nil || value == nil {
		return k, revision, err
	}
	if err := json.Unmarshal(value, &k); err != nil {
		return k, 0, fmt.Errorf("read %s: %w", key, err)
	}
	return k, revision, nil
}

// save keeps it, then tells of what is pending, and keeps that this was told.
func save[T any](ctx context.Context, r *Role, key string, k *kept[T], revision uint64) (uint64, error) {
	if excess := len(k.Pending) - maxPending; excess > 0 {
		r.told[statDropped].Add(uint64(excess))
		k.Pending = slices.Delete(k.Pending, 0, excess)
	}
	revision, err := r.put(ctx, key, k, revision)
	if err != nil || len(k.Pending) == 0 {
		return revision, err
	}
	taken := 0
	for _, sink := range r.cfg.Sinks {
		taken += r.tell(ctx, sink, k.Pending)
	}
	before := len(k.Pending)
	k.Pending = slices.DeleteFunc(k.Pending, func(p pending) bool { return len(p.Taken) >= len(r.cfg.Sinks) })
	r.told[statTold].Add(uint64(before - len(k.Pending)))
	if taken == 0 && before == len(k.Pending) {
		return revision, nil
	}
	return r.put(ctx, key, k, revision)
}

func (r *Role) put(ctx context.Context, key string, k any, revision uint64) (uint64, error) {
	value, err := json.Marshal(k)
	if err != nil {
		return 0, err
	}
	return r.cfg.States.PutState(ctx, key, value, revision)
}

// tell tells a sink of the changes that it has not taken, in order, until it does not take one, and returns how many it
// took.
func (r *Role) tell(ctx context.Context, sink Sink, list []pending) (taken int) {
	for i := range list {
		p := &list[i]
		if slices.Contains(p.Taken, sink.Name()) {
			continue
		}
		telling, cancel := context.WithTimeout(ctx, tellFor)
		err := sink.Tell(telling, &p.Change)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				r.cfg.Logger.Warn("a change of coverage was not taken, it is told again", "sink", sink.Name(), "id", p.Change.ID, "error", err)
			}
			return taken
		}
		p.Taken = append(p.Taken, sink.Name())
		taken++
	}
	return taken
}
