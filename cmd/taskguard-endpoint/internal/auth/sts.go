package auth

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// STS says whose presigned GetCallerIdentity is taken. It is forwarded to STS, which knows the key it was signed with.
type STS struct {
	// Hosts are the STS hosts that may be asked, such as sts.eu-central-1.amazonaws.com; with a port when it is not 443.
	// One at least.
	Hosts []string
	// Accounts and Roles are patterns (path.Match) of the accounts and role names that are let in. One at least of each.
	// A role's trust policy has to name nobody but ec2.amazonaws.com: whoever may assume it by itself also chooses the
	// session's name, and so the instance that it speaks for.
	Accounts, Roles []string
	// Timeout bounds one question to STS. 0 means 5 s.
	Timeout time.Duration
	// MaxQuestions bounds the questions that are asked at once; over it the answer is 503. 0 means 16.
	MaxQuestions int
	// MaxCached bounds the answers that are kept, some 500 bytes each: as many that let in, and as many that do not.
	// 0 means 16,384.
	MaxCached int
	// RootCAs are who may sign an STS host's certificate. Nil means those the system trusts.
	RootCAs *x509.CertPool
	// Dial connects to an STS host. Nil means net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	defaultTimeout      = 5 * time.Second
	defaultMaxQuestions = 16
	defaultMaxCached    = 16 << 10
	// refusedFor is how long a token that STS did not know is refused without asking again.
	refusedFor = 30 * time.Second
	// maxAnswer bounds an answer of STS in bytes; real ones have some 600.
	maxAnswer = 16 << 10
)

// verdict is what is known of a token.
type verdict struct {
	id  Identity
	err error
}

// tokenKey is the digest of all that a token's answer depends on.
type tokenKey [sha256.Size]byte

type stsVerifier struct {
	cfg    STS
	client *http.Client
	slots  chan struct{}

	mu      sync.Mutex
	good    *cache               // guarded by mu, as are those below
	bad     *cache               // apart, so that no number of bad tokens evicts a good one
	flights map[tokenKey]*flight // at most cfg.MaxQuestions
}

// flight is a question under way. The verdict is set when done is closed.
type flight struct {
	done chan struct{}
	verdict
}

func newSTS(cfg STS) (*stsVerifier, error) {
	switch {
	case len(cfg.Hosts) == 0:
		return nil, errors.New("no host: want such as sts.eu-central-1.amazonaws.com")
	case len(cfg.Accounts) == 0:
		return nil, errors.New("no account: want the accounts whose agents are let in")
	case len(cfg.Roles) == 0:
		return nil, errors.New("no role: want patterns of role names, such as taskguard-*")
	case cfg.Timeout < 0 || cfg.MaxQuestions < 0 || cfg.MaxCached < 0:
		return nil, errors.New("negative bound")
	}
	for _, pattern := range slices.Concat(cfg.Accounts, cfg.Roles) {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", pattern, err)
		}
	}
	for _, host := range cfg.Hosts {
		if host == "" || host != strings.ToLower(host) || strings.ContainsAny(host, "/@?#* ") {
			return nil, fmt.Errorf("host %q: want HOST or HOST:PORT in lower case", host)
		}
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.MaxQuestions == 0 {
		cfg.MaxQuestions = defaultMaxQuestions
	}
	if cfg.MaxCached == 0 {
		cfg.MaxCached = defaultMaxCached
	}
	return &stsVerifier{
		cfg: cfg, client: newSTSClient(cfg), slots: make(chan struct{}, cfg.MaxQuestions),
		good: newCache(cfg.MaxCached), bad: newCache(cfg.MaxCached), flights: make(map[tokenKey]*flight),
	}, nil
}

func newSTSClient(cfg STS) *http.Client {
	return &http.Client{
		Timeout:       cfg.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: nil, DialContext: cfg.Dial, TLSHandshakeTimeout: cfg.Timeout,
			TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs},
			ForceAttemptHTTP2: true, DisableCompression: true, MaxResponseHeaderBytes: maxAnswer,
			MaxConnsPerHost: cfg.MaxQuestions, IdleConnTimeout: time.Minute,
		},
	}
}

func (a *Authenticator) withSTS(r *http.Request, agent, text string) (Identity, error) {
	if err := a.ours(r); err != nil {
		return Identity{}, err
	}
	return a.sts.verify(r.Context(), text, agent, hostName(r.Host))
}

