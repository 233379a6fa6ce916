// Package sender takes events, seals them into batches, spools the batches and uploads them; and it keeps the ledger.
//
// It promises: Emit and Lost never wait for another party and never do I/O; batches of an epoch reach the transport in
// the order in which they were sealed, each with the same bytes until it is accepted, or in parts when the receiver says
// that it is too large; a backlog does not hold up what is new, which has an epoch of its own; and every event is accounted for, in every snapshot of the ledger: observed == acked + spooled + open +
// lost, which goes on in the next run, also after a kill.
package sender

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/spool"
)

// Defaults of Config, and limits.
const (
	DefaultSealInterval = time.Second
	DefaultMaxEvents    = 4096
	DefaultMaxBytes     = 512 << 10
	DefaultDrainTimeout = 5 * time.Second

	// builders is how many batches can be filled or waiting to be sealed. They are made once and used again.
	builders = 8
	// maxUpdates is how many updates of containers, and of digests, one batch carries.
	maxUpdates = 1024
	// maxUpdateBytes is how many bytes those of containers take, plus at most one.
	maxUpdateBytes = 512 << 10
	// maxPending is how many of them may wait for the next batches.
	maxPending = 8 * maxUpdates
)

// Transport delivers frames.
type Transport interface {
	// Send delivers a frame, which it must not change, and returns nil when the receiver has stored it. Any error that is
	// not a Failure, or one that says nothing else, means: send the same frame again later.
	Send(ctx context.Context, frame []byte) error
}

// Config says what a sender works with. Functions in it must not block.
type Config struct {
	Agent     event.ID          // required
	Epoch     uint64            // when this run of the agent began, ns since 1970: its first epoch, if that is the highest; required
	Host      func() event.Host // asked at every seal; required
	Spool     *spool.Spool      // the sender's alone; required
	Transport Transport         // required
	// LedgerFile is where the ledger is kept, so that it goes on in the next run. Empty is nowhere: it begins with what
	// is in the spool.
	LedgerFile string
	// Late tells what was not known yet when an event came.
	Late batch.Late
	// Updates returns what became known since it was last asked, after a batch had been sealed that said it was pending.
	// Nil is none.
	Updates func() batch.Updates
	// OnSeal is told, when a batch is on disk, that all that was emitted before t is on disk or counted as lost. It is
	// called by one goroutine. Nil is nobody.
	OnSeal func(t time.Time)

	SealInterval time.Duration // 0 is DefaultSealInterval
	MaxEvents    int           // events in a batch; 0 is DefaultMaxEvents
	MaxBytes     int           // bytes of a batch before compression, plus at most one event; 0 is DefaultMaxBytes
	// UploadRate bounds the uploads, in bytes a second, of up to 4 MiB or a second's at once; 0 is no bound.
	UploadRate   int64
	DrainTimeout time.Duration // how long Run may go on uploading after its end; 0 is DefaultDrainTimeout
	Logger       *slog.Logger  // nil is no log
}

// Sender is a sink of events. Make one with New, and have Run running.
type Sender struct {
	cfg   Config
	codec *batch.Codec
	// wake receives when a batch is full.
	wake chan struct{}

	mu     sync.Mutex
	ledger ledger
	// open is the batch being filled, nil when there is no free builder; full holds those to be sealed, oldest first.
	open    *batch.Builder
	full    []handedOver
	free    []*batch.Builder
	started bool
	closed  bool // the last batch is taken: what comes now is lost
	upload  Upload

	file ledgerFile

	// What follows is used by the goroutine that seals, only.
	epoch       uint64
	sequence    uint64
	pending     batch.Updates
	data, frame []byte
	disk        trouble

	uplink trouble
	rate   *rate.Limiter

	live live
}

// handedOver is a full batch: all that was emitted before at is in it or in earlier ones.
type handedOver struct {
	builder *batch.Builder
	at      time.Time
}

