package main

import (
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskguard/taskguard/cmd/internal/settings"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/coverage"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ingest"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/store"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
	"github.com/taskguard/taskguard/sender/batch"
)

// config is the configuration of serve: packaging/endpoint.yaml describes every field.
type config struct {
	Roles          []string
	Listen         string
	DataDir        string
	CertFile       string
	KeyFile        string
	SelfSigned     bool
	Hosts          []string
	MaxBytes       int64
	Retention      time.Duration
	Stream         clusterConfig
	Store          storeConfig
	Coverage       coverageConfig
	Identity       identityConfig
	Limits         ingest.Limits
	Connections    int
	RequestTimeout time.Duration
	DrainDelay     time.Duration
	MetricsListen  string
	LogLevel       slog.Level
}

func defaultConfig() config {
	return config{
		Roles: allRoles(), Store: storeConfig{MaxBytes: store.DefaultMaxFileBytes, Interval: store.DefaultMaxFileAge},
		Coverage: coverageConfig{Unseen: coverage.DefaultUnseen},
		Listen:   "127.0.0.1:8443", DataDir: "/var/lib/taskguard-endpoint", Hosts: []string{"localhost", "127.0.0.1", "::1"},
		MaxBytes: stream.DefaultMaxBytes, Stream: clusterConfig{Replicas: 3}, Connections: 4096, RequestTimeout: 30 * time.Second, LogLevel: slog.LevelInfo,
		Identity: identityConfig{SigV4Service: "execute-api"},
		Limits: ingest.Limits{
			MaxBody: batch.MaxCompressed, MaxSize: batch.MaxSize, MaxEvents: batch.MaxEvents, MaxEntry: ingest.DefaultMaxEntry,
			Rate: ingest.DefaultRate, Burst: ingest.DefaultBurst,
		},
	}
}

// clusterConfig says which cluster has the log, if one has.
type clusterConfig struct {
	URL                                        string
	Replicas                                   int
	CredentialsFile, CAFile, CertFile, KeyFile string
}

// storeConfig says where the role store keeps files.
type storeConfig struct {
	URL      string // empty is nowhere
	MaxBytes int64
	Interval time.Duration
}

// coverageConfig says when an agent counts as gone, and who is told of what changes, beside the log.
type coverageConfig struct {
	Unseen    time.Duration
	Webhook   string // empty is none, as is an empty bus
	EventBus  string
	BusRegion string
	ECS       bool // whether ECS is asked what clusters have
}

// Roles of an endpoint.
const (
	roleIngest   = "ingest"
	roleStore    = "store"
	roleCoverage = "coverage"
)

func allRoles() []string { return []string{roleIngest, roleStore, roleCoverage} }

// minMaxBytes leaves room in the log for a few of the largest batches.
const minMaxBytes = 16 << 20

// setting is one key of the file.
type setting = settings.Setting[config]

func allSettings() []setting {
	all := []setting{
		settings.List("roles", "ingest, store or coverage, once", len(allRoles()), func(c *config) *[]string { return &c.Roles },
			func(v string) (string, bool) { return v, slices.Contains(allRoles(), v) }),
		{Key: "listen", Want: "ADDRESS:PORT", Set: address(func(c *config) *string { return &c.Listen }, false)},
		{Key: "data_dir", Want: "a path", Set: func(c *config, v string) bool {
			c.DataDir = v
			return v != ""
		}},
		{Key: "drain_delay", Want: "a time of up to 1m, such as 20s, or 0s",
			Set: settings.Duration(func(c *config) *time.Duration { return &c.DrainDelay }, 0, time.Minute, true)},
		{Key: "metrics.listen", Want: "ADDRESS:PORT, or nothing",
			Set: address(func(c *config) *string { return &c.MetricsListen }, true)},
		{Key: "log.level", Want: settings.WantLevel,
			Set: settings.Level(func(c *config) *slog.Level { return &c.LogLevel })},
	}
	return slices.Concat(all, tlsSettings(), streamSettings(), storeSettings(), coverageSettings(), identitySettings(), limitSettings())
}

// validCluster reports whether each address of a cluster says how to reach it.
func validCluster(urls string) bool {
	for part := range strings.SplitSeq(urls, ",") {
		u, err := url.Parse(part)
		if err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" || u.Port() == "" {
			return false
		}
	}
	return true
}

// filePath is the Set of a file's name, which may be empty.
func filePath(field func(*config) *string) func(*config, string) bool {
	return func(c *config, v string) bool {
		*field(c) = v
		return true
	}
}