// verify returns who presigned a token for this agent and this endpoint.
func (v *stsVerifier) verify(ctx context.Context, text, agent, endpoint string) (Identity, error) {
	now := time.Now()
	t, err := parseToken(text, v.cfg.Hosts, now)
	if err != nil {
		return Identity{}, err
	}
	address := t.url()
	key := tokenKey(sha256.Sum256([]byte(address + "\n" + agent + "\n" + endpoint)))
	f, err := v.look(key, now, func(f *flight) { v.fly(key, f, t, agent, endpoint) })
	if err != nil {
		return Identity{}, err
	}
	select {
	case <-f.done:
		return f.id, f.err
	case <-ctx.Done():
		return Identity{}, later("agent went away while STS was asked")
	}
}

// look returns the verdict on a token that is known, or the question that is under way, or begins one with start.
func (v *stsVerifier) look(key tokenKey, now time.Time, start func(*flight)) (*flight, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, known := range []*cache{v.good, v.bad} {
		if found, ok := known.get(key, now); ok {
			return &flight{closed(), found}, nil
		}
	}
	if f, ok := v.flights[key]; ok {
		return f, nil
	}
	select {
	case v.slots <- struct{}{}:
	default:
		return nil, later("too many identities to verify at once")
	}
	f := &flight{done: make(chan struct{})}
	v.flights[key] = f
	go start(f)
	return f, nil
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// fly asks STS once for all who wait, and keeps what is worth it. The client's timeout ends it.
func (v *stsVerifier) fly(key tokenKey, f *flight, t *token, agent, endpoint string) {
	f.id, f.err = v.ask(t, agent, endpoint)
	now := time.Now()
	v.mu.Lock()
	var refusal *Refusal
	switch {
	case f.err == nil:
		v.good.put(key, f.verdict, t.expires, now)
	case errors.As(f.err, &refusal) && refusal.Status != http.StatusServiceUnavailable:
		v.bad.put(key, f.verdict, now.Add(refusedFor), now)
	}
	delete(v.flights, key)
	v.mu.Unlock()
	<-v.slots
	close(f.done)
}

// ask asks STS whom the token is of.
func (v *stsVerifier) ask(t *token, agent, endpoint string) (Identity, error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, t.url(), nil)
	if err != nil {
		return Identity{}, unknown("sts token is no URL")
	}
	request.Header.Set("X-Taskguard-Agent", agent)
	request.Header.Set("X-Taskguard-Endpoint", endpoint)
	response, err := v.client.Do(request)
	if err != nil {
		return Identity{}, later("STS cannot be asked now: %v", withoutURL(err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return Identity{}, later("STS cannot be asked now: read answer: %v", err)
	case len(body) > maxAnswer:
		return Identity{}, later("STS answers more than %d bytes", maxAnswer)
	case response.StatusCode == http.StatusOK:
		return v.admit(body)
	case response.StatusCode == http.StatusTooManyRequests || response.StatusCode >= 500 || isThrottling(body):
		return Identity{}, later("STS cannot be asked now: status %d", response.StatusCode)
	}
	return Identity{}, unknown("STS refuses the token with status %d %s", response.StatusCode, errorCode(body))
}

// withoutURL is err without the URL, which holds credentials.
func withoutURL(err error) error {
	var failed interface{ Unwrap() error }
	if errors.As(err, &failed) && failed.Unwrap() != nil {
		return failed.Unwrap()
	}
	return err
}

// admit returns who STS says it is, when that one is let in.
func (v *stsVerifier) admit(body []byte) (Identity, error) {
	caller, err := parseCaller(body)
	if err != nil {
		return Identity{}, err
	}
	switch {
	case !matches(v.cfg.Accounts, caller.account):
		return Identity{}, forbid("account %s is not let in: see the accounts allowed for sts", caller.account)
	case !matches(v.cfg.Roles, caller.role):
		return Identity{}, forbid("role %q of account %s is not let in: see the roles allowed for sts", caller.role,
			caller.account)
	case !instanceID.MatchString(caller.session):
		return Identity{}, forbid("session %q is no instance's: want the instance's own role", caller.session)
	}
	return Identity{Mode: ModeSTS, Account: caller.account, Instance: caller.session, Principal: caller.arn}, nil
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}
