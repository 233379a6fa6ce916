package https

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/taskguard/taskguard/sender"
)

// Values of Config.Identity.
const (
	// IdentitySTS has each request carry a GetCallerIdentity that is signed for this agent and this receiver, and not
	// made: the receiver makes it, and so learns from STS whose session the agent's is.
	IdentitySTS = "sts"
	// IdentitySigV4 signs each request as those to AWS's own services are.
	IdentitySigV4 = "sigv4"
)

// DefaultService is what an empty Config.Service stands for: API Gateway. VPC Lattice is vpc-lattice-svcs.
const DefaultService = "execute-api"

const (
	// tokenLifetime is for how long a presigned request is good. Receivers take no more.
	tokenLifetime = 15 * time.Minute
	// tokenRenewal is the age at which another one is made: what the receiver is told last is good for 5 minutes more.
	tokenRenewal = 10 * time.Minute
	// refreshInterval is how often at most credentials are asked for anew because a receiver refuses them.
	refreshInterval = time.Minute
)

// Credentials are where the agent's AWS credentials come from.
type Credentials interface {
	// Retrieve returns credentials and the region that they are to be used for. It is called for each request, so it keeps
	// them, and renews them before they expire. With fresh it asks whoever gives them, as a receiver refuses those that it
	// returned before.
	Retrieve(ctx context.Context, fresh bool) (Key, error)
}

// Key is what a request is signed with.
type Key struct {
	aws.Credentials
	Region string
}

// signer has requests prove who the agent is. It is safe for concurrent use.
type signer struct {
	mode     string
	service  string
	sts      string // "https://host[:port]"; "" is the region's
	agent    string
	endpoint string // the receiver's host name, in lower case
	from     Credentials
	v4       *v4.Signer

	mu        sync.Mutex
	stale     bool      // guarded by mu, as are those below; fresh credentials are to be asked for
	refreshed time.Time // when that was done last
	refreshes int       // how often it was done
	current   token
}

// token is a presigned request as it is sent.
type token struct {
	value, access, session, region string
	made                           time.Time
}

// newSigner returns nil when no identity of AWS is configured.
func newSigner(cfg *Config, receiver *url.URL) (*signer, error) {
	s := &signer{
		mode: cfg.Identity, service: cfg.Service, sts: cfg.STSEndpoint, agent: cfg.Agent.String(),
		endpoint: strings.ToLower(receiver.Hostname()), from: cfg.Credentials, v4: v4.NewSigner(),
	}
	switch {
	case cfg.Identity == "":
		return nil, nil
	case cfg.Identity != IdentitySTS && cfg.Identity != IdentitySigV4:
		return nil, fmt.Errorf("identity %q: want %s or %s", cfg.Identity, IdentitySTS, IdentitySigV4)
	case cfg.Credentials == nil:
		return nil, errors.New("an identity without credentials")
	}
	if s.service == "" {
		s.service = DefaultService
	}
	if s.sts != "" {
		u, err := url.Parse(s.sts)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || "https://"+u.Host != strings.TrimSuffix(s.sts, "/") {
			return nil, fmt.Errorf("sts endpoint %q: want https://host[:port]", s.sts)
		}
		s.sts = strings.ToLower("https://" + u.Host)
	}
	return s, nil
}

// sign adds to a request's headers who sends it. All others that are sent must be there already. It returns what refused
// wants to know of the request.
func (s *signer) sign(ctx context.Context, request *http.Request, body []byte) (refreshes int, err error) {
	key, refreshes, err := s.key(ctx)
	if err != nil {
		return 0, s.explain(ctx, err)
	}
	return refreshes, s.signWith(ctx, key, request, body)
}