func tlsSettings() []setting {
	return []setting{
		{Key: "tls.cert_file", Want: "a path", Set: filePath(func(c *config) *string { return &c.CertFile })},
		{Key: "tls.key_file", Want: "a path", Set: filePath(func(c *config) *string { return &c.KeyFile })},
		{Key: "tls.self_signed", Want: "true or false", Set: settings.Bool(func(c *config) *bool { return &c.SelfSigned })},
		settings.List("tls.hosts", "a host name or address, once", 64, func(c *config) *[]string { return &c.Hosts },
			func(v string) (string, bool) { return v, v != "" && !strings.ContainsAny(v, "/ ") }),
	}
}

func streamSettings() []setting {
	return []setting{
		{Key: "stream.max_bytes", Want: "a size of 16MiB or more, such as 10GiB",
			Set: settings.Bytes(func(c *config) *int64 { return &c.MaxBytes }, minMaxBytes, 1<<60)},
		{Key: "stream.url", Want: "nats://HOST:PORT or tls://HOST:PORT, more with commas in between, or nothing", Set: func(c *config, v string) bool {
			c.Stream.URL = v
			return v == "" || validCluster(v)
		}},
		{Key: "stream.replicas", Want: "1, 3 or 5", Set: func(c *config, v string) bool {
			n, err := strconv.Atoi(v)
			c.Stream.Replicas = n
			return err == nil && (n == 1 || n == 3 || n == 5)
		}},
		{Key: "stream.credentials_file", Want: "a path", Set: filePath(func(c *config) *string { return &c.Stream.CredentialsFile })},
		{Key: "stream.ca_file", Want: "a path", Set: filePath(func(c *config) *string { return &c.Stream.CAFile })},
		{Key: "stream.cert_file", Want: "a path", Set: filePath(func(c *config) *string { return &c.Stream.CertFile })},
		{Key: "stream.key_file", Want: "a path", Set: filePath(func(c *config) *string { return &c.Stream.KeyFile })},
		{Key: "stream.retention", Want: "a time of 1m or more, such as 720h, or 0s for ever",
			Set: settings.Duration(func(c *config) *time.Duration { return &c.Retention }, time.Minute, 1<<63-1, true)},
	}
}

func storeSettings() []setting {
	return []setting{
		{Key: "store.url", Want: "s3://BUCKET?region=REGION, file:///FOLDER, or nothing", Set: func(c *config, v string) bool {
			c.Store.URL = v
			return v == "" || validBucket(v)
		}},
		{Key: "store.max_bytes", Want: "a size of 1MiB to 1GiB, such as 128MiB",
			Set: settings.Bytes(func(c *config) *int64 { return &c.Store.MaxBytes }, 1<<20, 1<<30)},
		{Key: "store.interval", Want: "a time of 1s to 1h, such as 5m",
			Set: settings.Duration(func(c *config) *time.Duration { return &c.Store.Interval }, time.Second, time.Hour, false)},
	}
}

func coverageSettings() []setting {
	return []setting{
		{Key: "coverage.unseen", Want: "a time of 2m to 24h, such as 5m",
			Set: settings.Duration(func(c *config) *time.Duration { return &c.Coverage.Unseen }, 2*time.Minute, 24*time.Hour, false)},
		{Key: "coverage.webhook", Want: "https://HOST/PATH, or nothing", Set: func(c *config, v string) bool {
			u, err := url.Parse(v)
			c.Coverage.Webhook = v
			return v == "" || err == nil && u.Scheme == "https" && u.Host != ""
		}},
		{Key: "coverage.event_bus", Want: "the name or ARN of an event bus, or nothing",
			Set: filePath(func(c *config) *string { return &c.Coverage.EventBus })},
		{Key: "coverage.ecs", Want: "true or false", Set: settings.Bool(func(c *config) *bool { return &c.Coverage.ECS })},
		{Key: "coverage.region", Want: "the event bus's region, or nothing for this host's",
			Set: filePath(func(c *config) *string { return &c.Coverage.BusRegion })},
	}
}

