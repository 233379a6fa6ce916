package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// Put appends a batch. The entry needs an Epoch, a Sequence and Events; no two may share epoch and sequence. When the
// batch does not fit, the oldest ones are evicted, also beside an error: before their files are removed, evict is called
// with them, unless it is nil. With an error the batch is not in the spool. Only if its file cannot be removed either,
// and the agent ends before a later Put has removed it, Open finds it again.
func (s *Spool) Put(e Entry, frame []byte, evict func([]Entry)) error {
	e.Size, e.crc = int64(len(frame)), checksum(frame)
	if e.Size > MaxFrame {
		return fmt.Errorf("spool batch %d: %d bytes, want at most %d", e.Sequence, e.Size, MaxFrame)
	}
	s.removeLeftover()
	evicted, err := s.makeRoom(e.footprint())
	if len(evicted) > 0 && evict != nil {
		evict(evicted)
	}
	for _, old := range evicted {
		s.discard(remains{old.name(), old.footprint()})
	}
	if err != nil {
		return fmt.Errorf("spool batch %d: %w", e.Sequence, err)
	}
	if err := s.write(e.name(), frame); err != nil {
		s.addBytes(-e.footprint())
		return fmt.Errorf("spool batch %d: %w", e.Sequence, err)
	}
	s.insert(e)
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return nil
}

// makeRoom reserves bytes and takes what must go for them out of the queue.
func (s *Spool) makeRoom(bytes int64) (evicted []Entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pinned, files := s.pinned()
	if pinned+bytes > s.cfg.MaxBytes || files+1 > s.cfg.MaxFiles {
		return nil, ErrFull
	}
	for s.bytes+bytes > s.cfg.MaxBytes || len(s.queue)+files+1 > s.cfg.MaxFiles {
		oldest := s.queue[0]
		s.queue = s.queue[1:]
		s.bytes -= oldest.footprint()
		evicted = append(evicted, oldest)
	}
	s.bytes += bytes
	return evicted, nil
}

// pinned returns the bytes and the files that eviction cannot free. The caller holds s.mu.
func (s *Spool) pinned() (bytes int64, files int) {
	for _, r := range s.leftover {
		bytes += r.bytes
	}
	if s.held != nil {
		bytes += s.held.footprint()
		files++
	}
	return bytes, files + len(s.leftover)
}

func (s *Spool) insert(e Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, _ := slices.BinarySearchFunc(s.queue, e, compare)
	s.queue = slices.Insert(s.queue, at, e)
}

func (s *Spool) addBytes(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += n
}

// write makes a file that is there whole or not at all, whatever happens meanwhile.
func (s *Spool) write(name string, frame []byte) error {
	tmp := name + tmpSuffix
	err := s.writeSynced(tmp, frame)
	if errors.Is(err, fs.ErrNotExist) && s.makeDir() == nil {
		err = s.writeSynced(tmp, frame) // the folder was missing
	}
	if err == nil {
		err = s.disk.Rename(s.path(tmp), s.path(name))
	}
	if err != nil {
		s.discard(remains{tmp, footprint(int64(len(frame)))})
		return err
	}
	if err := s.disk.SyncDir(s.cfg.Dir); err != nil {
		// A power cut might remove it later: better now, and counted.
		s.discard(remains{name, footprint(int64(len(frame)))})
		return err
	}
	return nil
}

func (s *Spool) writeSynced(name string, frame []byte) error {
	f, err := s.disk.Create(s.path(name))
	if err != nil {
		return err
	}
	_, err = f.Write(frame)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// discard removes a file, or remembers it and its bytes for the next try.
func (s *Spool) discard(r remains) {
	err := s.disk.Remove(s.path(r.path))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leftover = append(s.leftover, r)
	s.bytes += r.bytes
}

// removeLeftover tries again to remove what could not be removed before.
func (s *Spool) removeLeftover() {
	s.mu.Lock()
	again := s.leftover
	s.leftover = nil
	for _, r := range again {
		s.bytes -= r.bytes
	}
	s.mu.Unlock()
	for _, r := range again {
		s.discard(r)
	}
}
