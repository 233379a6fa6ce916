package https

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/taskguard/taskguard/sender"
)

// nameServer answers each question for an IPv4 address with 127.0.0.1, or with a code.
func nameServer(t *testing.T, code dnsmessage.RCode) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.RCode, m.Additionals = true, code, nil
			if q := m.Questions[0]; code == dnsmessage.RCodeSuccess && q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			if answer, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(answer, from) // who asked asks again
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// blackHole returns the address of a socket that accepts no more: what is sent to it is dropped. "" is that there is none.
func blackHole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", bound.(*syscall.SockaddrInet4).Port)
	for range 16 { // until its queue is full
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return address
		}
		t.Cleanup(func() { conn.Close() })
	}
	return ""
}

// gone returns the address of a server that hears a client out, and closes the connection.
func gone(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 16<<10)) // what it says does not matter
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

// receiver answers as one does: at /v1/health with what health says, in the time that is its own.
func receiver(health http.HandlerFunc, ahead time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		switch {
		case r.URL.Path != "/v1/health":
			fmt.Fprint(w, `{"status":"ok"}`)
		case health != nil:
			health(w, r)
		default:
			fmt.Fprint(w, `{"status":"ok"}`)
		}
	}
}

func says(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprint(w, text)
	}
}

var allSteps = []string{StepDNS, StepTCP, StepTLS, StepClock, StepCredentials, StepHealth}

// wantSteps checks that all before a step are well, that it failed so, and that none after it was tried. "" is no step.
func wantSteps(t *testing.T, steps []Step, failed, what, remedy string) {
	t.Helper()
	if len(steps) != len(allSteps) {
		t.Fatalf("%d steps: %+v", len(steps), steps)
	}
	over := false
	for i, s := range steps {
		switch {
		case s.Name != allSteps[i]:
			t.Errorf("step %d is %s, want %s", i, s.Name, allSteps[i])
		case over && (s.Tried || s.Err != nil || s.Detail != ""):
			t.Errorf("%s was tried after %s failed: %+v", s.Name, failed, s)
		case s.Name == failed:
			over = true
			var f *sender.Failure
			if !errors.As(s.Err, &f) || !strings.Contains(f.Error(), what) || !strings.Contains(f.Remedy, remedy) {
				t.Errorf("%s: %+v\nwant %q and %q", s.Name, s.Err, what, remedy)
			}
		case !over && (!s.Tried || s.Err != nil):
			t.Errorf("%s: %+v, want it well", s.Name, s)
		}
	}
	if over != (failed != "") {
		t.Errorf("%s did not fail", failed)
	}
}

