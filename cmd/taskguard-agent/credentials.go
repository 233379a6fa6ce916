package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/https"
)

const (
	// credentialsTimeout bounds one search for credentials.
	credentialsTimeout = 5 * time.Second
	// metadataTimeout bounds connecting to the metadata service, which is on the instance's own host.
	metadataTimeout = time.Second
	// renewBefore is how long before they expire credentials are asked for anew: an instance profile's next ones are there
	// 5 minutes before.
	renewBefore = 5 * time.Minute
	// renewInterval is how often that is tried.
	renewInterval = 30 * time.Second
)

// awsCredentials are those that AWS's tools find by default: of the environment, of shared files, of a container's
// endpoint, of the instance's profile by version 2 of the metadata service. They are looked for when they are first
// needed, again before they expire, and when they are refused. It is safe for concurrent use.
type awsCredentials struct {
	region  string        // "" is what the environment, or else the metadata service, says
	timeout time.Duration // of one search; 0 is credentialsTimeout
	log     *slog.Logger

	mu    sync.Mutex
	key   https.Key // guarded by mu, as are those below
	asked time.Time // when they were looked for last
	found time.Time // when they were found last
}

// Retrieve returns what was found before while it is good, unless it has to be fresh.
func (c *awsCredentials) Retrieve(ctx context.Context, fresh bool) (https.Key, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	// Those that have expired when they are found are used all the same: in an outage of its own, AWS takes them for longer.
	good := c.key.HasKeys() && (!c.key.CanExpire || now.Before(c.key.Expires) || now.Sub(c.found) < renewInterval)
	due := c.key.CanExpire && c.key.Expires.Sub(now) < renewBefore && now.Sub(c.asked) >= renewInterval
	if good && !due && !fresh {
		return c.key, nil
	}
	c.asked = now
	key, err := c.find(ctx)
	switch {
	case err == nil:
		c.key, c.found = key, now
		return key, nil
	case good && !fresh:
		c.log.Warn("AWS credentials cannot be renewed yet", "error", err, "expire", c.key.Expires)
		return c.key, nil
	}
	return https.Key{}, err
}

// find looks for credentials wherever they may be, as if for the first time: files may have changed.
func (c *awsCredentials) find(ctx context.Context) (key https.Key, err error) {
	timeout := c.timeout
	if timeout == 0 {
		timeout = credentialsTimeout
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	transport := &http.Transport{DialContext: (&net.Dialer{Timeout: metadataTimeout}).DialContext}
	defer transport.CloseIdleConnections()
	seen := &witness{base: transport}
	service := imds.New(imds.Options{
		EnableFallback: aws.FalseTernary, // version 1 answers whoever can make the host send a request
		HTTPClient:     &http.Client{Transport: seen},
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = 3, 100*time.Millisecond
		}),
		DisableDefaultMaxBackoff: true, // ours is shorter
	})
	found, err := awsconfig.LoadDefaultConfig(limited, awsconfig.WithRegion(c.region),
		awsconfig.WithEC2RoleCredentialOptions(func(o *ec2rolecreds.Options) { o.Client = service }))
	if err == nil {
		key.Credentials, err = found.Credentials.Retrieve(limited)
	}
	switch {
	case ctx.Err() != nil:
		return key, ctx.Err()
	case err != nil:
		return key, seen.explain(err)
	}
	if key.Region = found.Region; key.Region != "" {
		return key, nil
	}
	answer, err := service.GetRegion(limited, nil)
	if err != nil {
		return key, because(err, "set identity.region, or AWS_REGION in the agent's environment", "the region is not known")
	}
	key.Region = answer.Region
	return key, nil
}

// because makes one failure of what is wrong and why. The cause is not shown, as it may differ at every try.
func because(cause error, remedy, what string, args ...any) error {
	return &sender.Failure{Err: &hidden{fmt.Sprintf(what, args...), cause}, Remedy: remedy}
}

// hidden is an error that does not show its cause.
type hidden struct {
	text  string
	cause error
}

func (h *hidden) Error() string { return h.text }

func (h *hidden) Unwrap() error { return h.cause }

// witness sees how the metadata service answers, which the errors of AWS's library do not tell in full.
type witness struct {
	base http.RoundTripper

	mu     sync.Mutex
	asked  bool // guarded by mu, as are those below
	status int  // of the last answer; 0 is none
	err    error
}

// RoundTrip makes a request.
func (w *witness) RoundTrip(request *http.Request) (*http.Response, error) {
	w.note(0, nil)
	response, err := w.base.RoundTrip(request)
	if err != nil {
		w.note(0, err)
		return nil, err
	}
	w.note(response.StatusCode, nil)
	return response, nil
}

func (w *witness) note(status int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked, w.status, w.err = true, status, err
}

// explain says why there are no credentials.
func (w *witness) explain(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var (
		refusal interface{ ErrorCode() string }
		network *net.OpError
	)
	switch {
	case w.asked && w.status == http.StatusNotFound:
		return because(err, "attach an instance profile with the agent's role to this instance (EC2: Modify IAM role)",
			"this instance has no instance profile, and no other AWS credentials were found")
	case w.asked && w.status == http.StatusForbidden:
		return because(err, "switch on the metadata service of this instance (HttpEndpoint)",
			"the instance metadata service refuses to answer")
	case w.asked && w.status == 0 && errors.As(w.err, &network) && network.Op == "dial":
		return because(err, "if this is an EC2 instance, allow 169.254.169.254 in its firewall and routes; if not, give the "+
			"agent credentials by its environment or by shared files", "the instance metadata service cannot be reached, "+
			"and no other AWS credentials were found")
	case w.asked && w.status == 0:
		return because(err, "raise the hop limit of the metadata service (HttpPutResponseHopLimit) to 2, or run the agent in "+
			"the host's network", "the instance metadata service does not answer this process")
	case errors.As(err, &refusal) && refusal.ErrorCode() == "AssumeRoleUnauthorizedAccess":
		return because(err, "have the trust policy of the instance profile's role name ec2.amazonaws.com",
			"EC2 may not assume the role of the instance profile")
	}
	return &sender.Failure{Err: fmt.Errorf("get AWS credentials: %w", err),
		Remedy: "look at AWS_* in the agent's environment, at its shared files (~/.aws) and at the instance profile"}
}
