package sender

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/spool"
)

// receiver is a transport and the store behind it. It drops repeats and takes parts in their order, as the endpoint does.
type receiver struct {
	t     testing.TB
	codec *batch.Codec
	// fault, unless nil, is asked before a frame is stored (stored false) and after it. Its error is what Send returns.
	fault func(ctx context.Context, stored bool) error
	// tooLarge, unless nil, says what is refused with 413.
	tooLarge func(b *batch.Batch) bool

	mu      sync.Mutex
	batches []*batch.Batch // stored
	seen    map[string]string
	marks   map[uint64]receiverMark // by epoch
	sent    int
}

// receiverMark is how far an epoch is stored: the header of the last batch, and how many of its events.
type receiverMark struct {
	batch.Header
	offset int
	whole  bool
}

func newReceiver(t testing.TB) *receiver {
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return &receiver{t: t, codec: codec, seen: map[string]string{}, marks: map[uint64]receiverMark{}}
}

func (r *receiver) Send(ctx context.Context, frame []byte) error {
	if r.fault != nil {
		if err := r.fault(ctx, false); err != nil {
			return err
		}
	}
	if err := r.store(frame); err != nil {
		return err
	}
	if r.fault != nil {
		return r.fault(ctx, true)
	}
	return nil
}

func (r *receiver) store(frame []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent++
	b := decode(r.t, r.codec, frame)
	if r.tooLarge != nil && r.tooLarge(b) {
		return &Failure{Err: errors.New("too large"), Reject: RejectTooLarge}
	}
	name := fmt.Sprint(b.ID, b.First, len(b.Events))
	if before, again := r.seen[name]; again && before != string(frame) {
		r.t.Errorf("batch %s came again with other bytes", name)
	}
	mark, end := r.marks[b.ID.Epoch], int(b.First)+len(b.Events)
	switch {
	case b.ID.Sequence < mark.ID.Sequence:
		if _, again := r.seen[name]; !again {
			r.t.Errorf("batch %s after %v: out of order", name, mark.ID)
		}
		return nil
	case b.ID == mark.ID && (mark.whole || end <= mark.offset):
		return nil
	}
	offset := mark.offset
	if b.ID != mark.ID {
		offset = 0
	}
	if int(b.First) != offset {
		r.marks[b.ID.Epoch] = receiverMark{b.Header, offset, false}
		return &Failure{Err: errors.New("conflict"), Partial: true, Stored: uint32(offset)}
	}
	r.seen[name] = string(frame)
	r.marks[b.ID.Epoch] = receiverMark{b.Header, end, b.Sealed == 0 || end == int(b.Sealed)}
	r.batches = append(r.batches, b)
	return nil
}

