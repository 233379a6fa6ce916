package stream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// lockDir takes the lock of a log's folder, which the kernel gives back when the process ends in whatever way.
// JetStream itself has none, and two servers on one folder destroy it.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, nil
}

// dirSyncer makes the names of a stream's files durable. JetStream syncs what it writes to a file before it
// acknowledges, but not the folder in which it has made a new file.
type dirSyncer struct {
	path string

	mu     sync.Mutex
	synced time.Time // modification time of the folder that is known to be durable; guarded by mu
}

// newDirSyncer syncs the folders above a stream's files once, and returns what keeps doing so for theirs.
func newDirSyncer(dir, stream string) (*dirSyncer, error) {
	account := filepath.Join(dir, server.JetStreamStoreDir, server.DEFAULT_GLOBAL_ACCOUNT)
	d := &dirSyncer{path: filepath.Join(account, "streams", stream, "msgs")}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = syncDir(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the server's temporary files come and go
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("sync folders: %w", err)
	}
	return d, d.sync()
}

// sync syncs the folder if a file was made in it since the last time.
func (d *dirSyncer) sync() error {
	if d == nil {
		return nil // a cluster's servers see to theirs
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	info, err := os.Stat(d.path)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	modified := info.ModTime()
	if modified.Equal(d.synced) {
		return nil
	}
	if err := syncDir(d.path); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	// The kernel's time stamps move in steps of up to 10 ms: a file made in the same step would not show.
	if time.Since(modified) > 100*time.Millisecond {
		d.synced = modified
	}
	return nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
