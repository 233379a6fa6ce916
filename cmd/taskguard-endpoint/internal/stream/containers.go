package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

const (
	containerPrefix   = "taskguard.containers."
	containerSubjects = containerPrefix + "*.*" // agent, container id

	// maxContainerID bounds a container id: engines use 64 hex digits.
	maxContainerID = 128
	// maxDescription bounds a container's description in JSON, in bytes.
	maxDescription = 64 << 10
	// maxUpdates bounds how many descriptions one batch may have indexed, as each costs a sync.
	maxUpdates = 1024
)

// putDescriptions stores descriptions that came later than the events of their containers, the latest of each
// container. They are kept by agent, so that no agent can describe the containers of another. What cannot be indexed
// is counted, and stays in its batch.
func (s *Store) putDescriptions(ctx context.Context, agent event.ID, updates []event.Container) error {
	if n := len(updates) - maxUpdates; n > 0 {
		s.unjoined.Add(uint64(n))
		updates = updates[:maxUpdates]
	}
	for i := range updates {
		c := &updates[i]
		if c.Pending {
			continue
		}
		data, err := json.Marshal(c)
		if err != nil || len(data) > maxDescription || !validContainerID(c.ID) {
			s.unjoined.Add(1)
			continue
		}
		if _, err := s.js.Publish(ctx, descriptionSubject(agent, c.ID), data); err != nil {
			return fmt.Errorf("store description of container %s: %w", c.ID, err)
		}
	}
	return nil
}

// join fills in the containers of a batch that were not described yet when it was sealed and have been since.
func (s *Store) join(ctx context.Context, agent event.ID, b *batch.Batch) error {
	var seen map[*event.Container]bool // the batch's events share the entries of its container table
	for i := range b.Events {
		c := b.Events[i].Container
		if c == nil || !c.Pending || seen[c] {
			continue
		}
		if seen == nil {
			seen = make(map[*event.Container]bool)
		}
		seen[c] = true
		if err := s.describe(ctx, agent, c); err != nil {
			return err
		}
	}
	return nil
}

// describe completes c if it has been described.
func (s *Store) describe(ctx context.Context, agent event.ID, c *event.Container) error {
	if !validContainerID(c.ID) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	msg, err := s.containers.GetLastMsgForSubject(ctx, descriptionSubject(agent, c.ID))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read description of container %s: %w", c.ID, err)
	}
	var described event.Container
	if err := json.Unmarshal(msg.Data, &described); err != nil {
		return fmt.Errorf("read description of container %s: %w", c.ID, err)
	}
	*c = described
	return nil
}

func descriptionSubject(agent event.ID, id string) string {
	return containerPrefix + agent.String() + "." + id
}

// validContainerID reports whether an id, which a remote party chose, can be part of a subject and cannot change its
// meaning.
func validContainerID(id string) bool {
	if id == "" || len(id) > maxContainerID {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
