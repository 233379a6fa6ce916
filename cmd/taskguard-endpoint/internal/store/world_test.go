package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
	"gocloud.dev/blob/memblob"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

var (
	errKilled   = errors.New("killed")
	errConflict = errors.New("changed by somebody else")
)

// world is what outlives replicas: the log, the states and leases, the bucket.
type world struct {
	blobs
	ends bool // the log has an end

	mu     sync.Mutex
	log    map[int][]stream.Message
	more   chan struct{} // closed when the log gets more
	values map[string][]byte
	revs   map[string]uint64
	leases map[string]lease
}

type lease struct {
	owner string
	until time.Time
}

func newWorld(t *testing.T) *world {
	w := &world{
		blobs: blobs{Bucket: memblob.OpenBucket(nil)}, ends: true, log: map[int][]stream.Message{}, more: make(chan struct{}),
		values: map[string][]byte{}, revs: map[string]uint64{}, leases: map[string]lease{},
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func (w *world) append(partition int, m stream.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log[partition] = append(w.log[partition], m)
	close(w.more)
	w.more = make(chan struct{})
}

func (w *world) next(partition int, after uint64) (*stream.Message, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.log[partition] {
		if m.Sequence > after {
			return &m, w.more
		}
	}
	return nil, w.more
}

// replica is one process in the world. It is killed at its operation number at, if that is not 0: nothing that it does
// from then on has an effect, but for that operation itself if after is set.
type replica struct {
	*world
	at    int
	after bool
	hook  func(name string) // called before a file is put

	mu   sync.Mutex
	ops  int
	dead bool
}

func (r *replica) op(do func() error) error {
	r.mu.Lock()
	r.ops++
	if r.dead {
		r.mu.Unlock()
		return errKilled
	}
	r.dead = r.ops == r.at
	killed := r.dead
	r.mu.Unlock()
	if !killed {
		return do()
	}
	if r.after {
		do()
	}
	return errKilled
}

func (r *replica) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead = true
}

func (r *replica) ReadPartition(
	ctx context.Context, n int, after uint64, each func(stream.Message) error, gap func(discarded, damaged uint64),
) error {
	for ctx.Err() == nil {
		m, more := r.next(n, after)
		switch {
		case m != nil:
			if err := r.op(func() error { return nil }); err != nil {
				return err
			}
			if err := each(*m); err != nil {
				return err
			}
			after = m.Sequence
		case r.ends:
			return nil
		default:
			select {
			case <-more:
			case <-ctx.Done():
			}
		}
	}
	return nil
}

func (r *replica) State(_ context.Context, key string) (value []byte, revision uint64, err error) {
	err = r.op(func() error {
		r.world.mu.Lock()
		defer r.world.mu.Unlock()
		value, revision = r.values[key], r.revs[key]
		return nil
	})
	return value, revision, err
}

func (r *replica) PutState(_ context.Context, key string, value []byte, revision uint64) (uint64, error) {
	err := r.op(func() error {
		r.world.mu.Lock()
		defer r.world.mu.Unlock()
		if r.revs[key] != revision {
			return errConflict
		}
		r.values[key], r.revs[key] = value, revision+1
		return nil
	})
	return revision + 1, err
}

func (r *replica) Lease(_ context.Context, name, owner string, ttl time.Duration) (ok bool, err error) {
	err = r.op(func() error {
		r.world.mu.Lock()
		defer r.world.mu.Unlock()
		l, now := r.leases[name], time.Now()
		if ok = l.owner == owner || !l.until.After(now); ok {
			r.leases[name] = lease{owner, now.Add(ttl)}
		}
		return nil
	})
	return ok, err
}

func (r *replica) Put(ctx context.Context, name string, content io.Reader) error {
	if r.hook != nil {
		r.hook(name)
	}
	return r.op(func() error { return r.blobs.Put(ctx, name, content) })
}

func (r *replica) Size(ctx context.Context, name string) (size int64, err error) {
	err = r.op(func() (err error) {
		size, err = r.blobs.Size(ctx, name)
		return err
	})
	return size, err
}

// role is the role in that process. Its files have no compression: the package that does it keeps what it makes, which
// a test in a bubble must not.
func (r *replica) role(t *testing.T, owner string) *Store {
	t.Helper()
	return &Store{
		cfg: Config{
			Log: r, States: r, Leases: r, Partitions: 1, Owner: owner, Dir: t.TempDir(), MaxFileBytes: 6 << 10,
			MaxFileAge: DefaultMaxFileAge, LeaseTTL: DefaultLeaseTTL,
		},
		log: slog.New(slog.DiscardHandler), bucket: r, codec: &parquet.Uncompressed, inMemory: rowGroupBytes,
		share: share{quota: 100}, asking: make(chan struct{}, 1),
	}
}

var began = time.Date(2026, 11, 24, 9, 59, 58, 0, time.UTC)

// message is one of an agent of an account with n events, the first of which is at index first of those sealed.
func message(sequence uint64, agent byte, account string, first, n int) stream.Message {
	b := &batch.Batch{Header: batch.Header{
		ID:   batch.ID{Agent: event.ID{15: agent}, Epoch: 1000, Sequence: sequence/2 + 1},
		Host: event.Host{InstanceID: fmt.Sprintf("i-%d", agent), AccountID: account, Region: "eu-west-1"},
	}}
	if first > 0 {
		b.First, b.Sealed = uint32(first), uint32(first+n)
	}
	stored := began.Add(time.Duration(sequence) * time.Second)
	for i := range n {
		b.Events = append(b.Events, event.Event{
			Time: stored.Add(-time.Second), Kind: event.FileOpen, Host: &b.Host,
			Process: &event.Process{PID: uint32(i + 1), Name: "cat", Exe: "/bin/cat", Args: "cat\x00-n\x00"},
			File:    &event.File{Path: fmt.Sprintf("/tmp/%d/%d", sequence, first+i)},
		})
	}
	return stream.Message{Sequence: sequence, Stored: stored, Batch: b}
}

// fill gives partition 0 batches of two agents in two accounts, in two hours, with parts and an empty batch.
func (w *world) fill() {
	for _, m := range []stream.Message{
		message(3, 1, "111122223333", 0, 4), message(4, 2, "444455556666", 0, 3), message(7, 1, "111122223333", 0, 0),
		message(9, 1, "111122223333", 5, 2), message(10, 2, "444455556666", 0, 6), message(12, 1, "111122223333", 0, 5),
		message(20, 1, "", 0, 1),
	} {
		w.append(0, m)
	}
}

type key struct {
	agent           string
	epoch, sequence int64
	index           int32
}

func (w *world) appended() map[key]int {
	want := map[key]int{}
	for _, messages := range w.log {
		for _, m := range messages {
			h := &m.Batch.Header
			for i := range m.Batch.Events {
				want[key{h.ID.Agent.String(), int64(h.ID.Epoch), int64(h.ID.Sequence), int32(int(h.First) + i)}]++
			}
		}
	}
	return want
}

// identity is what of a row tells which event it is.
type identity struct {
	Metadata struct {
		UID string `parquet:"uid"`
	} `parquet:"metadata"`
}

// visible reads every file there is, all of which have to be complete.
func (w *world) visible(t *testing.T) (rows []identity, names []string) {
	t.Helper()
	ctx := context.Background()
	list := w.List(nil)
	for {
		o, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return rows, names
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(o.Key, ".parquet") {
			t.Errorf("%s is in the bucket", o.Key)
		}
		data, err := w.ReadAll(ctx, o.Key)
		if err != nil {
			t.Fatal(err)
		}
		some, err := parquet.Read[identity](bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatalf("%s: %v", o.Key, err)
		}
		rows, names = append(rows, some...), append(names, o.Key)
	}
}

// account checks that every event of the log is visible once.
func (w *world) account(t *testing.T, what string) {
	t.Helper()
	want, got := w.appended(), map[key]int{}
	rows, names := w.visible(t)
	for _, r := range rows {
		k := key{agent: r.Metadata.UID[:36]}
		if _, err := fmt.Sscanf(r.Metadata.UID[36:], "-%d-%d-%d", &k.epoch, &k.sequence, &k.index); err != nil {
			t.Errorf("uid %q: %v", r.Metadata.UID, err)
		}
		got[k]++
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s: %d rows are\n%v\nwant\n%v\nin %s", what, len(rows), got, want, strings.Join(names, "\n"))
	}
}
