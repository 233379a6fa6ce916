// Package https is the transport to the endpoint: batches by POST over TLS.
//
// It promises: nothing is sent without TLS 1.2 or later to a receiver whose certificate was verified; a batch counts
// as delivered only when the receiver has said so in its own words, as a proxy that answers 200 would lose it; what a
// response can make it read is bounded; and every error says what is wrong, with a remedy for an operator beside it.
// It goes by no proxy but one that is configured, and follows no redirect.
package https

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/batch"
)

const (
	// DefaultTimeout is what a zero Config.Timeout stands for.
	DefaultTimeout = 30 * time.Second
	// maxAnswer is how many bytes of a response's body are read.
	maxAnswer = 4 << 10
	// connectTimeout bounds each of connecting and the TLS handshake.
	connectTimeout = 10 * time.Second
)

// Config says where the receiver is and how to know it.
type Config struct {
	URL        string // "https://host[:port][/path]"; required
	CAFile     string // PEM certificates that the receiver's must chain to; "" is those the system trusts
	ServerName string // the name the receiver's certificate must have; "" is the URL's host
	CertFile   string // PEM certificate, and those between it and its authority, that say who the agent is; "" is none
	KeyFile    string // its key
	// Identity says how requests prove who the agent is, beside a certificate: IdentitySTS, IdentitySigV4, or "" for not.
	Identity    string
	Credentials Credentials   // required by Identity
	Service     string        // what requests are signed for by IdentitySigV4; "" is DefaultService
	STSEndpoint string        // "https://host[:port]" of the STS that the receiver is to ask; "" is the region's
	Proxy       string        // "http://host:port" of a proxy that takes CONNECT; "" is none, whatever the environment says
	Agent       event.ID      // sent with every request
	UserAgent   string        // "" is "taskguard-agent"
	Timeout     time.Duration // of one request; 0 is DefaultTimeout
	Logger      *slog.Logger  // nil is no log
}

// Transport sends frames to one receiver. It is safe for concurrent use. Make one with New.
type Transport struct {
	cfg  Config
	base *url.URL
	// proxy is nil when there is none.
	proxy *url.URL
	// signer is nil when no identity of AWS is configured.
	signer *signer
	// resolver looks up names; nil is the system's.
	resolver *net.Resolver
	skew     atomic.Int64 // what Skew returns, in nanoseconds

	mu     sync.Mutex
	client *http.Client // nil until the CA file could be read
	ca     []byte       // what client trusts
}

var _ sender.Transport = (*Transport)(nil)

// New returns a transport. It connects to nothing and reads no file yet: the CA file is read when it is first needed,
// and again when a receiver's certificate cannot be verified, so that one that comes late or is replaced is taken up.
func New(cfg Config) (*Transport, error) {
	base, err := url.Parse(cfg.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("parse url: %w", err)
	case base.Scheme == "http":
		return nil, fmt.Errorf("url %q: http is not encrypted: use https, also on loopback", base.Redacted())
	case base.Scheme != "https" || base.Hostname() == "":
		return nil, fmt.Errorf("url %q: want https://host[:port][/path]", base.Redacted())
	case base.User != nil || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("url %q: want neither user, query nor fragment", base.Redacted())
	case (cfg.CertFile == "") != (cfg.KeyFile == ""):
		return nil, errors.New("a certificate without its key, or a key without its certificate: want both files")
	case cfg.Timeout < 0:
		return nil, fmt.Errorf("timeout %v is negative", cfg.Timeout)
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "taskguard-agent"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	proxy, err := parseProxy(cfg.Proxy)
	if err != nil {
		return nil, err
	}
	signer, err := newSigner(&cfg, base)
	if err != nil {
		return nil, err
	}
	return &Transport{cfg: cfg, base: base, proxy: proxy, signer: signer}, nil
}

// Send posts a frame and returns nil when the receiver has stored it, now or before. Any other error than that of ctx
// is, or wraps, a *sender.Failure.
func (t *Transport) Send(ctx context.Context, frame []byte) error {
	status, err := t.do(ctx, http.MethodPost, "/v1/batches", frame)
	if err != nil {
		return fmt.Errorf("send batch: %w", err)
	}
	if status != "stored" && status != "repeat" {
		return fmt.Errorf("send batch: %w", t.stranger("it does not say whether it stored the batch"))
	}
	return nil
}

// Check asks the receiver whether it is there and takes this agent, with all that Send goes through but a batch.
func (t *Transport) Check(ctx context.Context) error {
	status, err := t.do(ctx, http.MethodGet, "/v1/health", nil)
	if err == nil && status == "" {
		err = t.stranger("it does not tell its status")
	}
	if err != nil {
		return fmt.Errorf("check endpoint: %w", err)
	}
	return nil
}

// Close closes idle connections.
func (t *Transport) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.client != nil {
		t.client.CloseIdleConnections()
	}
}

