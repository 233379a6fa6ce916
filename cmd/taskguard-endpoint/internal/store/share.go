package store

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"
)

// share is how many partitions this replica may have, and has.
type share struct {
	mu          sync.Mutex
	quota, held int
	leaving     int // of those held, how many are being given up
}

// take counts one more partition, if there may be one.
func (s *share) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held-s.leaving >= s.quota {
		return false
	}
	s.held++
	return true
}

// tooMany tells one holder for each partition beyond the quota to give up.
func (s *share) tooMany() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held-s.leaving <= s.quota {
		return false
	}
	s.leaving++
	return true
}

func (s *share) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held--
}

// left counts one less that is being given up.
func (s *share) left() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving--
}

func (s *share) set(quota int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quota = quota
}

func (s *share) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// membersKey is the state that has every replica with the time until which it counts.
const membersKey = "store-members"

// maxMembers bounds that state.
const maxMembers = 256

// keepShare tells the others that this replica is there, and sees how many there are. It decides who works on how much
// only: leases decide who works on what.
func (s *Store) keepShare(ctx context.Context) {
	for ctx.Err() == nil {
		members, err := s.enrol(ctx, s.cfg.LeaseTTL)
		if err == nil {
			s.share.set((s.cfg.Partitions + members - 1) / members)
		} else if ctx.Err() == nil {
			s.log.Debug("other replicas not seen", "error", err)
		}
		s.pause(ctx)
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.LeaseTTL/3)
	defer cancel()
	s.enrol(after, 0)
}

// enrol puts this replica among the members until ttl from now, and returns how many there are, itself included.
func (s *Store) enrol(ctx context.Context, ttl time.Duration) (int, error) {
	value, revision, err := s.cfg.States.State(ctx, membersKey)
	if err != nil {
		return 0, fmt.Errorf("read members: %w", err)
	}
	members := map[string]time.Time{}
	if value != nil {
		if err := json.Unmarshal(value, &members); err != nil {
			members = map[string]time.Time{}
		}
	}
	now := time.Now()
	for owner, until := range members {
		if !until.After(now) {
			delete(members, owner)
		}
	}
	delete(members, s.cfg.Owner)
	if ttl > 0 {
		if len(members) >= maxMembers {
			return 0, fmt.Errorf("enrol: there are %d members, want at most %d", len(members)+1, maxMembers)
		}
		members[s.cfg.Owner] = now.Add(ttl)
	}
	if value, err = json.Marshal(members); err != nil {
		return 0, fmt.Errorf("encode members: %w", err)
	}
	if _, err := s.cfg.States.PutState(ctx, membersKey, value, revision); err != nil {
		return 0, fmt.Errorf("put members: %w", err)
	}
	return len(members), nil
}
