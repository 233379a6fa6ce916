// Package auth finds out who sends a request, and for which hosts that party may speak.
//
// It promises: who cannot prove who it is gets nothing but a Refusal; a proof is good for one endpoint name and one agent
// only, and for as long as its maker said, minutes at most; nobody but a configured STS host is ever asked; and no number
// of requests takes more memory or connections than Config allows.
package auth

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// Modes of Identity.
const (
	ModeOpen  = "open" // nobody proves anything
	ModeSTS   = "sts"
	ModeSigV4 = "sigv4"
	ModeMTLS  = "mtls"
)

// AgentHeader names the agent that sends, in its UUID form.
const AgentHeader = "Taskguard-Agent"

// clockSkew is how far an agent's clock may be off, as with AWS.
const clockSkew = 5 * time.Minute

// Config says which modes are allowed. With none the endpoint is open: everybody may speak for every host.
type Config struct {
	// Endpoints are the host names by which agents know this endpoint, without a port. STS and SigV4 need one at least.
	Endpoints []string
	STS       *STS
	SigV4     *SigV4
	MTLS      *MTLS
}

// Identity is who sends a request. The zero value may speak for nobody.
type Identity struct {
	Mode      string
	Account   string // AWS account; "" is unknown
	Instance  string // EC2 instance id; "" may speak for any host of Account
	Principal string // for the log: an ARN, an access key id, a certificate's subject
}

// MaySpeakFor returns nil when a batch of h may come from id, or else a Refusal.
func (id Identity) MaySpeakFor(h *event.Host) error {
	switch {
	case id.Mode == ModeOpen:
		return nil
	case id.Mode == "" || id.Account == "" && id.Instance == "":
		return forbid("nobody is known to send this")
	case id.Instance != "" && id.Instance != h.InstanceID:
		return forbid("%s may not speak for instance %q", id.Principal, h.InstanceID)
	case id.Account != "" && id.Account != h.AccountID:
		return forbid("%s may not speak for account %q", id.Principal, h.AccountID)
	}
	return nil
}

// Refusal says why a request is not taken: 401 from who is not known (any more), 403 from who is and may not, 503 when
// that cannot be found out now.
type Refusal struct {
	Status int
	Reason string
}

func (r *Refusal) Error() string { return r.Reason }

func unknown(format string, args ...any) *Refusal {
	return &Refusal{http.StatusUnauthorized, fmt.Sprintf(format, args...)}
}

func forbid(format string, args ...any) *Refusal {
	return &Refusal{http.StatusForbidden, fmt.Sprintf(format, args...)}
}

func later(format string, args ...any) *Refusal {
	return &Refusal{http.StatusServiceUnavailable, fmt.Sprintf(format, args...)}
}

// Authenticator knows agents. Make one with New.
type Authenticator struct {
	endpoints map[string]bool
	sts       *stsVerifier
	sigv4     *sigv4Verifier
	mtls      *mtlsVerifier
}

// New returns an authenticator.
func New(cfg Config) (*Authenticator, error) {
	a := &Authenticator{endpoints: make(map[string]bool)}
	for _, name := range cfg.Endpoints {
		if name == "" || name != hostName(name) {
			return nil, fmt.Errorf("endpoint name %q: want a host name in lower case, without a port", name)
		}
		a.endpoints[name] = true
	}
	if len(a.endpoints) == 0 && (cfg.STS != nil || cfg.SigV4 != nil) {
		return nil, errors.New("no endpoint name: want the host name of the URL that agents are configured with")
	}
	var err error
	if cfg.STS != nil {
		if a.sts, err = newSTS(*cfg.STS); err != nil {
			return nil, fmt.Errorf("configure sts: %w", err)
		}
	}
	if cfg.SigV4 != nil {
		if a.sigv4, err = newSigV4(*cfg.SigV4); err != nil {
			return nil, fmt.Errorf("configure sigv4: %w", err)
		}
	}
	if cfg.MTLS != nil {
		if a.mtls, err = newMTLS(*cfg.MTLS); err != nil {
			return nil, fmt.Errorf("configure mtls: %w", err)
		}
	}
	return a, nil
}

// Open reports whether no mode is on: the operator should know.
func (a *Authenticator) Open() bool { return a.sts == nil && a.sigv4 == nil && a.mtls == nil }

// Authenticate returns who sent r with body, or a Refusal. It keeps neither.
func (a *Authenticator) Authenticate(r *http.Request, body []byte) (Identity, error) {
	if a.Open() {
		return Identity{Mode: ModeOpen}, nil
	}
	agent, err := one(r.Header, AgentHeader)
	if err != nil {
		return Identity{}, err
	}
	if id, err := event.ParseID(agent); err != nil || id.String() != agent {
		return Identity{}, unknown("header %s: want a UUID in lower case", AgentHeader)
	}
	scheme, rest := "", ""
	if len(r.Header.Values("Authorization")) > 0 {
		value, err := one(r.Header, "Authorization")
		if err != nil {
			return Identity{}, err
		}
		scheme, rest, _ = strings.Cut(value, " ")
	}
	switch {
	case scheme == stsScheme && a.sts != nil:
		return a.withSTS(r, agent, rest)
	case scheme == sigv4Algorithm && a.sigv4 != nil:
		if err := a.ours(r); err != nil {
			return Identity{}, err
		}
		return a.sigv4.verify(r, rest, body, time.Now())
	case scheme == "" && a.mtls != nil:
		return a.mtls.verify(r, time.Now())
	case scheme == "":
		return Identity{}, unknown("no credentials: want %s", a.modes())
	}
	return Identity{}, unknown("credentials of a kind that is not allowed here: want %s", a.modes())
}

func (a *Authenticator) modes() string {
	var on []string
	if a.sts != nil {
		on = append(on, ModeSTS)
	}
	if a.sigv4 != nil {
		on = append(on, ModeSigV4)
	}
	if a.mtls != nil {
		on = append(on, ModeMTLS)
	}
	return strings.Join(on, " or ")
}

// ours returns nil if r is for one of our names.
func (a *Authenticator) ours(r *http.Request) error {
	if !a.endpoints[hostName(r.Host)] {
		return unknown("host %q is no name of this endpoint", r.Host)
	}
	return nil
}

// hostName is the host of a Host header, in lower case, without port and brackets.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

// one returns the value of a header that has to be there once.
func one(h http.Header, name string) (string, error) {
	values := h.Values(name)
	if len(values) != 1 || values[0] == "" {
		return "", unknown("header %s: want one, got %d", name, len(values))
	}
	return values[0], nil
}

var (
	// instanceID is the form of EC2's instance ids, the short one being that of instances from before 2016.
	instanceID = regexp.MustCompile(`^i-([0-9a-f]{8}|[0-9a-f]{17})$`)
	accountID  = regexp.MustCompile(`^[0-9]{12}$`)
)
