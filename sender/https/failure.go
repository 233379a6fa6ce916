package https

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender"
)

// host returns what the URL names, for messages.
func (t *Transport) host() string { return event.Escape(t.base.Host) }

// failure makes one error of what is wrong and why. The cause is kept for errors.As, but not shown: it names ports and
// times that differ at every try, and the same problem should read the same.
func failure(cause error, remedy, what string, args ...any) *sender.Failure {
	return &sender.Failure{Err: &problem{fmt.Sprintf(what, args...), cause}, Remedy: remedy}
}

type problem struct {
	what  string
	cause error
}

func (p *problem) Error() string { return p.what }

func (p *problem) Unwrap() error { return p.cause }

// unreached explains why there is no complete answer.
func (t *Transport) unreached(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var (
		untrusted *tls.CertificateVerificationError
		noTLS     tls.RecordHeaderError
		remote    *net.OpError
		dns       *net.DNSError
		timeout   net.Error
	)
	var known *sender.Failure
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &remote) && remote.Op == "proxyconnect":
		return failure(err, "look at endpoint.proxy, and whether that proxy runs", "the proxy %s cannot be reached",
			t.proxy.Redacted())
	case errors.As(err, &untrusted):
		return t.untrusted(untrusted)
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return failure(err, "correct the port in url: it must be the one where the receiver speaks https",
			"%s does not speak TLS", t.host())
	case errors.As(err, &remote) && remote.Op == "remote error": // crypto/tls: an alert of the other side
		return failure(err, "look at the receiver's log, and at which TLS versions (1.2 or later) and client certificates "+
			"it asks for", "%s ended the TLS connection: %s", t.host(), shown(remote.Err.Error()))
	case errors.As(err, &dns):
		return t.unresolved(err, dns.IsNotFound)
	case errors.Is(err, syscall.ECONNREFUSED):
		return failure(err, "start the receiver, or correct host and port in url", "%s refuses connections", t.host())
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return failure(err, "look at the subnet's route table and at the VPC endpoint", "there is no route to %s", t.host())
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return failure(err, "allow TCP to that port in the security groups of this instance and of the VPC endpoint, "+
			"and in the network ACLs; if they do, the receiver is overloaded", "%s does not answer in time", t.host())
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE):
		return failure(err, "look at the receiver's log, and at the load balancer's if there is one",
			"%s closed the connection before it answered", t.host())
	}
	return &sender.Failure{Err: err}
}

func (t *Transport) unresolved(err error, notFound bool) error {
	if notFound {
		return failure(err, "correct the host in url, or switch on private DNS of the VPC endpoint",
			"there is no address for the name %s", event.Escape(t.base.Hostname()))
	}
	return failure(err, "look at this host's name servers (/etc/resolv.conf), and whether the VPC has DNS support",
		"the name %s cannot be looked up", event.Escape(t.base.Hostname()))
}

// untrusted explains why a certificate was not accepted.
func (t *Transport) untrusted(err *tls.CertificateVerificationError) error {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &unknown):
		return failure(err, "set ca_file to the certificate of that authority; if it is, the receiver was given another one",
			"the certificate of %s is signed by an unknown authority, %q", t.host(), issuer(err.UnverifiedCertificates))
	case errors.As(err, &name):
		return failure(err, "use a name of the certificate in url, set server_name to one, or renew it with this name",
			"the certificate of %s is for %s, not for %s", t.host(), names(name.Certificate), event.Escape(name.Host))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return t.outdated(err, invalid.Cert)
	}
	return failure(err, "have the receiver's certificate replaced",
		"the certificate of %s is not valid: %s", t.host(), shown(err.Err.Error()))
}

// outdated explains a certificate that is not valid at the time this host believes it is.
func (t *Transport) outdated(err error, cert *x509.Certificate) error {
	if time.Now().Before(cert.NotBefore) {
		return failure(err, "set this host's clock, which is behind (chronyc tracking), or renew the certificate",
			"the certificate of %s is valid only from %s, which is not yet by this host's clock",
			t.host(), cert.NotBefore.UTC().Format(time.RFC3339))
	}
	return failure(err, "renew the receiver's certificate; if it is valid, this host's clock is ahead (chronyc tracking)",
		"the certificate of %s expired at %s by this host's clock", t.host(), cert.NotAfter.UTC().Format(time.RFC3339))
}

func issuer(chain []*x509.Certificate) string {
	if len(chain) == 0 {
		return ""
	}
	return chain[len(chain)-1].Issuer.String()
}

