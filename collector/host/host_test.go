package host

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskguard/taskguard/collector/event"
)

const (
	machine = "3d1219c7c4c5404aaa1f6d2a48adfda4"
	boot    = "0f3b8f0e-5d0f-4f0a-9f43-0d9d1c6b7a55"

	// As the service of an instance in eu-central-1 answers.
	document = `{
  "accountId" : "123456789012",
  "architecture" : "x86_64",
  "availabilityZone" : "eu-central-1a",
  "billingProducts" : null,
  "devpayProductCodes" : null,
  "marketplaceProductCodes" : null,
  "imageId" : "ami-0123456789abcdef0",
  "instanceId" : "i-0123456789abcdef0",
  "instanceType" : "m6i.large",
  "kernelId" : null,
  "pendingTime" : "2026-11-22T10:00:00Z",
  "privateIp" : "10.0.0.10",
  "ramdiskId" : null,
  "region" : "eu-central-1",
  "version" : "2017-09-30"
}`
)

// fixture returns a Config with a /proc and an /etc of its own; its log is kept.
func fixture(t *testing.T, files map[string]string) (c Config, log *bytes.Buffer) {
	t.Helper()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	root := t.TempDir()
	all := map[string]string{
		"proc/sys/kernel/random/boot_id": boot + "\n", "proc/sys/kernel/hostname": "ip-10-0-0-10\n",
		"etc/machine-id": machine + "\n",
	}
	for name, content := range files {
		all[name] = content
	}
	for name, content := range all {
		if content == "" {
			continue
		}
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	log = new(bytes.Buffer)
	return Config{
		ProcRoot: filepath.Join(root, "proc"), EtcRoot: filepath.Join(root, "etc"),
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	}, log
}

func bootOf(t *testing.T) event.ID {
	id, err := event.ParseID(boot)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func asMachine(t *testing.T) event.Host {
	return event.Host{BootID: bootOf(t), Hostname: "ip-10-0-0-10", MachineID: machine}
}

func asInstance(t *testing.T) event.Host {
	return event.Host{
		BootID: bootOf(t), Hostname: "ip-10-0-0-10",
		InstanceID: "i-0123456789abcdef0", AccountID: "123456789012", Region: "eu-central-1",
	}
}

// identify returns what a host is known by when it has been opened.
func identify(ctx context.Context, c Config) (event.Host, error) {
	h, err := Open(ctx, c)
	if err != nil {
		return event.Host{}, err
	}
	return h.Identity(), nil
}

func diff(want, got event.Host) string {
	return cmp.Diff(want, got, cmpopts.IgnoreFields(event.Host{}, "BootTime"))
}

// answers is like the metadata service: what it has, it has for those only who have a token.
func answers(t *testing.T, document string, metadata ...map[string]string) http.Handler {
	const token = "AQAEAPtoken=="
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") == "" {
			t.Error("a token without a time to live was asked for")
		}
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
		w.Write([]byte(token))
	})
	mux.HandleFunc("GET /latest/dynamic/instance-identity/document", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Aws-Ec2-Metadata-Token") != token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Write([]byte(document))
	})
	mux.HandleFunc("GET /latest/meta-data/{path...}", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Aws-Ec2-Metadata-Token") != token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		for _, tree := range metadata {
			if text, ok := tree[r.PathValue("path")]; ok {
				io.WriteString(w, text)
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
	})
	return mux
}

func TestIdentifyMachine(t *testing.T) {
	c, log := fixture(t, nil)
	got, err := identify(t.Context(), c)
	if err != nil || diff(asMachine(t), got) != "" {
		t.Errorf("%v\n%s", err, diff(asMachine(t), got))
	}
	if age := time.Since(got.BootTime); age < 0 || age > 10*365*24*time.Hour {
		t.Errorf("boot time %v", got.BootTime)
	}
	if log.Len() > 0 {
		t.Errorf("log: %s", log)
	}
}

func TestIdentifyInstance(t *testing.T) {
	c, log := fixture(t, nil)
	server := httptest.NewServer(answers(t, document))
	defer server.Close()
	c.IMDS, c.Endpoint, c.Timeout = true, server.URL, 30*time.Second
	got, err := identify(t.Context(), c)
	if err != nil || diff(asInstance(t), got) != "" {
		t.Errorf("%v\n%s", err, diff(asInstance(t), got))
	}
	if log.Len() > 0 {
		t.Errorf("log: %s", log)
	}
}

