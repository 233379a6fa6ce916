package main

import (
	"context"
	"sync"

	"github.com/taskguard/taskguard/sender"
)

// recentBytes bounds the frames that are kept for somebody who asks what happened just now.
const recentBytes = 1 << 20

// recent keeps the newest sealed frames.
type recent struct {
	mu     sync.Mutex
	frames [][]byte
	bytes  int
}

func newRecent() *recent { return &recent{} }

// follow keeps what the sender seals until ctx is done. It is the first to subscribe, so there is room for it.
func (r *recent) follow(ctx context.Context, s *sender.Sender) {
	frames, cancel, err := s.Subscribe()
	if err != nil {
		return
	}
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return
		case frame, ok := <-frames:
			if !ok {
				return
			}
			r.add(frame.Data)
		}
	}
}

func (r *recent) add(frame []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frames = append(r.frames, frame)
	r.bytes += len(frame)
	for r.bytes > recentBytes && len(r.frames) > 1 {
		r.bytes -= len(r.frames[0])
		r.frames[0] = nil
		r.frames = r.frames[1:]
	}
}

// all returns the frames, oldest first. They must not be changed.
func (r *recent) all() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([][]byte(nil), r.frames...)
}
