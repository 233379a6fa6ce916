// Package stream is the endpoint's durable log: JetStream, embedded in this process and reachable from nowhere else, or
// a cluster's that several endpoints share.
//
// It promises: a batch that Append reported as stored is on stable storage, survives SIGKILL and power loss (in a
// cluster: as many servers as may fail by Config.Replicas), and is stored once, however often, how much later and from
// however many places it is appended; Read returns batches in the order in which they were stored, with what was learnt
// later about their containers filled in; and the log never grows beyond its limit, of which the oldest batches pay and
// are counted.
package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/taskguard/taskguard/sender/batch"
)

// DefaultMaxBytes is how much the log keeps when Config.MaxBytes is zero.
const DefaultMaxBytes = 10 << 30

const (
	batchStream  = "BATCHES"
	updateStream = "UPDATES"
	markStream   = "MARKS"
	stateStream  = "STATE"

	// maxMessage is the largest message: a frame and its headers.
	maxMessage = batch.MaxCompressed + 4<<10
	// maxUpdateBytes bounds what was learnt later: about 100,000 descriptions of containers.
	maxUpdateBytes = 64 << 20
	// maxMarkBytes bounds the marks that outlive their batches: about 500,000 runs of agents.
	maxMarkBytes = 64 << 20
	// maxStateBytes bounds what roles keep, and maxState one value of it.
	maxStateBytes = 64 << 20
	maxState      = 1 << 20
	watchEvery    = time.Minute
)

var (
	// ErrLocked says that another process has the log open.
	ErrLocked = errors.New("in use by another process")
	// ErrNoLog says that there is no log to read in the folder.
	ErrNoLog = errors.New("no batches were ever stored there")
	// ErrDiskFull says that the disk has less than Config.MinFree left; it passes when there is room again.
	ErrDiskFull = errors.New("disk is full")
)

// Config says where the log is and what bounds it.
type Config struct {
	// Dir is the folder of the log, which is its own: jetstream/ and lock are made in it. With a URL, only lock is.
	Dir string
	// URL is where a cluster is: nats://HOST:PORT or tls://HOST:PORT, or several of them, with a comma between. Empty: the
	// log is embedded.
	URL string
	// CredentialsFile says who this is to the cluster; CAFile (PEM) is what its certificates are verified with, those
	// that the system trusts if empty; CertFile and KeyFile are a client certificate.
	CredentialsFile, CAFile, CertFile, KeyFile string
	// Replicas is how many of a cluster's servers keep each batch: 1, 3 or 5, of which a minority may fail. 0 means 3.
	Replicas int
	// MaxBytes bounds the log on disk; the oldest batches are discarded. 0 means DefaultMaxBytes.
	MaxBytes int64
	// MaxAge is when a batch is discarded at the latest. 0 means never for its age.
	MaxAge time.Duration
	// MinFree is how many bytes of the disk Append leaves to others. 0 means 64 MiB.
	MinFree int64
	// MaxMarks bounds how many agents' high-water marks are kept in memory; those of others are read from the log
	// when needed. 0 means 16,384, which take about 4 MiB.
	MaxMarks int
	// Timeout bounds one Append, and one look-up of a Read: a disk that takes longer has stalled. 0 means 15 s.
	Timeout time.Duration
	// ReadOnly opens a log that exists, to read it; Append must not be called.
	ReadOnly bool
	// Logger takes what the operator should know. Nil discards.
	Logger *slog.Logger
}

// Store is the log. Its methods may be called from several goroutines. Make one with Open.
type Store struct {
	cfg     Config
	log     *slog.Logger
	lock    *os.File
	server  *server.Server
	conn    *nats.Conn
	js      jetstream.JetStream
	batches jetstream.Stream
	updates jetstream.Stream
	kept    jetstream.Stream // marks
	states  jetstream.Stream
	codec   *batch.Codec
	marks   *marks
	dir     *dirSyncer
	leases  leases

	failed   chan struct{}
	failOnce sync.Once
	looking  atomic.Bool
	healthy  func() bool
	closing  <-chan struct{}
	stop     context.CancelFunc
	watching sync.WaitGroup

	discarded atomic.Uint64 // as of the last look
	unjoined  atomic.Uint64
}

