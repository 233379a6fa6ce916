package ingest

import "sync"

// budget is a number of bytes that requests take from and give back.
type budget struct {
	mu   sync.Mutex
	free int64 // guarded by mu
}

// take takes n bytes, or nothing if there are fewer.
func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.free {
		return false
	}
	b.free -= n
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
}
