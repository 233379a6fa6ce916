package sender

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/spool"
)

func TestRetriesWithBackoffAndLogsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		var log lines
		var tries []time.Time
		refused := errors.New("connection refused")
		r.fault = func(_ context.Context, stored bool) error {
			if stored {
				return nil
			}
			tries = append(tries, time.Now())
			switch n := len(tries); {
			case n <= 10:
				return &Failure{Err: refused, Remedy: "start it"}
			case n <= 12:
				return errors.New("something else")
			}
			return nil
		}
		cfg := config(newSpool(t, spool.Config{}), r)
		cfg.Logger = log.logger()
		s := newSender(t, cfg)
		stop := start(t, s)
		s.Emit(opened(0))
		time.Sleep(90 * time.Second)
		if u := s.Upload(); u.Problem != "connection refused" || u.Remedy != "start it" || u.Retries == 0 ||
			time.Since(u.Since) < 80*time.Second || !u.NextTry.After(time.Now()) || !u.LastSuccess.IsZero() {
			t.Errorf("state while it fails: %+v", u)
		}
		time.Sleep(time.Hour)
		if u := s.Upload(); u.Problem != "" || !u.Since.IsZero() || u.LastSuccess.IsZero() || u.Retries != 12 {
			t.Errorf("state after it works: %+v", u)
		}
		stop()
		wantNumbers(t, r, 0, 1)
		for i := 1; i < len(tries); i++ {
			low := min(time.Second<<(i-1), maxBackoff/2)
			if wait := tries[i].Sub(tries[i-1]); wait < low || wait > 2*low || wait > maxBackoff {
				t.Errorf("wait %d took %v, want between %v and %v", i, wait, low, 2*low)
			}
		}
		want := []string{
			`level=WARN msg="cannot upload" error="connection refused" remedy="start it"`,
			`level=WARN msg="cannot upload" error="something else" remedy=""`,
			`level=INFO msg="upload works again"`,
		}
		if !slices.Equal(log.text, want) {
			t.Errorf("log %q\nwant %q", log.text, want)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	for asked, low := range map[time.Duration]time.Duration{10 * time.Second: 10 * time.Second, time.Hour: maxRetryAfter} {
		synctest.Test(t, func(t *testing.T) {
			r := newReceiver(t)
			var tries []time.Time
			r.fault = func(_ context.Context, stored bool) error {
				if !stored {
					if tries = append(tries, time.Now()); len(tries) == 1 {
						return &Failure{Err: errors.New("busy"), After: asked}
					}
				}
				return nil
			}
			s := newSender(t, config(newSpool(t, spool.Config{}), r))
			stop := start(t, s)
			s.Emit(opened(0))
			time.Sleep(time.Hour)
			stop()
			if wait := tries[1].Sub(tries[0]); wait < low || wait > low+retryAfterJitter {
				t.Errorf("asked to wait %v, waited %v", asked, wait)
			}
		})
	}
}

// Refused credentials are refreshed at once, but once only: what is refused again waits.
func TestRefresh(t *testing.T) {
	for refusals, want := range map[int]time.Duration{1: 0, 2: minBackoff} {
		synctest.Test(t, func(t *testing.T) {
			r := newReceiver(t)
			var tries []time.Time
			r.fault = func(_ context.Context, stored bool) error {
				if !stored {
					if tries = append(tries, time.Now()); len(tries) <= refusals {
						return &Failure{Err: errors.New("credentials expired"), Refresh: true}
					}
				}
				return nil
			}
			s := newSender(t, config(newSpool(t, spool.Config{}), r))
			stop := start(t, s)
			s.Emit(opened(0))
			time.Sleep(time.Hour)
			stop()
			wantNumbers(t, r, 0, 1)
			took := tries[len(tries)-1].Sub(tries[0])
			if len(tries) != refusals+1 || took < want || took > 2*want {
				t.Errorf("refused %d times: %d tries in %v, want one more in %v or a little later", refusals, len(tries), took, want)
			}
		})
	}
}

