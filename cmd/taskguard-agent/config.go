package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/taskguard/taskguard/collector/ebpf"
	"github.com/taskguard/taskguard/collector/event"
)

// config is the agent's configuration: packaging/agent.yaml describes every field. Those that a reload cannot change
// have their key with them.
type config struct {
	EndpointURL        string `key:"endpoint.url"`
	EndpointCAFile     string `key:"endpoint.ca_file"`
	EndpointServerName string `key:"endpoint.server_name"`
	StateDir           string `key:"state_dir"`
	Socket             string `key:"socket"`
	EBPF               bool   `key:"sources.ebpf"`
	Audit              bool   `key:"sources.audit"`
	DockerSocket       string `key:"docker.socket"`
	ECSAgent           string `key:"ecs.agent"`
	ECSTags            bool   `key:"ecs.tags"`
	IMDS               bool   `key:"host.imds"`
	SpoolMaxBytes      int64  `key:"spool.max_bytes"`
	Events             ebpf.Settings
	LogLevel           slog.Level
}

func defaultConfig() config {
	return config{
		StateDir: "/var/lib/taskguard", Socket: "/run/taskguard/agent.sock", EBPF: true, Audit: true,
		DockerSocket: "/var/run/docker.sock", ECSAgent: "http://127.0.0.1:51678", IMDS: true, SpoolMaxBytes: 256 << 20, LogLevel: slog.LevelInfo,
		Events: ebpf.Settings{
			Watched: []string{
				"/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssh/ssh_host_", "/root/.ssh/", "/root/.aws/",
				"/root/.docker/", "/etc/ecs/", "/run/secrets/", "/var/run/secrets/", "/dev/mem", "/proc/kcore",
			},
			Throttle: 20000,
		},
	}
}

// setting is one key of the file, of a single value or of a list.
type setting struct {
	key  string
	want string // what is allowed, of a list for each of its values
	set  func(c *config, value string) bool
	// Of a list: how many values there may be, and what empties it. Then set adds a value.
	max   int
	empty func(c *config)
}

func settings() []setting {
	return []setting{
		{key: "endpoint.url", want: "https://HOST[:PORT]", set: func(c *config, v string) bool {
			u, err := url.Parse(v)
			c.EndpointURL = v
			return v == "" || err == nil && u.Scheme == "https" && u.Host != "" && u.RawQuery == "" && u.User == nil
		}},
		{key: "endpoint.ca_file", want: "an absolute path, or nothing",
			set: path(func(c *config) *string { return &c.EndpointCAFile }, true)},
		{key: "endpoint.server_name", want: "a host name, or nothing", set: func(c *config, v string) bool {
			c.EndpointServerName = v
			return !strings.ContainsAny(v, "/: ")
		}},
		{key: "state_dir", want: "an absolute path", set: path(func(c *config) *string { return &c.StateDir }, false)},
		{key: "socket", want: "an absolute path", set: path(func(c *config) *string { return &c.Socket }, false)},
		{key: "sources.ebpf", want: "auto or off", set: autoOff(func(c *config) *bool { return &c.EBPF })},
		{key: "sources.audit", want: "auto or off", set: autoOff(func(c *config) *bool { return &c.Audit })},
		{key: "docker.socket", want: "an absolute path, or nothing",
			set: path(func(c *config) *string { return &c.DockerSocket }, true)},
		{key: "ecs.agent", want: "http://ADDRESS:PORT of this host's loopback, or nothing", set: func(c *config, v string) bool {
			u, err := url.Parse(v)
			c.ECSAgent = v
			return v == "" || err == nil && u.Scheme == "http" && isLoopback(u) && u.String() == "http://"+u.Host
		}},
		{key: "ecs.tags", want: "true or false", set: boolean(func(c *config) *bool { return &c.ECSTags })},
		{key: "host.imds", want: "auto or off", set: autoOff(func(c *config) *bool { return &c.IMDS })},
		{key: "spool.max_bytes", want: "a size of 1MiB or more, such as 256MiB", set: func(c *config, v string) bool {
			n, err := parseBytes(v)
			c.SpoolMaxBytes = n
			return err == nil && n >= 1<<20
		}},
		list("events.off", "a kind such as file.open, once", len(observable()),
			func(c *config) *[]event.Kind { return &c.Events.Off },
			func(v string) (event.Kind, bool) {
				kind, err := event.ParseKind(v)
				return kind, err == nil && slices.Contains(observable(), kind)
			}),
		{key: "events.open_all", want: "true or false", set: boolean(func(c *config) *bool { return &c.Events.OpenAll })},
		list("events.watched_paths", fmt.Sprintf("an absolute path of at most %d bytes, once", ebpf.MaxWatchedBytes),
			ebpf.MaxWatched, func(c *config) *[]string { return &c.Events.Watched },
			func(v string) (string, bool) { return v, filepath.IsAbs(v) && len(v) <= ebpf.MaxWatchedBytes }),
		list("events.ignored_executables", "an absolute path, once", ebpf.MaxIgnored,
			func(c *config) *[]string { return &c.Events.Ignored },
			func(v string) (string, bool) { return v, filepath.IsAbs(v) }),
		{key: "events.connect_window", want: "a time of up to 1h, such as 10s, or 0s", set: func(c *config, v string) bool {
			d, err := time.ParseDuration(v)
			c.Events.ConnectWindow = d
			return err == nil && d >= 0 && d <= time.Hour
		}},
		{key: "throttle.events_per_second", want: "a number of 100 or more, or 0", set: func(c *config, v string) bool {
			n, err := strconv.ParseUint(v, 10, 32)
			c.Events.Throttle = uint32(n)
			return err == nil && (n == 0 || n >= 100)
		}},
		{key: "log.level", want: "debug, info, warn or error", set: func(c *config, v string) bool {
			return slices.Contains([]string{"debug", "info", "warn", "error"}, v) && c.LogLevel.UnmarshalText([]byte(v)) == nil
		}},
	}
}

