package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/sender"
)

// metadata is an instance metadata service that gives out credentials.
type metadata struct {
	*httptest.Server
	given atomic.Int64                                  // how often it gave credentials
	until atomic.Int64                                  // when those it gives expire, in Unix seconds
	deny  func(w http.ResponseWriter, path string) bool // instead of an answer, unless nil
}

func newMetadata(t *testing.T) *metadata {
	t.Helper()
	m := &metadata{}
	m.Server = httptest.NewServer(http.HandlerFunc(m.answer))
	t.Cleanup(m.Close)
	onlyFrom(t, m.URL)
	return m
}

// onlyFrom has nothing but a metadata service give credentials.
func onlyFrom(t *testing.T, service string) {
	t.Helper()
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	t.Setenv("AWS_CONFIG_FILE", nowhere)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", nowhere)
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
}

func (m *metadata) answer(w http.ResponseWriter, r *http.Request) {
	if m.deny != nil && m.deny(w, r.URL.Path) {
		return
	}
	switch {
	case r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/api/token"):
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "600")
		io.WriteString(w, "token")
	case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "token":
		w.WriteHeader(http.StatusUnauthorized)
	case strings.HasSuffix(r.URL.Path, "/iam/security-credentials/"):
		io.WriteString(w, "taskguard-agent")
	case strings.HasSuffix(r.URL.Path, "/iam/security-credentials/taskguard-agent"):
		fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":"ASIA%d","SecretAccessKey":"s","Token":"t","Expiration":%q}`, m.given.Add(1),
			time.Unix(m.until.Load(), 0).UTC().Format(time.RFC3339))
	case strings.HasSuffix(r.URL.Path, "/instance-identity/document"):
		io.WriteString(w, `{"instanceId": "i-0", "accountId": "123456789012", "region": "eu-central-1"}`)
	default:
		http.NotFound(w, r)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// Credentials are kept while they are good, and renewed before they expire; while they cannot be, they are used as long
// as they are good.
func TestCredentialsAreRenewed(t *testing.T) {
	service := newMetadata(t)
	var down atomic.Bool
	service.deny = func(w http.ResponseWriter, _ string) bool {
		if down.Load() {
			w.WriteHeader(http.StatusNotFound)
		}
		return down.Load()
	}
	synctest.Test(t, func(t *testing.T) {
		c := &awsCredentials{log: discard()}
		expect := func(when, want string) {
			t.Helper()
			key, err := c.Retrieve(t.Context(), false)
			if err != nil && want != "" || key.AccessKeyID != want {
				t.Errorf("%s: key %q, %v, want %q", when, key.AccessKeyID, err, want)
			}
			if want != "" && key.Region != "eu-central-1" {
				t.Errorf("%s: region %q", when, key.Region)
			}
		}
		service.until.Store(time.Now().Add(20 * time.Minute).Unix())
		expect("first", "ASIA1")
		time.Sleep(15 * time.Minute)
		expect("5 minutes before", "ASIA1")
		service.until.Store(time.Now().Add(10 * time.Minute).Unix())
		time.Sleep(time.Second)
		expect("less than 5 minutes before", "ASIA2")
		time.Sleep(6 * time.Minute)
		down.Store(true)
		expect("not renewed", "ASIA2")
		time.Sleep(5 * time.Minute)
		expect("expired", "")
		down.Store(false)
		service.until.Store(time.Now().Add(2 * time.Minute).Unix()) // the service has no later ones yet
		expect("there again", "ASIA3")
		expect("looked for a moment ago", "ASIA3")
		time.Sleep(renewInterval)
		expect("looked for again", "ASIA4")
		service.until.Store(time.Now().Add(-time.Hour).Unix())
		time.Sleep(3 * time.Minute)
		expect("expired when found", "ASIA5")
		expect("found a moment ago", "ASIA5")
		down.Store(true)
		time.Sleep(renewInterval)
		expect("expired, and none there", "")
		expect("expired, and none there again", "")
		down.Store(false)
		if key, err := c.Retrieve(t.Context(), true); err != nil || key.AccessKeyID != "ASIA6" {
			t.Errorf("fresh: %+v, %v", key, err)
		}
		down.Store(true)
		if key, err := c.Retrieve(t.Context(), true); err == nil {
			t.Errorf("fresh while there are none: %+v", key)
		}
	})
}

// The environment counts before the instance, as with AWS's tools; a region that is configured before both.
func TestCredentialsOfTheEnvironment(t *testing.T) {
	service := newMetadata(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIA")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	for _, test := range []struct{ configured, environment, want string }{
		{"", "", "eu-central-1"}, {"", "us-east-1", "us-east-1"}, {"us-west-2", "us-east-1", "us-west-2"},
	} {
		t.Setenv("AWS_REGION", test.environment)
		c := &awsCredentials{region: test.configured, log: discard()}
		key, err := c.Retrieve(t.Context(), false)
		if err != nil || key.AccessKeyID != "AKIA" || key.Region != test.want || service.given.Load() != 0 {
			t.Errorf("%+v: %+v, %v", test, key, err)
		}
	}
}

// Each reason why there are no credentials is told with what to do about it, in the same words at every try.
func TestNoCredentials(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	hang := make(chan struct{})
	for _, test := range []struct {
		name         string
		deny         func(w http.ResponseWriter, path string) bool
		service      string // instead
		region       string
		what, remedy string
	}{
		{"no profile", func(w http.ResponseWriter, path string) bool {
			if strings.Contains(path, "/iam/") {
				w.WriteHeader(http.StatusNotFound)
			}
			return strings.Contains(path, "/iam/")
		}, "", "", "no instance profile", "attach an instance profile"},
		{"off", func(w http.ResponseWriter, _ string) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		}, "", "", "refuses to answer", "HttpEndpoint"},
		{"hop limit", func(http.ResponseWriter, string) bool {
			<-hang
			return true
		}, "", "", "does not answer this process", "HttpPutResponseHopLimit"},
		{"no service", nil, gone.URL, "", "cannot be reached", "169.254.169.254"},
		{"trust policy", func(w http.ResponseWriter, path string) bool {
			if strings.HasSuffix(path, "/taskguard-agent") {
				io.WriteString(w, `{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role"}`)
			}
			return strings.HasSuffix(path, "/taskguard-agent")
		}, "", "", "may not assume the role", "ec2.amazonaws.com"},
		{"no region", func(w http.ResponseWriter, path string) bool {
			if strings.HasSuffix(path, "/document") {
				w.WriteHeader(http.StatusNotFound)
			}
			return strings.HasSuffix(path, "/document")
		}, "", "", "the region is not known", "identity.region"},
	} {
		t.Run(test.name, func(t *testing.T) {
			service := newMetadata(t)
			service.until.Store(time.Now().Add(time.Hour).Unix())
			service.deny = test.deny
			c := &awsCredentials{region: test.region, log: discard()}
			if test.service != "" {
				t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", test.service)
			}
			if test.name == "hop limit" {
				c.timeout = 50 * time.Millisecond
				defer close(hang)
			}
			var texts []string
			for range 2 {
				_, err := c.Retrieve(t.Context(), true)
				var f *sender.Failure
				if !errors.As(err, &f) || !strings.Contains(f.Error(), test.what) || !strings.Contains(f.Remedy, test.remedy) {
					t.Fatalf("%v, want %q and %q", err, test.what, test.remedy)
				}
				texts = append(texts, f.Error())
			}
			if texts[0] != texts[1] {
				t.Errorf("not the same words: %q", texts)
			}
		})
	}
}
