package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ingest"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
)

// Limits of the agents' side. An agent sends one batch a second at most over one connection.
const (
	maxConns      = 4096
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second // a whole request
	writeTimeout  = 60 * time.Second // the request and its answer
	idleTimeout   = 5 * time.Minute
	maxHeader     = 16 << 10
	stopTimeout   = 20 * time.Second // for requests that run when serve is told to stop
)

// Files in the data folder.
const (
	addressFile = "address"
	socketFile  = "endpoint.sock"
)

// serveConfig is what the flags of serve say.
type serveConfig struct {
	listen     string
	data       string
	cert, key  string
	selfSigned bool
	hosts      []string
	maxBytes   byteSize
	retention  time.Duration
	logLevel   slog.Level

	readTimeout time.Duration // 0 means the constant; tests of slow clients set it
}

func newServeCommand() *cobra.Command {
	c := serveConfig{maxBytes: stream.DefaultMaxBytes}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Receive batches from agents and keep them",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.validate(); err != nil {
				return err
			}
			return serve(cmd.Context(), c, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.listen, "listen", "127.0.0.1:8443",
		"address to listen on; with port 0, DATA/address tells the real one")
	f.StringVar(&c.data, "data", "", "folder to keep everything in (required)")
	f.StringVar(&c.cert, "tls-cert", "", "certificate chain in PEM")
	f.StringVar(&c.key, "tls-key", "", "its private key in PEM")
	f.BoolVar(&c.selfSigned, "tls-self-signed", false,
		"make a certificate in DATA/tls, to be trusted by its ca.pem: for demos and tests")
	f.StringSliceVar(&c.hosts, "host", []string{"localhost", "127.0.0.1", "::1"},
		"names and addresses in the self-signed certificate")
	f.Var(&c.maxBytes, "max-bytes", "bytes of batches to keep; the oldest are discarded")
	f.DurationVar(&c.retention, "retention", 0, "age at which batches are discarded, such as 720h; 0 is never")
	f.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	return cmd
}

func (c *serveConfig) validate() error {
	switch {
	case c.data == "":
		return usagef("--data is required: the folder to keep everything in")
	case c.selfSigned && (c.cert != "" || c.key != ""):
		return usagef("--tls-self-signed excludes --tls-cert and --tls-key")
	case !c.selfSigned && (c.cert == "" || c.key == ""):
		return usagef("a certificate is required: --tls-cert and --tls-key, or --tls-self-signed")
	case c.selfSigned && len(c.hosts) == 0:
		return usagef("--host is empty: want the names that agents will use")
	case c.maxBytes < minMaxBytes:
		return usagef("--max-bytes %s: want at least %s", c.maxBytes, minMaxBytes)
	case c.retention != 0 && c.retention < time.Minute:
		return usagef("--retention %s: want at least 1m, or 0 for ever", c.retention)
	}
	return nil
}

// serve receives until ctx is done; then it ends what it has begun and returns nil.
func serve(ctx context.Context, c serveConfig, stderr io.Writer) error {
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.logLevel}))
	if err := os.MkdirAll(c.data, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	certificate, err := c.certificate()
	if err != nil {
		return err
	}
	store, err := stream.Open(ctx, stream.Config{
		Dir: c.data, MaxBytes: int64(c.maxBytes), MaxAge: c.retention, Logger: log,
	})
	if err != nil {
		return err
	}
	defer store.Close()
	handler, err := ingest.New(ingest.Config{Store: store, Version: endpointVersion(), Logger: log})
	if err != nil {
		return err
	}
	agents, err := listenAgents(c, certificate, log, handler)
	if err != nil {
		return err
	}
	defer agents.close()
	local, err := listenLocal(c.data, store, handler, log)
	if err != nil {
		return err
	}
	defer local.close()
	return serveBoth(ctx, agents, local, store.Failed(), log)
}

func (c *serveConfig) certificate() (tls.Certificate, error) {
	if c.selfSigned {
		return selfSigned(filepath.Join(c.data, "tls"), c.hosts, time.Now())
	}
	certificate, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return tls.Certificate{}, usagef("load certificate: %w", err)
	}
	return certificate, nil
}

