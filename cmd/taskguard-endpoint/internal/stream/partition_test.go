package stream

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// Each batch is in one partition, its agent's, in order; and reading goes on where it ended, with what comes.
func TestPartitionsShareTheLog(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	agents := make([]event.ID, 40)
	for i := range agents {
		agents[i] = event.ID{byte(i), 7}
	}
	add := func(sequence uint64) {
		for _, agent := range agents {
			newBatch(t, batch.ID{Agent: agent, Epoch: 1, Sequence: sequence}, nil, nil, "x").appendTo(t, s)
		}
	}
	add(1)
	add(2)
	type seen struct {
		id       batch.ID
		sequence uint64
	}
	var mu sync.Mutex
	got := map[int][]seen{}
	read := func(partition int, after uint64, want int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := s.ReadPartition(ctx, partition, after, func(m Message) error {
			mu.Lock()
			defer mu.Unlock()
			got[partition] = append(got[partition], seen{m.Batch.ID, m.Sequence})
			if time.Since(m.Stored) > time.Minute || len(m.Batch.Events) != 1 {
				t.Errorf("message %+v", m)
			}
			if want--; want == 0 {
				cancel()
			}
			return nil
		}, func(discarded, damaged uint64) { t.Errorf("gap of %d and %d", discarded, damaged) })
		if err != nil {
			t.Error(err)
		}
	}
	count := map[int]int{}
	for _, agent := range agents {
		count[PartitionOf(agent)]++
	}
	for partition, n := range count {
		read(partition, 0, 2*n)
	}
	var reading sync.WaitGroup
	for partition, n := range count {
		mu.Lock()
		last := got[partition][2*n-1].sequence
		mu.Unlock()
		reading.Go(func() { read(partition, last, n) })
	}
	add(3)
	reading.Wait()
	for partition, list := range got {
		by := map[event.ID][]uint64{}
		for _, m := range list {
			if PartitionOf(m.id.Agent) != partition {
				t.Errorf("%v is in partition %d", m.id, partition)
			}
			by[m.id.Agent] = append(by[m.id.Agent], m.id.Sequence)
		}
		for agent, sequences := range by {
			if !slices.Equal(sequences, []uint64{1, 2, 3}) {
				t.Errorf("agent %v: %v, want 1, 2, 3", agent, sequences)
			}
		}
	}
}

func TestPartitionTellsOfGaps(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), MaxBytes: 64 << 10})
	for seq := range uint64(50) {
		b := newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: seq + 1}, nil, nil, "x")
		b.frame = append(b.frame, skippableFrame(4<<10)...)
		b.appendTo(t, s)
	}
	m, err := s.loadMark(t.Context(), markKey{agentA, 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.publish(t.Context(), batch.ID{Agent: agentA, Epoch: 1, Sequence: 51}, whole, []byte("garbage"), m.last); err != nil {
		t.Fatal(err)
	}
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 52}, nil, nil, "x").appendTo(t, s)
	var discarded, damaged, read uint64
	mine := errors.New("mine")
	err = s.ReadPartition(t.Context(), PartitionOf(agentA), 0, func(m Message) error {
		read++
		if m.Batch.ID.Sequence == 52 {
			return mine
		}
		return nil
	}, func(dis, dam uint64) { discarded, damaged = discarded+dis, damaged+dam })
	if !errors.Is(err, mine) || damaged != 1 || discarded == 0 || read+discarded+damaged != 52 {
		t.Errorf("%d read, %d discarded, %d damaged, %v: want 52 together", read, discarded, damaged, err)
	}
}