func limitSettings() []setting {
	return []setting{
		{Key: "limits.body_bytes", Want: "a size of 64KiB to 4MiB",
			Set: settings.Bytes(func(c *config) *int64 { return &c.Limits.MaxBody }, 64<<10, batch.MaxCompressed)},
		{Key: "limits.batch_bytes", Want: "a size of 64KiB to 8MiB",
			Set: settings.Bytes(func(c *config) *int64 { return &c.Limits.MaxSize }, 64<<10, batch.MaxSize)},
		{Key: "limits.events", Want: "a number from 1 to 65536",
			Set: settings.Int(func(c *config) *int { return &c.Limits.MaxEvents }, 1, batch.MaxEvents)},
		{Key: "limits.entry_bytes", Want: "a size of 4KiB to 8MiB", Set: func(c *config, v string) bool {
			n, err := settings.ParseBytes(v)
			c.Limits.MaxEntry = int(n)
			return err == nil && n >= 4<<10 && n <= batch.MaxSize
		}},
		{Key: "limits.agent_batches_per_second", Want: "a number from 0.1 to 10000", Set: func(c *config, v string) bool {
			n, err := strconv.ParseFloat(v, 64)
			c.Limits.Rate = n
			return err == nil && n >= 0.1 && n <= 10000
		}},
		{Key: "limits.agent_burst", Want: "a number from 1 to 100000",
			Set: settings.Int(func(c *config) *int { return &c.Limits.Burst }, 1, 100000)},
		{Key: "limits.connections", Want: "a number from 1 to 65536",
			Set: settings.Int(func(c *config) *int { return &c.Connections }, 1, 65536)},
		{Key: "limits.request_timeout", Want: "a time of 1s to 10m",
			Set: settings.Duration(func(c *config) *time.Duration { return &c.RequestTimeout }, time.Second, 10*time.Minute, false)},
	}
}

// address is the Set of what net.Listen takes.
func address(field func(*config) *string, empty bool) func(*config, string) bool {
	return func(c *config, v string) bool {
		*field(c) = v
		_, port, err := net.SplitHostPort(v)
		return v == "" && empty || err == nil && port != ""
	}
}

// validate checks what a single value does not show.
func (c *config) validate() error {
	switch {
	case c.SelfSigned && (c.CertFile != "" || c.KeyFile != ""):
		return usagef("tls.self_signed excludes tls.cert_file and tls.key_file")
	case !c.SelfSigned && (c.CertFile == "" || c.KeyFile == ""):
		return usagef("a certificate is required: set tls.cert_file and tls.key_file, or tls.self_signed " +
			"(--tls-cert and --tls-key, or --tls-self-signed)")
	case (c.Stream.CertFile == "") != (c.Stream.KeyFile == ""):
		return usagef("stream.cert_file and stream.key_file go together: want both or neither")
	case len(c.Roles) == 0:
		return usagef("roles is empty: want ingest, store, coverage or several")
	case c.SelfSigned && len(c.Hosts) == 0:
		return usagef("tls.hosts is empty: want the names that agents will use")
	}
	return nil
}

// configFlags are the flags by which a configuration is given.
type configFlags struct {
	file string
	set  []string
}

// shorthand is a flag for one key.
type shorthand struct{ flag, key, help string }

func shorthands() []shorthand {
	return []shorthand{
		{"listen", "listen", "address to listen on; with port 0, DATA/address tells the real one"},
		{"data", "data_dir", "folder to keep everything in"},
		{"tls-cert", "tls.cert_file", "certificate chain in PEM"},
		{"tls-key", "tls.key_file", "its private key in PEM"},
		{"tls-self-signed", "tls.self_signed", "make a certificate in DATA/tls, to be trusted by its ca.pem: for demos and tests"},
		{"host", "tls.hosts", "names and addresses in the self-signed certificate, with commas in between"},
		{"max-bytes", "stream.max_bytes", "bytes of batches to keep; the oldest are discarded"},
		{"retention", "stream.retention", "age at which batches are discarded, such as 720h; 0s is never"},
		{"metrics-listen", "metrics.listen", "address for GET /metrics, /healthz and /readyz by plain HTTP; off when empty"},
		{"log-level", "log.level", settings.WantLevel},
	}
}

func (f *configFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.file, "config", "", "configuration file; packaging/endpoint.yaml describes it")
	flags.StringArrayVar(&f.set, "set", nil, "set a key of the configuration, such as limits.events=4096; can be given again")
	for _, s := range shorthands() {
		flags.String(s.flag, "", s.help+" ("+s.key+")")
	}
	flags.Lookup("tls-self-signed").NoOptDefVal = "true"
}

// load reads the configuration: the file, then --set, then the flags of single keys.
func (f *configFlags) load(cmd *cobra.Command) (config, error) {
	c, table := defaultConfig(), allSettings()
	if err := settings.Load(&c, table, f.file, f.set); err != nil {
		return c, usageError{err}
	}
	for _, s := range shorthands() {
		if flag := cmd.Flags().Lookup(s.flag); flag.Changed {
			if err := settings.Override(&c, table, s.key, flag.Value.String()); err != nil {
				return c, usagef("--%s: %w", s.flag, err)
			}
		}
	}
	return c, c.validate()
}
