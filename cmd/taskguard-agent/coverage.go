package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/ebpf"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/host"
)

// What SourceState.Via says of a kind that nothing observes, and of one that the container engine tells of.
const (
	viaOff    = "off"
	viaDocker = "docker"
)

// offByConfiguration is why a kind is off that nobody wants.
const offByConfiguration = "off by configuration"

// kernelSource is what decides between eBPF's ways to observe; ebpf.Source does.
type kernelSource interface {
	State() []event.SourceState
	Apply(ebpf.Settings) error
	NextRung(kind event.Kind, reason string) bool
}

// engineState says whether the container engine answers, and if not, why not. container.Tracker.State does.
type engineState func() (connected bool, reason string)

// auditSource is a second source whose kinds can be changed.
type auditSource interface {
	State() []event.SourceState
	SetKinds([]event.Kind) error
}

// offByTag is why every kind is off on an instance that is to be left out.
const offByTag = "excluded: the instance is tagged " + host.ManagedTag + "=false"

// coverage decides by what each kind is observed: eBPF if it can be, or else audit if that can.
type coverage struct {
	excluded    bool         // nothing is to be observed
	ebpf        kernelSource // nil: not used
	ebpfRefused error        // why
	// openAudit has audit observe kinds, which are not none. Nil: it is not used.
	openAudit func(kinds []event.Kind) (auditSource, error)
	audible   []event.Kind // what audit can tell of
	engine    engineState  // nil: not used

	off atomic.Pointer[[]event.Kind] // the settings' list, for who must not wait while they change

	mu           sync.Mutex // held while any of it changes
	settings     ebpf.Settings
	audit        auditSource  // nil until it is needed
	auditRefused error        // why it is not used
	heard        []event.Kind // what audit was told to observe
	// taken are kinds that eBPF could observe, but whose events do not come by it: they are off there, for a reason.
	taken map[event.Kind]string
	// spent are kinds that have no further way.
	spent map[event.Kind]bool
}

func newCoverage(set ebpf.Settings) *coverage {
	off := errors.New(offByConfiguration)
	c := &coverage{
		ebpfRefused: off, auditRefused: off, taken: map[event.Kind]string{}, spent: map[event.Kind]bool{},
	}
	c.use(set)
	return c
}

func (c *coverage) use(set ebpf.Settings) {
	c.settings = set
	c.off.Store(&set.Off)
}

// start has audit observe what eBPF, with its settings, does not.
func (c *coverage) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hear()
}

// apply takes settings over, at run time too.
func (c *coverage) apply(set ebpf.Settings) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.settings
	c.use(set)
	if err := c.applyKernel(); err != nil {
		c.use(before)
		return err
	}
	return c.hear()
}

func (c *coverage) applyKernel() error {
	if c.ebpf == nil {
		return nil
	}
	set := c.settings
	set.Off = slices.Clone(set.Off)
	for kind := range c.taken {
		set.Off = append(set.Off, kind)
	}
	return c.ebpf.Apply(set)
}

// hear has audit observe what eBPF does not. That it cannot is no failure, but a state.
func (c *coverage) hear() error {
	kinds := c.forAudit()
	if slices.Equal(kinds, c.heard) || c.openAudit == nil {
		return nil
	}
	var err error
	if c.audit == nil {
		c.audit, err = c.openAudit(kinds)
		c.auditRefused = err
	} else {
		err = c.audit.SetKinds(kinds)
	}
	if err == nil {
		c.heard = kinds
	}
	return err
}

