// Package container tells where a process runs: in which container, of which image and ECS task.
//
// Which container it is comes from the kernel alone: the id of the process's cgroup, or the cgroup's path. What the
// container is called, is made of and may do comes from the Docker engine, and which ECS task it is of from the path, the
// container's labels and the ECS agent, in the background, as late as they like; whose word a fact is stays with it.
//
// It tells of the lives of containers too (Config.Sink), by the engine's word: each event once, in its order but for
// execs, and ends that may be for lack of memory, which wait for more of it. What happened while the engine did not answer, it repeats when it does, if it still
// has it; if it may not, that is told of as an interval that was not observed.
//
// It promises: the event path (Locate, AddCgroup, Describe, Updates) does no I/O and waits for nobody, and Locate
// does not allocate for a container that is known; a container is never taken for the host because the engine is
// absent, slow or wrong; a container that was given out as pending is described later, once, if the engine ever
// can; a container is remembered for a while after its end; and everything kept is bounded and counted (Stats),
// whatever labels and cgroups others make.
package container

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
	"unique"

	"github.com/taskguard/taskguard/collector/event"
)

// Config says what to track. The zero Config tracks containers by path alone and describes none.
type Config struct {
	// Docker is the engine's address, "unix:///var/run/docker.sock". Empty: no engine is asked, and no container is
	// ever pending.
	Docker string
	// ECS is the address of the ECS agent's introspection API, "http://127.0.0.1:51678", and ECSMetadata that of its task
	// metadata endpoint, "http://169.254.170.2". Without the first, neither is asked. ECSTags asks for the tags of tasks
	// too, which has the ECS agent make a request to AWS for each task.
	ECS, ECSMetadata string
	ECSTags          bool
	// Hierarchy is where cgroups have the ids that AddCgroup and Locate are given, see FindHierarchy. Zero: none.
	Hierarchy Hierarchy
	// Retain is how long at least a container and its cgroups are remembered after their end; 0 is 60 s.
	Retain time.Duration
	// MaxContainers and MaxCgroups bound what is remembered; 0 is 6,144 and 16,384. A container beyond the bound is
	// still told apart by its id, but not described. A cgroup beyond it takes the place of another, which is looked
	// up again when it is needed.
	MaxContainers, MaxCgroups int
	// Credential names the kind of credential that an environment variable holds, "" for none; nil finds none. Mask
	// returns a list of arguments, each ended by a NUL byte, without the secrets in it; nil leaves them.
	Credential func(name, value string) string
	Mask       func(args string) (masked string, any bool)
	// Sink is told of the lives of containers from the start of Run on; nil is nobody.
	Sink Sink
	// Logger gets a line when the engine stops or starts to answer; nil discards it.
	Logger *slog.Logger
}

const (
	defaultRetain        = 60 * time.Second
	defaultMaxContainers = 6144
	defaultMaxCgroups    = 16384

	// maxSought bounds the unknown cgroups that wait for a walk; an id beyond it is sought when next seen.
	maxSought = 1024
	// walkPause is how far apart walks for unknown cgroups are at least.
	walkPause = time.Second
	// sample is how many containers are looked at, at most, to find one that may be forgotten for another.
	sample = 32
)