// Without an instance identity, whatever the reason, the machine id serves.
func TestIdentifyWithoutInstance(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	answer := func(status int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "300")
			w.WriteHeader(status)
			w.Write([]byte(body))
		})
	}
	// Version 1 alone: the document for everybody, but no tokens.
	v1 := http.NewServeMux()
	v1.Handle("GET /latest/", answer(http.StatusOK, document))
	for name, handler := range map[string]http.Handler{
		"nobody listens":   nil,
		"500":              answer(http.StatusInternalServerError, ""),
		"403":              answer(http.StatusForbidden, ""),
		"version 1 only":   v1,
		"garbage":          answers(t, "<html>"),
		"another document": answers(t, `{"accountId":"1"}`),
		"hostile fields":   answers(t, strings.Replace(document, `"i-0123`, `"i-\n`, 1)),
		"too long":         answers(t, strings.Replace(document, `"i-0123`, `"`+strings.Repeat("i", maxAnswer), 1)),
	} {
		t.Run(name, func(t *testing.T) {
			c, log := fixture(t, nil)
			c.IMDS, c.Endpoint, c.Timeout = true, closed.URL, 30*time.Second
			if handler != nil {
				server := httptest.NewServer(handler)
				defer server.Close()
				c.Endpoint = server.URL
			}
			got, err := identify(t.Context(), c)
			if err != nil || diff(asMachine(t), got) != "" {
				t.Errorf("%v\n%s", err, diff(asMachine(t), got))
			}
			if n := strings.Count(log.String(), "\n"); n != 1 {
				t.Errorf("%d lines in the log: %s", n, log)
			}
		})
	}
}

// roundTripper is a network in which time is simulated.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The metadata service has 1 s for all it has to say.
func TestIdentifyIsBounded(t *testing.T) {
	for _, tt := range []struct {
		delay, want time.Duration // of each answer; of the whole
		instance    bool
	}{
		{0, 0, true},
		{300 * time.Millisecond, 900 * time.Millisecond, true}, // token, document and tag
		{400 * time.Millisecond, time.Second, true},            // the tag must wait
		{600 * time.Millisecond, time.Second, false},
		{time.Hour, time.Second, false},
	} {
		t.Run(tt.delay.String(), func(t *testing.T) {
			c, log := fixture(t, nil)
			synctest.Test(t, func(t *testing.T) {
				answering := answers(t, document)
				c.IMDS = true
				c.transport = roundTripper(func(r *http.Request) (*http.Response, error) {
					select {
					case <-time.After(tt.delay):
					case <-r.Context().Done():
						return nil, r.Context().Err()
					}
					w := httptest.NewRecorder()
					answering.ServeHTTP(w, r)
					return w.Result(), nil
				})
				began := time.Now()
				got, err := identify(t.Context(), c)
				if took := time.Since(began); took != tt.want {
					t.Errorf("took %v, want %v", took, tt.want)
				}
				want := asMachine(t)
				if tt.instance {
					want = asInstance(t)
				}
				if err != nil || diff(want, got) != "" {
					t.Errorf("%v\n%s", err, diff(want, got))
				}
				if !tt.instance && !strings.Contains(log.String(), "deadline exceeded") {
					t.Errorf("log: %s", log)
				}
			})
		})
	}
}

// A service that takes connections and never answers, over a real socket.
func TestBlackHole(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	blackHole := func(ctx context.Context, c Config) (identityDocument, error) {
		ctx, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		return newService(c.withDefaults()).document(ctx)
	}
	c, _ := fixture(t, nil)
	c.Endpoint, c.Timeout = "http://"+listener.Addr().String(), 50*time.Millisecond
	if _, err := blackHole(t.Context(), c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.Timeout = time.Hour
	if _, err := blackHole(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the cancellation", err)
	}
}

func TestIdentifyWithoutFiles(t *testing.T) {
	for name, tt := range map[string]struct {
		file, content string
		want          func(h *event.Host)
		log           string
	}{
		"no machine id": {"etc/machine-id", "", func(h *event.Host) { h.MachineID = "" }, "machine-id-setup"},
		"before its setup": {"etc/machine-id", "uninitialized\n", func(h *event.Host) { h.MachineID = "" },
			"uninitialized"},
		"no name": {"proc/sys/kernel/hostname", "", func(h *event.Host) { h.Hostname = "" }, "no name"},
	} {
		t.Run(name, func(t *testing.T) {
			c, log := fixture(t, map[string]string{tt.file: tt.content})
			want := asMachine(t)
			tt.want(&want)
			got, err := identify(t.Context(), c)
			if err != nil || diff(want, got) != "" {
				t.Errorf("%v\n%s", err, diff(want, got))
			}
			if !strings.Contains(log.String(), tt.log) {
				t.Errorf("log: %s", log)
			}
		})
	}
}

func TestIdentifyNeedsABootID(t *testing.T) {
	for _, content := range []string{"", "not an id\n"} {
		c, _ := fixture(t, map[string]string{"proc/sys/kernel/random/boot_id": content})
		if _, err := identify(t.Context(), c); err == nil || !strings.Contains(err.Error(), "identify host: read boot id: ") {
			t.Errorf("%q: got %v", content, err)
		}
	}
}

func TestIdentifyThisMachine(t *testing.T) {
	got, err := identify(t.Context(), Config{})
	if err != nil || got.BootID == (event.ID{}) || got.Hostname == "" {
		t.Errorf("got %+v, %v", got, err)
	}
}
