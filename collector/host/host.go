// Package host tells which machine this is and what time it is: the EC2 instance by its identity document, or the
// machine by its machine id; what else the instance metadata service tells; the boot; and the wall clock of a moment
// that the kernel gave since boot.
//
// It promises: Open takes no longer than Config.Timeout whatever answers or does not, and fails only without a boot id,
// which every process id is derived from; what the metadata service did not tell then is asked for in the background,
// field by field, as long as it takes; Clock never blocks and never allocates.
package host

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// Config says where to look.
type Config struct {
	ProcRoot string // "" is /proc
	EtcRoot  string // "" is /etc
	// IMDS asks the EC2 instance metadata service, version 2 only. AWS_EC2_METADATA_DISABLED=true in the environment
	// turns it off all the same.
	IMDS bool
	// Endpoint is the service's address, "http://169.254.169.254"; "" is what AWS_EC2_METADATA_SERVICE_ENDPOINT
	// says, or the usual one.
	Endpoint string
	// Timeout bounds all requests of Open to the service together; 0 is 1 s.
	Timeout time.Duration
	// Logger is told why the machine could not be identified better; nil discards it.
	Logger *slog.Logger

	transport http.RoundTripper // nil is the network
}

const (
	defaultTimeout = time.Second
	// refreshTimeout bounds all requests of one refresh.
	refreshTimeout = 10 * time.Second
	// While the instance is not identified it is tried again soon; tags and interfaces may change at any time.
	retryInterval   = 30 * time.Second
	refreshInterval = 5 * time.Minute
)

func (c Config) withDefaults() Config {
	if c.ProcRoot == "" {
		c.ProcRoot = "/proc"
	}
	if c.EtcRoot == "" {
		c.EtcRoot = "/etc"
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// ManagedTag is the tag of an instance by which it is left out: "false" says that nothing is to be observed on it.
const ManagedTag = "TaskGuardManaged"

// Host is this machine. Make one with Open; its methods may be called from several goroutines.
type Host struct {
	cfg     Config
	service *service // nil when it is not asked

	mu       sync.Mutex
	identity event.Host     // guarded by mu
	instance event.Instance // guarded by mu; replaced as a whole, what it points to is never changed
	excluded bool           // guarded by mu
	reason   string         // guarded by mu
	answers  bool           // guarded by mu: the metadata service did when it was asked last

	changed chan struct{} // has a value when excluded changed
}

// Open returns the best identity that the machine could give at once: instance id, account and region where the
// metadata service answers, the machine id elsewhere; the host's name and boot in any case.
func Open(ctx context.Context, c Config) (*Host, error) {
	c = c.withDefaults()
	boot, err := bootID(c.ProcRoot)
	if err != nil {
		return nil, fmt.Errorf("identify host: %w", err)
	}
	h := &Host{
		cfg: c, identity: event.Host{BootID: boot, BootTime: NewClock().Wall(0)}, changed: make(chan struct{}, 1),
		instance: systemOf(c), reason: "instance metadata is off",
	}
	if h.identity.Hostname, err = readLine(c.ProcRoot, "sys/kernel/hostname"); err != nil {
		c.Logger.Warn("host has no name", "error", err)
	}
	if c.IMDS {
		h.service = newService(c)
		if h.identify(ctx) {
			return h, nil
		}
	}
	if h.identity.MachineID, err = machineID(c.EtcRoot); err != nil {
		c.Logger.Warn("host has no machine id: it is known by its name; run systemd-machine-id-setup", "error", err)
	}
	return h, nil
}

// identify asks who the instance is and whether it is to be left out.
func (h *Host) identify(ctx context.Context) (ok bool) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Timeout)
	defer cancel()
	document, err := h.service.document(ctx)
	if err != nil {
		h.cfg.Logger.Info("no instance identity yet: the host is known by its machine id", "error", err)
		h.fail(err)
		return false
	}
	h.know(document)
	if excluded, err := h.service.excluded(ctx); err == nil {
		h.exclude(excluded)
	}
	return true
}

// Identity returns who the host is, as far as it is known now.
func (h *Host) Identity() event.Host {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.identity
}

// Instance returns what is known of the machine now. What it points to must not be changed.
func (h *Host) Instance() event.Instance {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.instance
}

// Excluded reports whether the instance's tag ManagedTag says that nothing is to be observed on it.
func (h *Host) Excluded() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.excluded
}

// Changed has a value when what Excluded returns has changed.
func (h *Host) Changed() <-chan struct{} { return h.changed }

// Reason says in one sentence whether the metadata service answers, and if not, how to remedy it.
func (h *Host) Reason() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reason
}

// Answers reports whether the metadata service answered when it was asked last.
func (h *Host) Answers() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.answers
}

// Run keeps what is known of the instance up to date until ctx is done.
func (h *Host) Run(ctx context.Context) {
	if h.service == nil {
		return
	}
	for {
		wait := retryInterval
		if h.refresh(ctx) {
			wait = refreshInterval
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// refresh asks for everything. What the service does not tell this time stays as it was.
func (h *Host) refresh(ctx context.Context) (ok bool) {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	document, err := h.service.document(ctx)
	if err != nil {
		h.fail(err)
		return false
	}
	if h.know(document) {
		h.cfg.Logger.Info("instance identified", "instance", document.InstanceID, "account", document.AccountID,
			"region", document.Region)
	}
	facts := h.Instance()
	h.service.complete(ctx, &facts)
	h.mu.Lock()
	h.instance = facts
	h.mu.Unlock()
	if excluded, err := h.service.excluded(ctx); err == nil {
		h.exclude(excluded)
	}
	return true
}

// know takes what the identity document says, and reports whether it is news.
func (h *Host) know(d identityDocument) (first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first = h.identity.InstanceID == ""
	h.identity.InstanceID, h.identity.AccountID, h.identity.Region = d.InstanceID, d.AccountID, d.Region
	h.identity.MachineID = ""
	h.instance.Type, h.instance.ImageID, h.instance.AvailabilityZone = d.InstanceType, d.ImageID, d.AvailabilityZone
	h.instance.LaunchTime = d.PendingTime
	h.reason, h.answers = "instance metadata answers", true
	return first
}

func (h *Host) exclude(excluded bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.excluded == excluded {
		return
	}
	h.excluded = excluded
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func (h *Host) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reason, h.answers = err.Error(), false
}

func bootID(procRoot string) (event.ID, error) {
	line, err := readLine(procRoot, "sys/kernel/random/boot_id")
	if err != nil {
		return event.ID{}, fmt.Errorf("read boot id: %w", err)
	}
	id, err := event.ParseID(line)
	if err != nil {
		return event.ID{}, fmt.Errorf("read boot id: %w", err)
	}
	return id, nil
}

// machineID reads what machine-id(5) describes. Before the first boot the file is empty or says "uninitialized".
func machineID(etcRoot string) (string, error) {
	id, err := readLine(etcRoot, "machine-id")
	if err != nil {
		return "", fmt.Errorf("read machine id: %w", err)
	}
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return "", fmt.Errorf("read machine id: %q is not 32 hexadecimal digits", id)
	}
	return id, nil
}

func readLine(root, name string) (string, error) {
	content, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(content), "\n")
	return line, nil
}
