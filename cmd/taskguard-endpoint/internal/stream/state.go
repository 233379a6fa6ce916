package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const statePrefix = "taskguard.state."

// ErrConflict says that somebody else has changed a value meanwhile.
var ErrConflict = errors.New("changed by somebody else")

// State returns what a role keeps under a key, which is one word, and its revision: nil and 0 when it keeps nothing.
func (s *Store) State(ctx context.Context, key string) (value []byte, revision uint64, err error) {
	msg, err := s.states.GetLastMsgForSubject(ctx, statePrefix+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read state %s: %w", key, err)
	}
	return msg.Data, msg.Sequence, nil
}

// PutState keeps a value of at most 1 MiB under a key if its revision is still the one given, 0 for none, and returns the
// new revision. ErrConflict: it is not. Any other error leaves it open whether the value is kept.
func (s *Store) PutState(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	if len(value) > maxState {
		return 0, fmt.Errorf("keep state %s: %d bytes, want at most %d", key, len(value), maxState)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	msg := &nats.Msg{Subject: statePrefix + key, Data: value}
	ack, err := s.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(revision))
	if isWrongLast(err) {
		return 0, fmt.Errorf("keep state %s: %w", key, ErrConflict)
	}
	if err != nil {
		return 0, fmt.Errorf("keep state %s: %w", key, err)
	}
	return ack.Sequence, nil
}

// lease is who has something, and until when.
type lease struct {
	Owner string    `json:"owner"`
	Until time.Time `json:"until"`
}

// Lease takes or renews a name for an owner until ttl from now, and returns false when somebody else has it. Clocks that
// differ can have two owners believe that they have it: what must not happen twice goes by PutState.
func (s *Store) Lease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	if s.cfg.URL == "" {
		return s.leases.take(name, owner, ttl), nil // nobody else can have the log open
	}
	return s.leaseInState(ctx, name, owner, ttl)
}

// leases are those of an embedded log, which end with its process.
type leases struct {
	mu     sync.Mutex
	byName map[string]lease // guarded by mu
}

func (l *leases) take(name, owner string, ttl time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if held, ok := l.byName[name]; ok && held.Owner != owner && now.Before(held.Until) {
		return false
	}
	if l.byName == nil {
		l.byName = make(map[string]lease)
	}
	l.byName[name] = lease{owner, now.Add(ttl)}
	return true
}

func (s *Store) leaseInState(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	key := "lease-" + name
	value, revision, err := s.State(ctx, key)
	if err != nil {
		return false, err
	}
	now := time.Now()
	var held lease
	if value != nil {
		if err := json.Unmarshal(value, &held); err != nil {
			return false, fmt.Errorf("read lease %s: %w", name, err)
		}
	}
	if held.Owner != owner && now.Before(held.Until) {
		return false, nil
	}
	value, err = json.Marshal(lease{owner, now.Add(ttl)})
	if err != nil {
		return false, err
	}
	_, err = s.PutState(ctx, key, value, revision)
	if errors.Is(err, ErrConflict) {
		return false, nil
	}
	return err == nil, err
}
