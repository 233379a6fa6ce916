package auth

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// MTLS says whose client certificates are taken.
type MTLS struct {
	// CAFile has the certificates (PEM) that sign agents' certificates. It is read again when it has changed; while it
	// cannot be read, what was read last is good. Connections of agents whose CA is not in it any more are let in no
	// longer.
	CAFile string
	// Logger takes what the operator should know. Nil discards.
	Logger *slog.Logger
}

// maxCAFile bounds the CA file in bytes.
const maxCAFile = 1 << 20

type mtlsVerifier struct {
	file string
	log  *slog.Logger

	mu      sync.Mutex
	info    os.FileInfo // guarded by mu, as are those below; of the file when it was read last
	failing bool
	current *authorities
}

// authorities are certificates that sign agents' certificates.
type authorities struct {
	pool *x509.CertPool
	has  map[[sha256.Size]byte]bool // by the digest of each
}

func newMTLS(cfg MTLS) (*mtlsVerifier, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	v := &mtlsVerifier{file: cfg.CAFile, log: cfg.Logger.With("component", "auth")}
	if err := v.read(); err != nil {
		return nil, fmt.Errorf("read client CA: %w", err)
	}
	return v, nil
}

// read reads the file if it has changed.
func (v *mtlsVerifier) read() error {
	info, err := os.Stat(v.file)
	if err != nil {
		return err
	}
	if v.info != nil && os.SameFile(info, v.info) && info.ModTime().Equal(v.info.ModTime()) && info.Size() == v.info.Size() {
		return nil
	}
	file, err := os.Open(v.file)
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxCAFile+1))
	if err != nil {
		return err
	}
	if len(text) > maxCAFile {
		return fmt.Errorf("file %s: more than %d bytes", v.file, maxCAFile)
	}
	current, err := parseAuthorities(text)
	if err != nil {
		return fmt.Errorf("file %s: %w", v.file, err)
	}
	v.info, v.current = info, current
	return nil
}

func parseAuthorities(text []byte) (*authorities, error) {
	a := &authorities{pool: x509.NewCertPool(), has: make(map[[sha256.Size]byte]bool)}
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		a.pool.AddCert(certificate)
		a.has[sha256.Sum256(certificate.Raw)] = true
	}
	if len(a.has) == 0 || len(bytes.TrimSpace(text)) > 0 {
		return nil, errors.New("want certificates in PEM and nothing else")
	}
	return a, nil
}

// authorities returns those of the file as it is now.
func (v *mtlsVerifier) authorities() *authorities {
	v.mu.Lock()
	defer v.mu.Unlock()
	err := v.read()
	if err != nil && !v.failing {
		v.log.Error("client CA cannot be read, the last one stays in use", "err", err)
	}
	v.failing = err != nil
	return v.current
}

// ConfigureTLS has a server's c ask for client certificates and verify them by the CA file as it is at the time. It does
// nothing unless the mode is on. Agents of other modes, and load balancers, need no certificate.
func (a *Authenticator) ConfigureTLS(c *tls.Config) {
	if a.mtls == nil {
		return
	}
	c.ClientAuth = tls.VerifyClientCertIfGiven
	c.ClientCAs = a.mtls.authorities().pool
	base := c.Clone()
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		fresh := base
		if base.GetConfigForClient != nil {
			other, err := base.GetConfigForClient(hello)
			if err != nil {
				return nil, err
			}
			if other != nil {
				fresh = other
			}
		}
		fresh = fresh.Clone()
		fresh.ClientAuth, fresh.ClientCAs = tls.VerifyClientCertIfGiven, a.mtls.authorities().pool
		return fresh, nil
	}
}

// verify returns whose certificate a request's connection has. The connection may be older than what is known now.
func (v *mtlsVerifier) verify(r *http.Request, now time.Time) (Identity, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return Identity{}, unknown("no credentials: want a client certificate")
	}
	current := v.authorities()
	good := slices.ContainsFunc(r.TLS.VerifiedChains, func(chain []*x509.Certificate) bool {
		return len(chain) > 0 && current.has[sha256.Sum256(chain[len(chain)-1].Raw)] && valid(chain, now)
	})
	if !good {
		return Identity{}, unknown("client certificate has expired, or its CA is not trusted any more")
	}
	return certificateIdentity(r.TLS.VerifiedChains[0][0])
}

func valid(chain []*x509.Certificate, now time.Time) bool {
	return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		return now.Before(c.NotBefore) || now.After(c.NotAfter)
	})
}

// certificateIdentity reads for whom a certificate speaks: by a URI taskguard://ACCOUNT/INSTANCE, or else by a DNS name
// that is an instance id. There has to be exactly one.
func certificateIdentity(c *x509.Certificate) (Identity, error) {
	id := Identity{Mode: ModeMTLS, Principal: "certificate " + c.Subject.String()}
	var found int
	for _, uri := range c.URIs {
		if uri.Scheme != "taskguard" {
			continue
		}
		found++
		id.Account, id.Instance = uri.Host, strings.TrimPrefix(uri.Path, "/")
		plain := "taskguard://" + id.Account + "/" + id.Instance
		if !accountID.MatchString(id.Account) || !instanceID.MatchString(id.Instance) || uri.String() != plain {
			return Identity{}, forbid("%s: URI %q: want taskguard://ACCOUNT/INSTANCE", id.Principal, uri)
		}
	}
	if found == 0 {
		for _, name := range c.DNSNames {
			if instanceID.MatchString(name) {
				found++
				id.Instance = name
			}
		}
	}
	if found != 1 {
		return Identity{}, forbid("%s names %d instances: want one, as a URI taskguard://ACCOUNT/INSTANCE", id.Principal, found)
	}
	return id, nil
}
