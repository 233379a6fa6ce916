package https

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// Steps of the way to the receiver, in their order.
const (
	StepDNS         = "dns"
	StepTCP         = "tcp"
	StepTLS         = "tls"
	StepClock       = "clock"
	StepCredentials = "credentials"
	StepHealth      = "health" // a request that is like all others, but changes nothing
)

// Step is what Walk found at a step.
type Step struct {
	Name   string
	Tried  bool   // false when one before it failed
	Detail string // of what is well
	Note   string // what is no failure, but should be known; "" is nothing
	Err    error  // a *sender.Failure, or that of the context
}

// soon is how long before it ends a certificate's validity is worth a note.
const soon = 14 * 24 * time.Hour

// Walk goes the way of a batch to the receiver, step by step, and returns what it found at each. What comes after a step
// that failed is not tried. It takes as long as a few requests may.
func (t *Transport) Walk(ctx context.Context) []Step {
	var w walk
	found, at, err := t.follow(ctx)
	failed := func(step string) error {
		if at == step {
			return err
		}
		return nil
	}
	w.step(StepDNS, func() (string, string, error) {
		return t.names(found.addresses), t.public(found.addresses), failed(StepDNS)
	})
	w.step(StepTCP, func() (string, string, error) { return found.connected, "", failed(StepTCP) })
	w.step(StepTLS, func() (string, string, error) {
		if err := failed(StepTLS); err != nil {
			return "", "", err
		}
		return shake(found.tls, time.Now())
	})
	w.step(StepClock, func() (string, string, error) {
		if err := failed(StepClock); err != nil {
			return "", "", err
		}
		return t.clock(found.date, time.Now())
	})
	w.step(StepCredentials, func() (string, string, error) { return t.credentials(ctx) })
	w.step(StepHealth, func() (string, string, error) { return "lets this agent in", "", t.Check(ctx) })
	return w.steps
}

// walk is a way as far as it was gone.
type walk struct {
	steps  []Step
	failed bool
}

func (w *walk) step(name string, try func() (detail, note string, err error)) {
	s := Step{Name: name, Tried: !w.failed}
	if s.Tried {
		s.Detail, s.Note, s.Err = try()
		w.failed = s.Err != nil
	}
	w.steps = append(w.steps, s)
}

// trail is how far a request got. Connections that were begun may go on after it.
type trail struct {
	mu        sync.Mutex
	addresses []netip.Addr         // guarded by mu, as are those below; that the name has
	connected string               // the address
	tls       *tls.ConnectionState // nil before there is one
	date      string
}

func (f *trail) hooks() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		DNSDone: func(i httptrace.DNSDoneInfo) {
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, a := range i.Addrs {
				if addr, ok := netip.AddrFromSlice(a.IP); ok {
					f.addresses = append(f.addresses, addr.Unmap())
				}
			}
		},
		ConnectDone: func(_, addr string, err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if err == nil {
				f.connected = addr
			}
		},
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if err == nil {
				f.tls = &state
			}
		},
	}
}

// follow makes a request that says nothing of who the agent is, by a connection of its own. It returns how far it got,
// and the step that failed and why; "" is none: whatever was answered.
func (t *Transport) follow(ctx context.Context) (found *trail, at string, err error) {
	found = &trail{}
	_, pool, caErr := t.readCA()
	client := t.newClient(pool)
	defer client.CloseIdleConnections()
	date, err := t.ask(httptrace.WithClientTrace(ctx, found.hooks()), client)
	found.mu.Lock()
	defer found.mu.Unlock()
	reached := &trail{addresses: found.addresses, connected: found.connected, tls: found.tls, date: date}
	at = reached.failedAt(err)
	if caErr != nil && at != StepDNS && at != StepTCP {
		return reached, StepTLS, caErr
	}
	return reached, at, err
}

// ask returns the time that an answer tells.
func (t *Transport) ask(ctx context.Context, client *http.Client) (date string, err error) {
	limited, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(limited, http.MethodGet, t.base.JoinPath("/healthz").String(), nil)
	if err != nil {
		return "", err
	}
	request.Header.Set("User-Agent", t.cfg.UserAgent)
	response, err := client.Do(request)
	if err != nil {
		return "", t.unreached(ctx, err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer)); err != nil {
		return "", t.unreached(ctx, err)
	}
	return response.Header.Get("Date"), nil
}

