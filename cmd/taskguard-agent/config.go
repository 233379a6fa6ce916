package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/taskguard/taskguard/cmd/internal/settings"
	"github.com/taskguard/taskguard/collector/ebpf"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/https"
)

// config is the agent's configuration: packaging/agent.yaml describes every field. Those that a reload cannot change
// have their key with them.
type config struct {
	EndpointURL        string `key:"endpoint.url"`
	EndpointCAFile     string `key:"endpoint.ca_file"`
	EndpointServerName string `key:"endpoint.server_name"`
	EndpointProxy      string `key:"endpoint.proxy"`
	IdentityMode       string `key:"identity.mode"`
	IdentityCertFile   string `key:"identity.cert_file"`
	IdentityKeyFile    string `key:"identity.key_file"`
	IdentityRegion     string `key:"identity.region"`
	IdentityService    string `key:"identity.service"`
	IdentitySTS        string `key:"identity.sts_endpoint"`
	StateDir           string `key:"state_dir"`
	Socket             string `key:"socket"`
	EBPF               bool   `key:"sources.ebpf"`
	Audit              bool   `key:"sources.audit"`
	DockerSocket       string `key:"docker.socket"`
	ECSAgent           string `key:"ecs.agent"`
	ECSTags            bool   `key:"ecs.tags"`
	IMDS               bool   `key:"host.imds"`
	SpoolMaxBytes      int64  `key:"spool.max_bytes"`
	SpoolMaxFiles      int64  `key:"spool.max_files"`
	SpoolMaxMemory     int64  `key:"spool.max_memory"`
	SpoolNoSync        bool   `key:"spool.fsync"`
	UploadRate         int64  `key:"upload.bytes_per_second"`
	Events             ebpf.Settings
	LogLevel           slog.Level
}

func defaultConfig() config {
	return config{
		IdentityMode: identityNone, IdentityService: https.DefaultService,
		StateDir: "/var/lib/taskguard", Socket: "/run/taskguard/agent.sock", EBPF: true, Audit: true,
		DockerSocket: "/var/run/docker.sock", ECSAgent: "http://127.0.0.1:51678", IMDS: true, SpoolMaxBytes: 256 << 20, SpoolMaxFiles: 16 << 10, SpoolMaxMemory: 8 << 20,
		LogLevel: slog.LevelInfo,
		Events: ebpf.Settings{
			Watched: []string{
				"/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh/ssh_host_", "/root/.ssh/", "/root/.aws/",
				"/root/.docker/", "/etc/ecs/", "/run/secrets/", "/var/run/secrets/", "/dev/mem", "/proc/kcore",
			},
			Throttle: 20000,
		},
	}
}

// setting is one key of the file.
type setting = settings.Setting[config]

