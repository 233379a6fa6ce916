package stream

import (
	"net/http"
	"time"
)

// A log that is only overloaded may look as bad as one that will store no more, but not for as long.
const (
	looks     = 5
	lookEvery = time.Second
)

// noticeFailure has somebody look, beside the caller, whether JetStream will store no more until it is started again:
// after an I/O error it does not even answer. If so, failed is closed.
func (s *Store) noticeFailure() {
	if s.looking.CompareAndSwap(false, true) {
		s.watching.Go(func() {
			defer s.looking.Store(false)
			s.look()
		})
	}
}

func (s *Store) look() {
	for n := 1; !s.healthy(); n++ {
		if n == looks {
			s.failOnce.Do(func() { close(s.failed) })
			return
		}
		select {
		case <-time.After(lookEvery):
		case <-s.closing:
			return
		}
	}
}

func (s *Store) answers() bool { return s.server.Healthz(nil).StatusCode == http.StatusOK }
