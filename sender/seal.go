package sender

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/spool"
)

// sealAll seals batches as they become full or old until ctx is done, and then what is left.
func (s *Sender) sealAll(ctx context.Context) {
	interval := time.NewTicker(s.cfg.SealInterval)
	defer interval.Stop()
	for {
		select {
		case <-s.wake:
			s.sealFull()
		case <-interval.C:
			s.sealFull()
			s.sealOpen(false)
		case <-ctx.Done():
			s.sealOpen(true)
			return
		}
	}
}

func (s *Sender) sealFull() {
	for {
		next, ok := s.takeFull()
		if !ok {
			return
		}
		s.collectUpdates()
		s.seal(next)
	}
}

func (s *Sender) takeFull() (next handedOver, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.full) == 0 {
		return handedOver{}, false
	}
	next = s.full[0]
	s.full = append(s.full[:0], s.full[1:]...)
	return next, true
}

// sealOpen seals the open batch if there is anything to tell. If it is the last one, Emit takes no more.
func (s *Sender) sealOpen(last bool) {
	s.collectUpdates()
	if last {
		s.close()
		s.sealFull()
	}
	if next, ok := s.takeOpen(); ok {
		s.seal(next)
	}
}

func (s *Sender) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *Sender) takeOpen() (next handedOver, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.opened() {
		return handedOver{}, false
	}
	// While the disk takes no batch, one that only tells of losses would be one more loss, every second.
	telling := (len(s.pending.Containers)+len(s.pending.Digests) > 0 || s.ledger.unreported()) && !s.disk.troubled()
	if s.open.Events() == 0 && !telling {
		return handedOver{}, false
	}
	next = handedOver{s.open, time.Now()}
	s.open = nil
	return next, true
}

// collectUpdates adds the updates that came meanwhile to those that wait for a batch.
func (s *Sender) collectUpdates() {
	updates := s.cfg.Updates()
	containers, digests := &s.pending.Containers, &s.pending.Digests
	*containers, *digests = append(*containers, updates.Containers...), append(*digests, updates.Digests...)
	excess := batch.Updates{
		Containers: (*containers)[:max(0, len(*containers)-maxPending)],
		Digests:    (*digests)[:max(0, len(*digests)-maxPending)],
	}
	if n := len(excess.Containers) + len(excess.Digests); n > 0 {
		s.cfg.Logger.Warn("too many updates wait, oldest dropped", "dropped", n)
		s.drop(excess)
	}
}

// updates are those of the next batch.
func (s *Sender) updates() batch.Updates {
	n, most := 0, min(len(s.pending.Containers), maxUpdates)
	for size := 0; n < most && size < maxUpdateBytes; n++ {
		size += batch.ContainerSize(&s.pending.Containers[n])
	}
	return batch.Updates{
		Containers: s.pending.Containers[:n],
		Digests:    s.pending.Digests[:min(len(s.pending.Digests), maxUpdates)],
	}
}

// drop takes away the first of the updates that wait.
func (s *Sender) drop(first batch.Updates) {
	s.pending.Containers = slices.Delete(s.pending.Containers, 0, len(first.Containers))
	s.pending.Digests = slices.Delete(s.pending.Digests, 0, len(first.Digests))
}

// seal turns a builder into a frame in the spool and makes the builder free again.
func (s *Sender) seal(next handedOver) {
	s.turn()
	s.sequence++
	updates := s.updates()
	told := s.tell(next.builder)
	c := countsOf(next.builder)
	s.data = next.builder.Seal(s.data[:0], batch.Header{
		ID:   batch.ID{Agent: s.cfg.Agent, Epoch: s.epoch, Sequence: s.sequence},
		Host: s.cfg.Host(), Ledger: told.Ledger, Updates: updates,
	}, s.cfg.Late)
	s.recycle(next.builder)
	s.frame = s.codec.Compress(s.frame[:0], s.data)
	if len(s.data) > batch.MaxSize || len(s.frame) > batch.MaxCompressed {
		// The receiver would refuse it. An event of megabytes is in it, which no source makes.
		s.loseOpen(c, "seal", "too_large")
		s.drop(updates)
		return
	}
	s.live.publish(s.frame, c)
	if s.store(c, told) {
		s.drop(updates)
		s.cfg.OnSeal(next.at)
	}
}

// tell takes what the ledger gained and appends an agent.loss event for each loss.
func (s *Sender) tell(b *batch.Builder) report {
	told := s.takeReport()
	now := time.Now()
	for _, loss := range told.Lost {
		if loss.Kind != event.AgentLoss {
			b.Append(&event.Event{Time: now, Kind: event.AgentLoss, Agent: &event.Agent{
				Stage: loss.Stage, Cause: loss.Cause, Lost: loss.Kind, Count: loss.Count,
			}})
		}
	}
	return told
}

// takeReport returns what the ledger gained, with the agent.loss events that are to tell of it.
func (s *Sender) takeReport() report {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.ledger.report()
	for _, loss := range r.Lost {
		if loss.Kind != event.AgentLoss {
			s.ledger.observe(event.AgentLoss, 1)
			s.ledger.open.add(event.AgentLoss, 1)
			r.told++
			r.Observed++
		}
	}
	return r
}

func countsOf(b *batch.Builder) counts {
	c := counts(b.Counts())
	c[0] = 0
	c[0] = uint64(b.Events()) - c.total()
	return c
}

func (s *Sender) recycle(b *batch.Builder) {
	b.Reset()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = append(s.free, b)
}

func (s *Sender) loseOpen(c counts, stage, cause string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.open.sub(c)
	s.ledger.loseAll(c, stage, cause)
}

// store puts the sealed frame into the spool.
func (s *Sender) store(c counts, told report) bool {
	e := spool.Entry{Epoch: s.epoch, Sequence: s.sequence, Events: c.total()}
	s.enter(c, told)
	var evicted []spool.Entry
	err := s.cfg.Spool.Put(e, s.frame, func(old []spool.Entry) {
		evicted = old
		s.evict(old)
	})
	if len(evicted) > 0 {
		s.left(evicted...)
	}
	inMemory := errors.Is(err, spool.ErrInMemory)
	if inMemory {
		s.settle(e, c, nil)
	} else {
		s.settle(e, c, err)
	}
	s.save()
	switch {
	case inMemory:
		s.disk.is("in memory", "cannot spool batches, a crash loses them: free or repair the disk", "error", err)
	case err != nil:
		s.disk.is(rootText(err), "cannot spool batches, they are lost: free or repair the disk", "error", err)
		return false
	default:
		s.disk.isOver()
	}
	return true
}

// enter counts the batch as spooled. That is before it is, as it may be acknowledged before Put has returned.
func (s *Sender) enter(c counts, told report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.spool(batchKey{s.epoch, s.sequence}, c, told)
}

// evict counts the batches that have to make room for another, before their files are removed.
func (s *Sender) evict(list []spool.Entry) {
	for _, e := range list {
		s.leave(e, s.kinds(e, s.codec), "spool", "evicted", "")
	}
	s.save()
}

// settle counts what became of the batch.
func (s *Sender) settle(e spool.Entry, c counts, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.ledger.land()
		return
	}
	s.ledger.landing = nil
	delete(s.ledger.inSpool, keyOf(e))
	cause := "write"
	if errors.Is(err, spool.ErrFull) {
		cause = "full"
	}
	s.ledger.unspool(e, c, "spool", cause)
}
