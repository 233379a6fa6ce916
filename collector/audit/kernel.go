package audit

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/elastic/go-libaudit/v2"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// mode is how records reach us.
type mode string

const (
	unicast   mode = "audit/unicast"   // we are the audit daemon
	multicast mode = "audit/multicast" // somebody else is; we listen
)

const (
	defaultBacklogLimit = 64   // what the kernel has until somebody sets it (kernel/audit.c)
	ownBacklogLimit     = 8192 // records; a burst of a thousand execs
	immutable           = 2    // audit_status.enabled: AUDIT_LOCKED
	panicOnFailure      = 2    // audit_status.failure: AUDIT_FAIL_PANIC; the library's constant for it is 0
)

// kernel is our hold on the kernel's audit configuration: what we changed in it, and how to undo that.
type kernel struct {
	procRoot string
	key      string
	buffer   int
	self     int                                              // the pid that rules leave out
	dial     func() (*libaudit.AuditClient, error)            // opens control
	listen   func(groups uint32, buffer int) (*socket, error) // opens data

	mu      sync.Mutex // guards control, once there is more than one goroutine, and what follows
	control *libaudit.AuditClient
	mode    mode
	data    *socket
	rules   []ownRule
	refused map[event.Kind]error // wanted kinds that are off, and why
	locked  bool                 // nothing can be changed before the next boot
	gone    bool                 // the rules are withdrawn
	lost    uint32               // the kernel's count of lost records when we came

	steps []step // what we changed, in that order
}

// step undoes one change. yield, unless nil, is done instead, and earlier, when another audit daemon takes over.
type step struct {
	undo, yield func() error
}

// acquire opens the sockets, chooses the mode, and puts the rules for kinds into the kernel. When it fails nothing
// stays changed.
func (k *kernel) acquire(kinds []event.Kind) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(explain(err, k.procRoot), k.release())
		}
	}()
	if k.control, err = k.dial(); err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	k.steps = append(k.steps, step{undo: k.control.Close})
	status, err := k.control.GetStatus()
	if err != nil {
		return fmt.Errorf("read audit status: %w", err)
	}
	k.lost = status.Lost
	if status.Failure == panicOnFailure {
		return fmt.Errorf("%w: run auditctl -f 1, and take \"-f 2\" out of /etc/audit/rules.d", ErrPanicMode)
	}
	if err := k.openData(status); err != nil {
		return err
	}
	if err := k.enable(status); err != nil {
		return err
	}
	// Whatever part of the rules is added, all are removed.
	k.steps = append(k.steps, step{undo: k.withdraw})
	if err := k.want(kinds); err != nil {
		return err
	}
	if k.locked && len(k.refused) == len(kinds) {
		return errLocked()
	}
	return nil
}

// want makes the rules for kinds the only ones that are ours. Only the kinds of which the kernel takes all rules are
// collected: half a kind would look healthy. When it fails, the rules of before may be gone; mend puts them back.
func (k *kernel) want(kinds []event.Kind) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return errors.New("audit is closed")
	}
	status, err := k.control.GetStatus()
	if err != nil {
		return fmt.Errorf("read audit status: %w", err)
	}
	if k.locked = status.Enabled == immutable; k.locked {
		return k.adopt(kinds)
	}
	off := map[event.Kind]error{}
	for {
		take := slices.DeleteFunc(slices.Clone(kinds), func(kind event.Kind) bool { return off[kind] != nil })
		rules, err := buildRules(take, k.key, k.self)
		if err != nil {
			return err
		}
		refused, err := installRules(k.control, rules, k.key)
		if err != nil {
			return err
		}
		if len(refused) == 0 {
			k.rules, k.refused = rules, off
			return nil
		}
		maps.Copy(off, refused)
	}
}

// adopt finds the kinds that rules which are there record all of: when the configuration is locked, none can be added.
// They may be of a run of ours before, or of somebody else.
func (k *kernel) adopt(kinds []event.Kind) error {
	loaded, err := k.control.GetRules()
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	k.rules, k.refused = nil, map[event.Kind]error{}
	for _, kind := range kinds {
		rules, err := buildRules([]event.Kind{kind}, k.key, k.self)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(rules, func(r ownRule) bool { return !covered(r.wire, loaded) }) {
			k.refused[kind] = errLocked()
		}
	}
	return nil
}

// errLocked says that the kernel takes no rules.
func errLocked() error {
	return fmt.Errorf("%w, with rules that do not record it: take \"-e 2\" out of /etc/audit/rules.d and reboot",
		ErrImmutable)
}

// openData becomes the audit daemon when there is none, and listens to its records when there is one. When the
// configuration is locked it only listens: a daemon must be able to set how long system calls wait for it.
func (k *kernel) openData(status *libaudit.AuditStatus) error {
	if !k.alive(status.PID) && status.Enabled != immutable {
		err := k.openUnicast(status)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return k.openMulticast(status)
}

func (k *kernel) alive(pid uint32) bool {
	if pid == 0 {
		return false
	}
	_, err := os.Stat(filepath.Join(k.procRoot, strconv.Itoa(int(pid))))
	return err == nil
}

// nameOf returns the name of a process, "?" when it cannot be told.
func (k *kernel) nameOf(pid uint32) string {
	name, err := os.ReadFile(filepath.Join(k.procRoot, strconv.Itoa(int(pid)), "comm"))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(name))
}

// refusals returns why wanted kinds are off.
func (k *kernel) refusals() map[event.Kind]error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.refused)
}

