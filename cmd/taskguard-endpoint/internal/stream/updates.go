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
	containerPrefix = "taskguard.containers." // agent, container id
	digestPrefix    = "taskguard.digests."    // agent, version of a file

	// maxContainerID bounds a container id: engines use 64 hex digits.
	maxContainerID = 128
	// maxUpdate bounds what is told of a container or a file in JSON, in bytes.
	maxUpdate = 256 << 10
	// maxUpdates bounds how many of either one batch may have indexed, as each costs a sync.
	maxUpdates = 1024
)

// updateSubjects are those of the stream of updates.
func updateSubjects() []string { return []string{containerPrefix + "*.*", digestPrefix + "*.*"} }

// putUpdates stores what came later than the events that it is about, the latest about each container and file. It is
// kept by agent, so that no agent can tell of another's. What cannot be indexed is counted, and stays in its batch.
func (s *Store) putUpdates(ctx context.Context, agent event.ID, updates *batch.Updates) error {
	for i := range s.indexed(len(updates.Containers)) {
		c := &updates.Containers[i]
		if c.Pending {
			continue
		}
		if !validContainerID(c.ID) {
			s.unjoined.Add(1)
			continue
		}
		if err := s.putUpdate(ctx, containerSubject(agent, c.ID), c); err != nil {
			return fmt.Errorf("store description of container %s: %w", c.ID, err)
		}
	}
	for i := range s.indexed(len(updates.Digests)) {
		f := &updates.Digests[i]
		if f.Digest.HashState == event.HashPending {
			continue
		}
		if err := s.putUpdate(ctx, digestSubject(agent, f.Version), &f.Digest); err != nil {
			return fmt.Errorf("store digest of a file: %w", err)
		}
	}
	return nil
}

// indexed returns how many of n updates are indexed.
func (s *Store) indexed(n int) int {
	if n > maxUpdates {
		s.unjoined.Add(uint64(n - maxUpdates))
	}
	return min(n, maxUpdates)
}

func (s *Store) putUpdate(ctx context.Context, subject string, update any) error {
	data, err := json.Marshal(update)
	if err != nil || len(data) > maxUpdate {
		s.unjoined.Add(1)
		return nil
	}
	_, err = s.js.Publish(ctx, subject, data)
	return err
}

// getUpdate replaces old by its update, if there is one.
func getUpdate[T any](ctx context.Context, s *Store, subject string, old *T) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	msg, err := s.updates.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var update T
	if err := json.Unmarshal(msg.Data, &update); err != nil {
		return err
	}
	*old = update
	return nil
}

// join fills in what was not known yet of the containers and files of a batch when it was sealed, and is now.
func (s *Store) join(ctx context.Context, agent event.ID, b *batch.Batch) error {
	j := joiner{store: s, agent: agent}
	for i := range b.Events {
		e := &b.Events[i]
		if err := j.event(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// joiner joins one batch, asking once for each container and file.
type joiner struct {
	store *Store
	agent event.ID
	seen  map[*event.Container]bool // the batch's events share the entries of its container table
	files map[event.FileVersion]event.Digest
}

func (j *joiner) event(ctx context.Context, e *event.Event) error {
	if c := e.Container; c != nil && c.Pending && !j.seen[c] {
		if err := j.container(ctx, c); err != nil {
			return fmt.Errorf("read description of container %s: %w", c.ID, err)
		}
	}
	for _, p := range []*event.Process{e.Process, e.Target} {
		if p != nil {
			if err := j.digest(ctx, p.ExeVersion, &p.Digest); err != nil {
				return err
			}
		}
	}
	switch {
	case e.Memory != nil:
		return j.digest(ctx, e.Memory.Version, &e.Memory.Digest)
	case e.Module != nil:
		return j.digest(ctx, e.Module.Version, &e.Module.Digest)
	}
	return nil
}

// container completes c if it has been described.
func (j *joiner) container(ctx context.Context, c *event.Container) error {
	if j.seen == nil {
		j.seen = make(map[*event.Container]bool)
	}
	j.seen[c] = true
	if !validContainerID(c.ID) {
		return nil
	}
	return getUpdate(ctx, j.store, containerSubject(j.agent, c.ID), c)
}

// digest completes d if the file has been read.
func (j *joiner) digest(ctx context.Context, version event.FileVersion, d *event.Digest) error {
	if d.HashState != event.HashPending {
		return nil
	}
	known, ok := j.files[version]
	if !ok {
		known = *d
		if err := getUpdate(ctx, j.store, digestSubject(j.agent, version), &known); err != nil {
			return fmt.Errorf("read digest of a file: %w", err)
		}
		if j.files == nil {
			j.files = make(map[event.FileVersion]event.Digest)
		}
		j.files[version] = known
	}
	*d = known
	return nil
}

func containerSubject(agent event.ID, id string) string {
	return containerPrefix + agent.String() + "." + id
}

func digestSubject(agent event.ID, v event.FileVersion) string {
	return fmt.Sprintf("%s%s.%x-%x-%x-%x", digestPrefix, agent, uint32(v.Device), v.Inode, v.Size, v.Changed)
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