// forAudit are the kinds that are wanted, that audit can tell of, and that eBPF does not observe, but for those that this
// kernel has no system calls for.
func (c *coverage) forAudit() []event.Kind {
	observed := stateByKind(c.ebpf)
	var kinds []event.Kind
	for _, kind := range c.audible {
		if !observed[kind].Healthy && !slices.Contains(c.settings.Off, kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// stateByKind tells of nothing when there is no source.
func stateByKind(source interface{ State() []event.SourceState }) map[event.Kind]event.SourceState {
	states := map[event.Kind]event.SourceState{}
	if source != nil {
		for _, state := range source.State() {
			states[state.Kind] = state
		}
	}
	return states
}

// next has a kind observed by the next rung of eBPF's ladder, or else by audit. When it is observed by audit already,
// or audit cannot tell of it, there is no further way; then it is left to eBPF, if that has programs for it.
func (c *coverage) next(kind event.Kind, reason string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spent[kind] || c.ebpf == nil {
		return false
	}
	if _, taken := c.taken[kind]; taken {
		delete(c.taken, kind)
		c.spent[kind] = true
		_ = errors.Join(c.applyKernel(), c.hear()) // states tell
		return false
	}
	if c.ebpf.NextRung(kind, reason) {
		return true
	}
	via := stateByKind(c.ebpf)[kind]
	if !via.Healthy || c.openAudit == nil || !slices.Contains(c.audible, kind) {
		c.spent[kind] = true
		return false
	}
	c.taken[kind] = via.Via + ": " + reason
	if err := errors.Join(c.applyKernel(), c.hear()); err != nil || !stateByKind(c.audit)[kind].Healthy {
		delete(c.taken, kind)
		c.spent[kind] = true
		_ = errors.Join(c.applyKernel(), c.hear())
		return false
	}
	return true
}

// ignoresSelf tells whether the settings have this program left out.
func (c *coverage) ignoresSelf() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	self, err := os.Stat("/proc/self/exe")
	return err == nil && slices.ContainsFunc(c.settings.Ignored, func(path string) bool {
		info, err := os.Stat(path)
		return err == nil && os.SameFile(self, info)
	})
}

// observed are the kinds that a source observes. What the container engine tells of is not among them: a self-test cannot
// make a container on a host that has no image for it.
func (c *coverage) observed() []event.Kind {
	var kinds []event.Kind
	for _, state := range c.states() {
		if state.Healthy && state.Via != viaOff && state.Via != viaDocker {
			kinds = append(kinds, state.Kind)
		}
	}
	return kinds
}

// wants tells whether events of a kind are to be recorded. It does not wait for settings that are being applied.
func (c *coverage) wants(kind event.Kind) bool {
	return !c.excluded && !slices.Contains(*c.off.Load(), kind)
}

// states says of every kind by what it is observed, or why by nothing. One that is off because nobody wants it, or this
// kernel has no system calls for it, is healthy.
func (c *coverage) states() []event.SourceState {
	c.mu.Lock()
	defer c.mu.Unlock()
	byEBPF, byAudit := stateByKind(c.ebpf), map[event.Kind]event.SourceState{}
	if c.audit != nil {
		byAudit = stateByKind(c.audit)
	}
	var states []event.SourceState
	for _, kind := range observable() {
		state, tried := byEBPF[kind]
		reason, taken := c.taken[kind]
		switch {
		case c.excluded:
			state = event.SourceState{Kind: kind, Via: viaOff, Healthy: true, Reason: offByTag}
		case slices.Contains(c.settings.Off, kind):
			state = event.SourceState{Kind: kind, Via: viaOff, Healthy: true, Reason: offByConfiguration}
		case slices.Contains(container.Kinds(), kind):
			state = c.byEngine(kind)
		case state.Healthy:
		case taken:
			state = c.second(kind, reason, byAudit)
		case tried:
			state = c.second(kind, "ebpf: "+state.Reason, byAudit)
		case c.ebpfRefused != nil:
			state = c.second(kind, fmt.Sprintf("ebpf: %v", c.ebpfRefused), byAudit)
		default:
			state = c.second(kind, "ebpf: no program tells of it", byAudit)
		}
		states = append(states, state)
	}
	return states
}

// byEngine is the state of a kind that the container engine tells of: as healthy as the connection.
func (c *coverage) byEngine(kind event.Kind) event.SourceState {
	if c.engine == nil {
		return event.SourceState{Kind: kind, Via: viaOff, Healthy: true, Reason: offByConfiguration + ": docker.socket is empty"}
	}
	connected, reason := c.engine()
	if connected {
		reason = ""
	}
	return event.SourceState{Kind: kind, Via: viaDocker, Healthy: connected, Reason: reason}
}

// second is the state of a kind that eBPF does not observe, for the reason given.
func (c *coverage) second(kind event.Kind, reason string, byAudit map[event.Kind]event.SourceState) event.SourceState {
	state, tried := byAudit[kind]
	switch {
	case tried && state.Healthy:
		state.Reason = join(reason, state.Reason)
	case tried:
		state.Reason = join(reason, "audit: "+state.Reason)
	case c.auditRefused != nil:
		state = event.SourceState{Kind: kind, Via: viaOff, Reason: fmt.Sprintf("%s; audit: %v", reason, c.auditRefused)}
	default:
		state = event.SourceState{Kind: kind, Via: viaOff, Reason: reason + "; audit: its records do not tell of it"}
	}
	return state
}
