package sender

import (
	"cmp"
	"slices"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/spool"
)

// Ledger accounts for every event: Observed == Acked + Spooled + Open + the sum of Lost.
type Ledger struct {
	Observed uint64 `json:"observed"` // by this run, and by the earlier ones whose ledger it goes on with
	Acked    uint64 `json:"acked"`    // stored by the receiver
	Spooled  uint64 `json:"spooled"`  // on disk, or being written there
	Open     uint64 `json:"open"`     // in the open batch, or in one that waits to be sealed and spooled
	// Lost counts by "<stage>/<cause>".
	Lost map[string]uint64 `json:"lost"`

	// ObservedByKind and LostByKind sum up to Observed and to Lost. Kind 0 stands for kinds that are not known: of a batch
	// that cannot be read, and of what a newer version observed.
	ObservedByKind map[event.Kind]uint64 `json:"-"`
	LostByKind     map[event.Kind]uint64 `json:"-"`
}

// maxLosses bounds the kinds of loss that are told apart; what exceeds them is counted as other/other.
const maxLosses = 1024

// counts is a number of events by kind.
type counts [event.KindCount]uint64

func (c *counts) add(kind event.Kind, n uint64) { c[known(kind)] += n }

func (c *counts) addAll(of counts) {
	for kind, n := range of {
		c[kind] += n
	}
}

func (c *counts) sub(of counts) {
	for kind, n := range of {
		c[kind] -= n
	}
}

func (c *counts) total() (n uint64) {
	for _, of := range c {
		n += of
	}
	return n
}

func (c *counts) byKind() map[event.Kind]uint64 {
	m := make(map[event.Kind]uint64)
	for kind, n := range c {
		if n > 0 {
			m[event.Kind(kind)] = n
		}
	}
	return m
}

// sparse is counts without the zeros: a batch has few of the kinds, and there are many batches.
type sparse []kindCount

type kindCount struct {
	n    uint64
	kind event.Kind
}

func (c *counts) sparse() sparse {
	var s sparse
	for kind, n := range c {
		if n > 0 {
			s = append(s, kindCount{n, event.Kind(kind)})
		}
	}
	return slices.Clip(s)
}

func (s sparse) counts() (c counts) {
	for _, of := range s {
		c[of.kind] = of.n
	}
	return c
}

// known maps kinds that this version does not know to 0.
func known(kind event.Kind) event.Kind {
	if kind < event.KindCount {
		return kind
	}
	return 0
}

type lossKey struct {
	stage, cause string
	kind         event.Kind
}

type lossCount struct {
	total    uint64
	reported uint64 // of total, what a batch in the spool tells of
}

// ledger is the Ledger being kept. Each method keeps its law.
type ledger struct {
	observed       counts
	acked, spooled uint64
	open           counts
	lost           map[lossKey]*lossCount
	// told is how much of observed the endpoint has heard of, or will, by batches that reached the spool.
	told uint64
	// inSpool has the batches of this run that are in the spool.
	inSpool map[batchKey]sparse
	// landed is the last batch of this run that reached the spool, sequence 0 if there is none; landing is the one that is
	// being written there.
	landed  batchKey
	landing *landing
	leaving []leaving
}

// batchKey names a batch of this agent.
type batchKey struct{ epoch, sequence uint64 }

func keyOf(e spool.Entry) batchKey { return batchKey{e.Epoch, e.Sequence} }

// landing is a batch that is counted as spooled, as it may be acknowledged before its writer knows that it is on disk.
type landing struct {
	batch  batchKey
	events counts
	told   report
}

// leaving is a batch that is counted as acknowledged or lost and whose file may still be in the spool. Should the agent
// end now, the next run finishes it.
type leaving struct {
	Epoch    uint64 `json:"epoch"`
	Sequence uint64 `json:"sequence"`
	Cause    string `json:"cause,omitempty"` // why it is set aside; empty when its file is removed
	tried    bool   // to remove the file
}

// maxLeaving bounds the batches whose files cannot be removed that are remembered.
const maxLeaving = 1024

func newLedger(recovered uint64) ledger {
	l := ledger{lost: make(map[lossKey]*lossCount), inSpool: make(map[batchKey]sparse)}
	l.observe(0, recovered)
	l.spooled, l.told = recovered, recovered
	return l
}