// names lists what a certificate is for.
func names(cert *x509.Certificate) string {
	list := append([]string{}, cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		list = append(list, ip.String())
	}
	if len(list) == 0 {
		return "no host"
	}
	return shown(strings.Join(list, ", "))
}

// refused explains an answer other than 200. Only the receiver itself can call a batch malformed: what says so in
// between is a mistake of configuration, and the batch is kept.
func (t *Transport) refused(response *http.Response, said answer, ours bool, refreshes int) error {
	f := failure(nil, "look at the receiver's log", "%s answers %s", t.host(), status(response, said))
	f.After = retryAfter(response.Header.Get("Retry-After"), time.Now())
	stored, partial := storedOf(response)
	switch code := response.StatusCode; {
	case partial && ours:
		f.Partial, f.Stored = true, stored
	case code == http.StatusRequestEntityTooLarge:
		f.Reject, f.Remedy = sender.RejectTooLarge, "raise the limit of what is in front of the receiver to 4 MiB"
	case saysMalformed(code) && ours:
		f.Reject = sender.RejectMalformed
		f.Remedy = "bring agent and receiver to versions that fit; the batch is in rejected/ of the spool"
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		f.Refresh = t.cfg.CertFile != "" || t.signer != nil && t.signer.refused(refreshes, time.Now())
		f.Remedy = t.unauthorised(response, said, ours)
	case code == http.StatusTooManyRequests:
		f.Remedy = "none is needed unless it lasts; then raise the receiver's rate for one agent"
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed, code >= 300 && code < 500 && !ours:
		f.Remedy = notOurs
	case code < 300:
		return t.stranger(response.Status)
	}
	return f
}

// storedOf reads how many events of the batch the receiver has, from the answer to one that it has a part of.
func storedOf(response *http.Response) (uint32, bool) {
	stored, err := strconv.ParseUint(response.Header.Get("Taskguard-Stored"), 10, 32)
	return uint32(stored), err == nil && response.StatusCode == http.StatusConflict
}

func saysMalformed(code int) bool {
	return code == http.StatusBadRequest || code == http.StatusUnsupportedMediaType ||
		code == http.StatusUnprocessableEntity
}

const notOurs = "correct url: what answers there is no TaskGuard receiver"

// stranger says that something answers which is not the receiver.
func (t *Transport) stranger(why string) error {
	return failure(nil, notOurs, "%s gives an unknown answer: %s", t.host(), shown(why))
}

func status(response *http.Response, said answer) string {
	text := strconv.Itoa(response.StatusCode)
	if name := http.StatusText(response.StatusCode); name != "" {
		text += " " + name
	}
	if said.Error != "" {
		text += ": " + said.Error
	}
	return text
}

// maxSkew is how far apart two clocks may be before signed requests are refused for it (AWS allows 5 minutes).
const maxSkew = 5 * time.Minute

func (t *Transport) unauthorised(response *http.Response, said answer, ours bool) string {
	theirs, err := http.ParseTime(response.Header.Get("Date"))
	if skew := time.Since(theirs).Abs(); err == nil && skew > maxSkew {
		return "set this host's clock (chronyc tracking): it differs from the receiver's by more than 5 minutes"
	}
	for _, p := range policies() {
		if strings.Contains(strings.ToLower(said.Error), p.named) {
			return p.remedy
		}
	}
	if t.cfg.Identity == "" && t.cfg.CertFile == "" {
		return "configure how this agent proves who it is (identity.mode), as the receiver asks for it"
	}
	if !ours {
		return "what is in front of the receiver refuses: look at the policy of the VPC endpoint, those of the agent's role and of " +
			"the API or service, and the organization's service control policies (SCP)"
	}
	return "allow this agent's identity (account, role or certificate) at the receiver"
}

// policy is a kind of policy by which AWS refuses a request, as its answer names it.
type policy struct{ named, remedy string }

// policies are as in "Troubleshoot access denied error messages" of the IAM user guide.
func policies() []policy {
	return []policy{
		{"service control policy", "allow it in the organization's service control policy (SCP) for this account"},
		{"resource control policy", "allow it in the organization's resource control policy (RCP) for this account"},
		{"vpc endpoint policy", "allow it in the policy of the VPC endpoint"},
		{"permissions boundary", "allow it in the permissions boundary of the agent's role"},
		{"identity-based policy", "allow it in a policy of the agent's role"},
		{"session policy", "allow it in the session policy of the agent's role"},
		{"resource-based policy", "allow the agent's role in the resource policy of the API or service"},
		{"auth policy", "allow the agent's role in the auth policy of the VPC Lattice service"},
	}
}

// retryAfter reads the header: seconds, or a date. 0 is unsaid.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
