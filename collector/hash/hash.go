// Package hash computes the SHA-256 of the files that processes, libraries and modules are from, off the event path.
//
// It promises: Note, Enrich, Digest and Updates do no I/O and wait for nobody; a digest is of the very file that the
// kernel told of, by device, inode, size and time of change, and of bytes that did not change while they were read, as
// far as the file's time of change tells, which is a few milliseconds coarse; a file is read once as long as it is
// remembered, whoever uses it; what has no digest says why, and is counted; and what waits, what is remembered and what
// is read in a second are bounded.
//
// It must not: open what is no regular file, follow a link that has been put in the way, or take disk time that others
// want. What a file system of a user's own (FUSE) tells of its files is taken as it is.
package hash

import (
	"cmp"
	"context"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// Config bounds a Hasher. A zero field has the default given with it.
type Config struct {
	ProcRoot       string        // /proc
	MaxBytes       int64         // 64 MiB: of a file
	BytesPerSecond int64         // 16 MiB: how much is read, beyond MaxBytes at once
	MaxWaiting     int           // 1,024: files that wait to be read, and as many that can wait for longer
	MaxWait        time.Duration // 30 s: for how long; those for 20 times as long
	MaxKnown       int           // 4,096: files remembered
	MaxContainers  int           // 1,024: containers whose processes are remembered, to see their files through
	// Layers returns the directories that hold the files of a container's image, and whether they may be known later; nil
	// knows none.
	Layers func(container string) (dirs []string, pending bool)
}

const (
	maxReaders = 4               // fresh files that are read at a time: a file system may never answer
	retryAfter = 5 * time.Second // before a file that was not found is looked for again
	maxUpdates = 8192            // digests that nobody fetched yet
	maxViews   = 4               // processes through which a file is looked for, of each container and of ancestors
	maxTries   = 3               // to find a file in the layers of an image that is not known yet
	tryAfter   = time.Second     // and again after twice that, and so on
	patience   = 20              // times as long what ran before may wait
)

// Stats counts files by what came of them: "ok" is a digest, else it is the HashState. Updates that nobody fetched in time
// are "updates_dropped".
type Stats map[string]uint64

const (
	countOK      = "ok"
	countDropped = "updates_dropped"
)

// Hasher reads files. Make one with New, and have Run running. Its methods may be called from several goroutines.
type Hasher struct {
	cfg Config
	// fresh are what is used just now, and soon may be gone; settled are what ran when the agent began to look.
	fresh, settled lane

	mu      sync.Mutex
	known   map[event.FileVersion]result
	waiting map[event.FileVersion]*request
	views   map[string]*views // by container id; "" is the host
	updates []event.FileDigest
	verity  map[string]string // SHA-256 by fs-verity digest
	stats   Stats
}

// lane is a queue with a budget of its own: what waits in one keeps nothing in the other waiting.
type lane struct {
	queue  chan *request
	budget *budget
	wait   time.Duration // for the budget, at most, after it was asked for
}

// result is what came of a file.
type result struct {
	digest event.Digest
	at     time.Time
}

// final reports whether another look would give the same.
func (r result) final() bool {
	switch r.digest.HashState {
	case event.HashVanished, event.HashRateLimited, event.HashError:
		return time.Since(r.at) < retryAfter
	}
	return true
}

// wanted is which file is meant: a version, and how the file's processes see it.
type wanted struct {
	version event.FileVersion
	path    string
	device  event.Device
	inode   uint64
}

// request is for a file to be read.
type request struct {
	wanted
	container string
	settled   bool  // the process ran before
	views     views // processes that may see it, besides others of the container
	asked     time.Time
	tries     int
	given     bool // Digest said that it is pending; guarded by Hasher.mu
}

// views are processes that see the same files, the newest first; 0 is none.
type views [maxViews]uint32

func (v *views) add(pid uint32) {
	if v[0] != pid {
		copy(v[1:], v[:])
		v[0] = pid
	}
}

// New returns a hasher that knows nothing yet: call Run.
func New(cfg Config) *Hasher {
	setDefault(&cfg.ProcRoot, "/proc")
	setDefault(&cfg.MaxBytes, 64<<20)
	setDefault(&cfg.BytesPerSecond, 16<<20)
	setDefault(&cfg.MaxWaiting, 1024)
	setDefault(&cfg.MaxWait, 30*time.Second)
	setDefault(&cfg.MaxKnown, 4096)
	setDefault(&cfg.MaxContainers, 1024)
	return &Hasher{
		cfg:     cfg,
		fresh:   newLane(cfg, cfg.BytesPerSecond*3/4, cfg.MaxWait),
		settled: newLane(cfg, cfg.BytesPerSecond/4, patience*cfg.MaxWait),
		known:   make(map[event.FileVersion]result),
		waiting: make(map[event.FileVersion]*request),
		views:   make(map[string]*views),
		verity:  make(map[string]string),
		stats:   make(Stats),
	}
}

func newLane(cfg Config, bytesPerSecond int64, wait time.Duration) lane {
	return lane{
		queue:  make(chan *request, cfg.MaxWaiting),
		budget: &budget{perSecond: bytesPerSecond, most: cfg.MaxBytes, left: cfg.MaxBytes, then: time.Now()},
		wait:   wait,
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Run reads files until ctx is done. It does not wait for those that a file system does not answer about.
func (h *Hasher) Run(ctx context.Context) {
	for range maxReaders {
		go h.work(ctx, h.fresh)
	}
	go h.work(ctx, h.settled)
	<-ctx.Done()
}

// Note tells of a process that has a new image: its executable is read, if it was not.
func (h *Hasher) Note(p *event.Process) {
	if p.ExeVersion == (event.FileVersion{}) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.see(containerOf(p.Container), p.PID)
	if h.wants(p.ExeVersion) {
		// Of one whose creation was not seen nobody knows how long it has run.
		h.enqueue(&request{wanted: wanted{p.ExeVersion, p.Exe, p.ExeDevice, p.ExeInode}, settled: p.Partial}, p)
	}
}

// Enrich has the file of a module that is loaded read, and that of a library that is not from its container's image.
// It changes nothing.
func (h *Hasher) Enrich(e *event.Event) {
	var file wanted
	switch {
	case e.Module != nil:
		file = wanted{e.Module.Version, e.Module.Path, e.Module.Device, e.Module.Inode}
	case e.Memory != nil && e.Memory.UpperLayer:
		file = wanted{e.Memory.Version, e.Memory.Path, e.Memory.Device, e.Memory.Inode}
	}
	if file.version == (event.FileVersion{}) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wants(file.version) {
		h.enqueue(&request{wanted: file}, e.Process)
	}
}

func containerOf(c *event.Container) string {
	if c == nil {
		return ""
	}
	return c.ID
}

// see remembers that a process is in a container. h.mu is held.
func (h *Hasher) see(container string, pid uint32) {
	v, ok := h.views[container]
	if !ok {
		if len(h.views) >= h.cfg.MaxContainers {
			evict(h.views)
		}
		v = new(views)
		h.views[container] = v
	}
	v.add(pid)
}

// evict forgets any entry.
func evict[K comparable, V any](m map[K]V) {
	for k := range m {
		delete(m, k)
		return
	}
}

// wants reports whether a file is to be read. h.mu is held.
func (h *Hasher) wants(v event.FileVersion) bool {
	if r, ok := h.known[v]; ok && r.final() {
		return false
	}
	_, waits := h.waiting[v]
	return !waits
}

// enqueue has a file read that a process uses. h.mu is held.
func (h *Hasher) enqueue(r *request, p *event.Process) {
	r.asked = time.Now()
	if p != nil {
		r.container = containerOf(p.Container)
	}
	for n := 0; p != nil && n < maxViews; p, n = p.Parent, n+1 {
		r.views[n] = p.PID
	}
	queue := h.fresh.queue
	if r.settled {
		queue = h.settled.queue
	}
	if len(h.waiting) < 2*h.cfg.MaxWaiting { // those that are tried later wait in no queue
		select {
		case queue <- r:
			h.waiting[r.version] = r
			return
		default:
		}
	}
	h.remember(r.version, event.Digest{HashState: event.HashRateLimited})
}

// remember keeps what came of a file. h.mu is held.
func (h *Hasher) remember(v event.FileVersion, d event.Digest) {
	h.stats[cmp.Or(string(d.HashState), countOK)]++
	if _, again := h.known[v]; !again && len(h.known) >= h.cfg.MaxKnown {
		evict(h.known)
	}
	h.known[v] = result{d, time.Now()}
}

// Digest returns what is known of a file; the zero Digest when nobody asked for it, or it was forgotten. What is pending
// is told by Updates later.
func (h *Hasher) Digest(v event.FileVersion) event.Digest {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r, ok := h.waiting[v]; ok {
		r.given = true
		return event.Digest{HashState: event.HashPending}
	}
	return h.known[v].digest
}

// Updates returns the digests that were given out as pending and are known since it was last called.
func (h *Hasher) Updates() []event.FileDigest {
	h.mu.Lock()
	defer h.mu.Unlock()
	updates := h.updates
	h.updates = nil
	return updates
}

// Stats returns a copy of the counters.
func (h *Hasher) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.stats)
}

// work reads one file after another.
func (h *Hasher) work(ctx context.Context, from lane) {
	beIdle()
	r := reader{procRoot: h.cfg.ProcRoot}
	for {
		select {
		case next := <-from.queue:
			d := h.read(ctx, &r, next, from)
			if d.HashState == event.HashRateLimited && ctx.Err() != nil {
				return // it waited in vain, but not because there were others
			}
			if d.HashState != event.HashVanished || !h.tryLater(next, from) {
				h.settle(next, d)
			}
		case <-ctx.Done():
			return
		}
	}
}

// tryLater has a file looked for again if it may be found in an image whose layers are not known yet.
func (h *Hasher) tryLater(r *request, in lane) bool {
	if _, pending := h.layers(r.container); !pending || r.tries == maxTries {
		return false
	}
	r.tries++ // before it is another goroutine's
	time.AfterFunc(tryAfter<<(r.tries-1), func() {
		select {
		case in.queue <- r:
		default:
			h.settle(r, event.Digest{HashState: event.HashRateLimited})
		}
	})
	return true
}

func (h *Hasher) layers(container string) (dirs []string, pending bool) {
	if container == "" || h.cfg.Layers == nil {
		return nil, false
	}
	return h.cfg.Layers(container)
}

// settle makes known what came of a file.
func (h *Hasher) settle(r *request, d event.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiting, r.version)
	h.remember(r.version, d)
	if !r.given {
		return
	}
	if len(h.updates) >= maxUpdates {
		h.stats[countDropped]++
		return
	}
	h.updates = append(h.updates, event.FileDigest{Version: r.version, Digest: d})
}