// list is a setting of a list, none of whose values may be in it twice.
func list[T comparable](key, want string, limit int, field func(*config) *[]T, parse func(string) (T, bool)) setting {
	return setting{
		key: key, want: want, max: limit, empty: func(c *config) { *field(c) = nil },
		set: func(c *config, v string) bool {
			value, ok := parse(v)
			again := slices.Contains(*field(c), value)
			*field(c) = append(*field(c), value)
			return ok && !again
		},
	}
}

func path(field func(*config) *string, empty bool) func(*config, string) bool {
	return func(c *config, v string) bool {
		*field(c) = v
		return filepath.IsAbs(v) || v == "" && empty
	}
}

func boolean(field func(*config) *bool) func(*config, string) bool {
	return func(c *config, v string) bool {
		*field(c) = v == "true"
		return v == "true" || v == "false"
	}
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

func parseBytes(s string) (int64, error) {
	unit := int64(1)
	for suffix, size := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if number, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = strings.TrimSpace(number), size
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("parse size %q", s)
	}
	return n * unit, nil
}

// usageError is a mistake of the operator's: exit status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// loadConfig reads a file and then the overrides, each "key=value". Its error names every mistake, with its line.
func loadConfig(file string, overrides []string) (config, error) {
	c := defaultConfig()
	f, err := os.Open(file)
	if err != nil {
		return c, usageError{fmt.Errorf("read config: %w", err)}
	}
	defer f.Close()
	mistakes := decodeConfig(&c, file, f)
	for _, o := range overrides {
		key, value, found := strings.Cut(o, "=")
		switch {
		case !found:
			mistakes = append(mistakes, fmt.Errorf("--set %s: want key=value", o))
		default:
			if err := c.override(key, value); err != nil {
				mistakes = append(mistakes, fmt.Errorf("--set %w", err))
			}
		}
	}
	if len(mistakes) > 0 {
		return c, usageError{errors.Join(mistakes...)}
	}
	return c, nil
}

// validate checks what a single value does not show. What it finds is an error of a whole configuration.
func (c *config) validate() error {
	if c.EndpointURL == "" {
		return usageError{errors.New("endpoint.url: not set: want https://HOST[:PORT] of your TaskGuard endpoint")}
	}
	if !c.EBPF && !c.Audit {
		return usageError{errors.New("sources.ebpf and sources.audit: both off: want auto for one of them at least")}
	}
	if len(c.Events.Off) == len(observable()) {
		return usageError{errors.New("events.off: every kind is off: want one at least to be observed")}
	}
	return nil
}

// find returns the setting of a key.
func find(key string) (setting, error) {
	for _, s := range settings() {
		if s.key == key {
			return s, nil
		}
	}
	return setting{}, fmt.Errorf("%s: unknown key: want one of %s", key, strings.Join(siblings(key), ", "))
}

func (s *setting) apply(c *config, value string) error {
	if !s.set(c, value) {
		return fmt.Errorf("%s: %q: want %s", s.key, value, s.want)
	}
	return nil
}

