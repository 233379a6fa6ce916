package https

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/batch"
)

// serve starts a receiver with a certificate; edit changes the server before it starts.
func serve(t *testing.T, cert tls.Certificate, edit func(*httptest.Server), handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if edit != nil {
		edit(server)
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

func newTransport(t *testing.T, cfg Config) *Transport {
	t.Helper()
	transport, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.Close)
	return transport
}

// hang takes a request and never answers: a return would, and a client may still read what follows its goodbye.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // or the server would not see the client go
	<-r.Context().Done()
	panic(http.ErrAbortHandler)
}

func stored(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"status":"stored"}`) }

// wantFailure sends twice, as an operator wants to read the same problem in the same words.
func wantFailure(t *testing.T, transport *Transport, what, remedy string) *sender.Failure {
	t.Helper()
	var f *sender.Failure
	err := transport.Send(t.Context(), []byte("frame"))
	if !errors.As(err, &f) {
		t.Fatalf("error %v, want a failure", err)
	}
	if !strings.Contains(f.Error(), what) || !strings.Contains(f.Remedy, remedy) {
		t.Errorf("error %q, remedy %q\nwant %q and %q", f, f.Remedy, what, remedy)
	}
	if again := transport.Send(t.Context(), []byte("frame")); again == nil || again.Error() != err.Error() {
		t.Errorf("second try: %v\nwant the same: %v", again, err)
	}
	return f
}

func TestSend(t *testing.T) {
	ca := newAuthority(t, "ca")
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("http2 ", h2), func(t *testing.T) {
			answers := []string{`{"status":"stored"}`, `{"status":"repeat"}`, ` {"status" : "stored", "new": {"field":1}} `}
			var connections atomic.Int32
			got := make(chan string, len(answers))
			url := serve(t, ca.issue(t, nil), func(s *httptest.Server) {
				s.EnableHTTP2 = h2
				s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
					if state == http.StateNew {
						connections.Add(1)
					}
				}
			}, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				got <- fmt.Sprintln(r.Method, r.URL.Path, r.ProtoMajor == 2, r.Header.Get("Content-Type"),
					r.Header.Get("Taskguard-Agent"), r.UserAgent(), string(body), err)
				fmt.Fprint(w, answers[0])
			})
			transport := newTransport(t, Config{URL: url + "/prefix/", CAFile: ca.file(t, ""), Agent: event.ID{0xab}})
			for range 3 {
				if err := transport.Send(t.Context(), []byte("frame")); err != nil {
					t.Fatal(err)
				}
				want := fmt.Sprintln("POST", "/prefix/v1/batches", h2, batch.ContentType,
					"ab000000-0000-0000-0000-000000000000", "taskguard-agent", "frame", nil)
				if line := <-got; line != want {
					t.Errorf("request %q\nwant %q", line, want)
				}
				answers = answers[1:]
			}
			if n := connections.Load(); n != 1 {
				t.Errorf("%d connections for 3 batches, want 1", n)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	ca := newAuthority(t, "ca")
	for answer, want := range map[string]string{`{"status":"ok"}`: "", `<html>`: "no status"} {
		url := serve(t, ca.issue(t, nil), nil, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || r.URL.Path != "/v1/health" || r.Header.Get("Taskguard-Agent") == "" {
				http.Error(w, "unexpected", http.StatusTeapot)
			}
			fmt.Fprint(w, answer)
		})
		err := newTransport(t, Config{URL: url, CAFile: ca.file(t, "")}).Check(t.Context())
		if (err == nil) != (want == "") {
			t.Errorf("answer %s: %v, want %q", answer, err, want)
		}
	}
}

// Each answer that is not "stored" or "repeat", and what it means for the batch.
func TestAnswers(t *testing.T) {
	ca := newAuthority(t, "ca")
	longAgo := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	for _, test := range []struct {
		code         int
		body         string
		header       [2]string
		reject       string
		after        time.Duration
		what, remedy string
	}{
		{200, `<html>welcome`, [2]string{}, "", 0, "unknown answer", "correct url"},
		{200, `{"status":"ok"}`, [2]string{}, "", 0, "unknown answer", "correct url"},
		{204, ``, [2]string{}, "", 0, "unknown answer: 204", "correct url"},
		{302, ``, [2]string{"Location", "https://127.0.0.1:1/"}, "", 0, "302 Found", "correct url"},
		{400, `{"error":"no zstd frame"}`, [2]string{}, "rejected", 0, "400 Bad Request: no zstd frame", "versions"},
		{415, `{"error":"x"}`, [2]string{}, "rejected", 0, "415 Unsupported Media Type: x", "versions"},
		{422, `{"error":"parent after child"}`, [2]string{}, "rejected", 0, "parent after child", "versions"},
		{400, `<html>bad gateway configuration`, [2]string{}, "", 0, "400 Bad Request: <html>bad", "correct url"},
		{401, `{"error":"who?"}`, [2]string{}, "", 0, "401 Unauthorized: who?", "identity.mode"},
		{403, `{"Message":"User: x is not authorized with an explicit deny in a service control policy"}`, [2]string{}, "", 0, "explicit deny", "(SCP)"},
		{403, `{"Message":"with an explicit deny in a VPC endpoint policy"}`, [2]string{}, "", 0, "explicit deny", "policy of the VPC endpoint"},
		{403, `{"message":"no identity-based policy allows the execute-api:Invoke action"}`, [2]string{}, "", 0, "no identity-based", "of the agent's role"},
		{403, ``, [2]string{"Date", longAgo}, "", 0, "403 Forbidden", "clock"},
		{404, `not found`, [2]string{}, "", 0, "404 Not Found: not found", "correct url"},
		{409, `{"error":"has a part"}`, [2]string{"Taskguard-Stored", "7"}, "stored 7", 0, "409 Conflict: has a part", "log"},
		{409, `<html>proxy`, [2]string{"Taskguard-Stored", "7"}, "", 0, "409 Conflict", "correct url"},
		{409, `{"error":"x"}`, [2]string{"Taskguard-Stored", "-1"}, "", 0, "409 Conflict: x", "log"},
		{413, `<html>nginx`, [2]string{}, "too_large", 0, "413 Request Entity Too Large", "raise the limit"},
		{429, `{"error":"rate"}`, [2]string{"Retry-After", "17"}, "", 17 * time.Second, "429 Too Many Requests: rate",
			"rate"},
		{500, `{"error":"disk"}`, [2]string{}, "", 0, "500 Internal Server Error: disk", "receiver's log"},
		{503, `{"error":"full"}`, [2]string{"Retry-After", "99999"}, "", 99999 * time.Second,
			"503 Service Unavailable: full", "log"},
		{599, "\x1b[2J{\n\xff", [2]string{"Retry-After", "soon"}, "", 0, `599: \x1b[2J{ \xff`, ""},
	} {
		t.Run(fmt.Sprint(test.code, test.body), func(t *testing.T) {
			url := serve(t, ca.issue(t, nil), nil, func(w http.ResponseWriter, _ *http.Request) {
				if test.header[0] != "" {
					w.Header().Set(test.header[0], test.header[1])
				}
				w.WriteHeader(test.code)
				if test.body != "" {
					fmt.Fprint(w, test.body)
				}
			})
			f := wantFailure(t, newTransport(t, Config{URL: url, CAFile: ca.file(t, "")}), test.what, test.remedy)
			reject := f.Reject
			if f.Partial {
				reject += fmt.Sprint("stored ", f.Stored)
			}
			if reject != test.reject || f.After != test.after {
				t.Errorf("reject %q, after %v, want %q, %v", reject, f.After, test.reject, test.after)
			}
		})
	}
}

func TestAnswerIsBounded(t *testing.T) {
	ca := newAuthority(t, "ca")
	var written atomic.Int64
	url := serve(t, ca.issue(t, nil), nil, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		for r.Context().Err() == nil { // for ever
			n, err := fmt.Fprint(w, strings.Repeat("é", 1000))
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	f := wantFailure(t, newTransport(t, Config{URL: url, CAFile: ca.file(t, "")}), "500 Internal Server Error: éé", "")
	if len(f.Error()) > 500 {
		t.Errorf("error of %d bytes", len(f.Error()))
	}
}

// Certificates, connections and protocols that are not right, over real TLS.
func TestUnreached(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "Other \x1b CA")
	closed := httptest.NewServer(nil)
	closed.Close()
	plain := httptest.NewServer(http.HandlerFunc(stored))
	t.Cleanup(plain.Close)
	signed := func(edit func(*x509.Certificate)) string { return serve(t, ca.issue(t, edit), nil, stored) }
	good := signed(nil)
	for _, test := range []struct {
		name         string
		url          string
		as           error
		cfg          Config
		what, remedy string
	}{
		{"unknown authority", serve(t, other.issue(t, nil), nil, stored), x509.UnknownAuthorityError{}, Config{},
			`signed by an unknown authority, "CN=Other \x1b CA"`, "ca_file"},
		{"wrong name", good, x509.HostnameError{}, Config{ServerName: "other.test"},
			"is for receiver.test, 127.0.0.1, not for other.test", "server_name"},
		{"no name", signed(func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }),
			x509.HostnameError{}, Config{}, "is for no host, not for 127.0.0.1", "server_name"},
		{"expired", signed(func(c *x509.Certificate) { c.NotAfter = time.Unix(1_700_000_000, 0) }),
			x509.CertificateInvalidError{}, Config{}, "expired at 2023-11-14T22:13:20Z", "renew"},
		{"not yet valid", signed(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
			x509.CertificateInvalidError{}, Config{}, "is valid only from", "clock, which is behind"},
		{"not for servers", signed(func(c *x509.Certificate) { c.ExtKeyUsage[0] = x509.ExtKeyUsageClientAuth }),
			x509.CertificateInvalidError{}, Config{}, "is not valid", "replaced"},
		{"tls 1.1", serve(t, ca.issue(t, nil), func(s *httptest.Server) {
			s.TLS.MinVersion, s.TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		}, stored), nil, Config{}, "ended the TLS connection", "1.2"},
		{"no tls", strings.Replace(plain.URL, "http:", "https:", 1), nil, Config{}, "does not speak TLS", "port"},
		{"refused", strings.Replace(closed.URL, "http:", "https:", 1), syscall.ECONNREFUSED, Config{},
			"refuses connections", "start"},
		{"timeout", serve(t, ca.issue(t, nil), nil, hang), context.DeadlineExceeded,
			Config{Timeout: 50 * time.Millisecond}, "does not answer in time", "security groups"},
		{"closed", serve(t, ca.issue(t, nil), nil, func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		}), io.EOF, Config{}, "closed the connection", "log"},
		{"no ca file", good, syscall.ENOENT, Config{CAFile: "/nonexistent/ca.pem"}, "read ca file", "/nonexistent"},
		{"no ca in file", good, nil, Config{CAFile: "https_test.go"}, "holds no PEM certificate", "https_test.go"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.URL = test.url
			if test.cfg.CAFile == "" {
				test.cfg.CAFile = ca.file(t, "")
			}
			f := wantFailure(t, newTransport(t, test.cfg), test.what, test.remedy)
			if f.Reject != "" {
				t.Errorf("rejects: %+v", f)
			}
			if !wraps(f, test.as) {
				t.Errorf("%v does not wrap %T", f, test.as)
			}
		})
	}
}

// wraps reports whether err wraps target, or for a certificate's error one of its type.
func wraps(err, target error) bool {
	switch target.(type) {
	case x509.UnknownAuthorityError:
		return errors.As(err, new(x509.UnknownAuthorityError))
	case x509.HostnameError:
		return errors.As(err, new(x509.HostnameError))
	case x509.CertificateInvalidError:
		return errors.As(err, new(x509.CertificateInvalidError))
	}
	return target == nil || errors.Is(err, target)
}

// What cannot be had from a loopback server.
func TestUnreachedByKind(t *testing.T) {
	transport := newTransport(t, Config{URL: "https://receiver.test:8443"})
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	for _, test := range []struct {
		err          error
		what, remedy string
	}{
		{dial(&net.DNSError{IsNotFound: true}), "no address for the name receiver.test", "private DNS"},
		{dial(&net.DNSError{IsTimeout: true}), "receiver.test cannot be looked up", "resolv.conf"},
		{dial(syscall.ENETUNREACH), "no route to receiver.test:8443", "route table"},
		{dial(syscall.EHOSTUNREACH), "no route to receiver.test:8443", "route table"},
		{dial(syscall.ETIMEDOUT), "receiver.test:8443 does not answer", "security groups"},
		{dial(syscall.ECONNRESET), "closed the connection", "log"},
		{errors.New("something new"), "something new", ""},
	} {
		var f *sender.Failure
		err := transport.unreached(context.Background(), test.err)
		if !errors.As(err, &f) || !strings.Contains(f.Error(), test.what) || !strings.Contains(f.Remedy, test.remedy) ||
			!errors.Is(err, test.err) {
			t.Errorf("%v gives %v, remedy %q\nwant %q and %q", test.err, err, f.Remedy, test.what, test.remedy)
		}
	}
}

func TestCancelIsNoFailure(t *testing.T) {
	ca := newAuthority(t, "ca")
	ctx, cancel := context.WithCancel(t.Context())
	url := serve(t, ca.issue(t, nil), nil, func(w http.ResponseWriter, r *http.Request) {
		cancel()
		hang(w, r)
	})
	err := newTransport(t, Config{URL: url, CAFile: ca.file(t, "")}).Send(ctx, nil)
	if f := new(sender.Failure); !errors.Is(err, context.Canceled) || errors.As(err, &f) {
		t.Errorf("error %v, want only that it was cancelled", err)
	}
}

// A CA file that comes late, and one that is replaced, is taken up without a restart.
func TestCAFileIsReadAgain(t *testing.T) {
	before, after := newAuthority(t, "before"), newAuthority(t, "after")
	path := filepath.Join(t.TempDir(), "ca.pem")
	var cert atomic.Pointer[tls.Certificate]
	rotate := func(c tls.Certificate) { cert.Store(&c) }
	rotate(before.issue(t, nil))
	url := serve(t, *cert.Load(), func(s *httptest.Server) {
		s.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{Certificates: []tls.Certificate{*cert.Load()}}, nil
		}
		s.Config.SetKeepAlivesEnabled(false)
	}, stored)
	transport := newTransport(t, Config{URL: url, CAFile: path})
	wantFailure(t, transport, "read ca file", path)
	before.file(t, path)
	if err := transport.Send(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	rotate(after.issue(t, nil))
	wantFailure(t, transport, "unknown authority", "ca_file")
	after.file(t, path)
	if err := transport.Send(t.Context(), nil); err != nil {
		t.Errorf("after the CA file was replaced: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for url, want := range map[string]string{
		"":                        "want https://",
		"receiver.test":           "want https://",
		"http://127.0.0.1:1":      "use https, also on loopback",
		"ftp://receiver.test":     "want https://",
		"https://":                "want https://",
		"https://:8443":           "want https://",
		"https://u:secret@h.test": "neither user",
		"https://h.test?x=1":      "neither user",
		"https://h.test/#x":       "neither user",
		"https://h.test:port":     "parse url",
	} {
		_, err := New(Config{URL: url})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("url %q: %v, want %q", url, err, want)
		}
	}
	if _, err := New(Config{URL: "https://h.test", Timeout: -1}); err == nil {
		t.Error("negative timeout accepted")
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, "-5": 0, "1.5": 0, "99999999999999999999": 0,
		now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second, now.Add(-time.Hour).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("Retry-After %q: %v, want %v", value, got, want)
		}
	}
}