// through returns the processes through which a file may be seen.
func (h *Hasher) through(r *request) []uint32 {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := append([]uint32(nil), r.views[:]...)
	if v := h.views[r.container]; v != nil {
		list = append(list, v[:]...)
	}
	return list
}

// read returns the digest of a file, or why there is none.
func (h *Hasher) read(ctx context.Context, r *reader, next *request, from lane) (d event.Digest) {
	file, err := h.open(r, next)
	if err != nil {
		d.HashState = stateOf(err)
		return d
	}
	defer func() { file.Close() }()
	d.FSVerity = measureVerity(file)
	if d.SHA256 = h.verified(d.FSVerity); d.SHA256 != "" {
		return d
	}
	if next.version.Size > uint64(h.cfg.MaxBytes) {
		d.HashState = event.HashTooLarge
		return d
	}
	delay, ok := from.budget.take(int64(next.version.Size), from.wait-time.Since(next.asked), time.Now())
	if !ok {
		d.HashState = event.HashRateLimited
		return d
	}
	if delay > 0 {
		file.Close() // an open file keeps its file system from being unmounted
		if !sleep(ctx, delay) {
			d.HashState = event.HashRateLimited
			return d
		}
		if file, err = h.open(r, next); err != nil {
			d.HashState = stateOf(err)
			return d
		}
	}
	if d.SHA256, err = r.sum(file, next.version); err != nil {
		d.HashState = stateOf(err)
	}
	h.verify(d)
	return d
}

