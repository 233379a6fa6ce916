package sender

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/spool"
)

// diskOf is what an agent leaves on disk.
type diskOf struct{ spool, ledger string }

func newDisk(t testing.TB) diskOf {
	dir := t.TempDir()
	return diskOf{filepath.Join(dir, "spool"), filepath.Join(dir, "ledger")}
}

// crashed copies a disk as a crash leaves it: the ledger may be newer or older than the spool.
func crashed(t *testing.T, ledger, batches diskOf) diskOf {
	t.Helper()
	copied := newDisk(t)
	if err := os.CopyFS(copied.spool, os.DirFS(batches.spool)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(ledger.ledger)
	if err == nil {
		err = os.WriteFile(copied.ledger, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return copied
}

func (d diskOf) config(t testing.TB, r *receiver, epoch uint64, maxBytes int64) Config {
	cfg := config(newSpool(t, spool.Config{Dir: d.spool, MaxBytes: maxBytes}), r)
	cfg.LedgerFile, cfg.Epoch, cfg.MaxEvents = d.ledger, epoch, 10
	return cfg
}

func TestLedgerGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := newDisk(t), newReceiver(t)
		for run := range 5 {
			up := run%2 == 1
			r.fault = func(context.Context, bool) error {
				if !up {
					return errors.New("down")
				}
				return nil
			}
			s := newSender(t, d.config(t, r, uint64(100+run), 0))
			stop := start(t, s)
			for i := range 15 {
				s.Emit(opened(15*run + i))
			}
			s.Lost(event.ProcessExec, "kernel", "ring_full", 2)
			time.Sleep(2 * time.Second)
			stop()
			l := wantLaw(t, s)
			n := uint64(run + 1)
			if l.ObservedByKind[event.FileOpen] != 15*n || l.LostByKind[event.ProcessExec] != 2*n || l.Acked != r.total() ||
				up != (l.Spooled == 0) || len(l.Lost) != 1 {
				t.Errorf("after run %d: %+v, %d stored", run, l, r.total())
			}
		}
		wantTold(t, r, 4*18, 4*2)
	})
}

// wantTold checks that the receiver heard of each event, and of each loss, once.
func wantTold(t *testing.T, r *receiver, observed, lost uint64) {
	t.Helper()
	var toldObserved, toldLost uint64
	for _, b := range r.batches {
		toldObserved += b.Ledger.Observed
		for _, loss := range b.Ledger.Lost {
			toldLost += loss.Count
		}
	}
	if toldObserved != observed || toldLost != lost {
		t.Errorf("the receiver heard of %d observed and %d lost, want %d and %d", toldObserved, toldLost, observed, lost)
	}
}

// Whenever an agent is killed, the next run accounts for all that the ledger knew: each event is stored once or lost
// once, and of those that were in the spool none is lost. The receiver hears of all of that, once.
func TestLedgerAfterAKill(t *testing.T) {
	for seed := range uint64(4) {
		for _, maxBytes := range []int64{0, 16 << 10} {
			t.Run(fmt.Sprint(seed, maxBytes), func(t *testing.T) { killAtRandom(t, seed, maxBytes) })
		}
	}
}