// Stats counts since New, but for the first three, which are as of now.
type Stats struct {
	Containers int `json:"containers"` // remembered
	Cgroups    int `json:"cgroups"`    // remembered
	Pending    int `json:"pending"`    // containers that the engine has not described yet

	ContainersEvicted uint64 `json:"containers_evicted"` // ended ones forgotten early, to make room
	ContainersRefused uint64 `json:"containers_refused"` // times that one had no room: known by its id only
	CgroupsEvicted    uint64 `json:"cgroups_evicted"`    // forgotten to make room
	CgroupsUnknown    uint64 `json:"cgroups_unknown"`    // ids that Locate was asked for and did not know
	CgroupsFound      uint64 `json:"cgroups_found"`      // of those, found by a walk; the others were gone by then
	Walks             uint64 `json:"walks"`              // walks of the hierarchy
	WalksFailed       uint64 `json:"walks_failed"`       // of those, the ones that ended early
	EngineFailures    uint64 `json:"engine_failures"`    // requests to the engine, or its stream, that failed
	UpdatesDropped    uint64 `json:"updates_dropped"`    // descriptions that nobody fetched in time
	DescriptionsCut   uint64 `json:"descriptions_cut"`   // times that one was kept without its lists, for the size of all
	Undescribed       uint64 `json:"undescribed"`        // containers given out as pending and forgotten as such
	EventsBound       uint64 `json:"events_bound"`       // that Describe was told of when name and task were known
	EventsUnbound     uint64 `json:"events_unbound"`     // and when not: Updates has them, if the engine ever tells
	EventsPending     uint64 `json:"events_pending"`     // of both, those of containers that were pending
	TasksDisbelieved  uint64 `json:"tasks_disbelieved"`  // answers of the ECS agent about tasks that cannot be of this host
	MetadataFailures  uint64 `json:"metadata_failures"`  // requests to the task metadata endpoint that failed
	ExecsUnverified   uint64 `json:"execs_unverified"`   // told of without the engine's answer about them

	Bound     Binding `json:"bound"`     // until name and task were known
	Described Binding `json:"described"` // until all was, and the container was not pending any more
}

// Tracker knows the containers of this host. Its methods may be called from several goroutines.
type Tracker struct {
	config Config
	log    *slog.Logger
	began  time.Time                               // when New was called
	dial   func(context.Context) (net.Conn, error) // to the engine

	ecsClient *http.Client

	execQueue chan *startedExec // has room for all of execs

	wished  chan struct{} // has a value when a container began to wait for the ECS agent
	pending chan struct{} // has a value when a container began to wait for its description
	sought  chan struct{} // has a value when a cgroup began to wait for a walk

	// mu guards all below. It is held to look things up and to change them, never over I/O.
	mu         sync.Mutex
	containers map[string]*tracked
	waiting    map[string]*tracked // of containers, those the engine is to be asked about
	cgroups    map[uint64]cgroup
	unknown    map[uint64]struct{} // cgroups to look for in the next walk
	generation uint32              // of the last walk
	wishes     map[string]*tracked // of containers, those the ECS agent is to be asked about
	updates    []event.Container
	bytes      int                       // of the descriptions of containers
	stops      map[string]*heldStop      // by container id
	execs      map[*startedExec]struct{} // that are not told of yet
	engine     engineState
	ecs        ecsState
	stats      Stats
	bound      bindings // see Stats
	described  bindings
}

// tracked is one container. Those that found no room are in no map, but cgroups may point to them.
type tracked struct {
	// known is all that is known. It is replaced as a whole and never changed: events point to it.
	known     *event.Container
	told      told      // of its task, in known.ECS
	seen      time.Time // first
	bound     bool      // name and task are known
	cgroups   int       // how many cgroups point here
	gone      time.Time // when it was seen to be gone; zero while it exists
	given     bool      // Describe gave it out as pending, or that of an agent before may have
	life      life
	disguised bool   // it has labels that hide what the engine says of its life
	events    uint64 // that Describe was told of

	described bool                  // the engine has said all it has to say
	wish      *wish                 // nil when the ECS agent need not be asked
	layers    unique.Handle[string] // see facts; containers of one image share it
	size      int                   // of known, as it was weighed
	refused   bool                  // the ECS agent does not know it
	endpoint  string                // the id of its task metadata endpoint, as its environment has it

	asking   bool      // a request about it is under way
	stale    bool      // whose answer will not be the last word
	missed   bool      // the engine did not have it when it was asked
	failures int       // requests in a row that failed
	next     time.Time // no request before
}

// cgroup is what is known of one cgroup id.
type cgroup struct {
	in   *tracked  // nil for the host
	walk uint32    // the generation of the last walk that saw it, or during which it was made
	gone time.Time // when a walk first missed it
}