// Behind the first burst, uploads take the time that their bytes may take, and none is lost for it.
func TestUploadRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		var sent int
		var last time.Time
		r.fault = func(context.Context, bool) error {
			last = time.Now()
			return nil
		}
		cfg := config(newSpool(t, spool.Config{}), counting{r, &sent})
		cfg.UploadRate, cfg.MaxEvents = 100, 10
		s := newSender(t, cfg)
		s.rate.SetBurst(1000)
		stop := start(t, s)
		begin := time.Now()
		for i := range 1000 {
			s.Emit(opened(i))
			if i%10 == 9 {
				synctest.Wait()
			}
		}
		time.Sleep(time.Hour)
		stop()
		wantNumbers(t, r, 0, 1000)
		if took, want := last.Sub(begin), time.Duration(sent-1000)*time.Second/100; took < want || took > want+2*time.Second {
			t.Errorf("%d bytes took %v, want %v", sent, took, want)
		}
	})
}

// counting counts the bytes that go to a receiver.
type counting struct {
	*receiver
	bytes *int
}

func (c counting) Send(ctx context.Context, frame []byte) error {
	*c.bytes += len(frame)
	return c.receiver.Send(ctx, frame)
}

func TestRejectedIsSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := newReceiver(t)
		sent := 0
		r.fault = func(_ context.Context, stored bool) error {
			if stored {
				return nil
			}
			switch sent++; sent {
			case 1:
				time.Sleep(time.Millisecond) // until all are sealed: none tells of what becomes of another
			case 2, 3:
				return fmt.Errorf("wrapped: %w", &Failure{Err: errors.New("malformed"), Reject: RejectMalformed})
			}
			return nil
		}
		cfg := config(newSpool(t, spool.Config{Dir: dir}), r)
		cfg.MaxEvents = 10
		s := newSender(t, cfg)
		for i := range 40 {
			s.Emit(opened(i))
		}
		stop := start(t, s)
		time.Sleep(time.Minute)
		l := wantLaw(t, s)
		if l.Lost["send/rejected"] != 20 || l.LostByKind[event.FileOpen] != 20 {
			t.Errorf("ledger %+v, want 20 events rejected", l)
		}
		if u := s.Upload(); u.Rejected != 2 || u.Retries != 0 || u.Problem != "" {
			t.Errorf("state %+v, want two rejected and no problem left", u)
		}
		stop()
		// 20 events, and one agent.loss for each batch.
		if l := wantLaw(t, s); l.Acked != 22 || l.Spooled+l.Open != 0 {
			t.Errorf("ledger %+v, want 22 acknowledged", l)
		}
		found, err := filepath.Glob(filepath.Join(dir, "rejected", "*"))
		if err != nil || len(found) != 2 {
			t.Errorf("set aside: %q, %v, want two files", found, err)
		}
	})
}

func TestCorruptIsCountedAndTheRestDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cfg := config(newSpool(t, spool.Config{Dir: dir}), newReceiver(t))
		cfg.MaxEvents = 10
		fill(t, cfg, 0, 30)
		found, err := filepath.Glob(filepath.Join(dir, "*-00000000000000000002-*"))
		if err != nil || len(found) != 1 {
			t.Fatal(found, err)
		}
		if err := os.Truncate(found[0], 20); err != nil {
			t.Fatal(err)
		}
		r := newReceiver(t)
		cfg.Spool, cfg.Transport, cfg.Epoch = newSpool(t, spool.Config{Dir: dir}), r, 101
		s := newSender(t, cfg)
		stop := start(t, s)
		time.Sleep(time.Minute)
		stop()
		if got := len(r.events(event.FileOpen)); got != 20 {
			t.Errorf("%d events stored, want 20", got)
		}
		wantLedger(t, s, `{"observed":31,"acked":21,"spooled":0,"open":0,"lost":{"spool/corrupt":10}}`)
	})
}

