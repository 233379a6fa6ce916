package sender

import (
	"bytes"
	"errors"
	"sync"

	"github.com/taskguard/taskguard/collector/event"
)

const (
	// MaxSubscribers is how many can follow at a time.
	MaxSubscribers = 16
	// subscriberQueue is how many frames a subscriber may be behind.
	subscriberQueue = 16
)

// ErrTooManySubscribers is returned by Subscribe when MaxSubscribers follow already.
var ErrTooManySubscribers = errors.New("too many subscribers to live events")

// Frame is a sealed batch as a subscriber gets it.
type Frame struct {
	Data []byte // the frame, which a receiver must not change
	// Missed counts, by kind, the events that the subscriber missed between the frame before and this one, because it had
	// fallen behind; it is nil when there are none. Kind 0 stands for kinds that this version does not know.
	Missed map[event.Kind]uint64
}

// live hands sealed frames to those that follow along.
type live struct {
	mu          sync.Mutex
	subscribers map[*subscriber]struct{}
	closed      bool
	missed      uint64
}

type subscriber struct {
	frames chan Frame
	missed counts // since the last frame that it had room for
}

// Subscribe returns a channel of the frames that are sealed from now on. The channel is closed by cancel, and at the end
// of Run. cancel returns what was missed after the last frame; it may be called more than once.
func (s *Sender) Subscribe() (frames <-chan Frame, cancel func() (missed map[event.Kind]uint64), err error) {
	sub := &subscriber{frames: make(chan Frame, subscriberQueue)}
	if err := s.live.add(sub); err != nil {
		return nil, nil, err
	}
	return sub.frames, func() map[event.Kind]uint64 { return s.live.remove(sub) }, nil
}

// Missed returns how many frames subscribers missed as they fell behind, since the start.
func (s *Sender) Missed() uint64 {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	return s.live.missed
}

func (l *live) add(sub *subscriber) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.subscribers) >= MaxSubscribers {
		return ErrTooManySubscribers
	}
	if l.closed {
		close(sub.frames)
		return nil
	}
	if l.subscribers == nil {
		l.subscribers = make(map[*subscriber]struct{})
	}
	l.subscribers[sub] = struct{}{}
	return nil
}

func (l *live) remove(sub *subscriber) map[event.Kind]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.subscribers[sub]; ok {
		delete(l.subscribers, sub)
		close(sub.frames)
	}
	return sub.takeMissed()
}

func (s *subscriber) takeMissed() map[event.Kind]uint64 {
	if s.missed == (counts{}) {
		return nil
	}
	defer clear(s.missed[:])
	return s.missed.byKind()
}

// publish gives a copy of the frame, of a batch with so many events, to every subscriber that has room for it.
func (l *live) publish(frame []byte, c counts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.subscribers) == 0 {
		return
	}
	frame = bytes.Clone(frame)
	for sub := range l.subscribers {
		if len(sub.frames) == cap(sub.frames) { // nobody else sends
			l.missed++
			for kind, n := range c {
				sub.missed[kind] += n
			}
			continue
		}
		sub.frames <- Frame{Data: frame, Missed: sub.takeMissed()}
	}
}

func (l *live) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for sub := range l.subscribers {
		close(sub.frames)
	}
	clear(l.subscribers)
}