// A value is replaced by who knows its revision, and by nobody else, also after a restart.
func TestStateIsComparedAndSwapped(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	value, revision, err := s.State(t.Context(), "key")
	if value != nil || revision != 0 || err != nil {
		t.Fatalf("nothing is %q, %d, %v", value, revision, err)
	}
	first, err := s.PutState(t.Context(), "key", []byte("1"), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []uint64{0, first + 1} {
		if _, err := s.PutState(t.Context(), "key", []byte("x"), wrong); !errors.Is(err, ErrConflict) {
			t.Errorf("put at revision %d: %v, want a conflict", wrong, err)
		}
	}
	s.Close()
	s = open(t, Config{Dir: dir})
	second, err := s.PutState(t.Context(), "key", []byte("2"), first)
	if err != nil {
		t.Fatal(err)
	}
	if value, revision, err = s.State(t.Context(), "key"); string(value) != "2" || revision != second || err != nil {
		t.Errorf("state %q, %d, %v, want 2, %d", value, revision, err, second)
	}
	if _, err := s.PutState(t.Context(), "key", make([]byte, maxState+1), second); err == nil {
		t.Error("a value that is too large is kept")
	}
}

func TestLeaseHasOneOwner(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	t.Run("of a process", func(t *testing.T) { testLease(t, s.Lease) })
	t.Run("of a cluster", func(t *testing.T) { testLease(t, s.leaseInState) })
}

func testLease(t *testing.T, lease func(context.Context, string, string, time.Duration) (bool, error)) {
	take := func(owner string, ttl time.Duration) bool {
		t.Helper()
		ok, err := lease(t.Context(), "partition-1", owner, ttl)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !take("a", time.Hour) || take("b", time.Hour) || !take("a", time.Millisecond) {
		t.Error("want a to take the lease and to renew it, and b not to get it")
	}
	time.Sleep(2 * time.Millisecond)
	if !take("b", time.Hour) || take("a", time.Hour) {
		t.Error("want b to get what has ended, and a not any more")
	}
}

// A batch that comes again when the limits have discarded it is a repeat, also after a restart, and whoever has stored
// it.
func TestMarksOutliveTheirBatches(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, MaxBytes: 64 << 10})
	old := map[uint64]testBatch{}
	for epoch := range uint64(20) {
		old[epoch] = newBatch(t, batch.ID{Agent: agentA, Epoch: epoch + 1, Sequence: 7}, nil, nil, "x")
		old[epoch].appendTo(t, s)
	}
	if err := s.keepMarks(t.Context()); err != nil {
		t.Fatal(err)
	}
	for seq := range uint64(50) {
		b := newBatch(t, batch.ID{Agent: agentB, Epoch: 1, Sequence: seq + 1}, nil, nil, "x")
		b.frame = append(b.frame, skippableFrame(4<<10)...)
		b.appendTo(t, s)
	}
	s.Close()
	s = open(t, Config{Dir: dir, MaxBytes: 64 << 10})
	if status, err := s.Status(t.Context()); err != nil || status.Discard < 20 {
		t.Fatalf("%+v, %v: want the old batches to be discarded", status, err)
	}
	for epoch, b := range old {
		if b.appendTo(t, s) {
			t.Errorf("epoch %d: a repeat was stored", epoch+1)
		}
		next := newBatch(t, batch.ID{Agent: agentA, Epoch: epoch + 1, Sequence: 8}, nil, nil, "y")
		if !next.appendTo(t, s) {
			t.Errorf("epoch %d: the next batch was taken for a repeat", epoch+1)
		}
	}
}

// A mark that is kept only rises, whoever keeps it.
func TestKeptMarksOnlyRise(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	key := markKey{agentA, 1}
	var keeping sync.WaitGroup
	for i := range uint64(20) {
		keeping.Go(func() {
			if err := s.keepMark(t.Context(), key, mark{sequence: i, stored: whole}); err != nil {
				t.Error(err)
			}
		})
	}
	keeping.Wait()
	if kept, err := s.keptMark(t.Context(), key); err != nil || kept.sequence != 19 {
		t.Errorf("kept %+v, %v, want 19", kept, err)
	}
	if err := s.keepMark(t.Context(), key, mark{sequence: 19, stored: 5}); err != nil {
		t.Fatal(err)
	}
	if kept, err := s.keptMark(t.Context(), key); err != nil || kept.stored != whole {
		t.Errorf("kept %+v, %v, want the whole batch", kept, err)
	}
}

// What another replica has stored is not asked for again.
func TestPartialIsNotToldFromMemory(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	id := batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}
	newBatch(t, id, nil, nil, "x").appendTo(t, s)
	s.marks.put(markKey{agentA, 1}, mark{sequence: 1, stored: whole, last: 1})
	// The other replica has stored the first two of five events of batch 2.
	if _, err := s.publish(t.Context(), batch.ID{Agent: agentA, Epoch: 1, Sequence: 2}, 2, []byte("part"), 1); err != nil {
		t.Fatal(err)
	}
	h := batch.Header{ID: batch.ID{Agent: agentA, Epoch: 1, Sequence: 2}, First: 2, Sealed: 5}
	if stored, err := s.Append(t.Context(), &h, 3, []byte("rest")); err != nil || !stored {
		t.Errorf("the rest of a batch: stored %t, %v", stored, err)
	}
}

func TestPartitionOf(t *testing.T) {
	seen := map[int]int{}
	for i := range 1 << 12 {
		seen[PartitionOf(event.ID{byte(i), byte(i >> 8), 3})]++
	}
	for partition, n := range seen {
		if partition < 0 || partition >= Partitions || n < 1<<12/Partitions/2 {
			t.Errorf("partition %d has %d of %d agents", partition, n, 1<<12)
		}
	}
	if len(seen) != Partitions {
		t.Errorf("%d partitions", len(seen))
	}
}