// Status is how the log fares.
type Status struct {
	Batches  uint64    `json:"batches"`            // in the log now
	Bytes    uint64    `json:"bytes"`              // they take on disk
	MaxBytes int64     `json:"max_bytes"`          // they may take
	Oldest   time.Time `json:"oldest,omitzero"`    // when the oldest of them was stored
	Newest   time.Time `json:"newest,omitzero"`    // when the newest was
	Stored   uint64    `json:"stored"`             // batches ever stored
	Discard  uint64    `json:"discarded"`          // of which the limits have discarded
	Unjoined uint64    `json:"unjoined,omitempty"` // updates not indexed since start: unusable, too many
}

// Open opens the log in cfg.Dir, making it unless cfg.ReadOnly. It returns an error that is ErrLocked when another
// process has it open. ctx bounds the opening only.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg = withDefaults(cfg)
	s := &Store{cfg: cfg, log: cfg.Logger.With("component", "stream"), failed: make(chan struct{})}
	s.healthy = s.answers
	if cfg.URL != "" {
		s.healthy = func() bool { return true } // it comes back without this process being started again
	}
	opened, stop := context.WithCancel(context.Background())
	s.closing, s.stop = opened.Done(), stop
	if err := s.open(ctx, opened); err != nil {
		s.Close()
		return nil, fmt.Errorf("open log in %s: %w", cmp.Or(cfg.URL, cfg.Dir), err)
	}
	return s, nil
}

func withDefaults(cfg Config) Config {
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = 64 << 20
	}
	if cfg.MaxMarks == 0 {
		cfg.MaxMarks = 16 << 10
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 15 * time.Second
	}
	switch {
	case cfg.URL == "":
		cfg.Replicas = 1
	case cfg.Replicas == 0:
		cfg.Replicas = 3
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg
}

func (s *Store) open(ctx, opened context.Context) (err error) {
	if s.cfg.ReadOnly && s.cfg.URL == "" {
		if _, err := os.Stat(filepath.Join(s.cfg.Dir, server.JetStreamStoreDir)); errors.Is(err, os.ErrNotExist) {
			return ErrNoLog
		}
	} else if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return err
	}
	if s.lock, err = lockDir(s.cfg.Dir); err != nil {
		return err
	}
	if s.codec, err = batch.NewCodec(); err != nil {
		return err
	}
	s.marks = newMarks(s.cfg.MaxMarks)
	if err := s.connect(); err != nil {
		return err
	}
	if err := s.openStreams(ctx); err != nil {
		return err
	}
	if s.cfg.ReadOnly {
		return nil
	}
	if s.cfg.URL == "" {
		if s.dir, err = newDirSyncer(s.cfg.Dir, batchStream); err != nil {
			return err
		}
	}
	return s.watch(ctx, opened)
}

// connect connects to the cluster, or to a server that is started here.
func (s *Store) connect() (err error) {
	if s.cfg.URL == "" {
		if err := s.startServer(); err != nil {
			return err
		}
		s.conn, err = nats.Connect("", nats.InProcessServer(s.server), nats.MaxReconnects(-1),
			nats.ReconnectWait(100*time.Millisecond))
	} else {
		s.conn, err = s.connectCluster()
	}
	if err != nil {
		return fmt.Errorf("connect to jetstream: %w", err)
	}
	s.js, err = jetstream.New(s.conn, jetstream.WithDefaultTimeout(s.cfg.Timeout))
	return err
}

// startServer starts JetStream.
func (s *Store) startServer() (err error) {
	s.server, err = server.NewServer(&server.Options{
		ServerName: "taskguard-endpoint",
		DontListen: true,
		NoSigs:     true,
		NoLog:      true,
		MaxPayload: maxMessage,
		JetStream:  true,
		StoreDir:   s.cfg.Dir,
		// Sync before the acknowledgement. Without it the server syncs every two minutes.
		SyncAlways: true,
		// Consumers keep their position in memory; no stream lives there.
		JetStreamMaxMemory: 16 << 20,
		// The streams have limits of their own. The default, a share of the free disk, would refuse to open them on
		// a disk that has filled up.
		JetStreamMaxStore: 1 << 60,
	})
	if err != nil {
		return fmt.Errorf("configure jetstream: %w", err)
	}
	s.server.SetLoggerV2(serverLog{s.log}, false, false, false)
	s.server.Start()
	if !s.server.ReadyForConnections(time.Minute) {
		return errors.New("start jetstream: not ready after a minute")
	}
	if !s.server.JetStreamEnabled() {
		return errors.New("start jetstream: disabled itself, see the log above")
	}
	return nil
}