// serveBoth serves agents and local readers until ctx is done, or one of them or the store fails.
func serveBoth(ctx context.Context, agents, local *listener, storeFailed <-chan struct{}, log *slog.Logger) error {
	ended := make(chan error, 2)
	var running sync.WaitGroup
	running.Go(func() { ended <- agents.serve() })
	running.Go(func() { ended <- local.serve() })
	log.Info("listening", "addr", agents.net.Addr(), "data", filepath.Dir(local.file))

	var err error
	select {
	case <-ctx.Done():
		log.Info("stopping")
	case err = <-ended:
	case <-storeFailed:
		err = errors.New("the log can store no more, see above: repair the disk and start again")
	}
	local.shutdown(0) // readers may follow for ever
	agents.shutdown(stopTimeout)
	running.Wait()
	return err
}

// listener is an HTTP server, the socket it listens on, and the file by which it is found.
type listener struct {
	http   *http.Server
	net    net.Listener
	cancel context.CancelFunc // of the context of every request
	file   string
}

func listenAgents(
	c serveConfig, certificate tls.Certificate, log *slog.Logger, handler http.Handler,
) (*listener, error) {
	if c.readTimeout == 0 {
		c.readTimeout = readTimeout
	}
	plain, err := net.Listen("tcp", c.listen)
	if err != nil {
		return nil, fmt.Errorf("listen for agents: %w", err)
	}
	l := newListener(handler, plain, filepath.Join(c.data, addressFile))
	l.http.ReadHeaderTimeout, l.http.ReadTimeout = min(headerTimeout, c.readTimeout), c.readTimeout
	l.http.WriteTimeout = writeTimeout
	l.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}
	// Failed handshakes, of which the other side chooses the number.
	l.http.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	l.net = limitConns(plain, maxConns)
	if err := writeAddress(l.file, plain.Addr()); err != nil {
		l.close()
		return nil, fmt.Errorf("write address: %w", err)
	}
	return l, nil
}

// writeAddress writes the file at once, for those who wait for it.
func writeAddress(path string, addr net.Addr) error {
	if err := os.WriteFile(path+".tmp", []byte(addr.String()+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func listenLocal(data string, store *stream.Store, handler *ingest.Handler, log *slog.Logger) (*listener, error) {
	path := filepath.Join(data, socketFile)
	// The store's lock is ours, so a socket that is there was left by a process that was killed.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	socket, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for local readers (a socket's path has 107 bytes at most): %w", err)
	}
	l := newListener(newLocalHandler(store, handler.Counts), socket, path)
	l.http.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	if err := os.Chmod(path, 0o600); err != nil {
		l.close()
		return nil, fmt.Errorf("protect socket: %w", err)
	}
	return l, nil
}

func newListener(handler http.Handler, socket net.Listener, file string) *listener {
	ctx, cancel := context.WithCancel(context.Background())
	return &listener{net: socket, cancel: cancel, file: file, http: &http.Server{
		Handler: handler, MaxHeaderBytes: maxHeader, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}}
}

// serve accepts connections until shutdown; then it returns nil.
func (l *listener) serve() error {
	var err error
	if l.http.TLSConfig != nil {
		err = l.http.ServeTLS(l.net, "", "")
	} else {
		err = l.http.Serve(l.net)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve on %s: %w", l.net.Addr(), err)
}

// shutdown ends serve. Requests that run have some time to end by themselves, then their contexts are done.
func (l *listener) shutdown(patience time.Duration) {
	if patience == 0 {
		l.cancel()
	}
	ctx, cancel := context.WithTimeout(context.Background(), max(patience, time.Second))
	defer cancel()
	if l.http.Shutdown(ctx) != nil {
		l.cancel()
		l.http.Close()
	}
}

// close frees what the listener holds.
func (l *listener) close() {
	l.cancel()
	l.http.Close()
	l.net.Close()
	os.Remove(l.file)
}
