package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// config is the agent's configuration: packaging/agent.yaml describes every field.
type config struct {
	EndpointURL        string
	EndpointCAFile     string
	EndpointServerName string
	StateDir           string
	Socket             string
	EBPF               bool
	Audit              bool
	DockerSocket       string
	IMDS               bool
	SpoolMaxBytes      int64
	LogLevel           slog.Level
}

func defaultConfig() config {
	return config{
		StateDir: "/var/lib/taskguard", Socket: "/run/taskguard/agent.sock", EBPF: true, Audit: true,
		DockerSocket: "/var/run/docker.sock", IMDS: true, SpoolMaxBytes: 256 << 20, LogLevel: slog.LevelInfo,
	}
}

// setting is one key of the file.
type setting struct {
	key  string
	want string // what is allowed
	set  func(c *config, value string) bool
}

func settings() []setting {
	return []setting{
		{"endpoint.url", "https://HOST[:PORT]", func(c *config, v string) bool {
			u, err := url.Parse(v)
			c.EndpointURL = v
			return v == "" || err == nil && u.Scheme == "https" && u.Host != "" && u.RawQuery == "" && u.User == nil
		}},
		{"endpoint.ca_file", "an absolute path, or nothing", path(func(c *config) *string { return &c.EndpointCAFile }, true)},
		{"endpoint.server_name", "a host name, or nothing", func(c *config, v string) bool {
			c.EndpointServerName = v
			return !strings.ContainsAny(v, "/: ")
		}},
		{"state_dir", "an absolute path", path(func(c *config) *string { return &c.StateDir }, false)},
		{"socket", "an absolute path", path(func(c *config) *string { return &c.Socket }, false)},
		{"sources.ebpf", "auto or off", autoOff(func(c *config) *bool { return &c.EBPF })},
		{"sources.audit", "auto or off", autoOff(func(c *config) *bool { return &c.Audit })},
		{"docker.socket", "an absolute path, or nothing", path(func(c *config) *string { return &c.DockerSocket }, true)},
		{"host.imds", "auto or off", autoOff(func(c *config) *bool { return &c.IMDS })},
		{"spool.max_bytes", "a size of 1MiB or more, such as 256MiB", func(c *config, v string) bool {
			n, err := parseBytes(v)
			c.SpoolMaxBytes = n
			return err == nil && n >= 1<<20
		}},
		{"log.level", "debug, info, warn or error", func(c *config, v string) bool {
			return slices.Contains([]string{"debug", "info", "warn", "error"}, v) && c.LogLevel.UnmarshalText([]byte(v)) == nil
		}},
	}
}

func path(field func(*config) *string, empty bool) func(*config, string) bool {
	return func(c *config, v string) bool {
		*field(c) = v
		return filepath.IsAbs(v) || v == "" && empty
	}
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
			if err := c.apply(key, value); err != nil {
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
	return nil
}

// apply sets one key.
func (c *config) apply(key, value string) error {
	for _, s := range settings() {
		if s.key != key {
			continue
		}
		if !s.set(c, value) {
			return fmt.Errorf("%s: %q: want %s", key, value, s.want)
		}
		return nil
	}
	return fmt.Errorf("%s: unknown key: want one of %s", key, strings.Join(siblings(key), ", "))
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
	if value.Kind != yaml.ScalarNode {
		if err := d.config.apply(path, ""); err != nil && strings.Contains(err.Error(), "unknown key") {
			d.fail(key, "%w", err)
			return
		}
		d.fail(value, "%s: want a single value", path)
		return
	}
	text := value.Value
	if value.Tag == "!!null" {
		text = ""
	}
	if err := d.config.apply(path, text); err != nil {
		d.fail(key, "%w", err)
	}
}

func isSection(path string) bool {
	for _, s := range settings() {
		if strings.HasPrefix(s.key, path+".") {
			return true
		}
	}
	return false
}