func TestWalkFails(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	closed := httptest.NewServer(nil)
	closed.Close()
	plain := httptest.NewServer(http.HandlerFunc(stored))
	t.Cleanup(plain.Close)
	signed := func(edit func(*x509.Certificate)) string { return serve(t, ca.issue(t, edit), nil, receiver(nil, 0)) }
	answers := func(health http.HandlerFunc, ahead time.Duration) string {
		return serve(t, ca.issue(t, nil), nil, receiver(health, ahead))
	}
	secure := func(address string) string { return strings.Replace(address, "http:", "https:", 1) }
	var tunnels atomic.Int32
	for _, c := range []struct {
		name         string
		url          string
		cfg          Config
		names        *net.Resolver
		failed       string
		what, remedy string
	}{
		{"no name", "https://receiver.test:1", Config{}, nameServer(t, dnsmessage.RCodeNameError), StepDNS,
			"there is no address for the name receiver.test", "private DNS of the VPC endpoint"},
		{"name server fails", "https://receiver.test:1", Config{}, nameServer(t, dnsmessage.RCodeServerFailure), StepDNS,
			"cannot be looked up", "VPC has DNS support"},
		{"refused", secure(closed.URL), Config{}, nil, StepTCP, "refuses connections", "start the receiver"},
		{"refused by name", strings.Replace(secure(closed.URL), "127.0.0.1", "receiver.test", 1), Config{},
			nameServer(t, dnsmessage.RCodeSuccess), StepTCP, "refuses connections", "start the receiver"},
		{"black hole", "https://" + blackHole(t), Config{Timeout: 50 * time.Millisecond}, nil, StepTCP, "does not answer in time", "security groups"},
		{"proxy refused", answers(nil, 0), Config{Proxy: closed.URL}, nil, StepTCP, "the proxy", "endpoint.proxy"},
		{"proxy forbids", answers(nil, 0), Config{Proxy: connectProxy(t, &tunnels, false)}, nil, StepTLS, "403 Forbidden", "CONNECT"},
		{"no TLS", secure(plain.URL), Config{}, nil, StepTLS, "does not speak TLS", "port"},
		{"gone in the handshake", "https://" + gone(t), Config{}, nil, StepTLS, "closed the connection", "load balancer"},
		{"unknown authority", serve(t, other.issue(t, nil), nil, stored), Config{}, nil, StepTLS, "unknown authority", "ca_file"},
		{"wrong name", signed(nil), Config{ServerName: "other.test"}, nil, StepTLS, "not for other.test", "server_name"},
		{"expired", signed(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), Config{}, nil, StepTLS,
			"expired at", "renew"},
		{"no ca file", signed(nil), Config{CAFile: "/nonexistent/ca.pem"}, nil, StepTLS, "read ca file", "/nonexistent"},
		{"wants a certificate", serve(t, ca.issue(t, nil), func(s *httptest.Server) {
			s.TLS.ClientAuth = tls.RequireAnyClientCert
		}, receiver(nil, 0)), Config{}, nil, StepTLS, "ended the TLS connection", "client certificates"},
		{"clock behind", answers(nil, 10*time.Minute), Config{}, nil, StepClock, "behind that of", "169.254.169.123"},
		{"clock ahead", answers(nil, -10*time.Minute), Config{}, nil, StepClock, "ahead of that of", "chronyc"},
		{"gone after the request", serve(t, ca.issue(t, nil), nil, func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		}), Config{}, nil, StepClock, "closed the connection", "log"},
		{"no credentials", answers(nil, 0), Config{Identity: IdentitySTS, Credentials: &ring{
			err: &sender.Failure{Err: errors.New("no instance profile"), Remedy: "attach one"},
		}}, nil, StepCredentials, "no instance profile", "attach one"},
		{"no certificate", answers(nil, 0), Config{CertFile: "/nonexistent/c", KeyFile: "/nonexistent/k"}, nil, StepCredentials,
			"read client certificate", "/nonexistent/k"},
		{"not known", answers(says(401, `{"error":"no credentials"}`), 0), Config{}, nil, StepHealth, "401 Unauthorized: no credentials",
			"identity.mode"},
		{"not let in", answers(says(403, `{"error":"role x is not let in"}`), 0),
			Config{Identity: IdentitySigV4, Credentials: &ring{keys: []string{"K"}}}, nil, StepHealth, "role x is not let in",
			"at the receiver"},
		{"endpoint policy", answers(says(403, `{"Message":"explicit deny in a VPC endpoint policy"}`), 0), Config{}, nil, StepHealth,
			"403 Forbidden", "policy of the VPC endpoint"},
		{"scp", answers(says(403, `{"Message":"explicit deny in a service control policy"}`), 0), Config{}, nil, StepHealth,
			"403 Forbidden", "SCP"},
		{"some policy", answers(says(403, `{"Message":"Forbidden"}`), 0), Config{Identity: IdentitySigV4, Credentials: &ring{keys: []string{"K"}}},
			nil, StepHealth, "403 Forbidden", "the policy of the VPC endpoint"},
		{"no receiver", answers(says(404, `<html>`), 0), Config{}, nil, StepHealth, "404 Not Found", "correct url"},
		{"something else", answers(says(200, `<html>`), 0), Config{}, nil, StepHealth, "does not tell its status", "correct url"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.cfg.URL = c.url; c.url == "https://" {
				t.Skip("this kernel's queues do not fill")
			}
			if c.cfg.CAFile == "" {
				c.cfg.CAFile = ca.file(t, "")
			}
			transport := newTransport(t, c.cfg)
			transport.resolver = c.names
			wantSteps(t, transport.Walk(t.Context()), c.failed, c.what, c.remedy)
		})
	}
}