// override sets one key, to a list with commas between its values.
func (c *config) override(key, value string) error {
	s, err := find(key)
	if err != nil {
		return err
	}
	if s.max == 0 {
		return s.apply(c, value)
	}
	s.empty(c)
	if value == "" {
		return nil
	}
	values := strings.Split(value, ",")
	if len(values) > s.max {
		return fmt.Errorf("%s: %d values: want at most %d", key, len(values), s.max)
	}
	for _, v := range values {
		if err := s.apply(c, v); err != nil {
			return err
		}
	}
	return nil
}

// siblings lists the keys that could have been meant: those of the same section, or all.
func siblings(key string) []string {
	section := key[:strings.LastIndex(key, ".")+1]
	var near, all []string
	for _, s := range settings() {
		all = append(all, s.key)
		if section != "" && strings.HasPrefix(s.key, section) {
			near = append(near, s.key)
		}
	}
	if len(near) > 0 {
		return near
	}
	return all
}

// decodeConfig applies a YAML document of sections and keys.
func decodeConfig(c *config, name string, r io.Reader) []error {
	// A configuration is small; whatever else is in the file is not read into memory.
	const maxSize = 1 << 20
	text, err := io.ReadAll(io.LimitReader(r, maxSize))
	if err != nil {
		return []error{fmt.Errorf("read config: %w", err)}
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return []error{fmt.Errorf("%s: %w", name, err)}
	}
	if len(document.Content) == 0 {
		return nil
	}
	d := decoder{config: c, name: name, seen: map[string]int{}}
	d.mapping(document.Content[0], "")
	slices.SortStableFunc(d.mistakes, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
	var errs []error
	for _, m := range d.mistakes {
		errs = append(errs, m)
	}
	return errs
}

type decoder struct {
	config   *config
	name     string
	seen     map[string]int // line of each key
	mistakes []mistake
}

type mistake struct {
	file string
	line int
	error
}

func (m mistake) Error() string { return fmt.Sprintf("%s:%d: %v", m.file, m.line, m.error) }

func (d *decoder) fail(n *yaml.Node, format string, args ...any) {
	d.mistakes = append(d.mistakes, mistake{d.name, n.Line, fmt.Errorf(format, args...)})
}

func (d *decoder) mapping(n *yaml.Node, prefix string) {
	if n.Kind != yaml.MappingNode {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!null" {
			d.fail(n, "%s: %q: want a section with keys", cmp.Or(strings.TrimSuffix(prefix, "."), "document"), n.Value)
		}
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		d.entry(n.Content[i], n.Content[i+1], prefix+n.Content[i].Value)
	}
}

func (d *decoder) entry(key, value *yaml.Node, path string) {
	if line, again := d.seen[path]; again {
		d.fail(key, "%s: given twice, first in line %d", path, line)
		return
	}
	d.seen[path] = key.Line
	if isSection(path) {
		d.mapping(value, path+".")
		return
	}
	setting, err := find(path)
	switch {
	case err != nil:
		d.fail(key, "%w", err)
	case setting.max > 0:
		d.list(setting, value)
	case value.Kind != yaml.ScalarNode:
		d.fail(value, "%s: want a single value", path)
	default:
		d.value(setting, key, scalar(value))
	}
}

// list applies a list; nothing is an empty one.
func (d *decoder) list(s setting, n *yaml.Node) {
	s.empty(d.config)
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return
	case n.Kind != yaml.SequenceNode:
		d.fail(n, "%s: %q: want a list", s.key, n.Value)
		return
	case len(n.Content) > s.max:
		d.fail(n, "%s: %d values: want at most %d", s.key, len(n.Content), s.max)
		return
	}
	for _, value := range n.Content {
		if value.Kind != yaml.ScalarNode {
			d.fail(value, "%s: want a list of single values", s.key)
			continue
		}
		d.value(s, value, scalar(value))
	}
}

// value applies one value; a mistake is in the line of at.
func (d *decoder) value(s setting, at *yaml.Node, value string) {
	if err := s.apply(d.config, value); err != nil {
		d.fail(at, "%w", err)
	}
}

func scalar(n *yaml.Node) string {
	if n.Tag == "!!null" {
		return ""
	}
	return n.Value
}

func isSection(path string) bool {
	for _, s := range settings() {
		if strings.HasPrefix(s.key, path+".") {
			return true
		}
	}
	return false
}