// do makes a request, and once more when the CA file has changed and the certificate could not be verified.
func (t *Transport) do(ctx context.Context, method, path string, body []byte) (status string, err error) {
	client, err := t.connectible(nil)
	if err != nil {
		return "", err
	}
	status, err = t.try(ctx, client, method, path, body)
	var known *sender.Failure
	if errors.As(err, &known) && known.Refresh {
		client.CloseIdleConnections() // the next one shows the certificate that is in the file then
	}
	var untrusted *tls.CertificateVerificationError
	if !errors.As(err, &untrusted) {
		return status, err
	}
	renewed, caErr := t.connectible(client)
	if caErr != nil || renewed == client {
		return "", err
	}
	t.cfg.Logger.Info("ca file has changed, read again", "file", t.cfg.CAFile)
	return t.try(ctx, renewed, method, path, body)
}

// connectible returns the client, one that is made anew if there is none or the CA file differs from what distrusted,
// which may be nil, trusts.
func (t *Transport) connectible(distrusted *http.Client) (*http.Client, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.client != nil && t.client != distrusted {
		return t.client, nil
	}
	ca, pool, err := t.readCA()
	if err != nil {
		return nil, err
	}
	if t.client != nil {
		if bytes.Equal(ca, t.ca) {
			return t.client, nil
		}
		t.client.CloseIdleConnections()
	}
	t.client, t.ca = t.newClient(pool), ca
	return t.client, nil
}

func (t *Transport) readCA() ([]byte, *x509.CertPool, error) {
	if t.cfg.CAFile == "" {
		return nil, nil, nil
	}
	remedy := "put the PEM certificate of the authority that signed the receiver's certificate into " + t.cfg.CAFile
	ca, err := os.ReadFile(t.cfg.CAFile)
	if err != nil {
		return nil, nil, &sender.Failure{Err: fmt.Errorf("read ca file: %w", err), Remedy: remedy}
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, nil, &sender.Failure{Err: fmt.Errorf("ca file %s holds no PEM certificate", t.cfg.CAFile), Remedy: remedy}
	}
	return ca, pool, nil
}

func (t *Transport) newClient(pool *x509.CertPool) *http.Client {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, ServerName: t.cfg.ServerName}
	if t.cfg.CertFile != "" {
		conf.GetClientCertificate = t.certificate
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyURL(t.proxy),
			DialContext:            (&net.Dialer{Timeout: connectTimeout, Resolver: t.resolver}).DialContext,
			OnProxyConnectResponse: t.tunnelled,
			TLSClientConfig:        conf,
			TLSHandshakeTimeout:    connectTimeout,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    1,
			MaxConnsPerHost:        2,
			IdleConnTimeout:        90 * time.Second,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 16 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// try makes one request and returns the status that a good answer gives.
func (t *Transport) try(ctx context.Context, client *http.Client, method, path string, body []byte) (string, error) {
	limited, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(limited, method, t.base.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return "", &sender.Failure{Err: fmt.Errorf("make request: %w", err)}
	}
	request.Header.Set("Taskguard-Agent", t.cfg.Agent.String())
	request.Header.Set("User-Agent", t.cfg.UserAgent)
	if method == http.MethodPost {
		request.Header.Set("Content-Type", batch.ContentType)
	}
	refreshes := 0
	if t.signer != nil {
		if refreshes, err = t.signer.sign(limited, request, body); err != nil {
			return "", t.unreached(ctx, err)
		}
	}
	if method == http.MethodPost {
		// Not sent: it tells net/http that a batch may go twice, when a kept connection turns out to be closed.
		request.Header["Idempotency-Key"] = nil
	}
	response, err := client.Do(request)
	if err != nil {
		return "", t.unreached(ctx, err)
	}
	defer response.Body.Close()
	t.noteSkew(response.Header.Get("Date"))
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return "", t.unreached(ctx, err)
	}
	said, ours := parseAnswer(text)
	if response.StatusCode != http.StatusOK {
		return "", t.refused(response, said, ours, refreshes)
	}
	return said.Status, nil
}

// answer is what the receiver says.
type answer struct {
	Status string `json:"status"`
	Error  string `json:"error"`
}

// parseAnswer reports whether a response is the receiver's own, and not that of something in between. What is not is
// returned as its error, so that an operator may recognise who said it.
func parseAnswer(text []byte) (said answer, ours bool) {
	if err := json.Unmarshal(text, &said); err == nil && (said.Status != "" || said.Error != "") {
		said.Error = shown(said.Error)
		return said, true
	}
	return answer{Error: shown(string(text))}, false
}

// maxShown is how many characters of a receiver's text go into an error.
const maxShown = 200

// shown makes a receiver's text safe and short.
func shown(text string) string {
	words := event.Escape(strings.Join(strings.Fields(text), " "))
	if len(words) > maxShown {
		words = strings.ToValidUTF8(words[:maxShown], "") + "…"
	}
	return words
}
