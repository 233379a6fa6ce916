package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestIdentityConfiguration(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, []byte("# a comment\nAKID secret 123456789012 -\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(t.TempDir(), "public")
	if err := os.WriteFile(public, []byte("AKID secret 123456789012 -\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	names := []string{"taskguard.example.com"}
	for _, c := range []struct {
		name string
		cfg  identityConfig
		open bool
		want string // in the error
	}{
		{"none", identityConfig{}, true, ""},
		{"sigv4", identityConfig{Endpoints: names, SigV4KeysFile: keys}, false, ""},
		{"sts", identityConfig{Endpoints: names, STSHosts: []string{"sts"}, STSAccounts: []string{"*"}, STSRoles: []string{"*"}}, false, ""},
		{"half of sts", identityConfig{Endpoints: names, STSRoles: []string{"*"}}, false, "no host"},
		{"sigv4 without a name", identityConfig{SigV4KeysFile: keys}, false, "no endpoint name"},
		{"keys for everybody to read", identityConfig{Endpoints: names, SigV4KeysFile: public}, false, "make it 600"},
		{"no CA", identityConfig{MTLSCAFile: "/nonexistent"}, false, "read client CA"},
	} {
		a, err := c.cfg.authenticator(nil)
		switch {
		case c.want == "" && (err != nil || a.Open() != c.open):
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

// An endpoint that is to know its agents takes nothing from who is not known, and says whether it does.
func TestServeRefusesStrangers(t *testing.T) {
	ca, data := filepath.Join(t.TempDir(), "ca.pem"), t.TempDir()
	if _, err := selfSigned(filepath.Dir(ca), []string{"localhost"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	e := startServe(t, data, "--set", "auth.mtls.ca_file="+ca)
	code, answer, err := e.post(newMaker(t, 1).next(nil, exec1("a", nil)))
	if err != nil || code != 401 || answer["error"] == "" {
		t.Errorf("answer %d %v, err %v: want 401 and why", code, answer, err)
	}
	if n := countEvents(t, data); len(n) != 0 {
		t.Errorf("%+v stored", n)
	}
}