// fill runs a sender that reaches nobody, so that its events stay in the spool.
func fill(t *testing.T, cfg Config, from, to int) {
	t.Helper()
	r := newReceiver(t)
	r.fault = func(context.Context, bool) error { return errors.New("down") }
	cfg.Transport = r
	s := newSender(t, cfg)
	stop := start(t, s)
	for i := from; i < to; i++ {
		s.Emit(opened(i))
		if (i+1)%cfg.MaxEvents == 0 {
			synctest.Wait()
		}
	}
	stop()
	if l := wantLaw(t, s); l.Spooled != l.Observed {
		t.Fatalf("ledger %+v, want all spooled", l)
	}
}

func TestRestartWithAFilledSpool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cfg := config(newSpool(t, spool.Config{Dir: dir}), newReceiver(t))
		cfg.MaxEvents = 10
		fill(t, cfg, 0, 35)
		cfg.Spool, cfg.Epoch = newSpool(t, spool.Config{Dir: dir}), 200
		r := newReceiver(t)
		cfg.Transport = r
		s := newSender(t, cfg)
		wantLedger(t, s, `{"observed":35,"acked":0,"spooled":35,"open":0,"lost":{}}`)
		stop := start(t, s)
		for i := range 7 {
			s.Emit(opened(35 + i))
		}
		stop()
		wantNumbers(t, r, 0, 42)
		wantLedger(t, s, `{"observed":42,"acked":42,"spooled":0,"open":0,"lost":{}}`)
		var told uint64
		for _, b := range r.batches {
			told += b.Ledger.Observed
		}
		if told != 42 {
			t.Errorf("headers of both runs say %d observed, want 42", told)
		}
	})
}

