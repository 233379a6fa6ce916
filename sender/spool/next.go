package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Next returns the oldest batch and holds it: it is not evicted until Remove, SetAside or Release ends that. Until
// then, Next returns the same again.
func (s *Spool) Next() (Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		if len(s.queue) == 0 {
			return Entry{}, false
		}
		oldest := s.queue[0]
		s.held, s.queue = &oldest, s.queue[1:]
	}
	return *s.held, true
}

// Read returns the frame of a batch in the spool, or of one that is about to leave it. An error that wraps ErrCorrupt is for good: set it aside.
func (s *Spool) Read(e Entry) ([]byte, error) {
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

// Release ends the hold on a batch that stays where it is.
func (s *Spool) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		return
	}
	at, _ := slices.BinarySearchFunc(s.queue, *s.held, compare)
	s.queue = slices.Insert(s.queue, at, *s.held)
	s.held = nil
}

// Remove deletes the batch that is held. It is not waited for until the deletion is on disk: after a power cut the
// batch may be there again. If it cannot be deleted, the next Put tries again.
func (s *Spool) Remove() {
	if e, ok := s.takeHeld(); ok {
		s.discard(remains{e.name(), e.footprint()})
	}
}

// SetAside moves the batch that is held to the folder rejected/ for somebody to look at, where the oldest make room
// for it. cause, one word, ends its file name. An error says that the batch could not be kept and was deleted.
func (s *Spool) SetAside(cause string) error {
	e, ok := s.takeHeld()
	if !ok {
		return nil
	}
	return s.setAside(e, cause)
}

func (s *Spool) setAside(e Entry, cause string) error {
	if err := os.MkdirAll(s.path(rejectedDir), 0o700); err != nil {
		s.discard(remains{e.name(), e.footprint()})
		return fmt.Errorf("set batch %d aside: %w", e.Sequence, err)
	}
	kept := remains{filepath.Join(rejectedDir, e.name()+"."+word(cause)), e.footprint()}
	if err := s.disk.Rename(s.path(e.name()), s.path(kept.path)); err != nil {
		s.discard(remains{e.name(), e.footprint()})
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
	s.discard(remains{e.name(), e.footprint()})
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
	s.bytes -= e.footprint()
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

func (s *Spool) takeHeld() (Entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		return Entry{}, false
	}
	e := *s.held
	s.held = nil
	s.bytes -= e.footprint()
	return e, true
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
