package ebpf

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// attachment is a ladder and the rung that it is on.
type attachment struct {
	ladder
	rung    int // index of rungs(), or their number when none is left
	closers []io.Closer
	refused []string // why each better rung is not used
}

// attachAll puts every ladder on the best rung that this kernel takes.
func (s *Source) attachAll() error {
	for _, l := range ladders() {
		if len(l.kinds) > 0 && !slices.ContainsFunc(l.kinds, s.cfg.wants) {
			continue
		}
		a := &attachment{ladder: l}
		s.climb(a)
		s.attached = append(s.attached, a)
	}
	if !slices.ContainsFunc(s.attached, func(a *attachment) bool { return len(a.kinds) > 0 && len(a.closers) > 0 }) {
		return fmt.Errorf("attach programs: %s", strings.Join(s.attached[len(s.attached)-1].refused, "; "))
	}
	return nil
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
		s.cfg.Logger.Warn("the kernel's verifier refused a program: trying the next way", "kinds", a.kinds, "via", r.via,
			"error", verifier.Cause)
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
	if err := h.there(s.objects.kernel); err != nil {
		return nil, err
	}
	program, err := o.program(h)
	if err != nil {
		return nil, fmt.Errorf("load program %s: %w", h.program, err)
	}
	defer program.Close() // an attached program stays with its link
	return h.attach(s, program)
}

func closeAll(closers []io.Closer) error {
	var errs []error
	for _, c := range closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// NextRung moves a kind to the next rung of its ladder that can be attached, because of a reason; it then says whether
// there was one. Other kinds that are observed together with it move too.
func (s *Source) NextRung(kind event.Kind, reason string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.attached {
		if !slices.Contains(a.kinds, kind) || len(a.closers) == 0 || s.detached {
			continue
		}
		via := a.rungs()[a.rung].via
		if err := closeAll(a.closers); err != nil {
			s.cfg.Logger.Warn("program not detached", "error", err)
		}
		a.closers = nil
		a.refused = append(a.refused, strings.TrimPrefix(via, "ebpf/")+": "+reason)
		a.rung++
		s.climb(a)
		return len(a.closers) > 0
	}
	return false
}

// State says how each kind is observed.
func (s *Source) State() []event.SourceState {
	s.mu.Lock()
	defer s.mu.Unlock()
	var states []event.SourceState
	for _, a := range s.attached {
		for _, kind := range a.kinds {
			state := event.SourceState{Kind: kind, Via: "off", Reason: strings.Join(a.refused, "; ")}
			if len(a.closers) > 0 {
				state.Via, state.Healthy = a.rungs()[a.rung].via, true
			}
			states = append(states, state)
		}
	}
	slices.SortFunc(states, func(a, b event.SourceState) int { return int(a.Kind) - int(b.Kind) })
	return states
}

// remedy puts what the operator can do before what the kernel said.
func remedy(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.As(err, &verifier) && len(verifier.Log) > 0:
		return fmt.Errorf("the kernel's verifier refused the program: %s", verifier.Log[len(verifier.Log)-1])
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		// The library adds a guess about locked memory, which kernels since 5.11 do not need.
		return fmt.Errorf("not permitted: run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, "+
			"on a kernel that is not locked down: %w", cause(err))
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("no memory: before kernel 5.11, raise the limit of locked memory (LimitMEMLOCK=): %w", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("not supported: needs a kernel with BPF ring buffers and BTF, 5.8 or later: %w", err)
	}
	return err
}

// cause is the errno an error stands for, which errors.Is has found in it.
func cause(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