// failedAt returns at which step a request ended with err.
func (f *trail) failedAt(err error) string {
	var (
		dns   *net.DNSError
		alert *net.OpError
	)
	switch {
	case err == nil:
		return ""
	case errors.As(err, &dns):
		return StepDNS
	case f.connected == "":
		return StepTCP
	case f.tls == nil, errors.As(err, &alert) && alert.Op == "remote error": // TLS 1.3 refuses a client after its handshake
		return StepTLS
	}
	return StepClock
}

// names tells which addresses were found.
func (t *Transport) names(addresses []netip.Addr) string {
	host, by := t.base.Hostname(), ""
	if t.proxy != nil {
		host, by = t.proxy.Hostname(), "the proxy "
	}
	if len(addresses) == 0 {
		return by + event.Escape(host) + " is an address"
	}
	list := make([]string, 0, len(addresses))
	for _, a := range addresses {
		list = append(list, a.String())
	}
	return by + event.Escape(host) + " is " + strings.Join(list, ", ")
}

// shared is what providers use within their networks (RFC 6598), and VPCs too.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// public returns a note when batches leave the private network.
func (t *Transport) public(addresses []netip.Addr) string {
	for _, a := range addresses {
		private := a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || shared.Contains(a)
		if !private && t.proxy == nil {
			return a.String() + " is a public address: switch on private DNS of the VPC endpoint, and DNS support and DNS host " +
				"names of the VPC, unless the receiver is meant to be reached by the internet"
		}
	}
	return ""
}

// shake tells of a connection's certificate.
func shake(state *tls.ConnectionState, now time.Time) (detail, note string, err error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return "", "", nil
	}
	cert := state.PeerCertificates[0]
	until := cert.NotAfter.UTC().Format(time.RFC3339)
	if cert.NotAfter.Sub(now) < soon {
		note = "the certificate expires soon: renew it"
	}
	return fmt.Sprintf("%s, certificate for %s until %s", tls.VersionName(state.Version), names(cert), until), note, nil
}

// clock compares this host's clock with the time that an answer told.
func (t *Transport) clock(date string, now time.Time) (detail, note string, err error) {
	theirs, parseErr := http.ParseTime(date)
	if parseErr != nil {
		return "", "not compared: " + t.host() + " does not tell its time", nil
	}
	skew := now.Sub(theirs).Round(time.Second)
	side := "ahead of"
	if skew < 0 {
		side = "behind"
	}
	if skew.Abs() > maxSkew {
		return "", "", failure(nil, "set this host's clock (chronyc tracking; on EC2 by the Amazon Time Sync Service, "+
			"169.254.169.123), or the receiver's if that one is wrong", "this host's clock is %v %s that of %s", skew.Abs(), side, t.host())
	}
	return fmt.Sprintf("%v %s the receiver's", skew.Abs(), side), "", nil
}

// credentials looks at what requests prove the agent's identity by.
func (t *Transport) credentials(ctx context.Context) (detail, note string, err error) {
	if t.signer != nil {
		key, _, err := t.signer.key(ctx)
		if err != nil {
			return "", "", t.signer.explain(ctx, err)
		}
		detail, note := describe(key, time.Now())
		return detail, note, nil
	}
	if t.cfg.CertFile == "" {
		return "none are configured", "", nil
	}
	pair, err := t.certificate(nil)
	if err != nil {
		return "", "", err
	}
	return fmt.Sprintf("certificate of %s until %s", shown(pair.Leaf.Subject.String()), pair.Leaf.NotAfter.UTC().Format(time.RFC3339)), "", nil
}

// describe tells of credentials what is no secret.
func describe(key Key, now time.Time) (detail, note string) {
	until := "they do not expire"
	if key.CanExpire {
		until = "until " + key.Expires.UTC().Format(time.RFC3339)
		if now.After(key.Expires) {
			note = "they have expired by this host's clock (chronyc tracking)"
		}
	}
	return fmt.Sprintf("access key %s by %s for %s, %s", event.Escape(key.AccessKeyID), key.Source, event.Escape(key.Region), until), note
}
