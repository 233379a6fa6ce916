package faults

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// gateway is an HTTPS server between agent and endpoint, with a certificate of its own and what it makes of requests.
type gateway struct {
	*link       // in front of it
	authority   *authority
	certificate atomic.Pointer[tls.Certificate]
	fault       atomic.Pointer[fault]
	proxy       *httputil.ReverseProxy
	faults      atomic.Int64 // requests that the fault has answered
}

// fault answers a request in place of the endpoint, or leaves that to it by false.
type fault func(w http.ResponseWriter, r *http.Request) bool

func newGateway(t *testing.T, endpoint, ca string) *gateway {
	t.Helper()
	pool := x509.NewCertPool()
	text, err := os.ReadFile(ca)
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatalf("read the endpoint's authority: %v", err)
	}
	g := &gateway{authority: newAuthority(t)}
	g.proxy = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: endpoint})
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	g.proxy.Transport, g.proxy.ErrorLog = transport, log.New(io.Discard, "", 0)
	g.certificate.Store(g.authority.issue(t, certificate{host: "127.0.0.1"}))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: g, ErrorLog: g.proxy.ErrorLog, TLSConfig: &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return g.certificate.Load(), nil },
	}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.ServeTLS(listener, "", "")
	}()
	t.Cleanup(func() { server.Close(); <-ended })
	g.link = newLink(t, listener.Addr().String())
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f := g.fault.Load(); f != nil && (*f)(w, r) {
		g.faults.Add(1)
		return
	}
	g.proxy.ServeHTTP(w, r)
}

// answers is the fault that answers every request by a status.
func answers(status int) fault {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(status)
		return true
	}
}

// swallows is the fault that has the endpoint store, and breaks off before its answer.
func (g *gateway) swallows(_ http.ResponseWriter, r *http.Request) bool {
	g.faults.Add(1)
	g.proxy.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// certificate says for whom and when one is.
type certificate struct {
	host    string // an address, for a server
	uri     string // for a client
	expired bool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "faults"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a := &authority{certificate: template, key: newKey(t)}
	a.certificate = a.sign(t, template, a.key)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(t *testing.T, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func (a *authority) issue(t *testing.T, c certificate) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if c.expired {
		template.NotAfter = time.Now().Add(-time.Minute)
	}
	if c.host != "" {
		template.IPAddresses = []net.IP{net.ParseIP(c.host)}
	}
	if c.uri != "" {
		uri, err := url.Parse(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = []*url.URL{uri}
	}
	key := newKey(t)
	leaf := a.sign(t, template, key)
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// file writes what certificates are verified with.
func (a *authority) file(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	write(t, path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
	return path
}

// files replaces a certificate and its key.
func files(t *testing.T, c *tls.Certificate, cert, key string) {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(c.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	write(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
