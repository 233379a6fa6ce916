package stream

import (
	"testing"
	"testing/synctest"
	"time"
)

// What passes in time is no failure; and however many ask, one looks.
func TestFailureIsLookedAtSeveralTimes(t *testing.T) {
	for _, bad := range []int{0, 1, looks - 1, looks, 1000} {
		synctest.Test(t, func(t *testing.T) {
			seen := 0
			s := &Store{failed: make(chan struct{}), closing: make(chan struct{}), healthy: func() bool {
				seen++
				return seen > bad
			}}
			for range 10 {
				s.noticeFailure()
			}
			time.Sleep(time.Minute)
			s.watching.Wait()
			failed := false
			select {
			case <-s.Failed():
				failed = true
			default:
			}
			if failed != (bad >= looks) || bad > 0 && seen > max(bad+1, looks) && bad < looks {
				t.Errorf("%d bad looks: failed %t after %d", bad, failed, seen)
			}
		})
	}
}

func TestClosingEndsTheLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closing := make(chan struct{})
		s := &Store{failed: make(chan struct{}), closing: closing, healthy: func() bool { return false }}
		s.noticeFailure()
		synctest.Wait()
		close(closing)
		begin := time.Now()
		s.watching.Wait()
		if time.Since(begin) != 0 {
			t.Errorf("closing took %v", time.Since(begin))
		}
	})
}
