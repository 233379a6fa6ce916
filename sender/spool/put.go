package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// Put appends a batch. The entry needs an Epoch, a Sequence and Events; no two may share epoch and sequence. When the
// batch does not fit, the oldest ones are evicted, also beside an error: before their files are removed, evict is called
// with them, unless it is nil. With an error that is not ErrInMemory the batch is not in the spool. Only if its file
// cannot be removed either, and the agent ends before a later Put has removed it, Open finds it again.
func (s *Spool) Put(e Entry, frame []byte, evict func([]Entry)) error {
	e.Size, e.crc, e.put = int64(len(frame)), checksum(frame), time.Now()
	if e.Size > MaxFrame {
		return fmt.Errorf("spool batch %d: %d bytes, want at most %d", e.Sequence, e.Size, MaxFrame)
	}
	s.removeLeftover()
	evicted, err := s.makeRoom(e.footprint())
	if len(evicted) > 0 && evict != nil {
		evict(evicted)
	}
	for _, old := range evicted {
		s.discardBatch(old)
	}
	if err != nil {
		return fmt.Errorf("spool batch %d: %w", e.Sequence, err)
	}
	if err = s.write(e.name(), frame); err != nil {
		s.addBytes(-e.footprint())
		if e.memory = s.remember(frame); e.memory == "" {
			return fmt.Errorf("spool batch %d: %w", e.Sequence, err)
		}
		err = fmt.Errorf("spool batch %d: %w: %w", e.Sequence, ErrInMemory, err)
	}
	s.insert(e)
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return err
}

// remember returns a copy of a frame that the disk does not take, "" if there is no room in memory either.
func (s *Spool) remember(frame []byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory+int64(len(frame)) > s.cfg.MaxMemory {
		return ""
	}
	s.memory += int64(len(frame))
	return string(frame)
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
		s.free(oldest)
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
	for _, e := range s.held {
		bytes += e.footprint()
	}
	return bytes, len(s.held) + len(s.leftover)
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
	if s.cfg.NoSync {
		return nil
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
	if err == nil && !s.cfg.NoSync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// discardBatch removes a batch that has left the queue.
func (s *Spool) discardBatch(e Entry) {
	if e.memory == "" {
		s.discard(remains{e.name(), e.footprint()})
	}
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
