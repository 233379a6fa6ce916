package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// state is what the agent keeps between its runs, in one small file: who it is, and how the run before ended. While
// the agent runs, the file's modification time is that of the last batch that is safe on disk.
type state struct {
	path  string
	lock  *os.File // held while the run lasts
	Agent event.ID `json:"agent_id"`
	Epoch uint64   `json:"epoch"`
	Boot  event.ID `json:"boot_id"`
	// Stopped says that the run of Epoch ended in order; the modification time is when.
	Stopped bool `json:"stopped"`
}

// gap is a time in which nothing was observed.
type gap struct {
	from, to time.Time
	cause    string // "stopped", "killed" or "rebooted"
}

// openState begins a new run. It returns the gap since the run before, nil for the first one.
func openState(dir string, boot event.ID, now time.Time) (*state, *gap, error) {
	s := &state{path: filepath.Join(dir, "agent.json")}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("create state directory: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, nil, err
	}
	s.lock = lock
	before, err := s.before(now)
	if err != nil {
		return nil, nil, err
	}
	if before != nil && before.cause == "killed" && s.Boot != boot {
		before.cause = "rebooted"
	}
	if s.Agent == (event.ID{}) {
		if _, err := rand.Read(s.Agent[:]); err != nil {
			return nil, nil, fmt.Errorf("make agent id: %w", err)
		}
		s.Agent[6], s.Agent[8] = s.Agent[6]&0x0f|0x40, s.Agent[8]&0x3f|0x80 // version 4, RFC 9562
	}
	// A clock that was set back must not give an epoch a second time.
	s.Epoch = max(uint64(now.UnixNano()), s.Epoch+1)
	s.Boot, s.Stopped = boot, false
	return s, before, s.write()
}

// lockDir makes sure that one agent at a time uses a state directory. The kernel gives the lock back however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another agent uses %s: stop it, or set another state_dir", dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock state directory: %w", err), f.Close())
	}
	return f, nil
}

// close gives the directory to the next agent.
func (s *state) close() error { return s.lock.Close() }

// before reads the run before.
func (s *state) before(now time.Time) (*gap, error) {
	text, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("read state %s: %w: remove it to begin with a new agent id", s.path, err)
	}
	g := &gap{from: info.ModTime(), to: now, cause: "killed"}
	if s.Stopped {
		g.cause = "stopped"
	}
	return g, nil
}

// sealed notes that what was observed until then is safe on disk. It is no more than a time stamp: written back by
// the kernel in its own time, which is right for a crash of the agent, and early rather than late for one of the host.
func (s *state) sealed(until time.Time) error { return os.Chtimes(s.path, time.Time{}, until) }

// stop ends the run in order.
func (s *state) stop() error {
	s.Stopped = true
	return s.write()
}

func (s *state) write() error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := writeDurably(s.path, append(text, '\n')); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

// writeDurably replaces a file: after a crash it is the old one or the new one.
func writeDurably(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
