package main

import (
	"crypto/tls"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificateEvery is how often at most the files of a certificate are looked at, which a handshake does.
const certificateEvery = 10 * time.Second

// certificateFiles is a certificate that is read again when its files have changed.
type certificateFiles struct {
	cert, key string
	every     time.Duration
	log       *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate // guarded by mu, as are those below
	version [2]fileVersion   // that current is of, or that could not be used
	looked  time.Time
}

// fileVersion changes when a file is written or replaced.
type fileVersion struct {
	time time.Time
	size int64
}

// openCertificate reads a certificate for the first time.
func openCertificate(cert, key string, every time.Duration, log *slog.Logger) (*certificateFiles, error) {
	f := &certificateFiles{cert: cert, key: key, every: every, log: log, looked: time.Now()}
	f.version = f.versions()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, usagef("load certificate: %w", err)
	}
	f.current = &pair
	return f, nil
}

// get returns the certificate for a handshake. While the files cannot be used, as in between the writes of the two, it
// is the one before.
func (f *certificateFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= f.every {
		f.looked = now
		f.reread()
	}
	return f.current, nil
}

func (f *certificateFiles) reread() {
	version := f.versions()
	if version == f.version {
		return
	}
	f.version = version
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		f.log.Error("certificate changed and cannot be used, going on with the one before", "err", err)
		return
	}
	f.current = &pair
	f.log.Info("using the new certificate", "subject", pair.Leaf.Subject, "until", pair.Leaf.NotAfter)
}

func (f *certificateFiles) versions() (v [2]fileVersion) {
	for i, path := range []string{f.cert, f.key} {
		if info, err := os.Stat(path); err == nil {
			v[i] = fileVersion{info.ModTime(), info.Size()}
		}
	}
	return v
}