func decode(t testing.TB, codec *batch.Codec, frame []byte) *batch.Batch {
	t.Helper()
	data, err := codec.Decompress(nil, frame)
	if err != nil {
		t.Fatal(err)
	}
	b, err := batch.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// events returns all that was stored of a kind, by epoch, and in the order of arrival.
func (r *receiver) events(kind event.Kind) (list []event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	batches := slices.Clone(r.batches)
	slices.SortStableFunc(batches, func(a, b *batch.Batch) int { return cmp.Compare(a.ID.Epoch, b.ID.Epoch) })
	for _, b := range batches {
		for _, e := range b.Events {
			if e.Kind == kind {
				list = append(list, e)
			}
		}
	}
	return list
}

func (r *receiver) total() (n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.batches {
		n += uint64(len(b.Events))
	}
	return n
}

// opened returns an event that is told from others by its number.
func opened(n int) *event.Event {
	return &event.Event{
		Time: time.Unix(1_700_000_000, int64(n)), Kind: event.FileOpen, File: &event.File{Inode: uint64(n)},
	}
}

func wantNumbers(t *testing.T, r *receiver, from, to int) {
	t.Helper()
	list := r.events(event.FileOpen)
	if len(list) != to-from {
		t.Errorf("%d events stored, want %d", len(list), to-from)
		return
	}
	for i, e := range list {
		if e.File.Inode != uint64(from+i) {
			t.Errorf("event %d stored at place %d", e.File.Inode, from+i)
			return
		}
	}
}

func newSpool(t testing.TB, cfg spool.Config) *spool.Spool {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s, err := spool.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// config is complete; a test overwrites what it is about.
func config(s *spool.Spool, transport Transport) Config {
	return Config{
		Agent: event.ID{1}, Epoch: 100, Spool: s, Transport: transport,
		Host: func() event.Host { return event.Host{Hostname: "h"} },
	}
}

func newSender(t testing.TB, cfg Config) *Sender {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs a sender; the function it returns stops it and waits.
func start(t testing.TB, s *Sender) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// wantLaw checks the law of the ledger and returns the snapshot.
func wantLaw(t testing.TB, s *Sender) Ledger {
	t.Helper()
	l := s.Ledger()
	var lost, observedByKind, lostByKind uint64
	for _, n := range l.Lost {
		lost += n
	}
	for _, n := range l.ObservedByKind {
		observedByKind += n
	}
	for _, n := range l.LostByKind {
		lostByKind += n
	}
	if l.Observed != l.Acked+l.Spooled+l.Open+lost || observedByKind != l.Observed || lostByKind != lost {
		t.Errorf("the ledger does not add up: %+v", l)
	}
	return l
}

func wantLedger(t testing.TB, s *Sender, want string) {
	t.Helper()
	wantLaw(t, s)
	got, err := json.Marshal(s.Ledger())
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("ledger %s\n  want %s", got, want)
	}
}

func TestDeliversInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		cfg := config(newSpool(t, spool.Config{}), r)
		cfg.MaxEvents = 10
		s := newSender(t, cfg)
		stop := start(t, s)
		for i := range 105 {
			s.Emit(opened(i))
			if i%10 == 9 {
				synctest.Wait() // no time passes: a full batch is sealed and sent at once
			}
		}
		wantNumbers(t, r, 0, 100)
		wantLedger(t, s, `{"observed":105,"acked":100,"spooled":0,"open":5,"lost":{}}`)
		time.Sleep(DefaultSealInterval)
		synctest.Wait()
		wantNumbers(t, r, 0, 105)
		stop()
		wantLedger(t, s, `{"observed":105,"acked":105,"spooled":0,"open":0,"lost":{}}`)
		s.Emit(opened(0))
		wantLedger(t, s, `{"observed":106,"acked":105,"spooled":0,"open":0,"lost":{"queue/closed":1}}`)
	})
}

func TestSealsByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		cfg := config(newSpool(t, spool.Config{}), r)
		cfg.MaxBytes = 1000
		s := newSender(t, cfg)
		stop := start(t, s)
		for range 10 {
			s.Emit(&event.Event{Time: time.Now(), Kind: event.DNSQuery, DNS: &event.DNS{Payload: make([]byte, 600)}})
			synctest.Wait()
		}
		if len(r.batches) != 5 {
			t.Errorf("%d batches, want 5 of two events each", len(r.batches))
		}
		stop()
	})
}

func TestIdleSealsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		s := newSender(t, config(newSpool(t, spool.Config{}), r))
		stop := start(t, s)
		time.Sleep(time.Hour)
		stop()
		if r.sent != 0 {
			t.Errorf("%d batches sent without an event", r.sent)
		}
	})
}

func TestQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		cfg := config(newSpool(t, spool.Config{}), r)
		cfg.MaxEvents = 10
		s := newSender(t, cfg)
		for i := range builders*10 + 7 { // nobody seals yet
			s.Emit(opened(i))
		}
		wantLedger(t, s, `{"observed":87,"acked":0,"spooled":0,"open":80,"lost":{"queue/full":7}}`)
		stop := start(t, s)
		synctest.Wait()
		s.Emit(opened(builders * 10))
		stop()
		wantNumbers(t, r, 0, builders*10+1)
		// The loss is told once, and counts itself.
		losses := r.events(event.AgentLoss)
		want := event.Agent{Stage: "queue", Cause: "full", Lost: event.FileOpen, Count: 7}
		if len(losses) != 1 || fmt.Sprint(*losses[0].Agent) != fmt.Sprint(want) {
			t.Errorf("agent.loss events %+v, want one of 7 events", losses)
		}
		wantLedger(t, s, `{"observed":89,"acked":82,"spooled":0,"open":0,"lost":{"queue/full":7}}`)
	})
}

func TestLossIsToldWithoutEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		s := newSender(t, config(newSpool(t, spool.Config{}), r))
		stop := start(t, s)
		s.Lost(event.ProcessExec, "kernel", "ring_full", 5)
		s.Lost(event.ProcessExec, "kernel", "ring_full", 0)
		s.Lost(event.NetConnect, "kernel", "ring_full", 2)
		time.Sleep(time.Hour)
		stop()
		if got := r.events(event.AgentLoss); len(got) != 2 {
			t.Errorf("%d agent.loss events, want 2", len(got))
		}
		wantLedger(t, s, `{"observed":9,"acked":2,"spooled":0,"open":0,"lost":{"kernel/ring_full":7}}`)
	})
}

// The deltas in the headers sum up to the ledger, also of batches that could not be spooled.
func TestHeadersCarryTheLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		cfg := config(newSpool(t, spool.Config{Dir: t.TempDir() + "/spool"}), r)
		cfg.MaxEvents = 10
		s := newSender(t, cfg)
		stop := start(t, s)
		for i := range 500 {
			s.Emit(opened(i))
			if i%7 == 0 {
				s.Lost(event.ProcessFork, "kernel", "ring_full", 3)
			}
			time.Sleep(100 * time.Millisecond)
		}
		stop()
		var sum batch.Ledger
		var lost uint64
		for _, b := range r.batches {
			sum.Observed += b.Ledger.Observed
			for _, loss := range b.Ledger.Lost {
				lost += loss.Count
			}
		}
		l := wantLaw(t, s)
		if sum.Observed != l.Observed || lost != l.Lost["kernel/ring_full"] || lost != 72*3 {
			t.Errorf("headers say %d observed, %d lost; ledger %+v", sum.Observed, lost, l)
		}
	})
}

func TestLossesAreBounded(t *testing.T) {
	s := newSender(t, config(newSpool(t, spool.Config{}), newReceiver(t)))
	for i := range 10 * maxLosses {
		s.Lost(event.ProcessExec, "stage", fmt.Sprint("cause", i), 1)
	}
	l := wantLaw(t, s)
	if len(l.Lost) != maxLosses+1 || l.Lost["other/other"] != 9*maxLosses {
		t.Errorf("%d causes told apart, %d others, want %d and %d",
			len(l.Lost), l.Lost["other/other"], maxLosses, 9*maxLosses)
	}
}

func TestUpdates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		described := make(chan batch.Updates, 1)
		cfg := config(newSpool(t, spool.Config{}), r)
		cfg.Updates = func() batch.Updates {
			select {
			case updates := <-described:
				return updates
			default:
				return batch.Updates{}
			}
		}
		cfg.Late.Describe = func(c *event.Container, _ uint64) event.Container { return event.Container{ID: c.ID, Pending: true} }
		s := newSender(t, cfg)
		stop := start(t, s)
		e := opened(1)
		e.Container = &event.Container{ID: "a"}
		s.Emit(e)
		time.Sleep(1500 * time.Millisecond)
		var updates batch.Updates
		for i := range maxUpdates + 1 {
			updates.Containers = append(updates.Containers, event.Container{ID: "a", Name: fmt.Sprint(i)})
			updates.Digests = append(updates.Digests, event.FileDigest{Version: event.FileVersion{Inode: uint64(i)}})
		}
		described <- updates
		time.Sleep(2 * time.Second)
		stop()
		if len(r.batches) != 3 {
			t.Fatalf("%d batches, want one with the event and two with updates", len(r.batches))
		}
		if c := r.batches[0].Events[0].Container; c == nil || !c.Pending {
			t.Errorf("container %+v, want it pending", c)
		}
		first, second := r.batches[1].Updates, r.batches[2].Updates
		if c := second.Containers; len(first.Containers) != maxUpdates || len(c) != 1 || c[0].Name != "1024" {
			t.Errorf("%d and %d containers, want %d and the last", len(first.Containers), len(c), maxUpdates)
		}
		if d := second.Digests; len(first.Digests) != maxUpdates || len(d) != 1 || d[0].Version.Inode != maxUpdates {
			t.Errorf("%d and %d digests, want %d and the last", len(first.Digests), len(d), maxUpdates)
		}
	})
}