func (s *signer) signWith(ctx context.Context, key Key, request *http.Request, body []byte) error {
	if s.mode == IdentitySTS {
		value, err := s.token(ctx, key, time.Now())
		if err != nil {
			return &sender.Failure{Err: fmt.Errorf("presign GetCallerIdentity: %w", err)}
		}
		request.Header.Set("Authorization", value)
		return nil
	}
	var nonce [16]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return &sender.Failure{Err: fmt.Errorf("make nonce: %w", err)}
	}
	digest := digestOf(body)
	request.Header.Set("Taskguard-Nonce", hex.EncodeToString(nonce[:]))
	request.Header.Set("X-Amz-Content-Sha256", digest)
	if err := s.v4.SignHTTP(ctx, key.Credentials, request, digest, s.service, key.Region, time.Now()); err != nil {
		return &sender.Failure{Err: fmt.Errorf("sign request: %w", err)}
	}
	return nil
}

func digestOf(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// key returns what to sign with: fresh credentials if those before were refused.
func (s *signer) key(ctx context.Context) (key Key, refreshes int, err error) {
	s.mu.Lock()
	stale, refreshes := s.stale, s.refreshes
	s.mu.Unlock()
	key, err = s.from.Retrieve(ctx, stale)
	if err != nil || !stale {
		return key, refreshes, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale, s.refreshed, s.current = false, time.Now(), token{}
	s.refreshes++
	return key, s.refreshes, nil
}

// refused is told of a request that a receiver refused. It reports whether another try is worth it: with credentials that
// are there by now, or with fresh ones, unless those were asked for a moment ago.
func (s *signer) refused(refreshes int, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if refreshes < s.refreshes || s.stale {
		return true
	}
	if age := now.Sub(s.refreshed); age >= 0 && age < refreshInterval {
		return false
	}
	s.stale = true
	return true
}

// token returns the header of a presigned GetCallerIdentity, which is made anew well before it expires, when the clock was
// set back, and for other credentials.
func (s *signer) token(ctx context.Context, key Key, now time.Time) (string, error) {
	now = now.Round(0) // by the wall clock, as whoever verifies it
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.current
	age := now.Sub(t.made)
	if t.value != "" && t.access == key.AccessKeyID && t.session == key.SessionToken && t.region == key.Region &&
		age >= 0 && age < tokenRenewal {
		return t.value, nil
	}
	address, err := s.presign(ctx, key, now)
	if err != nil {
		return "", err
	}
	*t = token{
		value:  "TaskGuard-STS " + base64.RawURLEncoding.EncodeToString([]byte(address)),
		access: key.AccessKeyID, session: key.SessionToken, region: key.Region, made: now,
	}
	return t.value, nil
}

// presign returns the URL of a GetCallerIdentity that is good for this agent at this receiver only: who makes the request
// has to name both, in headers that are signed.
func (s *signer) presign(ctx context.Context, key Key, now time.Time) (string, error) {
	base := s.sts
	if base == "" {
		base = regionalSTS(key.Region)
	}
	query := url.Values{
		"Action": {"GetCallerIdentity"}, "Version": {"2011-06-15"},
		"X-Amz-Expires": {fmt.Sprint(int(tokenLifetime.Seconds()))},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/?"+query.Encode(), nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("X-Taskguard-Agent", s.agent)
	request.Header.Set("X-Taskguard-Endpoint", s.endpoint)
	address, _, err := s.v4.PresignHTTP(ctx, key.Credentials, request, digestOf(nil), "sts", key.Region, now)
	return address, err
}

// regionalSTS is the address of a region's STS. Other partitions than AWS's and China's need it configured.
func regionalSTS(region string) string {
	suffix := ""
	if strings.HasPrefix(region, "cn-") {
		suffix = ".cn"
	}
	return "https://sts." + region + ".amazonaws.com" + suffix
}

// explain makes a failure of why there are no credentials.
func (s *signer) explain(ctx context.Context, err error) error {
	var known *sender.Failure
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &known):
		return known
	}
	return &sender.Failure{Err: fmt.Errorf("get AWS credentials: %w", err)}
}
