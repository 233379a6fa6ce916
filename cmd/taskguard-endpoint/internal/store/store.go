// Package store is the role that keeps events for good: it reads the log, partition by partition, and writes OCSF
// events as Parquet files to a bucket, one for each class, with all its attributes as columns.
//
// It promises: every event of the log is in exactly one row of the files that are visible in the bucket, whatever fails
// and whenever this process or the machine stops, but for what the log discarded before it was read, which is counted;
// and no file is visible before it is complete. Several replicas share the partitions; which one has a partition is a
// matter of leases, and that no two write different files of it is a matter of compare-and-swap.
//
// A partition's state names the files that come next before any of them is written: see position.
package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
)

// The values that Config has where it is zero.
const (
	DefaultMaxFileBytes = 128 << 20
	DefaultMaxFileAge   = 5 * time.Minute
	DefaultLeaseTTL     = 30 * time.Second
)

// Log is where batches come from.
type Log interface {
	// ReadPartition gives each the messages behind the sequence after, in order, and goes on with what comes until ctx
	// is done or each fails. It tells gap how many it could not give. It returns nil when no more will ever come.
	ReadPartition(ctx context.Context, partition int, after uint64, each func(stream.Message) error,
		gap func(discarded, damaged uint64)) error
}

// States keeps small values durably.
type States interface {
	// State gives the value of a key and its revision; of none, nil and 0.
	State(ctx context.Context, key string) (value []byte, revision uint64, err error)
	// PutState replaces a value that still has that revision, and gives the new revision. After an error the value may
	// have been replaced or not.
	PutState(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
}

// Leases decides who does what.
type Leases interface {
	// Lease takes or renews name for owner until ttl from now; it is false when somebody else has it.
	Lease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error)
}

// Config says what to store where.
type Config struct {
	// URL is the bucket's: file:///folder or s3://bucket?region=REGION, with prefix=FOLDER/ if wanted.
	URL string

	Log        Log
	States     States
	Leases     Leases
	Partitions int    // of the log
	Owner      string // this replica; no two have the same

	// Dir is where files grow before they go to the bucket; they have no name there and take at most MaxFileBytes a
	// partition. It is made if it is not there. "" means os.TempDir.
	Dir string
	// MaxFileBytes is the size from which on files are closed; they are a few MiB longer at most. 0 means 128 MiB.
	MaxFileBytes int64
	// MaxFileAge is when files are closed at the latest after their first event was read. 0 means 5 min.
	MaxFileAge time.Duration
	// LeaseTTL is how long a partition waits for another replica when its own has died. 0 means 30 s.
	LeaseTTL time.Duration
	// Logger takes what the operator should know. Nil discards.
	Logger *slog.Logger
}

// Stats counts since New.
type Stats struct {
	Events    uint64 `json:"events"`    // stored
	Files     uint64 `json:"files"`     // stored
	Bytes     uint64 `json:"bytes"`     // of those files
	Discarded uint64 `json:"discarded"` // messages that the log discarded before they were reached, of all partitions: these or fewer are lost
	Damaged   uint64 `json:"damaged"`   // batches that the log could not give
	Failures  uint64 `json:"failures"`  // times that work on a partition was broken off, to be taken up again
	Held      int    `json:"held"`      // partitions that this replica has now
}

// Store is the role. Make one with New.
type Store struct {
	cfg      Config
	log      *slog.Logger
	bucket   bucket
	close    func() error
	codec    compress.Codec
	inMemory int64 // bytes of rows of a partition, at most
	share    share
	asking   chan struct{} // has one while a lease is asked for

	events, files, bytes, discarded, damaged, failures atomic.Uint64
}