// New returns a tracker that knows nothing yet: call Bootstrap, then Run.
func New(c Config) (*Tracker, error) {
	socket, ok := strings.CutPrefix(c.Docker, "unix://")
	if c.Docker != "" && (!ok || !strings.HasPrefix(socket, "/")) {
		return nil, fmt.Errorf("docker address %q: want unix:///path, or nothing to do without names", c.Docker)
	}
	if c.Retain <= 0 {
		c.Retain = defaultRetain
	}
	if c.MaxContainers <= 0 {
		c.MaxContainers = defaultMaxContainers
	}
	if c.MaxCgroups <= 0 {
		c.MaxCgroups = defaultMaxCgroups
	}
	if c.ECSMetadata == "" {
		c.ECSMetadata = "http://169.254.170.2"
	}
	if c.Credential == nil {
		c.Credential = func(string, string) string { return "" }
	}
	if c.Mask == nil {
		c.Mask = func(args string) (string, bool) { return args, false }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Tracker{
		config:     c,
		log:        c.Logger,
		began:      time.Now(),
		pending:    make(chan struct{}, 1),
		sought:     make(chan struct{}, 1),
		wished:     make(chan struct{}, 1),
		ecsClient:  newECSClient((&net.Dialer{Timeout: ecsTimeout}).DialContext),
		containers: make(map[string]*tracked),
		waiting:    make(map[string]*tracked),
		wishes:     make(map[string]*tracked),
		stops:      make(map[string]*heldStop),
		cgroups:    make(map[uint64]cgroup),
		unknown:    make(map[uint64]struct{}),
		execs:      make(map[*startedExec]struct{}),
		execQueue:  make(chan *startedExec, maxExecs),
		engine: engineState{
			reason: "docker is off: containers are known by their ids only",
			logged: make(map[string]struct{}),
		},
		ecs: ecsState{reason: "ecs is off: tasks are known by the paths and labels of their containers"},
	}
	if c.ECS != "" {
		t.ecs.reason = "ecs agent was not asked yet"
	}
	t.dial = func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{Timeout: answerTimeout}).DialContext(ctx, "unix", socket)
	}
	if c.Docker != "" {
		t.engine.reason = "docker at " + c.Docker + " was not asked yet"
	}
	return t, nil
}

// Run keeps the tracker up to date until ctx is done; then it returns nil, and containers whose names and tasks are known
// are not pending any more. It never gives up on the engine.
func (t *Tracker) Run(ctx context.Context) error {
	defer t.conclude()
	defer t.releaseStops()
	var running sync.WaitGroup
	defer running.Wait()
	if t.config.Docker != "" {
		running.Go(func() { t.follow(ctx) })
	}
	if t.config.ECS != "" {
		running.Go(func() { t.followECS(ctx) })
	}
	t.maintain(ctx)
	return nil
}

// maintain forgets what is gone, and walks the hierarchy: regularly, and when there are unknown cgroups.
func (t *Tracker) maintain(ctx context.Context) {
	tick := time.NewTicker(max(t.config.Retain/2, walkPause))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.walkAgain()
			t.forget(time.Now())
		case <-t.sought:
			t.walkAgain()
			if !sleep(ctx, walkPause) {
				return
			}
		}
	}
}

func (t *Tracker) walkAgain() {
	if t.config.Hierarchy.MountPoint == "" {
		return
	}
	if err := t.walk(); err != nil {
		t.log.Debug("walk cgroups", "error", err)
	}
}

// Stats returns the counters.
func (t *Tracker) Stats() Stats {
	s, bound, described := t.count()
	s.Bound, s.Described = bound.sum(), described.sum()
	return s
}

func (t *Tracker) count() (s Stats, bound, described bindings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s = t.stats
	s.Containers, s.Cgroups = len(t.containers), len(t.cgroups)
	for _, c := range t.waiting {
		if c.known.Pending {
			s.Pending++
		}
	}
	return s, t.bound, t.described
}

// signal puts a value into a channel of one, unless it has one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
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
