package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Lane is the batches of an epoch that are in the spool.
type Lane struct {
	Epoch   uint64
	Batches int
	Oldest  time.Time // when the oldest of them was put; zero when Open has found it
}

// Lanes returns those that have a batch, the oldest epoch first.
func (s *Spool) Lanes() []Lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes := make([]Lane, 0, len(s.held)+1)
	for _, e := range s.held {
		lanes = append(lanes, Lane{e.Epoch, 1, e.put})
	}
	for at := 0; at < len(s.queue); {
		first := s.queue[at]
		end := s.after(first.Epoch)
		if i := slices.IndexFunc(lanes, func(l Lane) bool { return l.Epoch == first.Epoch }); i >= 0 {
			lanes[i].Batches += end - at
		} else {
			lanes = append(lanes, Lane{first.Epoch, end - at, first.put})
		}
		at = end
	}
	slices.SortFunc(lanes, func(a, b Lane) int { return cmp.Compare(a.Epoch, b.Epoch) })
	return lanes
}

// after returns where the queue goes on behind an epoch. The caller holds s.mu.
func (s *Spool) after(epoch uint64) int {
	at, _ := slices.BinarySearchFunc(s.queue, epoch, func(e Entry, epoch uint64) int {
		if e.Epoch <= epoch {
			return -1
		}
		return 1
	})
	return at
}

// Next returns the oldest batch of an epoch and holds it: it is not evicted until Remove, SetAside or Release ends that.
// Until then, Next returns the same again.
func (s *Spool) Next(epoch uint64) (Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held, ok := s.held[epoch]; ok {
		return held, true
	}
	at, _ := slices.BinarySearchFunc(s.queue, Entry{Epoch: epoch}, compare)
	if at == len(s.queue) || s.queue[at].Epoch != epoch {
		return Entry{}, false
	}
	oldest := s.queue[at]
	if at == 0 {
		s.queue = s.queue[1:]
	} else {
		s.queue = slices.Delete(s.queue, at, at+1)
	}
	s.held[epoch] = oldest
	return oldest, true
}

// Read returns the frame of a batch in the spool, or of one that is about to leave it. An error that wraps ErrCorrupt is for good: set it aside.
func (s *Spool) Read(e Entry) ([]byte, error) {
	if e.memory != "" {
		return []byte(e.memory), nil
	}
	if e.Size > MaxFrame {
		return nil, fmt.Errorf("read %s: %d bytes: %w", e.name(), e.Size, ErrCorrupt)
	}
	frame, err := os.ReadFile(s.path(e.name()))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EIO):
		return nil, fmt.Errorf("read spooled batch: %w: %w", err, ErrCorrupt)
	case err != nil:
		return nil, fmt.Errorf("read spooled batch: %w", err)
	case checksum(frame) != e.crc:
		return nil, fmt.Errorf("read %s: %d bytes with another checksum: %w", e.name(), len(frame), ErrCorrupt)
	}
	return frame, nil
}

// Release ends the hold on an epoch's batch, which stays where it is.
func (s *Spool) Release(epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.held[epoch]
	if !ok {
		return
	}
	delete(s.held, epoch)
	at, _ := slices.BinarySearchFunc(s.queue, e, compare)
	s.queue = slices.Insert(s.queue, at, e)
}

// Remove deletes the batch of an epoch that is held. It is not waited for until the deletion is on disk: after a power
// cut the batch may be there again. If it cannot be deleted, the next Put tries again.
func (s *Spool) Remove(epoch uint64) {
	if e, ok := s.takeHeld(epoch); ok {
		s.discardBatch(e)
	}
}

// SetAside moves the batch of an epoch that is held to the folder rejected/ for somebody to look at, where the oldest
// make room for it. cause, one word, ends its file name. An error says that the batch could not be kept and was deleted.
func (s *Spool) SetAside(epoch uint64, cause string) error {
	e, ok := s.takeHeld(epoch)
	if !ok {
		return nil
	}
	return s.setAside(e, cause)
}

func (s *Spool) setAside(e Entry, cause string) error {
	if e.memory != "" {
		return fmt.Errorf("set batch %d aside: it was in memory, as the disk did not take it", e.Sequence)
	}
	if err := os.MkdirAll(s.path(rejectedDir), 0o700); err != nil {
		s.discardBatch(e)
		return fmt.Errorf("set batch %d aside: %w", e.Sequence, err)
	}
	kept := remains{filepath.Join(rejectedDir, e.name()+"."+word(cause)), e.footprint()}
	if err := s.disk.Rename(s.path(e.name()), s.path(kept.path)); err != nil {
		s.discardBatch(e)
		return fmt.Errorf("set batch %d aside: %w", e.Sequence, err)
	}
	for _, old := range s.keepRejected(kept) {
		s.discard(old)
	}
	return nil
}

// Withdraw finishes what a crash cut off: it takes a batch that is not held out of the spool, if it is there; with a
// cause, to where SetAside moves it.
func (s *Spool) Withdraw(epoch, sequence uint64, cause string) error {
	e, ok := s.take(epoch, sequence)
	if !ok {
		return nil
	}
	if cause != "" {
		return s.setAside(e, cause)
	}
	s.discardBatch(e)
	return nil
}

func (s *Spool) take(epoch, sequence uint64) (Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.queue, func(e Entry) bool { return e.Epoch == epoch && e.Sequence == sequence })
	if at < 0 {
		return Entry{}, false
	}
	e := s.queue[at]
	s.queue = slices.Delete(s.queue, at, at+1)
	s.free(e)
	return e, true
}

// keepRejected adds a file to those set aside and returns which must go.
func (s *Spool) keepRejected(kept remains) (excess []remains) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rejected = append(s.rejected, kept)
	s.rejectedBytes += kept.bytes
	for s.rejectedBytes > s.cfg.MaxRejected {
		oldest := s.rejected[0]
		s.rejected = s.rejected[1:]
		s.rejectedBytes -= oldest.bytes
		excess = append(excess, oldest)
	}
	return excess
}

func (s *Spool) takeHeld(epoch uint64) (Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.held[epoch]
	if ok {
		delete(s.held, epoch)
		s.free(e)
	}
	return e, ok
}

// free gives back what a batch takes. The caller holds s.mu.
func (s *Spool) free(e Entry) {
	s.bytes -= e.footprint()
	s.memory -= int64(len(e.memory))
}

// word makes a cause fit for a file name.
func word(cause string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, cause)
}
