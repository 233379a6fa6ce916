package https

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/taskguard/taskguard/sender"
)

// certificate reads the agent's certificate: for each connection anew, so that one that is replaced is taken up.
func (t *Transport) certificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(t.cfg.CertFile, t.cfg.KeyFile)
	if err != nil {
		return nil, &sender.Failure{Err: fmt.Errorf("read client certificate: %w", err),
			Remedy: "put this agent's PEM certificate into " + t.cfg.CertFile + " and its key into " + t.cfg.KeyFile}
	}
	if err := outdated(pair.Leaf, time.Now()); err != nil {
		return nil, &sender.Failure{Err: err, Remedy: "renew the certificate in " + t.cfg.CertFile +
			"; if it is valid, set this host's clock (chronyc tracking)"}
	}
	return &pair, nil
}

func outdated(cert *x509.Certificate, now time.Time) error {
	switch {
	case now.After(cert.NotAfter):
		return fmt.Errorf("the client certificate expired at %s by this host's clock", cert.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(cert.NotBefore):
		return fmt.Errorf("the client certificate is valid only from %s, which is not yet by this host's clock",
			cert.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// tunnelled looks at a proxy's answer to CONNECT.
func (t *Transport) tunnelled(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	return failure(nil, "have the proxy allow CONNECT to "+t.host()+", or correct endpoint.proxy",
		"the proxy %s answers %s", t.proxy.Redacted(), shown(answer.Status))
}

func parseProxy(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("parse proxy: want http://host:port")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("proxy %q: want http://host:port", u.Redacted())
	}
	return u, nil
}