func (l *ledger) observe(kind event.Kind, n uint64) { l.observed.add(kind, n) }

// lose counts a loss of events that were observed and are no longer open or spooled.
func (l *ledger) lose(kind event.Kind, stage, cause string, n uint64) {
	if n > 0 {
		l.loss(kind, stage, cause).total += n
	}
}

// loss returns the count of a kind of loss.
func (l *ledger) loss(kind event.Kind, stage, cause string) *lossCount {
	key := lossKey{stage, cause, known(kind)}
	count := l.lost[key]
	if count == nil && len(l.lost) >= maxLosses {
		key.stage, key.cause = "other", "other"
		count = l.lost[key]
	}
	if count == nil {
		count = new(lossCount)
		l.lost[key] = count
	}
	return count
}

func (l *ledger) loseAll(c counts, stage, cause string) {
	for kind, n := range c {
		l.lose(event.Kind(kind), stage, cause, n)
	}
}

// spool moves a batch from open into the spool.
func (l *ledger) spool(b batchKey, c counts, told report) {
	l.open.sub(c)
	l.spooled += c.total()
	l.inSpool[b] = c.sparse()
	l.landing = &landing{b, c, told}
}

// land notes that the batch being written is in the spool, with what it tells.
func (l *ledger) land() {
	if l.landing != nil {
		l.reported(l.landing.told)
		l.landed, l.landing = l.landing.batch, nil
	}
}

// unspool takes a batch out of the spool: those of its events that are in lost as lost for a cause, the others as
// acknowledged.
func (l *ledger) unspool(e spool.Entry, lost counts, stage, cause string) {
	l.spooled -= e.Events
	l.acked += e.Events - lost.total()
	l.loseAll(lost, stage, cause)
}

// leave notes that the file of a batch is about to leave the spool.
func (l *ledger) leave(e spool.Entry, cause string) {
	if len(l.leaving) == maxLeaving {
		l.leaving = l.leaving[1:]
	}
	l.leaving = append(l.leaving, leaving{Epoch: e.Epoch, Sequence: e.Sequence, Cause: cause})
}

// left notes that the files of batches are gone, unless there are some that could not be removed.
func (l *ledger) left(list []spool.Entry, leftover bool) {
	for i := range l.leaving {
		for _, e := range list {
			if l.leaving[i].Epoch == e.Epoch && l.leaving[i].Sequence == e.Sequence {
				l.leaving[i].tried = true
			}
		}
	}
	if !leftover {
		l.leaving = slices.DeleteFunc(l.leaving, func(of leaving) bool { return of.tried })
	}
}

// report is what the ledger gained since the last batch that reached the spool.
type report struct {
	batch.Ledger
	told   uint64
	totals map[lossKey]uint64
}

// report returns what is to be told, in a fixed order.
func (l *ledger) report() report {
	r := report{told: l.observed.total(), totals: make(map[lossKey]uint64)}
	r.Observed = r.told - l.told
	for key, count := range l.lost {
		if gained := count.total - count.reported; gained > 0 {
			r.totals[key] = count.total
			r.Lost = append(r.Lost, batch.Loss{Stage: key.stage, Cause: key.cause, Kind: key.kind, Count: gained})
		}
	}
	slices.SortFunc(r.Lost, func(a, b batch.Loss) int {
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(a.Cause, b.Cause), cmp.Compare(a.Kind, b.Kind))
	})
	return r
}

// reported notes that the batch with a report is in the spool.
func (l *ledger) reported(r report) {
	l.told = r.told
	for key, total := range r.totals {
		l.lost[key].reported = total
	}
}

// unreported reports whether there is a loss to tell of. That of agent.loss events is counted only, or telling of it
// would never end.
func (l *ledger) unreported() bool {
	for key, count := range l.lost {
		if key.kind != event.AgentLoss && count.total > count.reported {
			return true
		}
	}
	return false
}

func (l *ledger) snapshot() Ledger {
	out := Ledger{
		Observed: l.observed.total(), Acked: l.acked, Spooled: l.spooled, Open: l.open.total(),
		Lost: make(map[string]uint64), ObservedByKind: l.observed.byKind(), LostByKind: make(map[event.Kind]uint64),
	}
	for key, count := range l.lost {
		out.Lost[key.stage+"/"+key.cause] += count.total
		out.LostByKind[key.kind] += count.total
	}
	return out
}
