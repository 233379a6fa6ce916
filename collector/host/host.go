// Package host tells which machine this is and what time it is: the EC2 instance by its identity document, or the
// machine by its machine id; the boot; and the wall clock of a moment that the kernel gave since boot.
//
// It promises: Identify takes no longer than Config.Timeout whatever answers or does not, and fails only without a
// boot id, which every process id is derived from; Clock never blocks and never allocates.
package host

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
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
	// Timeout bounds all requests to the service together; 0 is 1 s.
	Timeout time.Duration
	// Logger is told why the machine could not be identified better; nil discards it.
	Logger *slog.Logger

	transport http.RoundTripper // nil is the network
}

const defaultTimeout = time.Second

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

// Identify returns the best identity that the machine could give: instance id, account and region where the metadata
// service answers, the machine id elsewhere; the host's name and boot in any case.
func Identify(ctx context.Context, c Config) (event.Host, error) {
	c = c.withDefaults()
	boot, err := bootID(c.ProcRoot)
	if err != nil {
		return event.Host{}, fmt.Errorf("identify host: %w", err)
	}
	h := event.Host{BootID: boot, BootTime: NewClock().Wall(0)}
	if h.Hostname, err = readLine(c.ProcRoot, "sys/kernel/hostname"); err != nil {
		c.Logger.Warn("host has no name", "error", err)
	}
	if c.IMDS {
		instance, err := identityDocument(ctx, c)
		if err == nil {
			h.InstanceID, h.AccountID, h.Region = instance.InstanceID, instance.AccountID, instance.Region
			return h, nil
		}
		c.Logger.Info("no instance identity: the host is known by its machine id", "error", err)
	}
	if h.MachineID, err = machineID(c.EtcRoot); err != nil {
		c.Logger.Warn("host has no machine id: it is known by its name; run systemd-machine-id-setup", "error", err)
	}
	return h, nil
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
