// Package spool is a bounded queue of sealed batches on disk, oldest first. Each batch is one file, whose name is its
// identity, its number of events and the checksum of its content; the directory is the index, and there is no other.
//
// It promises: a batch whose Put returned no error survives a crash and a power cut, whole, until it is removed, set
// aside or evicted, unless Put said that it is in memory, as the disk did not take it; what Read returns is what Put was
// given; after a Put there are no more than Config.MaxFiles, of Config.MaxBytes and Config.MaxMemory, and those set aside
// no more than Config.MaxRejected; every batch that is evicted or cannot be read is reported with
// the number of its events; and files that are not the spool's are left alone. A failure does not last: the next call
// tries anew.
package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Limits and defaults.
const (
	// MaxFrame is the largest frame in bytes that Put takes and Read returns.
	MaxFrame = 16 << 20
	// What zero values in Config stand for.
	DefaultMaxBytes    = 256 << 20
	DefaultMaxFiles    = 16 << 10
	DefaultMaxRejected = 8 << 20
	DefaultMaxMemory   = 8 << 20
	// block is the least that a file takes on disk, with which small files are accounted.
	block = 4 << 10
	// rejectedDir is the folder of batches that were set aside.
	rejectedDir = "rejected"
	tmpSuffix   = ".tmp"
)

var (
	// ErrCorrupt says that a file is not what was written, or is gone.
	ErrCorrupt = errors.New("spooled batch is corrupt")
	// ErrFull says that a batch does not fit even when all others that may be are evicted.
	ErrFull = errors.New("spool is full: raise its limits")
	// ErrInMemory says that a batch could not be written to disk and is in memory instead, where it does not survive a
	// crash. The errors that it comes with say why.
	ErrInMemory = errors.New("kept in memory")
)

// Config says where a spool is and how much it may hold.
type Config struct {
	Dir         string // made, with mode 0700, when it is missing
	MaxBytes    int64  // bytes of all batches, each rounded up to 4 KiB; 0 is DefaultMaxBytes
	MaxFiles    int    // batches; 0 is DefaultMaxFiles
	MaxRejected int64  // bytes of the batches set aside, rounded alike; 0 is DefaultMaxRejected
	MaxMemory   int64  // bytes of batches that cannot be written to disk; 0 is DefaultMaxMemory
	// NoSync leaves it to the kernel when batches are written to disk: Put is faster, and a power cut loses those of some
	// seconds.
	NoSync bool
	Logger *slog.Logger // nil is no log
}

// Stats is the state of a spool.
type Stats struct {
	Batches       int    `json:"batches"`
	Events        uint64 `json:"events"`
	Bytes         int64  `json:"bytes"` // on disk, each file rounded up to 4 KiB
	MaxBytes      int64  `json:"max_bytes"`
	Rejected      int    `json:"rejected"` // batches set aside and still kept
	RejectedBytes int64  `json:"rejected_bytes"`
	Temporary     int    `json:"temporary"` // files of writes that a crash interrupted, removed by Open
	Leftover      int    `json:"leftover"`  // files that could not be removed; the next Put tries again
	Memory        int    `json:"memory"`    // of the batches, those that could not be written to disk
	MemoryBytes   int64  `json:"memory_bytes"`
}

// Spool is a queue of batches for each epoch. It is safe for concurrent use by one writer, and by one reader for each
// epoch: Put may run beside the methods that follow Next. Make one with Open.
type Spool struct {
	cfg     Config
	disk    disk
	changed chan struct{}

	mu       sync.Mutex
	queue    []Entry          // in order, without held
	held     map[uint64]Entry // handed out by Next, by epoch
	bytes    int64            // on disk: queue, held and leftover
	memory   int64            // bytes in memory
	rejected []remains
	leftover []remains
	// rejectedBytes sums rejected; temporary is Stats.Temporary.
	rejectedBytes int64
	temporary     int
}

// remains is a file that is no longer in the queue. Its path is relative to the spool's folder.
type remains struct {
	path  string
	bytes int64
}

