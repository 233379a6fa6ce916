package https

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender"
)

// ring gives out one key after the other, the next one when it is to be fresh.
type ring struct {
	keys  []string
	next  int
	fresh int // how often it was asked for
	err   error
}

func (r *ring) Retrieve(_ context.Context, fresh bool) (Key, error) {
	if fresh {
		r.fresh++
	}
	if r.err != nil {
		return Key{}, r.err
	}
	if fresh {
		r.next++
	}
	id := r.keys[r.next%len(r.keys)]
	return Key{aws.Credentials{AccessKeyID: id, SecretAccessKey: "secret of " + id, SessionToken: "session"}, "eu-central-1"}, nil
}

func newTestSigner(t *testing.T, mode string, from Credentials) *signer {
	t.Helper()
	transport := newTransport(t, Config{
		URL: "https://Receiver.Test:8443/prefix", Identity: mode, Credentials: from, Agent: event.ID{0xab, 15: 1},
	})
	return transport.signer
}

func signedRequest(t *testing.T, s *signer, method string, body []byte) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://receiver.test:8443/prefix/v1/health", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Taskguard-Agent", s.agent)
	if _, err := s.sign(t.Context(), r, body); err != nil {
		t.Fatal(err)
	}
	return r
}

// tokenOf returns the URL in a request's token.
func tokenOf(t *testing.T, r *http.Request) *url.URL {
	t.Helper()
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "TaskGuard-STS ")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil {
		t.Fatalf("authorization %q: %v", r.Header.Get("Authorization"), err)
	}
	u, err := url.Parse(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// A token is what AWS's own signer makes for this agent and this receiver, and nothing in the request names another.
func TestToken(t *testing.T) {
	s := newTestSigner(t, IdentitySTS, &ring{keys: []string{"K1"}})
	u := tokenOf(t, signedRequest(t, s, http.MethodPost, []byte("frame")))
	query := u.Query()
	for name, want := range map[string]string{
		"Action": "GetCallerIdentity", "Version": "2011-06-15", "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Expires": "900",
		"X-Amz-SignedHeaders": "host;x-taskguard-agent;x-taskguard-endpoint", "X-Amz-Security-Token": "session",
	} {
		if got := query[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if u.Scheme+"://"+u.Host+u.Path != "https://sts.eu-central-1.amazonaws.com/" || len(query) != 9 {
		t.Errorf("token %s", u)
	}
	date, err := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := http.NewRequest(http.MethodGet,
		"https://"+u.Host+"/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires=900", nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Header.Set("X-Taskguard-Agent", "ab000000-0000-0000-0000-000000000001")
	again.Header.Set("X-Taskguard-Endpoint", "receiver.test")
	key, _ := s.from.Retrieve(t.Context(), false)
	want, _, err := v4.NewSigner().PresignHTTP(t.Context(), key.Credentials, again, digestOf(nil), "sts", "eu-central-1", date)
	if err != nil || want != u.String() {
		t.Errorf("token %s\nwant  %s (%v)", u, want, err)
	}
}

func TestTokenIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := &ring{keys: []string{"K1", "K2"}}
		s := newTestSigner(t, IdentitySTS, keys)
		made := func() string { return tokenOf(t, signedRequest(t, s, http.MethodGet, nil)).String() }
		first := made()
		time.Sleep(tokenRenewal - time.Second)
		if made() != first {
			t.Error("made anew while it is good for more than 5 minutes")
		}
		time.Sleep(time.Second)
		second := made()
		if second == first {
			t.Error("kept until it expires")
		}
		if keys.next++; !strings.Contains(made(), "K2%2F") {
			t.Error("kept when the credentials have changed")
		}
		s.current.made = time.Now().Add(time.Hour) // the clock was set back by an hour
		if value := s.current.value; made() == value {
			t.Error("kept when it is of the future")
		}
	})
}

func TestSTSEndpoints(t *testing.T) {
	for _, c := range []struct{ configured, region, want string }{
		{"", "eu-central-1", "https://sts.eu-central-1.amazonaws.com"},
		{"", "cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn"},
		{"https://VPCE-1.sts.test:8443", "eu-central-1", "https://vpce-1.sts.test:8443"},
	} {
		transport := newTransport(t, Config{URL: "https://h", Identity: IdentitySTS, STSEndpoint: c.configured, Credentials: &ring{}})
		address, err := transport.signer.presign(t.Context(), Key{aws.Credentials{AccessKeyID: "a", SecretAccessKey: "b"}, c.region}, time.Now())
		if err != nil || !strings.HasPrefix(address, c.want+"/?") {
			t.Errorf("%+v: %s, %v", c, address, err)
		}
	}
}

// A signature is over all that a receiver has to be sure of, also when there is no body, and never the same twice.
func TestSignature(t *testing.T) {
	s := newTestSigner(t, IdentitySigV4, &ring{keys: []string{"K1"}})
	nonces := map[string]bool{}
	for _, body := range []string{"", "", "frame"} {
		r := signedRequest(t, s, http.MethodPost, []byte(body))
		text := r.Header.Get("Authorization")
		for _, want := range []string{
			"AWS4-HMAC-SHA256 Credential=K1/", "/eu-central-1/execute-api/aws4_request, ", "host;", "taskguard-agent;taskguard-nonce;",
			"x-amz-content-sha256;x-amz-date;x-amz-security-token, ",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("body %q: %q lacks %q", body, text, want)
			}
		}
		if got := r.Header.Get("X-Amz-Content-Sha256"); got != digestOf([]byte(body)) {
			t.Errorf("body %q: digest %s", body, got)
		}
		nonce := r.Header.Get("Taskguard-Nonce")
		if len(nonce) != 32 || nonces[nonce] {
			t.Errorf("nonce %q, after %v", nonce, nonces)
		}
		nonces[nonce] = true
	}
}