func killAtRandom(t *testing.T, seed uint64, maxBytes int64) {
	random := rand.New(rand.NewPCG(seed, 3))
	d, r := newDisk(t), newReceiver(t)
	s := newSender(t, d.config(t, r, 1, maxBytes))
	for epoch, emitted := uint64(2), 0; epoch < 40; {
		kill, before := random.IntN(4) == 0, d
		step := random.IntN(8)
		if kill && step >= 4 && step <= 6 {
			s.save() // as at the seal before
			before = crashed(t, d, d)
		}
		switch step {
		case 0, 1, 2, 3:
			for range random.IntN(15) {
				s.Emit(opened(emitted))
				emitted++
			}
			if random.IntN(4) == 0 {
				s.Lost(event.ProcessExec, "kernel", "ring_full", 3)
			}
		case 4, 5:
			if next, ok := s.takeFull(); ok {
				s.seal(next)
			} else if next, ok := s.takeOpen(); ok {
				s.seal(next)
			}
			if maxBytes == 0 && kill { // before the ledger was saved
				d, s = rerun(t, crashed(t, before, d), r, &epoch, maxBytes)
			}
		case 6:
			if e, ok := next(s.cfg.Spool); ok {
				if _, err := s.deliver(t.Context(), new(parts), e); err != nil {
					t.Fatal(err)
				}
				if kill { // before the file was removed
					d, s = rerun(t, crashed(t, d, before), r, &epoch, maxBytes)
				}
			}
		case 7:
			d, s = rerun(t, crashed(t, d, d), r, &epoch, maxBytes)
		}
		if l := wantLaw(t, s); t.Failed() || l.Lost["spool/vanished"] != 0 || maxBytes == 0 && l.Lost["spool/evicted"] != 0 {
			t.Fatalf("ledger %+v", l)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil { // seals and uploads what is left
		t.Fatal(err)
	}
	l := wantLaw(t, s)
	var lost uint64
	for _, n := range l.Lost {
		lost += n
	}
	if l.Open+l.Spooled != 0 || l.Acked != r.total() || l.Lost["queue/killed"] == 0 || (maxBytes > 0) != (l.Lost["spool/evicted"] > 0) {
		t.Errorf("at the end: %+v, %d stored", l, r.total())
	}
	for kind, n := range l.LostByKind {
		if n > l.ObservedByKind[kind] {
			t.Errorf("%d lost of %s, but %d observed", n, kind, l.ObservedByKind[kind])
		}
	}
	if maxBytes == 0 { // what is evicted tells nothing
		wantTold(t, r, l.Observed, lost)
	}
}

func rerun(t *testing.T, d diskOf, r *receiver, epoch *uint64, maxBytes int64) (diskOf, *Sender) {
	s := newSender(t, d.config(t, r, *epoch, maxBytes))
	*epoch++
	return d, s
}

// A slot that was cut off leaves the one before; both damaged, the ledger begins anew with what is in the spool.
func TestLedgerFileDamaged(t *testing.T) {
	d, r := newDisk(t), newReceiver(t)
	s := newSender(t, d.config(t, r, 1, 0))
	for i := range 10 {
		s.Emit(opened(i))
	}
	next, _ := s.takeFull()
	s.seal(next)
	s.save()
	s.save()
	whole, err := os.ReadFile(d.ledger)
	if err != nil {
		t.Fatal(err)
	}
	length := strings.LastIndex(string(whole[:ledgerSlot]), "}") + 1
	newest := int(s.file.generation % 2)
	random := rand.New(rand.NewPCG(1, 1))
	for cut := 0; cut <= length; cut += 1 + length/40 {
		damaged := append([]byte{}, whole...)
		clear(damaged[newest*ledgerSlot+cut : (newest+1)*ledgerSlot])
		var log lines
		again := crashed(t, d, d)
		if random.IntN(2) == 0 {
			clear(damaged[(1-newest)*ledgerSlot+ledgerHeader:][:50])
		}
		if err := os.WriteFile(again.ledger, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := again.config(t, r, 2, 0)
		cfg.Logger = log.logger()
		s := newSender(t, cfg)
		want := `{"observed":10,"acked":0,"spooled":10,"open":0,"lost":{}}`
		wantLedger(t, s, want)
		if known := maps.Equal(s.Ledger().ObservedByKind, map[event.Kind]uint64{event.FileOpen: 10}); known == (len(log.text) > 0) {
			t.Errorf("cut at %d: %v, log %q", cut, s.Ledger().ObservedByKind, log.text)
		}
		s.file.close()
	}
}

// A state directory that takes no ledger stops nothing, and is tried again.
func TestLedgerFileThatCannotBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := newDisk(t), newReceiver(t)
		missing := filepath.Join(filepath.Dir(d.ledger), "missing")
		cfg := d.config(t, r, 1, 0)
		cfg.LedgerFile = filepath.Join(missing, "ledger")
		var log lines
		cfg.Logger = log.logger()
		s := newSender(t, cfg)
		stop := start(t, s)
		s.Emit(opened(0))
		time.Sleep(10 * time.Second)
		if err := os.Mkdir(missing, 0o700); err != nil {
			t.Fatal(err)
		}
		s.Emit(opened(1))
		time.Sleep(10 * time.Second)
		stop()
		wantLedger(t, s, `{"observed":2,"acked":2,"spooled":0,"open":0,"lost":{}}`)
		if len(log.text) != 2 || !strings.Contains(log.text[0], "ledger") || !strings.Contains(log.text[1], "kept again") {
			t.Errorf("log %q", log.text)
		}
		cfg.Spool, cfg.Epoch = newSpool(t, spool.Config{Dir: d.spool}), 2
		wantLedger(t, newSender(t, cfg), `{"observed":2,"acked":2,"spooled":0,"open":0,"lost":{}}`)
	})
}

// Somebody removes a batch from the spool.
func TestVanished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(t)
		fill(t, d.config(t, nil, 1, 0), 0, 20)
		found, err := filepath.Glob(filepath.Join(d.spool, "*-00000000000000000001-*"))
		if err == nil && len(found) == 1 {
			err = os.Remove(found[0])
		}
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		wantLedger(t, newSender(t, d.config(t, newReceiver(t), 2, 0)),
			`{"observed":20,"acked":0,"spooled":10,"open":0,"lost":{"spool/vanished":10}}`)
	})
}

// What is kept is written while the ledger goes on.
func TestKeptLedgerIsACopy(t *testing.T) {
	l := newLedger(2)
	first, second := spool.Entry{Epoch: 1, Sequence: 1, Events: 1}, spool.Entry{Epoch: 1, Sequence: 2, Events: 1}
	l.leave(first, "")
	l.leave(second, "rejected")
	kept := l.keep()
	l.left([]spool.Entry{first}, false)
	want := []leaving{{Epoch: 1, Sequence: 1}, {Epoch: 1, Sequence: 2, Cause: "rejected"}}
	if !slices.Equal(kept.Leaving, want) || len(l.leaving) != 1 {
		t.Errorf("kept %+v, want %+v; %+v are leaving now", kept.Leaving, want, l.leaving)
	}
}

// next returns the oldest batch of all.
func next(s *spool.Spool) (spool.Entry, bool) {
	lanes := s.Lanes()
	if len(lanes) == 0 {
		return spool.Entry{}, false
	}
	return s.Next(lanes[0].Epoch)
}

// A clock that was set back between two runs, and again, changes no account.
func TestClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := newDisk(t), newReceiver(t)
		down := func(context.Context, bool) error { return errors.New("down") }
		for run, epoch := range []uint64{300, 200, 100, 250} {
			if r.fault = down; run == 3 {
				r.fault = nil
			}
			s := newSender(t, d.config(t, r, epoch, 0))
			stop := start(t, s)
			for i := range 10 {
				s.Emit(opened(10*run + i))
			}
			time.Sleep(2 * time.Second)
			stop()
			if l := wantLaw(t, s); l.Observed != uint64(10*(run+1)) || len(l.Lost) != 0 || run == 3 && l.Acked != 40 {
				t.Errorf("run %d at epoch %d: %+v, want %d events and none lost", run, epoch, l, 10*(run+1))
			}
		}
		wantNumbers(t, r, 0, 40)
	})
}