func (s *Store) openStreams(ctx context.Context) (err error) {
	open := func(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
		cfg.Storage, cfg.Replicas = jetstream.FileStorage, s.cfg.Replicas
		if s.cfg.URL != "" {
			return s.createInCluster(ctx, cfg)
		}
		return s.js.CreateOrUpdateStream(ctx, cfg)
	}
	if s.cfg.ReadOnly {
		open = func(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
			return s.js.Stream(ctx, cfg.Name)
		}
	}
	s.batches, err = open(ctx, jetstream.StreamConfig{
		Name: batchStream, Subjects: []string{batchSubjects},
		Discard: jetstream.DiscardOld, MaxBytes: s.cfg.MaxBytes, MaxAge: s.cfg.MaxAge, MaxMsgSize: maxMessage,
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return ErrNoLog
	}
	if err != nil {
		return fmt.Errorf("open batches: %w", err)
	}
	s.updates, err = open(ctx, jetstream.StreamConfig{
		Name: updateStream, Subjects: updateSubjects(),
		Discard: jetstream.DiscardOld, MaxBytes: maxUpdateBytes, MaxAge: s.cfg.MaxAge, MaxMsgsPerSubject: 1,
		MaxMsgSize: maxUpdate + 4<<10, AllowDirect: true,
	})
	if err != nil {
		return fmt.Errorf("open updates: %w", err)
	}
	if s.cfg.ReadOnly {
		return nil
	}
	if most := s.conn.MaxPayload(); most < maxMessage {
		return fmt.Errorf("the cluster's servers take messages of %d bytes: set their max_payload to 8MB, want %d", most, maxMessage)
	}
	s.kept, err = open(ctx, jetstream.StreamConfig{
		Name: markStream, Subjects: []string{markPrefix + "*.*"}, Discard: jetstream.DiscardOld, MaxBytes: maxMarkBytes,
		MaxMsgsPerSubject: 1,
	})
	if err != nil {
		return fmt.Errorf("open marks: %w", err)
	}
	s.states, err = open(ctx, jetstream.StreamConfig{
		Name: stateStream, Subjects: []string{statePrefix + "*"}, Discard: jetstream.DiscardNew, MaxBytes: maxStateBytes,
		MaxMsgsPerSubject: 1, MaxMsgSize: maxState + 4<<10,
	})
	if err != nil {
		return fmt.Errorf("open state: %w", err)
	}
	return nil
}

// Close ends every Read and closes the log. The batches stored so far stay.
func (s *Store) Close() {
	s.stop()
	s.watching.Wait()
	if s.conn != nil {
		s.conn.Close()
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

// Failed is closed when the log can store no more until it is opened again, as after an I/O error.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Status returns how the log fares now.
func (s *Store) Status(ctx context.Context) (Status, error) {
	info, err := s.batches.Info(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("inspect log: %w", err)
	}
	st := info.State
	out := Status{
		Batches: st.Msgs, Bytes: st.Bytes, MaxBytes: info.Config.MaxBytes,
		// Nothing but the limits takes messages from the stream, so its first sequence number counts them.
		Stored: st.LastSeq, Discard: st.LastSeq - st.Msgs, Unjoined: s.unjoined.Load(),
	}
	if st.Msgs > 0 {
		out.Oldest, out.Newest = st.FirstTime, st.LastTime
	}
	return out, nil
}

// watch looks every minute whether limits discarded batches, and says so, until opened is done.
func (s *Store) watch(ctx, opened context.Context) error {
	st, err := s.Status(ctx)
	if err != nil {
		return err
	}
	s.discarded.Store(st.Discard)
	if err := s.keepMarks(ctx); err != nil {
		return fmt.Errorf("keep marks: %w", err)
	}
	s.watching.Go(func() {
		ticker := time.NewTicker(watchEvery)
		defer ticker.Stop()
		for {
			select {
			case <-opened.Done():
				return
			case <-ticker.C:
				s.reportDiscarded(opened)
				if err := s.keepMarks(opened); err != nil && opened.Err() == nil {
					s.log.Warn("cannot keep the marks of batches that will be discarded", "error", err)
				}
			}
		}
	})
	return nil
}

func (s *Store) reportDiscarded(ctx context.Context) {
	st, err := s.Status(ctx)
	if err != nil {
		return
	}
	if n := st.Discard - s.discarded.Swap(st.Discard); n > 0 {
		s.log.Warn("discarded the oldest batches: keep more with --max-bytes or --retention", "batches", n,
			"in_all", st.Discard, "bytes", st.Bytes, "max_bytes", st.MaxBytes, "max_age", s.cfg.MaxAge, "oldest", st.Oldest)
	}
}
