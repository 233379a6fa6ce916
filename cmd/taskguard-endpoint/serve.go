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
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/auth"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ingest"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
)

// Limits of the agents' side that are not configured.
const (
	maxStreams    = 16 // of a connection, that is HTTP/2 requests at once; an agent has 4
	headerTimeout = 10 * time.Second
	answerTimeout = 30 * time.Second // after a request has arrived
	idleTimeout   = 5 * time.Minute
	maxHeader     = 16 << 10
	stopTimeout   = 20 * time.Second // for requests that run when serve is told to stop
)

// Files in the data folder.
const (
	addressFile = "address"
	socketFile  = "endpoint.sock"
)

func newServeCommand() *cobra.Command {
	var f configFlags
	var check bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Receive batches from agents and keep them",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.load(cmd)
			if err != nil {
				return err
			}
			if check {
				return c.check(cmd.OutOrStdout())
			}
			return serve(cmd.Context(), c, cmd.ErrOrStderr())
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "check the configuration and its files, and do no more")
	return cmd
}

// check says that the configuration is well, which load has found, and the files it names are.
func (c *config) check(stdout io.Writer) error {
	if !c.SelfSigned {
		if _, err := openCertificate(c.CertFile, c.KeyFile, certificateEvery, nil); err != nil {
			return err
		}
	}
	if _, err := c.Identity.authenticator(nil); err != nil {
		return err
	}
	_, err := fmt.Fprintln(stdout, "the configuration is valid")
	return err
}

// serve receives until ctx is done; then it ends what it has begun and returns nil.
func serve(ctx context.Context, c config, stderr io.Writer) error {
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.LogLevel}))
	s := newServing(log)
	defer s.stop()
	if err := c.start(ctx, s); err != nil {
		return err
	}
	return s.wait(ctx)
}

// start starts all parts, those that agents talk to last.
func (c *config) start(ctx context.Context, s *serving) error {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data folder: %w", err)
	}
	certificate, err := c.certificate(s.log)
	if err != nil {
		return err
	}
	agentsAre, err := c.Identity.authenticator(s.log)
	if err != nil {
		return err
	}
	if agentsAre.Open() {
		s.log.Warn("agents are not authenticated: whoever reaches the address can store batches; see auth in the configuration")
	}
	store, err := c.startStream(ctx, s)
	if err != nil {
		return err
	}
	handler, err := ingest.New(ingest.Config{
		Store: store, Version: endpointVersion(), Ready: ready(store), Limits: c.Limits, Auth: agentsAre,
		Logger: s.log,
	})
	if err != nil {
		return err
	}
	local, err := listenLocal(c.DataDir, store, handler, s.log)
	if err != nil {
		return err
	}
	s.start("local socket", local.serve, func() { local.end(0) }) // readers may follow for ever
	stores, err := c.startStore(ctx, s, store)
	if err != nil {
		return err
	}
	covered, err := c.startCoverage(ctx, s, store)
	if err != nil {
		return err
	}
	metrics, err := newMetrics(storeMetrics{stores}, coverageMetrics{covered}, ingestMetrics{handler}, streamMetrics{store})
	if err != nil {
		return err
	}
	if c.MetricsListen != "" {
		scraped, err := listenMetrics(c.MetricsListen, metrics, handler, s.log)
		if err != nil {
			return err
		}
		s.start("metrics", scraped.serve, func() { scraped.end(0) })
	}
	if !slices.Contains(c.Roles, roleIngest) {
		s.log.Info("serving without agents", "roles", c.Roles, "data", c.DataDir)
		return nil
	}
	agents, err := listenAgents(*c, certificate, agentsAre, s.log, metrics.timed(handler))
	if err != nil {
		return err
	}
	s.start("agents", agents.serve, func() { c.drain(handler, agents) })
	s.log.Info("listening", "addr", agents.net.Addr(), "data", c.DataDir)
	return nil
}

// startStream opens the log. It is closed when all that use it have ended.
func (c *config) startStream(ctx context.Context, s *serving) (*stream.Store, error) {
	store, err := stream.Open(ctx, stream.Config{
		Dir: c.DataDir, MaxBytes: c.MaxBytes, MaxAge: c.Retention, URL: c.Stream.URL, Replicas: c.Stream.Replicas,
		CredentialsFile: c.Stream.CredentialsFile, CAFile: c.Stream.CAFile,
		CertFile: c.Stream.CertFile, KeyFile: c.Stream.KeyFile, Logger: s.log,
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
func (c *config) drain(handler *ingest.Handler, agents *listener) {
	handler.Drain()
	time.Sleep(c.DrainDelay)
	agents.end(stopTimeout)
}

// certificate returns what gives the certificate for each handshake.
func (c *config) certificate(log *slog.Logger) (*certificateFiles, error) {
	if !c.SelfSigned {
		return openCertificate(c.CertFile, c.KeyFile, certificateEvery, log)
	}
	certificate, err := selfSigned(filepath.Join(c.DataDir, "tls"), c.Hosts, time.Now())
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
	c config, certificate *certificateFiles, agents *auth.Authenticator, log *slog.Logger, handler http.Handler,
) (*listener, error) {
	plain, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for agents: %w", err)
	}
	l := newListener(handler, plain, filepath.Join(c.DataDir, addressFile))
	l.http.ReadHeaderTimeout, l.http.ReadTimeout = min(headerTimeout, c.RequestTimeout), c.RequestTimeout
	l.http.WriteTimeout = c.RequestTimeout + answerTimeout
	l.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate.get}
	agents.ConfigureTLS(l.http.TLSConfig)
	l.http.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: maxStreams}
	// Failed handshakes, of which the other side chooses the number.
	l.http.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	l.net = limitConns(plain, c.Connections)
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
	// The lock of the folder is ours, so a socket that is there was left by a process that was killed.
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
