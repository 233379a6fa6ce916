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
	"time"

	"github.com/spf13/cobra"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ingest"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
)

// Limits of the agents' side. An agent sends one batch a second over one connection, unless it catches up.
const (
	maxConns      = 4096
	maxStreams    = 16 // of a connection, that is HTTP/2 requests at once; an agent has 4
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
	metrics    string        // address; empty: off
	drainDelay time.Duration // between saying that serve stops and stopping to accept
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
	f.StringVar(&c.metrics, "metrics-listen", "",
		"local address for GET /metrics, /healthz and /readyz by plain HTTP, such as 127.0.0.1:9464; off when empty")
	f.DurationVar(&c.drainDelay, "drain-delay", 0,
		"how long /readyz answers 503 before serve stops to accept, for a load balancer to see it")
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
	case c.drainDelay < 0 || c.drainDelay > time.Minute:
		return usagef("--drain-delay %s: want 0 to 1m", c.drainDelay)
	case c.retention != 0 && c.retention < time.Minute:
		return usagef("--retention %s: want at least 1m, or 0 for ever", c.retention)
	}
	return nil
}

// serve receives until ctx is done; then it ends what it has begun and returns nil.
func serve(ctx context.Context, c serveConfig, stderr io.Writer) error {
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.logLevel}))
	s := newServing(log)
	defer s.stop()
	if err := c.start(ctx, s); err != nil {
		return err
	}
	return s.wait(ctx)
}

// start starts all parts, those that agents talk to last.
func (c *serveConfig) start(ctx context.Context, s *serving) error {
	if err := os.MkdirAll(c.data, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	certificate, err := c.certificate(s.log)
	if err != nil {
		return err
	}
	store, err := c.startStream(ctx, s)
	if err != nil {
		return err
	}
	handler, err := ingest.New(ingest.Config{
		Store: store, Version: endpointVersion(), Ready: ready(store), Logger: s.log,
	})
	if err != nil {
		return err
	}
	local, err := listenLocal(c.data, store, handler, s.log)
	if err != nil {
		return err
	}
	s.start("local socket", local.serve, func() { local.end(0) }) // readers may follow for ever
	metrics, err := newMetrics(store, handler)
	if err != nil {
		return err
	}
	if c.metrics != "" {
		scraped, err := listenMetrics(c.metrics, metrics, handler, s.log)
		if err != nil {
			return err
		}
		s.start("metrics", scraped.serve, func() { scraped.end(0) })
	}
	agents, err := listenAgents(*c, certificate, s.log, metrics.timed(handler))
	if err != nil {
		return err
	}
	s.start("agents", agents.serve, func() { c.drain(handler, agents) })
	s.log.Info("listening", "addr", agents.net.Addr(), "data", c.data)
	return nil
}

// startStream opens the log. It is closed when all that use it have ended.
func (c *serveConfig) startStream(ctx context.Context, s *serving) (*stream.Store, error) {
	store, err := stream.Open(ctx, stream.Config{
		Dir: c.data, MaxBytes: int64(c.maxBytes), MaxAge: c.retention, Logger: s.log,
	})
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	s.start("stream", func() error { return untilFailed(store.Failed(), ended) }, func() {
		close(ended)
		store.Close()
	})
	return store, nil
}

// untilFailed waits until the log has failed, or is no longer used.
func untilFailed(failed, ended <-chan struct{}) error {
	select {
	case <-failed:
		return errLogFailed
	case <-ended:
		return nil
	}
}

var errLogFailed = errors.New("the log can store no more, see above: repair the disk and start again")

// ready returns what says why store cannot store.
func ready(store *stream.Store) func() error {
	return func() error {
		select {
		case <-store.Failed():
			return errLogFailed
		default:
			return nil
		}
	}
}

// drain tells load balancers, gives them some time to look, and then lets the requests that run end.
func (c *serveConfig) drain(handler *ingest.Handler, agents *listener) {
	handler.Drain()
	time.Sleep(c.drainDelay)
	agents.end(stopTimeout)
}

// certificate returns what gives the certificate for each handshake.
func (c *serveConfig) certificate(log *slog.Logger) (*certificateFiles, error) {
	if !c.selfSigned {
		return openCertificate(c.cert, c.key, certificateEvery, log)
	}
	certificate, err := selfSigned(filepath.Join(c.data, "tls"), c.hosts, time.Now())
	if err != nil {
		return nil, err
	}
	return &certificateFiles{current: &certificate, every: 1<<63 - 1, looked: time.Now()}, nil
}

// listener is an HTTP server, the socket it listens on, and the file by which it is found.
type listener struct {
	http   *http.Server
	net    net.Listener
	cancel context.CancelFunc // of the context of every request
	file   string
}

func listenAgents(
	c serveConfig, certificate *certificateFiles, log *slog.Logger, handler http.Handler,
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
	l.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate.get}
	l.http.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: maxStreams}
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

// end ends serve and frees what the listener holds.
func (l *listener) end(patience time.Duration) {
	l.shutdown(patience)
	l.close()
}

// close frees what the listener holds.
func (l *listener) close() {
	l.cancel()
	l.http.Close()
	l.net.Close()
	if l.file != "" {
		os.Remove(l.file)
	}
}
