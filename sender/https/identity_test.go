package https

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskguard/taskguard/sender"
)

// pair writes a certificate and its key.
func pair(t *testing.T, dir string, cert tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	if err := errors.Join(os.WriteFile(certFile, certPEM, 0o600), os.WriteFile(keyFile, keyPEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.DNSNames = append(c.DNSNames, name)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
}

// The certificate that is in the file is shown; one that the receiver refuses is read again at once, and a connection
// that goes on with an old one is not kept.
func TestClientCertificate(t *testing.T) {
	ca := newAuthority(t, "ca")
	dir := t.TempDir()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	var refused atomic.Int32
	url := serve(t, ca.issue(t, nil), func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.TLS.ClientAuth, s.TLS.ClientCAs = tls.RequireAndVerifyClientCert, pool
	}, func(w http.ResponseWriter, r *http.Request) {
		if name := r.TLS.PeerCertificates[0].DNSNames; name[len(name)-1] != "i-2" {
			refused.Add(1)
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"error":"%s may not"}`, name[len(name)-1])
			return
		}
		stored(w, r)
	})
	certFile, keyFile := pair(t, dir, ca.issue(t, named("i-1")))
	transport := newTransport(t, Config{URL: url, CAFile: ca.file(t, ""), CertFile: certFile, KeyFile: keyFile})
	if f := wantFailure(t, transport, "403 Forbidden: i-1 may not", "identity"); !f.Refresh {
		t.Errorf("%+v, want that fresh credentials are tried", f)
	}
	pair(t, dir, ca.issue(t, named("i-2")))
	if err := transport.Send(t.Context(), nil); err != nil {
		t.Errorf("with the new certificate: %v", err)
	}
	if n := refused.Load(); n != 2 {
		t.Errorf("%d refused, want 2", n)
	}
}

func TestClientCertificateThatIsNoGood(t *testing.T) {
	ca := newAuthority(t, "ca")
	url := serve(t, ca.issue(t, nil), func(s *httptest.Server) { s.TLS.ClientAuth = tls.RequireAnyClientCert }, stored)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	transport := newTransport(t, Config{URL: url, CAFile: ca.file(t, ""), CertFile: certFile, KeyFile: keyFile})
	wantFailure(t, transport, "read client certificate", keyFile)
	pair(t, dir, ca.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
	wantFailure(t, transport, "the client certificate expired at", "renew the certificate in "+certFile)
	pair(t, dir, ca.issue(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }))
	wantFailure(t, transport, "not yet by this host's clock", "clock")
	pair(t, dir, ca.issue(t, nil))
	if err := transport.Send(t.Context(), nil); err != nil {
		t.Error(err)
	}
	for _, cfg := range []Config{{CertFile: "c"}, {KeyFile: "k"}} {
		cfg.URL = url
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "want both files") {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// connectProxy tunnels what CONNECT asks for, and counts it.
func connectProxy(t *testing.T, tunnels *atomic.Int32, allow bool) string {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || !allow {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		tunnels.Add(1)
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			t.Error(err)
			return
		}
		defer to.Close()
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer from.Close()
		fmt.Fprint(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(to, from) // ends with the connection
			to.Close()
		}()
		_, _ = io.Copy(from, to)
	}))
	t.Cleanup(proxy.Close)
	return proxy.URL
}

func TestProxy(t *testing.T) {
	ca := newAuthority(t, "ca")
	url := serve(t, ca.issue(t, nil), nil, stored)
	var tunnels atomic.Int32
	proxy := connectProxy(t, &tunnels, true)
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1") // is not asked
	for _, configured := range []string{"", proxy} {
		transport := newTransport(t, Config{URL: url, CAFile: ca.file(t, ""), Proxy: configured})
		if err := transport.Send(t.Context(), []byte("frame")); err != nil {
			t.Errorf("proxy %q: %v", configured, err)
		}
		transport.Close()
	}
	if n := tunnels.Load(); n != 1 {
		t.Errorf("%d tunnels, want 1", n)
	}
	wantFailure(t, newTransport(t, Config{URL: url, CAFile: ca.file(t, ""), Proxy: connectProxy(t, &tunnels, false)}),
		"Forbidden", "")
	wantFailure(t, newTransport(t, Config{URL: url, CAFile: ca.file(t, ""), Proxy: "http://u:secret@127.0.0.1:1"}),
		"the proxy http://u:xxxxx@127.0.0.1:1 cannot be reached", "endpoint.proxy")
	for _, wrong := range []string{"127.0.0.1:1", "ftp://h:1", "http://", "http://h:1/path", "http://h:port"} {
		if _, err := New(Config{URL: url, Proxy: wrong}); err == nil || !strings.Contains(err.Error(), "want http://host:port") {
			t.Errorf("proxy %q: %v", wrong, err)
		}
	}
}

func TestIPv6(t *testing.T) {
	ca := newAuthority(t, "ca")
	listener, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("this host has no IPv6: %v", err)
	}
	url := serve(t, ca.issue(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv6loopback} }), func(s *httptest.Server) {
		s.Listener.Close()
		s.Listener = listener
	}, stored)
	transport := newTransport(t, Config{URL: url, CAFile: ca.file(t, "")})
	if err := transport.Send(t.Context(), nil); err != nil {
		t.Errorf("%s: %v", url, err)
	}
	var f *sender.Failure
	transport = newTransport(t, Config{URL: "https://[::1]:1", CAFile: ca.file(t, "")})
	if err := transport.Send(t.Context(), nil); !errors.As(err, &f) || !strings.Contains(f.Error(), "[::1]:1 refuses connections") {
		t.Error(err)
	}
}
