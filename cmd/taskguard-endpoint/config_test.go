package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/cmd/internal/settings"
)

const packagedConfig = "../../packaging/endpoint.yaml"

func TestPackagedConfigIsTheDefault(t *testing.T) {
	var got config // what the file does not say is missing
	if err := settings.Load(&got, allSettings(), packagedConfig, nil); err != nil {
		t.Fatal(err)
	}
	if want := defaultConfig(); !reflect.DeepEqual(got, want) {
		t.Errorf("the packaged file differs from the defaults:\n got %+v\nwant %+v", got, want)
	}
	text, err := os.ReadFile(packagedConfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range allSettings() {
		if key := s.Key[strings.LastIndex(s.Key, ".")+1:]; !strings.Contains(string(text), key+":") {
			t.Errorf("packaged file lacks %s", s.Key)
		}
	}
}

// Flags go before the file, and the file before the defaults.
func TestFlagsOverrideTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "endpoint.yaml")
	text := "listen: 127.0.0.1:1\ndata_dir: /a\ntls: {self_signed: true}\nlimits: {events: 7}\nstream: {retention: 2h}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := newServeCommand()
	var f configFlags
	cmd.ResetFlags()
	f.add(cmd)
	if err := cmd.ParseFlags([]string{"--config", file, "--data", "/b", "--set", "limits.events=8", "--host", "x,y"}); err != nil {
		t.Fatal(err)
	}
	got, err := f.load(cmd)
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.Listen, want.DataDir, want.SelfSigned, want.Limits.MaxEvents = "127.0.0.1:1", "/b", true, 8
	want.Retention, want.Hosts = 2*time.Hour, []string{"x", "y"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestCheckConfig(t *testing.T) {
	dir := t.TempDir()
	if err := writeSelfSigned(dir, []string{"localhost"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "server.pem"), filepath.Join(dir, "server-key.pem")
	data := filepath.Join(dir, "data")
	out := mustCommand(t, "serve", "--check", "--data", data, "--tls-cert", cert, "--tls-key", key)
	if !strings.Contains(out, "valid") {
		t.Errorf("%q", out)
	}
	if _, err := os.Stat(data); !os.IsNotExist(err) {
		t.Errorf("a check made the data folder: %v", err)
	}
	for args, want := range map[string]string{
		"--tls-cert " + cert + " --tls-key /nonexistent": "load certificate",
		"--tls-self-signed --set listen=nowhere":         `listen: "nowhere": want ADDRESS:PORT`,
		"--config " + packagedConfig:                     "a certificate is required",
	} {
		_, err := command(t, strings.Fields("serve --check "+args)...)
		if err == nil || exitCode(err) != 2 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q (exit 2)", args, err, want)
		}
	}
}

// Limits of the configuration are those of the handler.
func TestLimitsAreInForce(t *testing.T) {
	e := startServe(t, t.TempDir(), "--set", "limits.events=1", "--set", "limits.agent_batches_per_second=0.1",
		"--set", "limits.agent_burst=2")
	m := newMaker(t, 1)
	if code, body, err := e.post(m.next(nil, exec1("a", nil), exec1("b", nil))); err != nil || code != 413 {
		t.Errorf("two events: %d %v %v, want 413", code, body, err)
	}
	e.mustPost(t, m.next(nil, exec1("a", nil)), "stored")
	e.mustPost(t, m.next(nil, exec1("a", nil)), "stored")
	if code, body, err := e.post(m.next(nil, exec1("a", nil))); err != nil || code != 429 {
		t.Errorf("third batch: %d %v %v, want 429", code, body, err)
	}
	equal(t, "requests", logStatus(t, e).Requests, statusAnswer{Requests: struct{ Stored, Repeats, Refused, Limited uint64 }{2, 0, 1, 1}}.Requests)
}
