package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/ebpf"
	"github.com/taskguard/taskguard/collector/event"
)

func TestPackagedConfigIsTheDefault(t *testing.T) {
	got, err := loadConfig("../../packaging/agent.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaultConfig(), got); diff != "" {
		t.Errorf("packaged file and defaults differ (-default +file):\n%s", diff)
	}
	text, err := os.ReadFile("../../packaging/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range allSettings() {
		key := s.Key[strings.LastIndex(s.Key, ".")+1:]
		if !strings.Contains(string(text), key+":") {
			t.Errorf("packaged file lacks %s", s.Key)
		}
	}
}

func TestLoadConfig(t *testing.T) {
	for _, test := range []struct {
		name, yaml string
		set        []string
		want       string // the error, without the file's name; empty: none
	}{
		{name: "empty"},
		{name: "section without keys", yaml: "sources:\n"},
		{name: "flow style", yaml: "sources: {ebpf: off}"},
		{name: "override", yaml: "sources: {ebpf: off}", set: []string{"sources.ebpf=auto"}},
		{name: "unknown key", yaml: "endpoint:\n  uri: x\n",
			want: ":2: endpoint.uri: unknown key: want one of endpoint.url, endpoint.ca_file, endpoint.server_name"},
		{name: "unknown section", yaml: "\n\nfoo:\n  bar: 1\n",
			want: ":3: foo: unknown key: want one of endpoint.url,"},
		{name: "wrong value", yaml: "sources:\n  ebpf: maybe\n", want: `:2: sources.ebpf: "maybe": want auto or off`},
		{name: "wrong type", yaml: "sources:\n  ebpf: [auto]\n", want: ":2: sources.ebpf: want a single value"},
		{name: "scalar for a section", yaml: "sources: auto\n",
			want: `:1: sources: "auto": want a section with keys`},
		{name: "http", yaml: "endpoint: {url: http://x}\n",
			want: `:1: endpoint.url: "http://x": want https://HOST[:PORT]`},
		{name: "relative path", yaml: "state_dir: var\n", want: `:1: state_dir: "var": want an absolute path`},
		{name: "too small", yaml: "spool:\n  max_bytes: 12\n",
			want: `:2: spool.max_bytes: "12": want a size of 1MiB`},
		{name: "overflow", yaml: "spool:\n  max_bytes: 9999999999GiB\n", want: `:2: spool.max_bytes: "9999999999GiB": want a size`},
		{name: "twice", yaml: "socket: /a\nsocket: /b\n", want: ":2: socket: given twice, first in line 1"},
		{name: "no YAML", yaml: "a: b: c\n", want: "yaml: "},
		{name: "list", yaml: "- a\n", want: `:1: document: "": want a section with keys`},
		{name: "override without value", set: []string{"socket"}, want: "--set socket: want key=value"},
		{name: "unknown override", set: []string{"nope=1"}, want: "--set nope: unknown key"},
		{name: "lists", yaml: "events:\n  off: [file.open]\n  watched_paths:\n    - /a\n  ignored_executables:\n"},
		{name: "value of a list", yaml: "events:\n  off:\n    - file.open\n    - file.opne\n",
			want: `:4: events.off: "file.opne": want a kind such as file.open, once`},
		{name: "value for a list", yaml: "events:\n  off: file.open\n",
			want: `:2: events.off: "file.open": want a list`},
		{name: "section for a list", yaml: "events:\n  off:\n    file.open: true\n",
			want: `:3: events.off: "": want a list`},
		{name: "list in a list", yaml: "events:\n  off:\n    - [file.open]\n",
			want: ":3: events.off: want a list of single values"},
		{name: "empty value in a list", yaml: "events:\n  watched_paths:\n    -\n",
			want: `:3: events.watched_paths: "": want an abs`},
		{name: "same value twice", yaml: "events:\n  off:\n    - dns.query\n    - dns.query\n",
			want: `:4: events.off: "dns.query": want a kind such as file.open, once`},
		{name: "the agent's own kind", yaml: "events: {off: [agent.loss]}\n",
			want: `:1: events.off: "agent.loss": want a kind`},
		{name: "too many paths", yaml: "events:\n  watched_paths: [" + strings.Repeat("/a, ", 256) + "/a]\n",
			want: ":2: events.watched_paths: 257 values: want at most 256"},
		{name: "relative watched path", yaml: "events:\n  watched_paths: [etc]\n",
			want: `:2: events.watched_paths: "etc": want an absolute path of at most 127 bytes`},
		{name: "long watched path", yaml: "events:\n  watched_paths: [/" + strings.Repeat("x", 127) + "]\n",
			want: "at most 127 bytes"},
		{name: "no boolean", yaml: "events:\n  open_all: yes\n",
			want: `:2: events.open_all: "yes": want true or false`},
		{name: "no time", yaml: "events:\n  connect_window: 10\n",
			want: `:2: events.connect_window: "10": want a time of up to 1h`},
		{name: "negative time", yaml: "events:\n  connect_window: -1s\n",
			want: `:2: events.connect_window: "-1s": want a time`},
		{name: "throttle too low", yaml: "throttle:\n  events_per_second: 5\n",
			want: `:2: throttle.events_per_second: "5": want a number of 100 or more, or 0`},
		{name: "no throttle", yaml: "throttle: {events_per_second: 0}\n"},
		{name: "overridden list", set: []string{"events.off=file.open,dns.query", "events.watched_paths="}},
		{name: "mistake in an overridden list", set: []string{"events.off=file.open,dns"},
			want: `--set events.off: "dns": want a kind such as file.open, once`},
		{name: "ecs agent elsewhere", yaml: "ecs:\n  agent: http://10.0.0.1:51678\n", want: ":2: ecs.agent: \"http://10.0.0.1:51678\": want http://"},
		{name: "ecs agent by name", yaml: "ecs:\n  agent: http://localhost:51678\n", want: ":2: ecs.agent: "},
		{name: "ecs agent with a path", yaml: "ecs:\n  agent: http://127.0.0.1:51678/v1\n", want: ":2: ecs.agent: "},
		{name: "no ecs agent", yaml: "ecs:\n  agent:\n"},
		{name: "no mode", yaml: "identity:\n  mode: iam\n", want: `:2: identity.mode: "iam": want none, mtls, sts or sigv4`},
		{name: "no region", yaml: "identity: {region: Frankfurt}\n", want: `:1: identity.region: "Frankfurt": want a region`},
		{name: "a zone's hyphens", yaml: "identity: {region: eu--1}\n", want: `:1: identity.region: "eu--1": want a region`},
		{name: "other service", yaml: "identity: {service: s3}\n", want: `:1: identity.service: "s3": want execute-api or`},
		{name: "sts without TLS", yaml: "identity: {sts_endpoint: http://sts}\n", want: `"http://sts": want https://HOST`},
		{name: "sts with a path", yaml: "identity: {sts_endpoint: https://sts/x}\n", want: `"https://sts/x": want https://HOST`},
		{name: "sts with a user", yaml: "identity: {sts_endpoint: https://u@sts}\n", want: `"https://u@sts": want https://HOST`},
		{name: "two mistakes", yaml: "log:\n  level: loud\nsocket: x\n", want: "both"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "agent.yaml")
			if err := os.WriteFile(file, []byte(test.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := loadConfig(file, test.set)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var usage usageError
			if !errors.As(err, &usage) {
				t.Fatalf("got %v, want a usage error", err)
			}
			if got := err.Error(); test.name == "two mistakes" {
				if strings.Count(got, "\n") != 1 || !strings.Contains(got, ":2: log.level") || !strings.Contains(got, ":3: socket") {
					t.Errorf("got %q, want both mistakes in the order of lines", got)
				}
			} else if !strings.Contains(got, test.want) {
				t.Errorf("got  %q\nwant %q in it", got, test.want)
			}
		})
	}
}