// Open opens the spool and finds what it holds, without reading the batches themselves. It fails when cfg is wrong or
// the folder cannot be listed. A folder that cannot be made now is logged, and made by a later Put.
func Open(cfg Config) (*Spool, error) { return open(cfg, osDisk{}) }

func open(cfg Config, disk disk) (*Spool, error) {
	if cfg.Dir == "" {
		return nil, errors.New("open spool: no directory given")
	}
	if cfg.MaxBytes < 0 || cfg.MaxFiles < 0 || cfg.MaxRejected < 0 || cfg.MaxMemory < 0 {
		return nil, fmt.Errorf("open spool: negative limit: %d, %d, %d, %d", cfg.MaxBytes, cfg.MaxFiles, cfg.MaxRejected, cfg.MaxMemory)
	}
	cfg.MaxFiles = cmp.Or(cfg.MaxFiles, DefaultMaxFiles)
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, DefaultMaxBytes)
	cfg.MaxRejected = cmp.Or(cfg.MaxRejected, DefaultMaxRejected)
	cfg.MaxMemory = cmp.Or(cfg.MaxMemory, DefaultMaxMemory)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Spool{cfg: cfg, disk: disk, changed: make(chan struct{}, 1), held: make(map[uint64]Entry)}
	if err := s.makeDir(); err != nil {
		cfg.Logger.Warn("cannot prepare spool directory, batches are lost until it can be made", "dir", cfg.Dir, "error", err)
	}
	if err := s.scan(); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	if err := s.scanRejected(); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	return s, nil
}

func (s *Spool) makeDir() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(s.cfg.Dir, 0o700)
}

// scan fills the queue from the directory and removes what an interrupted write left.
func (s *Spool) scan() error {
	files, err := s.list("")
	if err != nil {
		return err
	}
	for _, f := range files {
		if e, ok := parseName(f.path, f.bytes); ok {
			s.queue = append(s.queue, e)
			s.bytes += e.footprint()
		} else if _, ok := parseName(strings.TrimSuffix(f.path, tmpSuffix), 0); ok {
			s.temporary++
			s.discard(remains{f.path, footprint(f.bytes)})
		}
	}
	slices.SortFunc(s.queue, compare)
	return nil
}

func (s *Spool) scanRejected() error {
	files, err := s.list(rejectedDir)
	if err != nil {
		return err
	}
	for _, f := range files {
		base := filepath.Base(f.path)
		if _, ok := parseName(strings.TrimSuffix(base, filepath.Ext(base)), 0); ok {
			s.rejected = append(s.rejected, remains{f.path, footprint(f.bytes)})
			s.rejectedBytes += footprint(f.bytes)
		}
	}
	return nil
}

// list returns the regular files of a folder of the spool, in the order of their names; none if there is no folder.
func (s *Spool) list(folder string) ([]remains, error) {
	found, err := os.ReadDir(filepath.Join(s.cfg.Dir, folder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var files []remains
	for _, f := range found {
		info, err := f.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		files = append(files, remains{filepath.Join(folder, f.Name()), info.Size()})
	}
	return files, nil
}

// Stats returns the state of the spool.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{
		Batches: len(s.queue), Bytes: s.bytes, MaxBytes: s.cfg.MaxBytes,
		Rejected: len(s.rejected), RejectedBytes: s.rejectedBytes,
		Temporary: s.temporary, Leftover: len(s.leftover), MemoryBytes: s.memory,
	}
	stats.Batches += len(s.held)
	for _, list := range []iter.Seq[Entry]{slices.Values(s.queue), maps.Values(s.held)} {
		for e := range list {
			stats.Events += e.Events
			if e.memory != "" {
				stats.Memory++
			}
		}
	}
	return stats
}

// Entries returns the batches that are not held, oldest first.
func (s *Spool) Entries() []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.queue)
}

// Leftover is how many files could not be removed. The next Put tries again.
func (s *Spool) Leftover() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.leftover)
}

// Changed returns a channel that receives after a Put. It holds one value: a receiver looks for all that is new.
func (s *Spool) Changed() <-chan struct{} { return s.changed }

func (s *Spool) path(relative string) string { return filepath.Join(s.cfg.Dir, relative) }