// New returns a sender. Its ledger goes on where that of the run before ended, be it in order, killed or by a power cut:
// what was open then is lost, as queue/killed, and what is missing in the spool as spool/vanished. Without an earlier
// ledger, the events that the spool holds count as observed and spooled.
func New(cfg Config) (*Sender, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("create sender: %w", err)
	}
	codec, err := batch.NewCodec()
	if err != nil {
		return nil, fmt.Errorf("create sender: %w", err)
	}
	s := &Sender{cfg: cfg, codec: codec, wake: make(chan struct{}, 1)}
	for range builders {
		s.free = append(s.free, batch.NewBuilder())
	}
	s.full = make([]handedOver, 0, builders)
	s.disk.log, s.disk.over = cfg.Logger, "spool takes batches again"
	s.uplink.log, s.uplink.over = cfg.Logger, "upload works again"
	var last uint64
	s.ledger, last = s.openLedger()
	// The clock may have been set back since: epochs rise all the same, or what is older would count as newer.
	s.epoch = max(cfg.Epoch, last+1)
	s.ledger.landed = batchKey{epoch: s.epoch}
	s.rate = newRate(cfg.UploadRate)
	return s, nil
}

func (c *Config) complete() error {
	switch {
	case c.Agent == event.ID{}, c.Epoch == 0:
		return errors.New("no identity: want Agent and Epoch")
	case c.Host == nil, c.Spool == nil, c.Transport == nil:
		return errors.New("want Host, Spool and Transport")
	case c.MaxEvents < 0, c.MaxEvents > batch.MaxEvents/2:
		return fmt.Errorf("MaxEvents %d: want at most %d", c.MaxEvents, batch.MaxEvents/2)
	case c.MaxBytes < 0, c.MaxBytes > batch.MaxSize/4:
		return fmt.Errorf("MaxBytes %d: want at most %d", c.MaxBytes, batch.MaxSize/4)
	case c.SealInterval < 0, c.DrainTimeout < 0, c.UploadRate < 0:
		return fmt.Errorf("negative: SealInterval %v, DrainTimeout %v, UploadRate %d", c.SealInterval, c.DrainTimeout, c.UploadRate)
	}
	setDefault(&c.SealInterval, DefaultSealInterval)
	setDefault(&c.MaxEvents, DefaultMaxEvents)
	setDefault(&c.MaxBytes, DefaultMaxBytes)
	setDefault(&c.DrainTimeout, DefaultDrainTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Updates == nil {
		c.Updates = func() batch.Updates { return batch.Updates{} }
	}
	if c.OnSeal == nil {
		c.OnSeal = func(time.Time) {}
	}
	return nil
}

func setDefault[T int | time.Duration](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

// Emit takes an event on loan and appends it to the open batch. When all batches wait to be sealed, it is lost and
// counted as queue/full; after the end of Run, as queue/closed.
func (s *Sender) Emit(e *event.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.observe(e.Kind, 1)
	switch {
	case s.closed:
		s.ledger.lose(e.Kind, "queue", "closed", 1)
		return
	case !s.opened():
		s.ledger.lose(e.Kind, "queue", "full", 1)
		return
	}
	s.open.Append(e)
	s.ledger.open.add(e.Kind, 1)
	if s.open.Events() >= s.cfg.MaxEvents || s.open.Size() >= s.cfg.MaxBytes {
		s.full = append(s.full, handedOver{s.open, time.Now()})
		s.open = nil
		notify(s.wake)
	}
}

// opened makes sure that there is an open batch, if it can. The caller holds s.mu.
func (s *Sender) opened() bool {
	if s.open == nil && len(s.free) > 0 {
		last := len(s.free) - 1
		s.open, s.free = s.free[last], s.free[:last]
	}
	return s.open != nil
}

// Lost counts n events of a kind as observed, and as lost at a stage because of a cause. An agent.loss event in the
// next batch tells of it.
func (s *Sender) Lost(kind event.Kind, stage, cause string, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.observe(kind, n)
	s.ledger.lose(kind, stage, cause, n)
}

// Ledger returns a snapshot of the ledger.
func (s *Sender) Ledger() Ledger {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.snapshot()
}

// Run seals and uploads until ctx is done. Then it seals what is open, and goes on to upload what is spooled until
// nothing is left, the receiver does not take a batch, or DrainTimeout is over; the rest stays in the spool for the
// next run. It can be run once.
func (s *Sender) Run(ctx context.Context) error {
	if !s.start() {
		return errors.New("run sender: it has run already")
	}
	uploading, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	sealed := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { s.uploadAll(uploading, sealed) })

	s.sealAll(ctx)
	close(sealed)
	s.live.close()
	timeout := time.AfterFunc(s.cfg.DrainTimeout, cancel)
	defer timeout.Stop()
	running.Wait()
	s.save()
	s.file.close()
	return nil
}

func (s *Sender) start() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		return false
	}
	s.started = true
	return true
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
