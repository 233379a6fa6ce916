// Package hash computes the SHA-256 of files that events tell of, off the event path: today those of module.load.
//
// It promises: whoever emits never waits; an event is held back for Config.MaxWait at most, and then goes on as it is,
// even when a file system never answers; a digest is of the very file that the event names, by device and inode, and
// of content that did not change since the event, as far as the file's change time, which is a few milliseconds coarse,
// tells; what has no digest says why, and is counted; and no more than Config.MaxHeld events, their files of
// Config.MaxBytes, are held. Events that are held back come after later ones of other kinds.
//
// It must not: open what is no regular file, follow a link that has been put in the way, or take disk time that others
// want.
package hash

import (
	"sync"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// Why an event has no digest: event.Module.HashState. Empty is that it has one, or that the event names no file.
const (
	TooLarge    = "too_large"
	Vanished    = "vanished" // its path leads nowhere, or to another file, or its process and mount namespace are gone
	Changed     = "changed"  // it was changed since the event
	RateLimited = "rate_limited"
	Failed      = "error"
)

// Sink takes events, those that were held back from a goroutine of the hasher's.
type Sink interface {
	Emit(e *event.Event)
	Lost(kind event.Kind, stage, cause string, n uint64)
}

// Config says what a Hasher may use. A zero field has the default given with it.
type Config struct {
	ProcRoot string // /proc
	MaxBytes int64  // 64 MiB: of a file
	// BytesPerSecond is how much is read, beyond MaxBytes at once: 16 MiB. Anybody can have a module refused.
	BytesPerSecond int64
	MaxHeld        int           // 64: events held back
	MaxWait        time.Duration // 2 s: for how long
	MaxCache       int           // 256: digests remembered
	Sink           Sink          // required
}

// Stats counts files by what came of them, by HashState; "" is a digest.
type Stats map[string]uint64

// Hasher is a sink that completes events on their way to another one. Make one with New; Close it when all has been
// emitted.
type Hasher struct {
	cfg   Config
	queue chan *held
	// digest is reader.digest; tests replace it.
	digest func(*held) (sum, state string)

	mu      sync.Mutex
	stats   Stats              // guarded by mu
	waiting map[*held]struct{} // guarded by mu
	closed  bool               // guarded by mu
	// settled is done when nothing is held back any more.
	settled sync.WaitGroup
}

// held is an event that is held back.
type held struct {
	event  event.Event // a copy, with all that it points to
	module event.Module
	timer  *time.Timer
}

// New returns a hasher, with its worker running.
func New(cfg Config) *Hasher {
	setDefault(&cfg.ProcRoot, "/proc")
	setDefault(&cfg.MaxBytes, 64<<20)
	setDefault(&cfg.BytesPerSecond, 16<<20)
	setDefault(&cfg.MaxHeld, 64)
	setDefault(&cfg.MaxWait, 2*time.Second)
	setDefault(&cfg.MaxCache, 256)
	h := &Hasher{cfg: cfg, queue: make(chan *held, cfg.MaxHeld), stats: Stats{}, waiting: map[*held]struct{}{}}
	h.digest = (&reader{cfg: cfg, cache: map[version]string{}}).digest
	go h.work()
	return h
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Lost implements Sink.
func (h *Hasher) Lost(kind event.Kind, stage, cause string, n uint64) {
	h.cfg.Sink.Lost(kind, stage, cause, n)
}

// Emit takes an event on loan. One whose file is to be hashed is copied and goes on later, others go on at once.
func (h *Hasher) Emit(e *event.Event) {
	if e.Module == nil || e.Module.Inode == 0 {
		h.cfg.Sink.Emit(e)
		return
	}
	w := hold(e)
	if !h.enqueue(w) {
		w.module.HashState = RateLimited
		h.cfg.Sink.Emit(&w.event)
	}
}

// enqueue gives an event to the worker; false when too many wait, or there is no worker any more.
func (h *Hasher) enqueue(w *held) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.waiting) >= h.cfg.MaxHeld || len(h.queue) == cap(h.queue) {
		h.stats[RateLimited]++
		return false
	}
	h.waiting[w] = struct{}{}
	h.settled.Add(1)
	w.timer = time.AfterFunc(h.cfg.MaxWait, func() { h.settle(w, "", RateLimited) })
	h.queue <- w
	return true
}

// hold copies an event with all that its owner may use again.
func hold(e *event.Event) *held {
	w := &held{event: *e, module: *e.Module}
	w.event.Module = &w.module
	for p := &w.event.Process; *p != nil; p = &(*p).Parent {
		process := **p
		*p = &process
	}
	return w
}

// work hashes one file after another.
func (h *Hasher) work() {
	beIdle()
	for w := range h.queue {
		if h.isWaiting(w) {
			sum, state := h.digest(w)
			h.settle(w, sum, state)
		}
	}
}

func (h *Hasher) isWaiting(w *held) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.waiting[w]
	return ok
}

// settle hands an event on, the first time that it is called for it.
func (h *Hasher) settle(w *held, sum, state string) {
	if !h.release(w, state) {
		return
	}
	defer h.settled.Done()
	w.timer.Stop()
	w.module.SHA256, w.module.HashState = sum, state
	h.cfg.Sink.Emit(&w.event)
}

func (h *Hasher) release(w *held, state string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.waiting[w]
	if ok {
		delete(h.waiting, w)
		h.stats[state]++
	}
	return ok
}

// Covered returns the time, until at the latest, before which all that happened has been handed on.
func (h *Hasher) Covered(until time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.waiting {
		if w.event.Time.Before(until) {
			until = w.event.Time
		}
	}
	return until
}

// Stats returns a copy of the counters.
func (h *Hasher) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	stats := Stats{}
	for state, n := range h.stats {
		stats[state] = n
	}
	return stats
}

// Close hands on what is held back, within MaxWait, and ends the worker, but for one that a file system does not
// answer.
func (h *Hasher) Close() {
	h.mu.Lock()
	closing := !h.closed
	h.closed = true
	h.mu.Unlock()
	if closing {
		close(h.queue)
	}
	h.settled.Wait()
}
