package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	for _, s := range settings() {
		key := s.key[strings.LastIndex(s.key, ".")+1:]
		if !strings.Contains(string(text), key+":") {
			t.Errorf("packaged file lacks %s", s.key)
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
		{name: "unknown section", yaml: "\n\nfoo:\n  bar: 1\n", want: ":3: foo: unknown key: want one of endpoint.url,"},
		{name: "wrong value", yaml: "sources:\n  ebpf: maybe\n", want: `:2: sources.ebpf: "maybe": want auto or off`},
		{name: "wrong type", yaml: "sources:\n  ebpf: [auto]\n", want: ":2: sources.ebpf: want a single value"},
		{name: "scalar for a section", yaml: "sources: auto\n", want: `:1: sources: "auto": want a section with keys`},
		{name: "http", yaml: "endpoint: {url: http://x}\n", want: `:1: endpoint.url: "http://x": want https://HOST[:PORT]`},
		{name: "relative path", yaml: "state_dir: var\n", want: `:1: state_dir: "var": want an absolute path`},
		{name: "too small", yaml: "spool:\n  max_bytes: 12\n", want: `:2: spool.max_bytes: "12": want a size of 1MiB`},
		{name: "overflow", yaml: "spool:\n  max_bytes: 9999999999GiB\n", want: `:2: spool.max_bytes: "9999999999GiB": want a size`},
		{name: "twice", yaml: "socket: /a\nsocket: /b\n", want: ":2: socket: given twice, first in line 1"},
		{name: "no YAML", yaml: "a: b: c\n", want: "yaml: "},
		{name: "list", yaml: "- a\n", want: `:1: document: "": want a section with keys`},
		{name: "override without value", set: []string{"socket"}, want: "--set socket: want key=value"},
		{name: "unknown override", set: []string{"nope=1"}, want: "--set nope: unknown key"},
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
		"endpoint.url=https://h:1", "endpoint.ca_file=/c", "endpoint.server_name=n", "state_dir=/s", "socket=/k",
		"sources.ebpf=off", "sources.audit=off", "docker.socket=", "host.imds=off", "spool.max_bytes=3MiB", "log.level=error",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := config{
		EndpointURL: "https://h:1", EndpointCAFile: "/c", EndpointServerName: "n", StateDir: "/s", Socket: "/k",
		SpoolMaxBytes: 3 << 20, LogLevel: 8,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := got.validate(); err == nil {
		t.Error("a configuration without any source is valid")
	}
}
