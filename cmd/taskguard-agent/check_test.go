package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The way to the endpoint is told step by step, up to the one that fails.
func TestCheckWalksToTheEndpoint(t *testing.T) {
	receiver := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/health" && !strings.Contains(r.Header.Get("Authorization"), "Credential=ASIA") {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"error":"no credentials"}`)
			return
		}
		io.WriteString(w, `{"status":"ok"}`)
	}))
	t.Cleanup(receiver.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: receiver.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	steps := []string{"endpoint dns", "endpoint tcp", "endpoint tls", "endpoint clock", "endpoint credentials", "endpoint health"}
	for _, c := range []struct {
		name, url, mode string
		profile         bool
		failed          int    // index of the step; len(steps) is none
		want            string // in its detail
	}{
		{"well", receiver.URL, "sigv4", true, len(steps), ""},
		{"not known", receiver.URL, "none", true, 5, "401 Unauthorized: no credentials: configure how this agent proves who it is"},
		{"no profile", receiver.URL, "sigv4", false, 4, "no instance profile, and no other AWS credentials were found: attach an instance"},
		{"refused", strings.Replace(closed.URL, "http:", "https:", 1), "none", true, 1, "refuses connections: start the receiver"},
	} {
		t.Run(c.name, func(t *testing.T) {
			service := newMetadata(t)
			service.until.Store(time.Now().Add(time.Hour).Unix())
			service.deny = func(w http.ResponseWriter, path string) bool {
				if !c.profile && strings.Contains(path, "/iam/") {
					w.WriteHeader(http.StatusNotFound)
					return true
				}
				return false
			}
			cfg := defaultConfig()
			cfg.EndpointURL, cfg.EndpointCAFile, cfg.IdentityMode = c.url, ca, c.mode
			var checked checker
			checked.endpoint(t.Context(), cfg, io.Discard)
			var asJSON, asText bytes.Buffer
			if err := checked.print(&asJSON, true, false); err != nil {
				t.Fatal(err)
			}
			if err := checked.print(&asText, false, false); err != nil {
				t.Fatal(err)
			}
			var got struct{ Checks []checkResult }
			if err := json.Unmarshal(asJSON.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if len(got.Checks) != len(steps) {
				t.Fatalf("%s", &asText)
			}
			lines := strings.Split(asText.String(), "\n")
			for i, r := range got.Checks {
				want, shown := "ok", "ok"
				switch {
				case i == c.failed:
					want, shown = "failed", "FAILED"
				case i > c.failed:
					want, shown = "not_tried", "not tried"
				}
				if r.Check != steps[i] || r.Result != want || i == c.failed && !strings.Contains(r.Detail, c.want) {
					t.Errorf("%+v, want %s %s %q", r, steps[i], want, c.want)
				}
				if !strings.HasPrefix(lines[i], steps[i]) || !strings.Contains(lines[i], "  "+shown) {
					t.Errorf("line %q, want %s", lines[i], shown)
				}
			}
			if n, want := checked.failed(), min(1, len(steps)-c.failed); n != want {
				t.Errorf("%d failed, want %d", n, want)
			}
		})
	}
}

func TestCheckNotesArePrinted(t *testing.T) {
	var c checker
	c.step("dns", "x is 203.0.113.1", "it is public", nil)
	if got := fmt.Sprint(c.Checks); got != "[{endpoint dns note x is 203.0.113.1: it is public}]" || c.failed() != 0 {
		t.Error(got)
	}
}