func TestDrainAtStop(t *testing.T) {
	down := errors.New("connection refused")
	for _, test := range []struct {
		name  string
		fault func(ctx context.Context, stored bool) error
		took  time.Duration
		want  string
	}{
		{"healthy", nil, 0, `{"observed":15,"acked":15,"spooled":0,"open":0,"lost":{}}`},
		{"down", func(context.Context, bool) error { return down }, 0,
			`{"observed":15,"acked":0,"spooled":15,"open":0,"lost":{}}`},
		{"hangs", func(ctx context.Context, _ bool) error {
			<-ctx.Done()
			return ctx.Err()
		}, DefaultDrainTimeout, `{"observed":15,"acked":0,"spooled":15,"open":0,"lost":{}}`},
		{"slow", func(ctx context.Context, stored bool) error {
			if !stored {
				time.Sleep(3 * time.Second)
			}
			return ctx.Err()
		}, 6 * time.Second, `{"observed":15,"acked":10,"spooled":5,"open":0,"lost":{}}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newReceiver(t)
				r.fault = test.fault
				cfg := config(newSpool(t, spool.Config{}), r)
				cfg.MaxEvents = 10
				s := newSender(t, cfg)
				for i := range 15 {
					s.Emit(opened(i))
				}
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				begin := time.Now()
				if err := s.Run(ctx); err != nil {
					t.Error(err)
				}
				if took := time.Since(begin); took != test.took {
					t.Errorf("stopping took %v, want %v", took, test.took)
				}
				wantLedger(t, s, test.want)
				if got, want := s.cfg.Spool.Stats().Events, s.Ledger().Spooled; got != want {
					t.Errorf("spool holds %d events, ledger says %d", got, want)
				}
			})
		})
	}
}

// A stop ends the wait between two tries: one more is made.
func TestStopEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		var up atomic.Bool
		r.fault = func(context.Context, bool) error {
			if !up.Load() {
				return &Failure{Err: errors.New("busy"), After: time.Hour}
			}
			return nil
		}
		s := newSender(t, config(newSpool(t, spool.Config{}), r))
		stop := start(t, s)
		s.Emit(opened(0))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		up.Store(true)
		begin := time.Now()
		stop()
		if took := time.Since(begin); took != 0 {
			t.Errorf("stopping took %v, want no wait", took)
		}
		wantNumbers(t, r, 0, 1)
	})
}

// While the spool cannot be written and there is no room in memory, events are lost and counted, nothing else stops, and an idle agent adds no more
// losses by telling of them.
func TestSpoolFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "spool")
		r := newReceiver(t)
		var log lines
		cfg := config(newSpool(t, spool.Config{Dir: dir, MaxMemory: 1}), r)
		cfg.Logger = log.logger()
		s := newSender(t, cfg)
		stop := start(t, s)
		breakDir(t, dir)
		s.Emit(opened(0))
		time.Sleep(1500 * time.Millisecond)
		s.Emit(opened(1))
		time.Sleep(time.Hour)
		// The second batch told of the loss of the first, and was lost as well.
		wantLedger(t, s, `{"observed":3,"acked":0,"spooled":0,"open":0,"lost":{"spool/write":3}}`)
		mendDir(t, dir)
		s.Emit(opened(2))
		time.Sleep(2 * time.Second)
		stop()
		wantNumbers(t, r, 2, 3)
		losses := r.events(event.AgentLoss)
		if len(losses) != 1 || losses[0].Agent.Count != 2 || losses[0].Agent.Lost != event.FileOpen {
			t.Errorf("agent.loss events %+v, want one of 2 events", losses)
		}
		if got := r.batches[0].Ledger.Observed; got != 5 {
			t.Errorf("header says %d observed, want all 5", got)
		}
		if len(log.text) != 2 || !strings.Contains(log.text[0], "cannot spool") || !strings.Contains(log.text[1], "again") {
			t.Errorf("log %q, want the problem once and its end", log.text)
		}
	})
}

// breakDir puts a file where the spool's folder was, which stops even root from writing there.
func breakDir(t *testing.T, dir string) {
	t.Helper()
	if err := errors.Join(os.Rename(dir, dir+".away"), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Error(err)
	}
}

func mendDir(t *testing.T, dir string) {
	t.Helper()
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
		t.Error(err)
	}
}

// Whatever goes wrong at random, every snapshot of the ledger adds up, what is stored and what is counted as lost are
// together what was emitted, nothing is stored twice, and nothing is out of order.
func TestExactUnderRandomFaults(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { randomFaults(t, seed) })
		})
	}
}

// dice are thrown by several.
type dice struct {
	mu     sync.Mutex
	random *rand.Rand // guarded by mu
}

func (d *dice) IntN(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.random.IntN(n)
}

// faulty is a receiver that fails before it stores, or after; again says that its last answer to the batch was one of
// those.
type faulty struct {
	*receiver
	fault func(again, stored bool) error

	mu        sync.Mutex
	swallowed map[batch.ID]bool // guarded by mu
}

func (f *faulty) Send(ctx context.Context, frame []byte) error {
	codec, err := batch.NewCodec()
	if err != nil {
		return err
	}
	id := decode(f.t, codec, frame).ID
	f.mu.Lock()
	again := f.swallowed[id]
	f.mu.Unlock()
	if err := f.fault(again, false); err != nil {
		return err
	}
	if err := f.receiver.Send(ctx, frame); err != nil {
		return err
	}
	err = f.fault(again, true)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.swallowed[id] = err != nil
	return err
}

func randomFaults(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	var dice dice // the receiver's
	dice.random = rand.New(rand.NewPCG(seed, 2))
	dir := filepath.Join(t.TempDir(), "spool")
	r := newReceiver(t)
	var healthy atomic.Bool
	evicts := seed%2 == 0
	transport := &faulty{receiver: r, swallowed: make(map[batch.ID]bool)}
	transport.fault = func(again, stored bool) error {
		if healthy.Load() {
			return nil
		}
		if stored {
			// The answer is lost. Were the batch evicted before its repeat, it would be stored and counted as lost.
			if !evicts && dice.IntN(4) == 0 {
				return errors.New("connection reset")
			}
			return nil
		}
		switch dice.IntN(8) {
		case 0:
			if !again { // a receiver does not refuse what it has
				return &Failure{Err: errors.New("malformed"), Reject: RejectMalformed}
			}
		case 1, 2:
			return &Failure{Err: errors.New("busy"), After: time.Duration(dice.IntN(10)) * time.Second}
		case 3, 4:
			time.Sleep(time.Duration(dice.IntN(5000)) * time.Millisecond)
		case 5:
			return errors.New("refused")
		}
		return nil
	}
	if seed >= 4 {
		r.tooLarge = func(b *batch.Batch) bool { // now and then even for an event alone
			return len(b.Events) > 5 || b.Events[0].Kind == event.FileOpen && b.Events[0].File.Inode%50 == 3 && len(b.Events) == 1
		}
	}
	limits := spool.Config{Dir: dir, MaxMemory: 2 << 10}
	if evicts {
		limits.MaxBytes = 32 << 10
	}
	cfg := config(newSpool(t, limits), transport)
	cfg.MaxEvents, cfg.LedgerFile = 20, filepath.Join(filepath.Dir(dir), "ledger")
	s := newSender(t, cfg)
	stop := start(t, s)

	done := make(chan struct{})
	var checking sync.WaitGroup
	checking.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(3 * time.Millisecond):
				wantLaw(t, s)
			}
		}
	})
	const emitted = 5000
	var reported uint64
	broken := false
	for i := range emitted {
		s.Emit(opened(i))
		switch random.IntN(60) {
		case 0:
			n := uint64(random.IntN(5))
			s.Lost(event.ProcessExec, "kernel", "ring_full", n)
			reported += n
		case 1, 2, 3:
			time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
		case 4:
			synctest.Wait() // or the folder would be moved between two steps of the spool
			if broken = !broken; broken {
				breakDir(t, dir)
			} else {
				mendDir(t, dir)
			}
		}
	}
	synctest.Wait()
	if broken {
		mendDir(t, dir)
	}
	healthy.Store(true)
	time.Sleep(2 * maxRetryAfter)
	close(done)
	checking.Wait()
	stop()

	l := wantLaw(t, s)
	if l.Open != 0 || l.Spooled != 0 || l.Acked != r.total() {
		t.Errorf("at the end: %+v, want all acknowledged or lost, and as many stored: %d", l, r.total())
	}
	if want := uint64(emitted) + reported + l.ObservedByKind[event.AgentLoss]; l.Observed != want {
		t.Errorf("%d observed, want %d", l.Observed, want)
	}
	cfg.Spool, cfg.Epoch = newSpool(t, limits), 200
	next := newSender(t, cfg)
	wantLaw(t, next)
	if kept := next.Ledger(); !reflect.DeepEqual(kept, l) {
		t.Errorf("the next run goes on with %+v, want %+v", kept, l)
	}
	next.file.close()
	stored := r.events(event.FileOpen)
	if got, want := uint64(len(stored))+l.LostByKind[event.FileOpen], uint64(emitted); got != want {
		t.Errorf("%d stored and %d lost, want %d together", len(stored), l.LostByKind[event.FileOpen], want)
	}
	for i := 1; i < len(stored); i++ { // by epoch
		if stored[i].File.Inode <= stored[i-1].File.Inode {
			t.Fatalf("event %d stored after %d", stored[i].File.Inode, stored[i-1].File.Inode)
		}
	}
	if l.Lost["kernel/ring_full"] != reported || len(stored) == 0 || len(stored) == emitted {
		t.Errorf("%d events stored, ledger %+v: the faults did not show", len(stored), l)
	}
}