// Refused credentials are asked for anew, but not again and again.
func TestRefusedCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := &ring{keys: []string{"K1", "K2", "K3"}}
		s := newTestSigner(t, IdentitySTS, keys)
		if signedRequest(t, s, http.MethodGet, nil); keys.fresh != 0 {
			t.Errorf("asked for fresh ones %d times at first", keys.fresh)
		}
		if !s.refused(0, time.Now()) {
			t.Error("it is not worth to ask for fresh ones")
		}
		if u := tokenOf(t, signedRequest(t, s, http.MethodGet, nil)); keys.fresh != 1 || !strings.Contains(u.String(), "K2%2F") {
			t.Errorf("asked %d times, token %s", keys.fresh, u)
		}
		if s.refused(1, time.Now()) || s.stale {
			t.Error("to be asked for again at once")
		}
		if !s.refused(0, time.Now()) || s.stale {
			t.Error("a request that was under way is not made again with those that are there")
		}
		time.Sleep(refreshInterval)
		if !s.refused(1, time.Now()) {
			t.Error("never asked for again")
		}
		keys.err = errors.New("no answer")
		request, _ := http.NewRequest(http.MethodGet, "https://h", nil)
		if _, err := s.sign(t.Context(), request, nil); err == nil || keys.fresh != 2 || !s.stale {
			t.Errorf("%v after %d, want that it is tried again", err, keys.fresh)
		}
	})
}

// What is wrong with credentials is told as the one who looks for them says it, and nothing is sent.
func TestNoCredentials(t *testing.T) {
	ca := newAuthority(t, "ca")
	url := serve(t, ca.issue(t, nil), nil, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s %s", r.Method, r.URL) })
	for _, mode := range []string{IdentitySTS, IdentitySigV4} {
		keys := &ring{err: &sender.Failure{Err: errors.New("no profile"), Remedy: "attach one"}}
		transport := newTransport(t, Config{URL: url, CAFile: ca.file(t, ""), Identity: mode, Credentials: keys})
		wantFailure(t, transport, "no profile", "attach one")
		keys.err = errors.New("something new")
		wantFailure(t, transport, "get AWS credentials: something new", "")
	}
}

// A receiver's 401 leads to fresh credentials for the next request: one time.
func TestRefusalRefreshes(t *testing.T) {
	ca := newAuthority(t, "ca")
	url := serve(t, ca.issue(t, nil), nil, func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Authorization"), "Credential=K2/") {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error":"expired"}`)
			return
		}
		stored(w, r)
	})
	for _, c := range []struct {
		keys []string
		good bool
	}{{[]string{"K1", "K2"}, true}, {[]string{"K1", "K1"}, false}} {
		keys := &ring{keys: c.keys}
		transport := newTransport(t, Config{URL: url, CAFile: ca.file(t, ""), Identity: IdentitySigV4, Credentials: keys})
		var f *sender.Failure
		if err := transport.Send(t.Context(), []byte("frame")); !errors.As(err, &f) || !f.Refresh {
			t.Errorf("%v, want that fresh credentials are tried", err)
		}
		switch err := transport.Send(t.Context(), []byte("frame")); {
		case c.good && err != nil:
			t.Error(err)
		case !c.good && (!errors.As(err, &f) || f.Refresh):
			t.Errorf("%v, want that no more are tried", err)
		}
		if keys.fresh != 1 {
			t.Errorf("fresh ones were asked for %d times", keys.fresh)
		}
	}
}

func TestNewRefusesIdentities(t *testing.T) {
	keys := &ring{}
	for want, cfg := range map[string]Config{
		"want sts or sigv4":   {Identity: "iam", Credentials: keys},
		"without credentials": {Identity: IdentitySTS},
		"want https://host":   {Identity: IdentitySTS, Credentials: keys, STSEndpoint: "http://sts"},
		"sts endpoint":        {Identity: IdentitySTS, Credentials: keys, STSEndpoint: "https://sts/path"},
	} {
		cfg.URL = "https://h"
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", cfg, err, want)
		}
	}
}