func allSettings() []setting {
	return []setting{
		{Key: "endpoint.url", Want: "https://HOST[:PORT]", Set: func(c *config, v string) bool {
			u, err := url.Parse(v)
			c.EndpointURL = v
			return v == "" || err == nil && u.Scheme == "https" && u.Host != "" && u.RawQuery == "" && u.User == nil
		}},
		{Key: "endpoint.ca_file", Want: "an absolute path, or nothing",
			Set: settings.Path(func(c *config) *string { return &c.EndpointCAFile }, true)},
		{Key: "endpoint.server_name", Want: "a host name, or nothing", Set: func(c *config, v string) bool {
			c.EndpointServerName = v
			return !strings.ContainsAny(v, "/: ")
		}},
		{Key: "endpoint.proxy", Want: "http://HOST:PORT, or nothing", Set: func(c *config, v string) bool {
			u, err := url.Parse(v)
			c.EndpointProxy = v
			return v == "" || err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.Path+u.RawQuery == ""
		}},
		{Key: "identity.mode", Want: "none, mtls, sts or sigv4", Set: func(c *config, v string) bool {
			c.IdentityMode = v
			return v == identityNone || v == identityMTLS || v == https.IdentitySTS || v == https.IdentitySigV4
		}},
		{Key: "identity.cert_file", Want: "an absolute path, or nothing",
			Set: settings.Path(func(c *config) *string { return &c.IdentityCertFile }, true)},
		{Key: "identity.key_file", Want: "an absolute path, or nothing",
			Set: settings.Path(func(c *config) *string { return &c.IdentityKeyFile }, true)},
		{Key: "identity.region", Want: "a region such as eu-central-1, or nothing", Set: func(c *config, v string) bool {
			c.IdentityRegion = v
			return v == "" || isRegion(v)
		}},
		{Key: "identity.service", Want: "execute-api or vpc-lattice-svcs", Set: func(c *config, v string) bool {
			c.IdentityService = v
			return v == https.DefaultService || v == "vpc-lattice-svcs"
		}},
		{Key: "identity.sts_endpoint", Want: "https://HOST[:PORT] of an STS, or nothing", Set: func(c *config, v string) bool {
			u, err := url.Parse(v)
			c.IdentitySTS = v
			return v == "" || err == nil && u.Scheme == "https" && u.Hostname() != "" && v == "https://"+u.Host
		}},
		{Key: "state_dir", Want: "an absolute path", Set: settings.Path(func(c *config) *string { return &c.StateDir }, false)},
		{Key: "socket", Want: "an absolute path", Set: settings.Path(func(c *config) *string { return &c.Socket }, false)},
		{Key: "sources.ebpf", Want: "auto or off", Set: autoOff(func(c *config) *bool { return &c.EBPF })},
		{Key: "sources.audit", Want: "auto or off", Set: autoOff(func(c *config) *bool { return &c.Audit })},
		{Key: "docker.socket", Want: "an absolute path, or nothing",
			Set: settings.Path(func(c *config) *string { return &c.DockerSocket }, true)},
		{Key: "ecs.agent", Want: "http://ADDRESS:PORT of this host's loopback, or nothing", Set: func(c *config, v string) bool {
			u, err := url.Parse(v)
			c.ECSAgent = v
			return v == "" || err == nil && u.Scheme == "http" && isLoopback(u) && u.String() == "http://"+u.Host
		}},
		{Key: "ecs.tags", Want: "true or false", Set: settings.Bool(func(c *config) *bool { return &c.ECSTags })},
		{Key: "host.imds", Want: "auto or off", Set: autoOff(func(c *config) *bool { return &c.IMDS })},
		{Key: "spool.max_bytes", Want: "a size of 1MiB or more, such as 256MiB",
			Set: settings.Bytes(func(c *config) *int64 { return &c.SpoolMaxBytes }, 1<<20, 1<<62)},
		{Key: "spool.max_files", Want: "a number from 16 to 1000000", Set: func(c *config, v string) (ok bool) {
			n, err := strconv.ParseInt(v, 10, 64)
			c.SpoolMaxFiles = n
			return err == nil && n >= 16 && n <= 1_000_000
		}},
		{Key: "spool.max_memory", Want: "a size of 64KiB to 64MiB, such as 8MiB",
			Set: settings.Bytes(func(c *config) *int64 { return &c.SpoolMaxMemory }, 64<<10, 64<<20)},
		{Key: "spool.fsync", Want: "always or never", Set: func(c *config, v string) bool {
			c.SpoolNoSync = v == "never"
			return v == "always" || v == "never"
		}},
		{Key: "upload.bytes_per_second", Want: "a size of 64KiB or more, such as 1MiB, or 0", Set: func(c *config, v string) bool {
			if v == "0" {
				c.UploadRate = 0
				return true
			}
			return settings.Bytes(func(c *config) *int64 { return &c.UploadRate }, 64<<10, 1<<40)(c, v)
		}},
		settings.List("events.off", "a kind such as file.open, once", len(observable()),
			func(c *config) *[]event.Kind { return &c.Events.Off },
			func(v string) (event.Kind, bool) {
				kind, err := event.ParseKind(v)
				return kind, err == nil && slices.Contains(observable(), kind)
			}),
		{Key: "events.open_all", Want: "true or false", Set: settings.Bool(func(c *config) *bool { return &c.Events.OpenAll })},
		settings.List("events.watched_paths", fmt.Sprintf("an absolute path of at most %d bytes, once", ebpf.MaxWatchedBytes),
			ebpf.MaxWatched, func(c *config) *[]string { return &c.Events.Watched },
			func(v string) (string, bool) { return v, filepath.IsAbs(v) && len(v) <= ebpf.MaxWatchedBytes }),
		settings.List("events.ignored_executables", "an absolute path, once", ebpf.MaxIgnored,
			func(c *config) *[]string { return &c.Events.Ignored },
			func(v string) (string, bool) { return v, filepath.IsAbs(v) }),
		{Key: "events.connect_window", Want: "a time of up to 1h, such as 10s, or 0s",
			Set: settings.Duration(func(c *config) *time.Duration { return &c.Events.ConnectWindow }, 0, time.Hour, true)},
		{Key: "throttle.events_per_second", Want: "a number of 100 or more, or 0", Set: func(c *config, v string) bool {
			n, err := strconv.ParseUint(v, 10, 32)
			c.Events.Throttle = uint32(n)
			return err == nil && (n == 0 || n >= 100)
		}},
		{Key: "log.level", Want: settings.WantLevel, Set: settings.Level(func(c *config) *slog.Level { return &c.LogLevel })},
	}
}