// New opens the bucket.
func New(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Log == nil || cfg.States == nil || cfg.Leases == nil || cfg.Partitions < 1 || cfg.Owner == "" {
		return nil, errors.New("make store: want a log with partitions, states, leases and an owner")
	}
	cfg.MaxFileBytes = cmp.Or(cfg.MaxFileBytes, DefaultMaxFileBytes)
	cfg.MaxFileAge = cmp.Or(cfg.MaxFileAge, DefaultMaxFileAge)
	cfg.LeaseTTL = cmp.Or(cfg.LeaseTTL, DefaultLeaseTTL)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Dir != "" {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("make store: %w", err)
		}
	}
	b, err := openBucket(ctx, cfg.URL)
	if err != nil {
		return nil, err
	}
	return &Store{
		cfg: cfg, log: cfg.Logger.With("component", "store"), bucket: b, close: b.Close, codec: &parquet.Zstd,
		inMemory: rowGroupBytes, share: share{quota: cfg.Partitions}, asking: make(chan struct{}, 1),
	}, nil
}

// Close closes the bucket. Run must have returned.
func (s *Store) Close() error {
	if err := s.close(); err != nil {
		return fmt.Errorf("close bucket: %w", err)
	}
	return nil
}

// Stats says how the role fares.
func (s *Store) Stats() Stats {
	return Stats{
		Events: s.events.Load(), Files: s.files.Load(), Bytes: s.bytes.Load(), Discarded: s.discarded.Load(),
		Damaged: s.damaged.Load(), Failures: s.failures.Load(), Held: s.share.count(),
	}
}

// Run stores until ctx is done; then it makes what it has read visible, if that takes no longer than leaveTimeout, and
// returns nil. What failed is tried again.
func (s *Store) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { s.keepShare(ctx) })
	for n := range s.cfg.Partitions {
		all.Go(func() { s.attend(ctx, n) })
	}
	all.Wait()
	return nil
}

// attend works on a partition whenever it is this replica's turn.
func (s *Store) attend(ctx context.Context, n int) {
	for ctx.Err() == nil {
		if s.lease(ctx, n) {
			s.work(ctx, n)
			s.share.drop()
		}
		s.pause(ctx)
	}
}

// pause waits for a third of a lease: so often leases are renewed, and what failed is tried again.
func (s *Store) pause(ctx context.Context) {
	wait := time.NewTimer(s.cfg.LeaseTTL / 3)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
}

// leaseOf is the name of a partition's lease.
func leaseOf(n int) string { return fmt.Sprintf("store-%d", n) }

// lease takes a partition, if this replica may have one more and nobody else has it. They are asked for one after the
// other: what is asked for in vain counts while it is, and would keep out the one that is to be had.
func (s *Store) lease(ctx context.Context, n int) bool {
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return false
	}
	if !s.share.take() {
		return false
	}
	ok, err := s.cfg.Leases.Lease(ctx, leaseOf(n), s.cfg.Owner, s.cfg.LeaseTTL)
	if err != nil && ctx.Err() == nil {
		s.log.Warn("no lease", "partition", n, "error", err)
	}
	if err != nil || !ok {
		s.share.drop()
		return false
	}
	return true
}

// work works on a partition whose lease this replica has, and gives it back.
func (s *Store) work(ctx context.Context, n int) {
	name := leaseOf(n)
	err := s.hold(ctx, n, name)
	if err != nil && ctx.Err() == nil {
		s.failures.Add(1)
		s.log.Warn("storing stopped; it is taken up again", "partition", n, "error", err)
	}
	// Whoever waits for it need not wait for long.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.LeaseTTL/3)
	defer cancel()
	s.cfg.Leases.Lease(after, name, s.cfg.Owner, time.Millisecond)
}

// hold works on a partition as long as it has the lease.
func (s *Store) hold(ctx context.Context, n int, name string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.partition(n).run(ctx) }()
	renewed := time.Now()
	tick := time.NewTicker(s.cfg.LeaseTTL / 3)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
		}
		ok, err := s.cfg.Leases.Lease(ctx, name, s.cfg.Owner, s.cfg.LeaseTTL)
		switch {
		case err == nil && ok:
			renewed = time.Now()
		case err == nil, time.Since(renewed) >= s.cfg.LeaseTTL*2/3:
			cancel()
			return errors.Join(errors.New("lost the lease"), <-done)
		}
		if s.share.tooMany() {
			cancel()
			<-done
			s.share.left()
			return nil
		}
	}
}