// Law: updates, however large, and a batch full of containers are no batch that the receiver refuses.
func TestLargeDescriptionsLoseNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		const n = 1000
		large := func(i int) event.Container {
			c := event.Container{ID: fmt.Sprint(i), Name: "web", ECS: &event.ECS{TaskID: fmt.Sprint(i)}}
			for label := range 32 {
				c.Labels = append(c.Labels, event.Tag{Key: fmt.Sprint(label), Value: strings.Repeat("x", 500)})
			}
			return c
		}
		cfg := config(newSpool(t, spool.Config{}), r)
		var updates batch.Updates
		for i := range n {
			updates.Containers = append(updates.Containers, large(i))
		}
		cfg.Updates = func() batch.Updates {
			defer func() { updates = batch.Updates{} }()
			return updates
		}
		cfg.Late.Describe = func(c *event.Container, _ uint64) event.Container {
			i, err := strconv.Atoi(c.ID)
			if err != nil {
				t.Error(err)
			}
			return large(i)
		}
		s := newSender(t, cfg)
		stop := start(t, s)
		for i := range n {
			e := opened(i)
			e.Container = &event.Container{ID: fmt.Sprint(i)}
			s.Emit(e)
		}
		time.Sleep(time.Minute)
		stop()
		told, whole, events := 0, 0, 0
		for _, b := range r.batches {
			told += len(b.Updates.Containers)
			for _, e := range b.Events {
				events++
				if c := e.Container; c == nil || c.Name != "web" || c.ECS.TaskID != c.ID || c.Truncated == (len(c.Labels) > 0) {
					t.Fatalf("container %+v", c)
				} else if !c.Truncated {
					whole++
				}
			}
		}
		if told != n || events != n || whole < 10 {
			t.Errorf("%d updates and %d events, %d of containers that are told of in full; want %d", told, events, whole, n)
		}
		if l := s.Ledger(); len(l.Lost) > 0 {
			t.Errorf("lost %v", l.Lost)
		}
	})
}

func TestOnSealCoversWhatIsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(newSpool(t, spool.Config{}), newReceiver(t))
		var sealed []time.Duration
		begin := time.Now()
		cfg.OnSeal = func(at time.Time) { sealed = append(sealed, at.Sub(begin)) }
		cfg.MaxEvents = 2
		s := newSender(t, cfg)
		s.Emit(opened(0))
		s.Emit(opened(1)) // full now, sealed later
		time.Sleep(10 * time.Second)
		stop := start(t, s)
		s.Emit(opened(2))
		time.Sleep(1500 * time.Millisecond)
		stop()
		if want := []time.Duration{0, 11 * time.Second}; !slices.Equal(sealed, want) {
			t.Errorf("sealed at %v, want %v", sealed, want)
		}
	})
}

func TestSubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReceiver(t)
		cfg := config(newSpool(t, spool.Config{}), r)
		cfg.MaxEvents = 1
		s := newSender(t, cfg)
		stop := start(t, s)
		slow, cancel, err := s.Subscribe()
		if err != nil {
			t.Fatal(err)
		}
		for range MaxSubscribers - 1 {
			_, cancelOther, err := s.Subscribe()
			if err != nil {
				t.Fatal(err)
			}
			defer cancelOther()
			cancelOther()
			if _, _, err = s.Subscribe(); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := s.Subscribe(); !errors.Is(err, ErrTooManySubscribers) {
			t.Errorf("subscriber %d: %v, want ErrTooManySubscribers", MaxSubscribers+1, err)
		}
		const sent = subscriberQueue + 5
		for i := range sent {
			s.Emit(opened(i))
			synctest.Wait()
		}
		if got, want := s.Missed(), uint64(5*MaxSubscribers); got != want {
			t.Errorf("%d frames missed, want %d", got, want)
		}
		wantNumbers(t, r, 0, sent) // a slow subscriber delays nobody
		for i := range subscriberQueue {
			frame := <-slow
			if b := decode(t, r.codec, frame.Data); b.ID.Sequence != uint64(i+1) || frame.Missed != nil {
				t.Errorf("frame %d is batch %d, %v missed before it", i, b.ID.Sequence, frame.Missed)
			}
		}
		s.Emit(opened(sent))
		synctest.Wait()
		// The next frame tells what is missing before it, and whoever leaves what is missing after the last one.
		if frame := <-slow; frame.Missed[event.FileOpen] != 5 || len(frame.Missed) != 1 {
			t.Errorf("%v missed before the next frame, want 5 opens", frame.Missed)
		}
		for i := range subscriberQueue + 2 {
			s.Emit(opened(sent + 1 + i))
			synctest.Wait()
		}
		if missed := cancel(); missed[event.FileOpen] != 2 || len(missed) != 1 {
			t.Errorf("%v missed at the end, want 2 opens", missed)
		}
		if missed := cancel(); missed != nil {
			t.Errorf("%v missed after cancel", missed)
		}
		for range slow { // what was sent before is still there
		}
		if _, open := <-slow; open {
			t.Error("channel open after cancel")
		}
		last, _, err := s.Subscribe()
		if err != nil {
			t.Fatal(err)
		}
		stop()
		if _, open := <-last; open {
			t.Error("channel open after Run")
		}
		after, _, err := s.Subscribe()
		if err != nil {
			// The cap counts those of before.
			t.Fatal(err)
		}
		if _, open := <-after; open {
			t.Error("channel of a subscriber after Run is open")
		}
	})
}

func TestEmitDoesNotAllocate(t *testing.T) {
	cfg := config(newSpool(t, spool.Config{}), newReceiver(t))
	cfg.MaxEvents = 100
	s := newSender(t, cfg)
	events := make([]*event.Event, cfg.MaxEvents)
	for i := range events {
		events[i] = opened(i)
		events[i].File.Path = fmt.Sprint("/tmp/", i)
	}
	round := func() {
		for _, e := range events {
			s.Emit(e)
			s.Lost(e.Kind, "kernel", "ring_full", 1)
		}
		next, ok := s.takeFull()
		if !ok {
			t.Fatal("no full batch")
		}
		s.recycle(next.builder)
		select {
		case <-s.wake:
		default:
		}
	}
	for range builders { // let every builder grow
		round()
	}
	if n := testing.AllocsPerRun(20, round); n != 0 {
		t.Errorf("%v allocations for %d events, want none", n, len(events))
	}
}

func TestRunLeavesNothingRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails when a goroutine is left
		s := newSender(t, config(newSpool(t, spool.Config{}), newReceiver(t)))
		stop := start(t, s)
		s.Emit(opened(1))
		stop()
		if err := s.Run(t.Context()); err == nil {
			t.Error("a second Run is accepted")
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"no agent":      func(c *Config) { c.Agent = event.ID{} },
		"no epoch":      func(c *Config) { c.Epoch = 0 },
		"no host":       func(c *Config) { c.Host = nil },
		"no spool":      func(c *Config) { c.Spool = nil },
		"no transport":  func(c *Config) { c.Transport = nil },
		"many events":   func(c *Config) { c.MaxEvents = batch.MaxEvents },
		"many bytes":    func(c *Config) { c.MaxBytes = batch.MaxSize },
		"negative time": func(c *Config) { c.SealInterval = -1 },
	} {
		cfg := config(newSpool(t, spool.Config{}), newReceiver(t))
		edit(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
}

// lines collects the messages of a log.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, strings.TrimSpace(string(p)))
	return len(p), nil
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func BenchmarkEmit(b *testing.B) {
	cfg := config(newSpool(b, spool.Config{}), newReceiver(b))
	s := newSender(b, cfg)
	e := opened(1)
	b.ReportAllocs()
	for b.Loop() {
		s.Emit(e)
		if len(s.full) == builders-1 {
			for next, ok := s.takeFull(); ok; next, ok = s.takeFull() {
				s.recycle(next.builder)
			}
		}
	}
}
