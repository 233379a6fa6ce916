package sender

import (
	"bytes"
	"errors"
	"sync"
)

const (
	// MaxSubscribers is how many can follow at a time.
	MaxSubscribers = 16
	// subscriberQueue is how many frames a subscriber may be behind.
	subscriberQueue = 16
)

// ErrTooManySubscribers is returned by Subscribe when MaxSubscribers follow already.
var ErrTooManySubscribers = errors.New("too many subscribers to live events")

// live hands sealed frames to those that follow along.
type live struct {
	mu          sync.Mutex
	subscribers map[chan []byte]struct{}
	closed      bool
	missed      uint64
}

// Subscribe returns a channel of the frames that are sealed from now on, which a receiver must not change. A receiver
// that falls behind misses frames, which shows as a gap in their sequence numbers. The channel is closed by cancel,
// which may be called more than once, and at the end of Run.
func (s *Sender) Subscribe() (frames <-chan []byte, cancel func(), err error) {
	c := make(chan []byte, subscriberQueue)
	if err := s.live.add(c); err != nil {
		return nil, nil, err
	}
	return c, func() { s.live.remove(c) }, nil
}

// Missed returns how many frames subscribers missed as they fell behind, since the start.
func (s *Sender) Missed() uint64 {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	return s.live.missed
}

func (l *live) add(c chan []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.subscribers) >= MaxSubscribers {
		return ErrTooManySubscribers
	}
	if l.closed {
		close(c)
		return nil
	}
	if l.subscribers == nil {
		l.subscribers = make(map[chan []byte]struct{})
	}
	l.subscribers[c] = struct{}{}
	return nil
}

func (l *live) remove(c chan []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.subscribers[c]; ok {
		delete(l.subscribers, c)
		close(c)
	}
}

// publish gives a copy of the frame to every subscriber that has room for it.
func (l *live) publish(frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.subscribers) == 0 {
		return
	}
	frame = bytes.Clone(frame)
	for c := range l.subscribers {
		select {
		case c <- frame:
		default:
			l.missed++
		}
	}
}

func (l *live) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for c := range l.subscribers {
		close(c)
	}
	clear(l.subscribers)
}
