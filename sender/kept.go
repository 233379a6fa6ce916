package sender

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/spool"
)

// maxDecoded is how many batches are decoded at the start to learn what the ledger of the run before does not know yet.
// It is saved after each batch: there are more only when it could not be.
const maxDecoded = 256

// openLedger goes on with the ledger of the run before. last is the highest epoch that earlier runs have left.
func (s *Sender) openLedger() (l ledger, last uint64) {
	for _, lane := range s.cfg.Spool.Lanes() {
		last = max(last, lane.Epoch)
	}
	if s.cfg.LedgerFile == "" {
		return newLedger(s.cfg.Spool.Stats().Events), last
	}
	s.file.path = s.cfg.LedgerFile
	s.file.trouble.log, s.file.trouble.over = s.cfg.Logger, "ledger is kept again"
	kept, err := s.file.open()
	if err != nil {
		s.file.trouble.is(rootText(err), "cannot open the ledger, it begins anew: repair the state directory", "error", err)
	}
	if kept == nil {
		return newLedger(s.cfg.Spool.Stats().Events), last
	}
	for _, of := range kept.Leaving {
		if err := s.cfg.Spool.Withdraw(of.Epoch, of.Sequence, of.Cause); err != nil {
			s.cfg.Logger.Warn("cannot keep a batch that was set aside", "batch", of.Sequence, "error", err)
		}
	}
	l = kept.ledger()
	l.reconcile(s.found(kept))
	return l, max(last, kept.Epoch)
}

// found is what is in the spool at the start.
type found struct {
	known  uint64 // events of the batches that the ledger knows
	newer  counts // events of those that it does not know
	ledger batch.Ledger
}

func (s *Sender) found(kept *keptLedger) (f found) {
	decoded := 0
	for _, e := range s.cfg.Spool.Entries() {
		if cmp.Or(cmp.Compare(e.Epoch, kept.Epoch), cmp.Compare(e.Sequence, kept.Sequence)) <= 0 {
			f.known += e.Events
			continue
		}
		b, err := (*batch.Batch)(nil), errors.New("too many batches to decode")
		if decoded++; decoded <= maxDecoded {
			b, err = s.read(e, s.codec)
		}
		if err != nil {
			f.newer.add(0, e.Events)
			continue
		}
		f.newer.addAll(kindsOf(b))
		f.ledger.Observed += b.Ledger.Observed
		f.ledger.Lost = append(f.ledger.Lost, b.Ledger.Lost...)
	}
	return f
}

// reconcile makes the ledger's law hold for what is in the spool now. What was open is in the newer batches, or lost.
func (l *ledger) reconcile(f found) {
	if f.known < l.spooled {
		l.lose(0, "spool", "vanished", l.spooled-f.known)
	} else {
		// A power cut brought files back: if they were acknowledged, the receiver drops the repeats.
		again := f.known - l.spooled
		reopened := min(again, l.acked)
		l.acked -= reopened
		l.observe(0, again-reopened)
	}
	l.spooled = f.known + f.newer.total()
	for kind := range event.Kind(event.KindCount) {
		open, newer := l.open[kind], f.newer[kind]
		l.observe(kind, newer-min(open, newer))
		l.lose(kind, "queue", "killed", open-min(open, newer))
	}
	l.open = counts{}
	l.heard(f.ledger)
}

// heard notes what batches tell that the ledger did not know: all that they tell was observed, and is told.
func (l *ledger) heard(of batch.Ledger) {
	for _, loss := range of.Lost {
		count := l.loss(loss.Kind, loss.Stage, loss.Cause)
		count.reported += loss.Count
		if count.reported > count.total {
			l.observe(loss.Kind, count.reported-count.total)
			count.total = count.reported
		}
	}
	l.told += of.Observed
	if observed := l.observed.total(); l.told > observed {
		l.observe(0, l.told-observed)
		l.lose(0, "queue", "killed", l.told-observed)
	}
}

// kinds counts the events of a batch in the spool.
func (s *Sender) kinds(e spool.Entry, codec *batch.Codec) counts {
	if c, ok := s.ownKinds(e); ok {
		return c
	}
	b, err := s.read(e, codec)
	if err != nil {
		return counts{0: e.Events}
	}
	return kindsOf(b)
}

func (s *Sender) ownKinds(e spool.Entry) (counts, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of, ok := s.ledger.inSpool[keyOf(e)]
	return of.counts(), ok
}

// read decodes a batch in the spool, whose name says how many events it has. A nil codec is made.
func (s *Sender) read(e spool.Entry, codec *batch.Codec) (*batch.Batch, error) {
	frame, err := s.cfg.Spool.Read(e)
	if err != nil {
		return nil, err
	}
	b, err := decodeFrame(frame, codec)
	if err == nil && uint64(len(b.Events)) != e.Events {
		err = fmt.Errorf("read batch %d: %d events, its name says %d", e.Sequence, len(b.Events), e.Events)
	}
	return b, err
}

func decodeFrame(frame []byte, codec *batch.Codec) (*batch.Batch, error) {
	if codec == nil {
		var err error
		if codec, err = batch.NewCodec(); err != nil {
			return nil, err
		}
	}
	data, err := codec.Decompress(nil, frame)
	if err != nil {
		return nil, err
	}
	return batch.Decode(data)
}

func kindsOf(b *batch.Batch) (c counts) {
	for i := range b.Events {
		c.add(b.Events[i].Kind, 1)
	}
	return c
}