func TestOverridesReachEveryField(t *testing.T) {
	got, err := loadConfig("../../packaging/agent.yaml", []string{
		"endpoint.url=https://h:1", "endpoint.ca_file=/c", "endpoint.server_name=n", "endpoint.proxy=http://p:2", "identity.mode=mtls",
		"identity.cert_file=/cert", "identity.key_file=/key", "identity.region=us-gov-west-1",
		"identity.service=vpc-lattice-svcs", "identity.sts_endpoint=https://sts:3", "state_dir=/s", "socket=/k",
		"sources.ebpf=off", "sources.audit=off", "docker.socket=", "ecs.agent=http://[::1]:1", "ecs.tags=true", "host.imds=off", "spool.max_bytes=3MiB",
		"spool.max_files=17", "spool.max_memory=1MiB", "spool.fsync=never", "upload.bytes_per_second=1MiB", "log.level=error",
		"events.off=file.open,dns.query", "events.open_all=true", "events.watched_paths=/w",
		"events.ignored_executables=/i,/j", "events.connect_window=10s", "throttle.events_per_second=0",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := config{
		EndpointURL: "https://h:1", EndpointCAFile: "/c", EndpointServerName: "n", EndpointProxy: "http://p:2",
		IdentityMode: "mtls", IdentityCertFile: "/cert", IdentityKeyFile: "/key", IdentityRegion: "us-gov-west-1",
		IdentityService: "vpc-lattice-svcs", IdentitySTS: "https://sts:3", StateDir: "/s", Socket: "/k",
		ECSAgent: "http://[::1]:1", ECSTags: true, SpoolMaxBytes: 3 << 20, SpoolMaxFiles: 17, SpoolMaxMemory: 1 << 20, SpoolNoSync: true, UploadRate: 1 << 20, LogLevel: 8,
		Events: ebpf.Settings{
			Off: []event.Kind{event.FileOpen, event.DNSQuery}, OpenAll: true, Watched: []string{"/w"},
			Ignored: []string{"/i", "/j"}, ConnectWindow: 10 * time.Second,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	got.IdentitySTS = ""
	if err := got.validate(); err == nil || !strings.Contains(err.Error(), "both off") {
		t.Error("a configuration without any source is valid")
	}
	got.EBPF, got.Events.Off = true, observable()
	if err := got.validate(); err == nil || !strings.Contains(err.Error(), "every kind is off") {
		t.Errorf("a configuration without any kind: %v", err)
	}
}

// An identity that is configured by half is a mistake: the endpoint would refuse, and the agent would have to guess why.
func TestIdentityIsWhole(t *testing.T) {
	for set, want := range map[string]string{
		"identity.mode=none": "", "identity.mode=sts": "", "identity.mode=sigv4": "",
		"identity.mode=sts identity.sts_endpoint=https://sts.eu-central-1.amazonaws.com": "",
		"identity.mode=mtls identity.cert_file=/c identity.key_file=/k":                  "",
		"identity.mode=mtls identity.cert_file=/c":                                       "want both, or neither",
		"identity.key_file=/k": "want both, or neither",
		"identity.mode=mtls":   "mtls wants both",
		"identity.mode=sts identity.cert_file=/c identity.key_file=/k": "want identity.mode mtls",
		"identity.cert_file=/c identity.key_file=/k":                   "while identity.mode is none",
		"identity.mode=sigv4 identity.sts_endpoint=https://sts":        "want identity.mode sts",
	} {
		c, err := loadConfig("../../packaging/agent.yaml", append(strings.Fields(set), "endpoint.url=https://h"))
		if err != nil {
			t.Fatal(err)
		}
		err = c.validate()
		var usage usageError
		if (err == nil) != (want == "") || err != nil && (!errors.As(err, &usage) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", set, err, want)
		}
	}
}