// With each identity, by a name, and by a proxy, all is well with a receiver that lets the agent in.
func TestWalkIsWell(t *testing.T) {
	ca := newAuthority(t, "ca")
	dir := t.TempDir()
	certFile, keyFile := pair(t, dir, ca.issue(t, named("i-1")))
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	var unknown atomic.Int32
	address := serve(t, ca.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(365 * 24 * time.Hour) }), func(s *httptest.Server) {
		s.TLS.ClientAuth, s.TLS.ClientCAs = tls.VerifyClientCertIfGiven, pool
	}, receiver(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 && r.Header.Get("Authorization") == "" {
			unknown.Add(1)
		}
		fmt.Fprint(w, `{"status":"ok"}`)
	}, 0))
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	var tunnels atomic.Int32
	proxy := connectProxy(t, &tunnels, true)
	for _, c := range []struct {
		name    string
		cfg     Config
		details []string
	}{
		{"none", Config{}, []string{"is an address", u.Host, "TLS 1.3, certificate for receiver.test", "s ", "none are configured", "lets"}},
		{"name", Config{URL: "https://receiver.test:" + u.Port()}, []string{"receiver.test is 127.0.0.1", u.Host, "", "", "", ""}},
		{"proxy", Config{Proxy: proxy}, []string{"the proxy 127.0.0.1 is", strings.TrimPrefix(proxy, "http://"), "TLS 1.3", "", "", ""}},
		{"sts", Config{Identity: IdentitySTS, Credentials: &ring{keys: []string{"K"}}},
			[]string{"", "", "", "", "access key K by", "lets this agent in"}},
		{"sigv4", Config{Identity: IdentitySigV4, Credentials: &ring{keys: []string{"K"}}},
			[]string{"", "", "", "", "for eu-central-1, they do not expire", "lets this agent in"}},
		{"mtls", Config{CertFile: certFile, KeyFile: keyFile}, []string{"", "", "", "", "certificate of CN=receiver until", "lets this agent in"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.cfg.URL == "" {
				c.cfg.URL = address
			}
			c.cfg.CAFile = ca.file(t, "")
			transport := newTransport(t, c.cfg)
			transport.resolver = nameServer(t, dnsmessage.RCodeSuccess)
			before := unknown.Load()
			steps := transport.Walk(t.Context())
			wantSteps(t, steps, "", "", "")
			for i, want := range c.details {
				if !strings.Contains(steps[i].Detail, want) || steps[i].Note != "" {
					t.Errorf("%s: %q, note %q, want %q", steps[i].Name, steps[i].Detail, steps[i].Note, want)
				}
			}
			proves := c.cfg.Identity != "" || c.cfg.CertFile != ""
			if n := unknown.Load() - before; proves && n != 0 || !proves && n != 1 {
				t.Errorf("%d requests from who is not known", n)
			}
		})
	}
}

// What is no failure is told all the same.
func TestWalkNotes(t *testing.T) {
	transport := newTransport(t, Config{URL: "https://receiver.test"})
	for text, public := range map[string]bool{
		"10.0.0.1": false, "172.31.255.1": false, "192.168.1.1": false, "100.64.0.1": false, "127.0.0.1": false, "::1": false,
		"fd00::1": false, "fe80::1": false, "203.0.113.1": true, "100.128.0.1": true, "2001:db8::1": true,
	} {
		note := transport.public([]netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr(text)})
		if (note != "") != public || public && (!strings.Contains(note, text) || !strings.Contains(note, "private DNS")) {
			t.Errorf("%s: note %q", text, note)
		}
	}
	if _, note, err := transport.clock("", time.Now()); err != nil || !strings.Contains(note, "does not tell its time") {
		t.Errorf("no date: %q, %v", note, err)
	}
	now := time.Now()
	key := Key{aws.Credentials{AccessKeyID: "K", SecretAccessKey: "secret", SessionToken: "token", CanExpire: true, Expires: now}, "eu-central-1"}
	for after, want := range map[time.Duration]string{-time.Minute: "", time.Minute: "have expired"} {
		detail, note := describe(key, now.Add(after))
		if !strings.Contains(note, want) || (note == "") != (want == "") || !strings.Contains(detail, "until "+now.UTC().Format(time.RFC3339)) {
			t.Errorf("%v after they expire: %q, note %q", after, detail, note)
		}
		if strings.Contains(detail+note, "secret") || strings.Contains(detail+note, "token") {
			t.Errorf("%q, note %q tell a secret", detail, note)
		}
	}
	for left, want := range map[time.Duration]string{soon - time.Minute: "renew it", soon + time.Minute: ""} {
		state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{NotAfter: now.Add(left)}}}
		if _, note, err := shake(state, now); err != nil || !strings.Contains(note, want) || (note == "") != (want == "") {
			t.Errorf("%v left: %q, %v", left, note, err)
		}
	}
}

// A walk that is given up ends, and says that it was.
func TestWalkIsGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	steps := newTransport(t, Config{URL: "https://" + gone(t)}).Walk(ctx)
	failed := 0
	for _, s := range steps {
		if errors.Is(s.Err, context.Canceled) {
			failed++
		}
	}
	if failed != 1 {
		t.Errorf("%+v, want that one step was cancelled", steps)
	}
}
