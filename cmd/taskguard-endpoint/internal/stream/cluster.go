package stream

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// formTimeout is how long servers may take to find each other, and to elect who leads them.
	formTimeout = time.Minute
	// askTimeout is how long one of them may take to answer: who has no leader yet does not.
	askTimeout = 3 * time.Second
)

// connectCluster connects to a cluster's servers, and again to any of them for ever.
func (s *Store) connectCluster() (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("taskguard-endpoint"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.Timeout(5 * time.Second),
		// What cannot be sent now fails now: the agent has it in its spool.
		nats.ReconnectBufSize(-1), nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				s.log.Warn("lost a server of the log's cluster, trying all of them", "error", err)
			}
		}),
		nats.ReconnectHandler(func(c *nats.Conn) {
			s.log.Info("connected to a server of the log's cluster", "server", c.ConnectedServerName())
		}),
	}
	if s.cfg.CredentialsFile != "" {
		options = append(options, nats.UserCredentials(s.cfg.CredentialsFile))
	}
	if s.cfg.CAFile != "" {
		options = append(options, nats.RootCAs(s.cfg.CAFile))
	}
	if s.cfg.CertFile != "" {
		options = append(options, nats.ClientCert(s.cfg.CertFile, s.cfg.KeyFile))
	}
	return nats.Connect(s.cfg.URL, options...)
}

// createInCluster makes a stream, or opens the one that is there, as soon as the cluster can.
func (s *Store) createInCluster(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	for ends := time.Now().Add(formTimeout); ; {
		asked, cancel := context.WithTimeout(ctx, askTimeout)
		stream, err := s.js.CreateOrUpdateStream(asked, cfg)
		cancel()
		if err == nil || ctx.Err() != nil || time.Now().After(ends) {
			return stream, err
		}
		s.log.Info("waiting for the log's cluster", "stream", cfg.Name, "error", err)
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
