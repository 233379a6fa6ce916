package ebpf

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/taskguard/taskguard/collector/event"
)

// attachment is a ladder and the rung that it is on.
type attachment struct {
	ladder
	number  int // index of ladders()
	rung    int // index of rungs(), or their number when none is left
	closers []io.Closer
	refused []string // why each better rung is not used
	// absent names the system calls that the kinds are made by when this kernel has none of them: there is nothing to
	// observe.
	absent []string
}

// attachAll puts every ladder that is wanted on the best rung that this kernel takes. The first is that of new cgroups.
func (s *Source) attachAll() error {
	s.attachWanted()
	if !slices.ContainsFunc(s.attached, func(a *attachment) bool { return len(a.kinds) > 0 && len(a.closers) > 0 }) {
		return fmt.Errorf("attach programs: %s", strings.Join(s.attached[len(s.attached)-1].refused, "; "))
	}
	return nil
}

// attachWanted does so with those that were not tried yet. The caller holds s.mu.
func (s *Source) attachWanted() {
	defer s.objects.forget()
	for i, l := range ladders() {
		tried := slices.ContainsFunc(s.attached, func(a *attachment) bool { return a.number == i })
		if tried || len(l.kinds) > 0 && !slices.ContainsFunc(l.kinds, s.cfg.wants) {
			continue
		}
		a := &attachment{ladder: l, number: i}
		s.climb(a)
		s.attached = append(s.attached, a)
		if i == 0 && s.cfg.Watching != nil {
			s.cfg.Watching()
		}
	}
}

// climb tries a ladder's rungs from the one it is on.
func (s *Source) climb(a *attachment) {
	rungs := a.rungs()
	for ; a.rung < len(rungs); a.rung++ {
		r := &rungs[a.rung]
		if len(rungs) > 1 && len(s.cfg.Rungs) > 0 && !slices.Contains(s.cfg.Rungs, r.via) {
			continue
		}
		var err error
		if a.closers, err = s.attachRung(a.object, r); err == nil {
			return
		}
		s.explain(a, r, err)
	}
	if calls := slices.Concat(a.syscalls, a.traced); s.tracefs.hasNone(calls) {
		a.absent = calls
	}
	if a.lack != "" {
		s.cfg.Logger.Warn("kernel hook not attached", "consequence", a.lack, "reason", strings.Join(a.refused, "; "))
	}
}

// explain notes why a rung is not used.
func (s *Source) explain(a *attachment, r *rung, err error) {
	a.refused = append(a.refused, strings.TrimPrefix(r.via, "ebpf/")+": "+remedy(err).Error())
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		s.cfg.Logger.Debug("program refused", "log", fmt.Sprintf("%-20v", verifier))
		s.cfg.Logger.Warn("the kernel's verifier refused a program: trying the next way", "kinds", fmt.Sprint(a.kinds),
			"via", r.via, "error", remedy(err))
	}
}

// attachRung loads and attaches all of a rung's hooks, or none.
func (s *Source) attachRung(o object, r *rung) (attached []io.Closer, err error) {
	loaded, err := s.objects.open(o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(attached))
			attached = nil
		}
	}()
	missing := errors.New("nothing to attach")
	var wanted, found [optional + 1]bool // by need
	for _, h := range r.hooks {
		wanted[h.need] = true
		closer, err := s.attachHook(loaded, &h)
		if errors.Is(err, errNoPlace) && h.need != required {
			missing = err
			continue
		}
		if err != nil {
			return attached, err
		}
		found[h.need] = true
		attached = append(attached, closer)
	}
	if wanted[anyOf] && !found[anyOf] || !found[required] && !found[anyOf] {
		return attached, missing
	}
	return attached, nil
}

func (s *Source) attachHook(o *openObject, h *hook) (io.Closer, error) {
	if err := h.there(s.objects.kernel, s.tracefs); err != nil {
		if h.syscall != "" && h.need == anyOf && s.tracefs.has(h.syscall) {
			// Types are missing where a function has a weak stand-in too (COND_SYSCALL).
			return nil, fmt.Errorf("the kernel has no types for %s", h.function)
		}
		return nil, err
	}
	program, err := o.program(h)
	if err != nil {
		return nil, fmt.Errorf("load program %s: %w", h.program, err)
	}
	defer program.Close() // an attached program stays with its link
	return h.attach(s, program)
}

// closersAtOnce is how many are closed at one time: for most the kernel waits until nobody runs the program any more.
const closersAtOnce = 32

func closeAll(closers []io.Closer) error {
	var closing sync.WaitGroup
	slots := make(chan struct{}, closersAtOnce)
	errs := make([]error, len(closers))
	for i, c := range closers {
		slots <- struct{}{}
		closing.Go(func() {
			errs[i] = c.Close()
			<-slots
		})
	}
	closing.Wait()
	return errors.Join(errs...)
}

// NextRung moves a kind to the next rung of its ladder that can be attached, because of a reason; it then says whether
// there was one. Other kinds that are observed together with it move too. When there is none, the kind stays on the
// rung it is on: one in doubt is better than none.
func (s *Source) NextRung(kind event.Kind, reason string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.objects.forget()
	for _, a := range s.attached {
		if !slices.Contains(a.kinds, kind) || len(a.closers) == 0 || s.detached {
			continue
		}
		was, refused := a.rung, len(a.refused)
		if err := closeAll(a.closers); err != nil {
			s.cfg.Logger.Warn("program not detached", "error", err)
		}
		a.closers = nil
		a.refused = append(a.refused, strings.TrimPrefix(a.rungs()[was].via, "ebpf/")+": "+reason)
		a.rung++
		if s.climb(a); len(a.closers) > 0 {
			return true
		}
		a.rung, a.refused = was, a.refused[:refused]
		s.climb(a)
		return false
	}
	return false
}

// State says how each kind is observed. One that this kernel cannot make, as it has no system call for it, is off and
// healthy.
func (s *Source) State() []event.SourceState {
	s.mu.Lock()
	defer s.mu.Unlock()
	var states []event.SourceState
	for _, a := range s.attached {
		for _, kind := range a.kinds {
			state := event.SourceState{Kind: kind, Via: "off", Reason: strings.Join(a.refused, "; ")}
			switch {
			case !s.cfg.wants(kind):
				state.Reason = "off by its settings"
			case len(a.closers) > 0:
				state.Via, state.Healthy = a.rungs()[a.rung].via, true
			case len(a.absent) > 0:
				state.Healthy, state.Reason = true, "the kernel has no "+strings.Join(a.absent, " and no ")
			}
			states = append(states, state)
		}
	}
	slices.SortFunc(states, func(a, b event.SourceState) int { return int(a.Kind) - int(b.Kind) })
	return states
}
