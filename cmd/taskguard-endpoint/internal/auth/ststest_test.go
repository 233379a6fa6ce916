package auth_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/auth"
)

const (
	stsHost  = "sts.eu-central-1.amazonaws.com"
	endpoint = "taskguard.example.com"
	account  = "123456789012"
	instance = "i-0123456789abcdef0"
	role     = "taskguard-agent"
)

// fakeSTS is an STS that knows some keys, and signs each question again, by AWS's own signer, to compare. It is there
// for whoever dials stsHost by dial.
type fakeSTS struct {
	server  *httptest.Server
	ca      *testCA
	asked   atomic.Int64
	callers map[string]string // ARNs by access key
	answer  http.HandlerFunc  // instead, unless nil
}

func newFakeSTS(t testing.TB) *fakeSTS {
	s := &fakeSTS{callers: map[string]string{}}
	s.ca = newCA(t, "STS")
	s.server = httptest.NewUnstartedServer(s)
	certificate := s.ca.issue(t, time.Now().Add(time.Hour), []string{stsHost})
	s.server.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	s.server.StartTLS()
	t.Cleanup(s.server.Close)
	return s
}

func secretOf(key string) string { return "secret of " + key }

func (s *fakeSTS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	if s.answer != nil {
		s.answer(w, r)
		return
	}
	query := r.URL.Query()
	key, _, _ := strings.Cut(query.Get("X-Amz-Credential"), "/")
	date, err := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	arn, known := s.callers[key]
	lifetime, _ := time.ParseDuration(query.Get("X-Amz-Expires") + "s")
	if err != nil || !known || time.Now().After(date.Add(lifetime)) {
		deny(w, "InvalidClientTokenId")
		return
	}
	want := presign(key, r.Header.Get("X-Taskguard-Agent"), r.Header.Get("X-Taskguard-Endpoint"), r.Host, date,
		query.Get("X-Amz-Expires"), query.Get("X-Amz-Security-Token"))
	if wanted, _ := url.Parse(want); wanted.Query().Get("X-Amz-Signature") != query.Get("X-Amz-Signature") {
		deny(w, "SignatureDoesNotMatch")
		return
	}
	fmt.Fprint(w, callerXML(arn))
}

func callerXML(arn string) string {
	return `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>` +
		arn + `</Arn><UserId>AROA:x</UserId><Account>` + strings.Split(arn+"::::::", ":")[4] +
		`</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`
}

func deny(w http.ResponseWriter, code string) {
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprintf(w, "<ErrorResponse><Error><Code>%s</Code></Error></ErrorResponse>", code)
}

// presign returns the URL that an agent presigns.
func presign(key, agent, endpoint, host string, date time.Time, expires, session string) string {
	r, _ := http.NewRequest(http.MethodGet,
		"https://"+host+"/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires="+expires, nil)
	r.Header.Set("X-Taskguard-Agent", agent)
	r.Header.Set("X-Taskguard-Endpoint", endpoint)
	credentials := aws.Credentials{AccessKeyID: key, SecretAccessKey: secretOf(key), SessionToken: session}
	empty := sha256.Sum256(nil)
	signed, _, err := v4.NewSigner().PresignHTTP(context.Background(), credentials, r, hex.EncodeToString(empty[:]), "sts",
		"eu-central-1", date)
	if err != nil {
		return err.Error()
	}
	return signed
}

func token(address string) string {
	return "TaskGuard-STS " + base64.RawURLEncoding.EncodeToString([]byte(address))
}

// config lets in the agents of account by the fake.
func (s *fakeSTS) config() *auth.STS {
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.certificate)
	return &auth.STS{
		Hosts: []string{stsHost}, Accounts: []string{account}, Roles: []string{"taskguard-*"}, RootCAs: roots,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != stsHost+":443" {
				return nil, fmt.Errorf("dialled %s", address)
			}
			return new(net.Dialer).DialContext(ctx, network, s.server.Listener.Addr().String())
		},
	}
}
