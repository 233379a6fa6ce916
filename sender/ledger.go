package sender

import (
	"cmp"
	"slices"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// Ledger accounts for every event: Observed == Acked + Spooled + Open + the sum of Lost.
type Ledger struct {
	Observed uint64 `json:"observed"` // by this run, and recovered from the spool at its start
	Acked    uint64 `json:"acked"`    // stored by the receiver
	Spooled  uint64 `json:"spooled"`  // on disk, or being written there
	Open     uint64 `json:"open"`     // in the open batch, or in one that waits to be sealed and spooled
	// Lost counts by "<stage>/<cause>".
	Lost map[string]uint64 `json:"lost"`

	// ObservedByKind and LostByKind sum up to Observed and to Lost. Kind 0 stands for what an earlier run left in the
	// spool, whose kinds are not known, and for kinds that this version does not know.
	ObservedByKind map[event.Kind]uint64 `json:"-"`
	LostByKind     map[event.Kind]uint64 `json:"-"`
}

// maxLosses bounds the kinds of loss that are told apart; what exceeds them is counted as other/other.
const maxLosses = 1024

// counts is a number of events by kind.
type counts [event.KindCount]uint64

func (c *counts) add(kind event.Kind, n uint64) { c[known(kind)] += n }

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
	observed             counts
	acked, spooled, open uint64
	lost                 map[lossKey]*lossCount
	// told is how much of observed the endpoint has heard of: by batches of this run that reached the spool, and by
	// the earlier runs that observed what was recovered.
	told uint64
	// inSpool has the batches of this run that are in the spool, by sequence.
	inSpool map[uint64]sparse
}

func newLedger(recovered uint64) ledger {
	l := ledger{lost: make(map[lossKey]*lossCount), inSpool: make(map[uint64]sparse)}
	l.observe(0, recovered)
	l.spooled, l.told = recovered, recovered
	return l
}

func (l *ledger) observe(kind event.Kind, n uint64) { l.observed.add(kind, n) }

// lose counts a loss of events that were observed and are no longer open or spooled.
func (l *ledger) lose(kind event.Kind, stage, cause string, n uint64) {
	if n == 0 {
		return
	}
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
	count.total += n
}

func (l *ledger) loseAll(c counts, stage, cause string) {
	for kind, n := range c {
		l.lose(event.Kind(kind), stage, cause, n)
	}
}

// spool moves a batch from open into the spool.
func (l *ledger) spool(sequence uint64, c counts) {
	l.open -= c.total()
	l.spooled += c.total()
	l.inSpool[sequence] = c.sparse()
}

// unspool takes a batch of n events out of the spool: those in lost as lost for a cause, the others as acknowledged.
func (l *ledger) unspool(sequence, n uint64, ownEpoch bool, lost counts, stage, cause string) {
	if kinds, known := l.inSpool[sequence]; ownEpoch && known {
		delete(l.inSpool, sequence)
		c := kinds.counts()
		if n = c.total(); lost.total() == n {
			lost = c
		}
	}
	l.spooled -= n
	l.acked += n - lost.total()
	l.loseAll(lost, stage, cause)
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
		Observed: l.observed.total(), Acked: l.acked, Spooled: l.spooled, Open: l.open,
		Lost: make(map[string]uint64), ObservedByKind: l.observed.byKind(), LostByKind: make(map[event.Kind]uint64),
	}
	for key, count := range l.lost {
		out.Lost[key.stage+"/"+key.cause] += count.total
		out.LostByKind[key.kind] += count.total
	}
	return out
}