func (k *kernel) openMulticast(status *libaudit.AuditStatus) error {
	if status.Enabled == 0 {
		return fmt.Errorf("%w by somebody, while an audit daemon runs (pid %d): run auditctl -e 1",
			ErrSwitchedOff, status.PID)
	}
	if !inHostNetwork(k.procRoot) {
		return fmt.Errorf("%w: an audit daemon runs, and its records are copied to the host's network namespace only",
			ErrNamespace)
	}
	data, err := k.listen(readLogGroup, k.buffer)
	if err != nil {
		return err
	}
	k.use(multicast, data)
	return nil
}

func (k *kernel) use(m mode, data *socket) {
	k.mode, k.data = m, data
	k.steps = append(k.steps, step{undo: data.Close})
}

func (k *kernel) openUnicast(status *libaudit.AuditStatus) error {
	data, err := k.listen(0, k.buffer)
	if err != nil {
		return err
	}
	daemon := &libaudit.AuditClient{Netlink: data}
	if err := daemon.SetPID(libaudit.WaitForReply); err != nil {
		return errors.Join(fmt.Errorf("register as the audit daemon: %w", err), data.Close())
	}
	k.mode, k.data = unicast, data
	k.steps = append(k.steps, step{undo: daemon.Close, yield: daemon.Close})
	return k.own(status)
}

// own changes what only concerns an audit daemon: a full backlog must cost records, not stop system calls, and
// the kernel's default backlog is that of a few processes.
func (k *kernel) own(status *libaudit.AuditStatus) error {
	if before := status.BacklogWaitTime; before != 0 {
		err := k.change("backlog wait time", before, 0,
			func(s *libaudit.AuditStatus) uint32 { return s.BacklogWaitTime },
			func(v uint32) error { return k.control.SetBacklogWaitTime(int32(v), libaudit.WaitForReply) })
		if err != nil {
			return err
		}
	}
	if before := status.BacklogLimit; before == defaultBacklogLimit {
		return k.change("backlog limit", before, ownBacklogLimit,
			func(s *libaudit.AuditStatus) uint32 { return s.BacklogLimit },
			func(v uint32) error { return k.control.SetBacklogLimit(v, libaudit.WaitForReply) })
	}
	return nil
}

// change sets a value, to be set back when we go unless somebody else has set it meanwhile.
func (k *kernel) change(what string, before, value uint32, get func(*libaudit.AuditStatus) uint32,
	set func(uint32) error) error {
	if err := set(value); err != nil {
		return fmt.Errorf("set %s: %w", what, err)
	}
	restore := func() error {
		status, err := k.control.GetStatus()
		if err == nil && get(status) == value && status.Enabled != immutable {
			err = set(before)
		}
		if err != nil {
			return fmt.Errorf("restore %s: %w", what, err)
		}
		return nil
	}
	k.steps = append(k.steps, step{undo: restore, yield: restore})
	return nil
}

// enable switches auditing on. Beside an audit daemon it is on: openMulticast has seen to that.
func (k *kernel) enable(status *libaudit.AuditStatus) error {
	if status.Enabled != 0 {
		return nil
	}
	err := k.change("enabled", 0, 1,
		func(s *libaudit.AuditStatus) uint32 { return s.Enabled },
		func(v uint32) error { return k.control.SetEnabled(v != 0, libaudit.WaitForReply) })
	if err == nil {
		// Another daemon needs it on.
		k.steps[len(k.steps)-1].yield = func() error { return nil }
	}
	return err
}

// yield makes way for an audit daemon that wants our place, and listens to its records from then on. Between the
// moment when both sockets get records and the end of the old one, drain is to empty the old one.
func (k *kernel) yield(drain func(*socket)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	data, err := k.listen(readLogGroup, k.buffer)
	if err != nil {
		return err
	}
	drain(k.data)
	var errs []error
	var kept []step
	// First things first: the oldest of these steps is the place that the newcomer waits for.
	for _, s := range k.steps {
		if s.yield != nil {
			errs = append(errs, s.yield())
		} else {
			kept = append(kept, s)
		}
	}
	k.steps = kept
	k.use(multicast, data)
	return errors.Join(errs...)
}

// status returns the kernel's audit status.
func (k *kernel) status() (*libaudit.AuditStatus, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	status, err := k.control.GetStatus()
	if err != nil {
		return nil, fmt.Errorf("read audit status: %w", err)
	}
	return status, nil
}

// mend puts rules back that somebody has removed, and reports whether there were any.
func (k *kernel) mend() (mended bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return false, nil
	}
	loaded, err := loadedRules(k.control, k.key)
	if err != nil || len(loaded) >= len(k.rules) {
		return false, err
	}
	refused, err := installRules(k.control, k.rules, k.key)
	for _, refusal := range refused {
		return false, errors.Join(fmt.Errorf("put back rules that somebody removed: %w", refusal), err)
	}
	return true, err
}

// withdraw removes our rules; records of what happened before still come. Where the configuration has been locked they
// stay until the next boot, and cannot be helped.
func (k *kernel) withdraw() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = true
	status, err := k.control.GetStatus()
	if err != nil {
		return fmt.Errorf("read audit status: %w", err)
	}
	if k.locked = status.Enabled == immutable; k.locked {
		return nil
	}
	return removeRules(k.control, k.key)
}

// release undoes what acquire did, in the opposite order.
func (k *kernel) release() error {
	var errs []error
	for _, s := range slices.Backward(k.steps) {
		errs = append(errs, s.undo())
	}
	k.steps = nil
	return errors.Join(errs...)
}