// open opens a file where it can be found.
func (h *Hasher) open(r *reader, next *request) (*os.File, error) {
	file, err := r.find(&next.wanted, h.through(next))
	if err != nil && stateOf(err) == event.HashVanished {
		layers, _ := h.layers(next.container)
		file, err = findInLayers(next.wanted, layers)
	}
	return file, err
}

// sleep waits for d, or returns false when ctx is done first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// verified returns the SHA-256 of a file that the kernel holds to an fs-verity digest, if one like it has been read.
func (h *Hasher) verified(digest string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.verity[digest]
}

func (h *Hasher) verify(d event.Digest) {
	if d.FSVerity == "" || d.SHA256 == "" {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.verity) >= h.cfg.MaxKnown {
		evict(h.verity)
	}
	h.verity[d.FSVerity] = d.SHA256
}

// budget is how many bytes may be read.
type budget struct {
	perSecond, most int64

	mu   sync.Mutex
	left int64 // as of then; below 0 is spent ahead
	then time.Time
}

// take takes a number of bytes, which may be read after a delay, of at most a time. It reports whether it has.
func (b *budget) take(size int64, most time.Duration, now time.Time) (delay time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	gained := now.Sub(b.then).Seconds() * float64(b.perSecond)
	b.left, b.then = int64(min(float64(b.left)+gained, float64(b.most))), now
	if missing := size - b.left; missing > 0 {
		delay = time.Duration(float64(missing) / float64(b.perSecond) * float64(time.Second))
	}
	if delay > max(0, most) {
		return 0, false
	}
	b.left -= size
	return delay, true
}