// Values of identity.mode beside those of sender/https.
const (
	identityNone = "none"
	identityMTLS = "mtls"
)

// isRegion reports whether v has the form of a region's name: small letters and digits between hyphens.
func isRegion(v string) bool {
	parts := strings.Split(v, "-")
	return len(parts) >= 3 && len(v) <= 32 && !slices.Contains(parts, "") &&
		strings.Trim(v, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func isLoopback(u *url.URL) bool {
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.IsLoopback() && u.Port() != ""
}

func autoOff(field func(*config) *bool) func(*config, string) bool {
	return func(c *config, v string) bool {
		*field(c) = v == "auto"
		return v == "auto" || v == "off"
	}
}

// usageError is a mistake of the operator's: exit status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// loadConfig reads a file and then the overrides, each "key=value". Its error names every mistake, with its line.
func loadConfig(file string, overrides []string) (config, error) {
	c := defaultConfig()
	if err := settings.Load(&c, allSettings(), file, overrides); err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// validate checks what a single value does not show. What it finds is an error of a whole configuration.
func (c *config) validate() error {
	if c.EndpointURL == "" {
		return usageError{errors.New("endpoint.url: not set: want https://HOST[:PORT] of your TaskGuard endpoint")}
	}
	if err := c.validateIdentity(); err != nil {
		return usageError{err}
	}
	if !c.EBPF && !c.Audit {
		return usageError{errors.New("sources.ebpf and sources.audit: both off: want auto for one of them at least")}
	}
	if len(c.Events.Off) == len(observable()) {
		return usageError{errors.New("events.off: every kind is off: want one at least to be observed")}
	}
	return nil
}

func (c *config) validateIdentity() error {
	cert, key := c.IdentityCertFile != "", c.IdentityKeyFile != ""
	switch {
	case cert != key:
		return errors.New("identity.cert_file and identity.key_file: one without the other: want both, or neither")
	case c.IdentityMode == identityMTLS && !cert:
		return errors.New("identity.cert_file and identity.key_file: not set: identity.mode mtls wants both")
	case c.IdentityMode != identityMTLS && cert:
		return fmt.Errorf("identity.cert_file: set, while identity.mode is %s: want identity.mode mtls", c.IdentityMode)
	case c.IdentityMode != https.IdentitySTS && c.IdentitySTS != "":
		return fmt.Errorf("identity.sts_endpoint: set, while identity.mode is %s: want identity.mode sts", c.IdentityMode)
	}
	return nil
}
