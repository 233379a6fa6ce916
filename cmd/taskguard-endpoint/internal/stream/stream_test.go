package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

var (
	agentA = event.ID{0xa, 1}
	agentB = event.ID{0xb, 1}
)

// open opens a log that the test's end closes.
func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// testBatch is what an agent sends and what its header says.
type testBatch struct {
	header batch.Header
	events int
	frame  []byte
}

// newBatch makes a batch of one process.exec for each given command name.
func newBatch(
	t *testing.T, id batch.ID, container *event.Container, updates []event.Container, names ...string,
) testBatch {
	t.Helper()
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	b := batch.NewBuilder()
	for i, name := range names {
		b.Append(&event.Event{Time: time.Now(), Kind: event.ProcessExec, Process: &event.Process{
			PID: uint32(i + 1), Start: uint64(i + 1), Snapshot: uint64(i + 1), Name: name, Container: container,
		}})
	}
	h := batch.Header{ID: id, Host: event.Host{Hostname: "h"}, Updates: batch.Updates{Containers: updates}}
	return testBatch{h, len(names), codec.Compress(nil, b.Seal(nil, h, batch.Late{}))}
}

func (b testBatch) appendTo(t *testing.T, s *Store) bool {
	t.Helper()
	stored, err := s.Append(t.Context(), &b.header, b.events, b.frame)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// readAll returns "sequence:name" of every event in the log.
func readAll(t *testing.T, s *Store) []string {
	t.Helper()
	var got []string
	gaps, err := s.Read(t.Context(), ReadOptions{}, func(b *batch.Batch) error {
		for i := range b.Events {
			got = append(got, fmt.Sprintf("%d:%s", b.ID.Sequence, b.Events[i].Process.Name))
		}
		return nil
	})
	if err != nil || gaps != (Gaps{}) {
		t.Fatalf("read: gaps %+v, err %v", gaps, err)
	}
	return got
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

func TestAppendStoresOnce(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	for _, step := range []struct {
		id   batch.ID
		want bool
	}{
		{batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, true},
		{batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, false},
		{batch.ID{Agent: agentA, Epoch: 1, Sequence: 7}, true}, // a gap: the spool evicted some
		{batch.ID{Agent: agentA, Epoch: 1, Sequence: 3}, false},
		{batch.ID{Agent: agentA, Epoch: 2, Sequence: 1}, true}, // the agent was restarted
		{batch.ID{Agent: agentB, Epoch: 1, Sequence: 1}, true},
	} {
		if got := newBatch(t, step.id, nil, nil, "x").appendTo(t, s); got != step.want {
			t.Errorf("append %v: stored %v, want %v", step.id, got, step.want)
		}
	}
	equal(t, "log", readAll(t, s), []string{"1:x", "7:x", "1:x", "1:x"})
}

func TestMarksAreRecoveredFromTheLog(t *testing.T) {
	dir := t.TempDir()
	b := newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 5}, nil, nil, "x")
	s := open(t, Config{Dir: dir})
	b.appendTo(t, s)
	s.Close()

	s = open(t, Config{Dir: dir})
	if b.appendTo(t, s) {
		t.Error("a repeat was stored after a restart")
	}
	if !newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 6}, nil, nil, "y").appendTo(t, s) {
		t.Error("the next batch was taken for a repeat")
	}
	equal(t, "log", readAll(t, s), []string{"5:x", "6:y"})
}

func TestMarksAreBounded(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), MaxMarks: 3})
	id := func(i int) batch.ID { return batch.ID{Agent: event.ID{1, byte(i)}, Epoch: 1, Sequence: 1} }
	for i := range 10 {
		newBatch(t, id(i), nil, nil, "x").appendTo(t, s)
	}
	if n := s.marks.order.Len(); n != 3 || len(s.marks.byKey) != 3 {
		t.Errorf("%d marks in order, %d by key, want 3", n, len(s.marks.byKey))
	}
	for i := range 10 {
		if newBatch(t, id(i), nil, nil, "x").appendTo(t, s) {
			t.Errorf("repeat of agent %d was stored after its mark had been dropped", i)
		}
	}
}

func TestMarksOnlyRise(t *testing.T) {
	m := newMarks(2)
	key := markKey{agentA, 1}
	m.put(key, mark{sequence: 6, last: 2})
	m.put(key, mark{sequence: 5, last: 1}) // an append that was overtaken
	if got, _ := m.get(key); got != (mark{sequence: 6, last: 2}) {
		t.Errorf("mark %+v, want the higher one", got)
	}
}

// Several appends of the same batches, also by a second store that shares the log but not the memory.
func TestConcurrentAppendsStoreOnce(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	replica := &Store{cfg: s.cfg, log: s.log, server: s.server, js: s.js, batches: s.batches, updates: s.updates, kept: s.kept,
		states: s.states,
		marks:  newMarks(10), dir: s.dir, failed: make(chan struct{}), healthy: s.healthy}
	const sequences, appends = 20, 8
	for seq := range uint64(sequences) {
		b := newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: seq + 1}, nil, nil, "x")
		var wg sync.WaitGroup
		var mu sync.Mutex
		stored := 0
		for i := range appends {
			to := []*Store{s, replica}[i%2]
			wg.Go(func() {
				ok, err := to.Append(t.Context(), &b.header, b.events, b.frame)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				if ok {
					stored++
				}
			})
		}
		wg.Wait()
		if stored != 1 {
			t.Errorf("sequence %d: stored by %d of %d appends, want one", seq+1, stored, appends)
		}
	}
	equal(t, "batches in the log", len(readAll(t, s)), sequences)
}

func TestLimitsDiscardTheOldestAndSaySo(t *testing.T) {
	var logged bytes.Buffer
	s := open(t, Config{Dir: t.TempDir(), MaxBytes: 64 << 10, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	const appended = 100
	for seq := range uint64(appended) {
		b := newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: seq + 1}, nil, nil, "x")
		b.frame = append(b.frame, skippableFrame(4<<10)...)
		b.appendTo(t, s)
	}
	st, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Bytes > 64<<10 || st.Discard == 0 || st.Batches+st.Discard != appended || st.Stored != appended {
		t.Errorf("status %+v: want all %d batches accounted for within 64 KiB", st, appended)
	}
	got := readAll(t, s)
	equal(t, "oldest batch kept", got[0], fmt.Sprintf("%d:x", st.Discard+1))
	equal(t, "batches kept", len(got), st.Batches)

	s.reportDiscarded(t.Context())
	s.reportDiscarded(t.Context())
	want := fmt.Sprintf("batches=%d in_all=%d", st.Discard, st.Discard)
	if strings.Count(logged.String(), want) != 1 || strings.Count(logged.String(), "discarded") != 1 {
		t.Errorf("log:\n%s\nwant one line with %q", logged.String(), want)
	}

	// The batch its mark was read from is gone: the next append must find out and succeed.
	s.marks.put(markKey{agentA, 1}, mark{sequence: appended, last: appended + 5})
	if !newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: appended + 1}, nil, nil, "x").appendTo(t, s) {
		t.Error("a new batch was taken for a repeat")
	}
}

// skippableFrame is a zstd frame without content, to make a batch larger.
func skippableFrame(n int) []byte {
	frame := make([]byte, 8+n)
	copy(frame, []byte{0x50, 0x2a, 0x4d, 0x18, byte(n), byte(n >> 8), byte(n >> 16)})
	return frame
}

func TestReadCountsWhatWasDiscardedBeforeIt(t *testing.T) {
	for what, overtake := range map[string]int{"some": 11, "all": 100} {
		t.Run(what, func(t *testing.T) { testOvertaken(t, overtake) })
	}
}

// testOvertaken reads 12 batches from a log with room for 15, while more are appended.
func testOvertaken(t *testing.T, overtake int) {
	s := open(t, Config{Dir: t.TempDir(), MaxBytes: 256 << 10})
	seq := uint64(0)
	add := func(n int) {
		for range n {
			seq++
			b := newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: seq}, nil, nil, "x")
			b.frame = append(b.frame, skippableFrame(16<<10)...)
			b.appendTo(t, s)
		}
	}
	add(12)
	read, last := uint64(0), uint64(0)
	gaps, err := s.Read(t.Context(), ReadOptions{}, func(b *batch.Batch) error {
		if read == 0 {
			add(overtake)
		}
		read, last = read+1, b.ID.Sequence
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if gaps.Discarded == 0 || read+gaps.Discarded != 12 || last > 12 {
		t.Errorf("read %d batches up to %d, %d discarded: want 12 together", read, last, gaps.Discarded)
	}
}

func TestReadPassesOverWhatIsDamaged(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, nil, nil, "x").appendTo(t, s)
	if _, err := s.publish(t.Context(), batch.ID{Agent: agentA, Epoch: 2, Sequence: 1}, whole, []byte("garbage"), 0); err != nil {
		t.Fatal(err)
	}
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 2}, nil, nil, "y").appendTo(t, s)
	n := 0
	gaps, err := s.Read(t.Context(), ReadOptions{}, func(*batch.Batch) error { n++; return nil })
	if err != nil || n != 2 || gaps.Unreadable != 1 {
		t.Errorf("read %d batches, gaps %+v, err %v: want 2 and one unreadable", n, gaps, err)
	}
}

func TestFollowGoesOn(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string)
	ended := make(chan error)
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, nil, nil, "before").appendTo(t, s)
	go func() {
		_, err := s.Read(ctx, ReadOptions{Follow: true}, func(b *batch.Batch) error {
			got <- b.Events[0].Process.Name
			return nil
		})
		ended <- err
	}()
	equal(t, "first", <-got, "before")
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 2}, nil, nil, "after").appendTo(t, s)
	equal(t, "second", <-got, "after")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("cancelled follow: %v, want nil", err)
	}
}

func TestReadEndsWithTheErrorOfItsCaller(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, nil, nil, "x").appendTo(t, s)
	mine := errors.New("mine")
	if _, err := s.Read(t.Context(), ReadOptions{}, func(*batch.Batch) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("got %v, want the caller's error", err)
	}
}

func TestSinceSkipsOlderBatches(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, nil, nil, "x").appendTo(t, s)
	for since, want := range map[time.Duration]int{
		-time.Hour:             1,
		clockSlack / 2:         1, // stored before it by our clock, but perhaps not by the host's
		clockSlack + time.Hour: 0,
	} {
		n := 0
		_, err := s.Read(t.Context(), ReadOptions{Since: time.Now().Add(since)}, func(*batch.Batch) error { n++; return nil })
		if err != nil || n != want {
			t.Errorf("since now%+v: %d batches, err %v, want %d", since, n, err, want)
		}
	}
}

func TestContainersDescribedLaterAreJoined(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	pending := &event.Container{ID: "c0ffee", Pending: true}
	described := event.Container{ID: "c0ffee", Name: "web", Image: "nginx", ECS: &event.ECS{Cluster: "prod"}}
	hostile := []event.Container{
		{ID: "a.*.>", Name: "x"}, {ID: "", Name: "x"}, {ID: strings.Repeat("a", 129), Name: "x"},
		{ID: "big", Name: strings.Repeat("x", maxUpdate)},
	}
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, pending, nil, "a", "b").appendTo(t, s)
	newBatch(t, batch.ID{Agent: agentB, Epoch: 1, Sequence: 1}, pending, nil, "other").appendTo(t, s)
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 2}, nil, append(hostile, described), "c").appendTo(t, s)

	got := map[string]event.Container{}
	_, err := s.Read(t.Context(), ReadOptions{}, func(b *batch.Batch) error {
		for _, e := range b.Events {
			if e.Container != nil {
				got[e.Process.Name] = *e.Container
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if c := got[name]; c.Name != "web" || c.ECS == nil || c.ECS.Cluster != "prod" || c.Pending {
			t.Errorf("container of %s: %+v, want it described", name, c)
		}
	}
	if c := got["other"]; !c.Pending || c.Name != "" {
		t.Errorf("an agent has described the container of another: %+v", c)
	}
	equal(t, "not indexed", s.unjoined.Load(), len(hostile))
}

// What was learnt later of a file is told of all that have that version of it, and of no other agent's.
func TestFilesReadLaterAreJoined(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	version := event.FileVersion{Device: 1, Inode: 2, Size: 3, Changed: 4}
	other := version
	other.Changed++
	read := event.Digest{SHA256: strings.Repeat("0f", 32), FSVerity: "sha256:1"}
	store := func(agent event.ID, sequence uint64, updates batch.Updates) {
		t.Helper()
		b := batch.NewBuilder()
		for i, v := range []event.FileVersion{version, other} {
			p := &event.Process{PID: 1, Start: 1, Snapshot: uint64(1 + i), ExeDevice: 9, ExeInode: 9, ExeVersion: v}
			b.Append(&event.Event{Time: time.Now(), Kind: event.ProcessExec, Process: p, Target: p})
			b.Append(&event.Event{Time: time.Now(), Kind: event.MemoryMap, Memory: &event.Memory{Version: v}})
			b.Append(&event.Event{Time: time.Now(), Kind: event.ModuleLoad, Module: &event.Module{Version: v}})
		}
		h := batch.Header{ID: batch.ID{Agent: agent, Epoch: 1, Sequence: sequence}, Updates: updates}
		late := batch.Late{Digest: func(event.FileVersion) event.Digest { return event.Digest{HashState: event.HashPending} }}
		testBatch{h, b.Events(), codec.Compress(nil, b.Seal(nil, h, late))}.appendTo(t, s)
	}
	store(agentA, 1, batch.Updates{})
	store(agentB, 1, batch.Updates{})
	store(agentA, 2, batch.Updates{Digests: []event.FileDigest{
		{Version: version, Digest: read}, {Version: other, Digest: event.Digest{HashState: event.HashPending}},
	}})
	joined := map[bool]int{}
	_, err = s.Read(t.Context(), ReadOptions{}, func(b *batch.Batch) error {
		check := func(v event.FileVersion, got event.Digest) {
			want := event.Digest{HashState: event.HashPending}
			if v == version && b.ID.Agent == agentA {
				want = read
			}
			if joined[got == read]++; got != want {
				t.Errorf("%v: digest of %+v is %+v, want %+v", b.ID, v, got, want)
			}
		}
		for _, e := range b.Events {
			switch {
			case e.Memory != nil:
				check(e.Memory.Version, e.Memory.Digest)
			case e.Module != nil:
				check(e.Module.Version, e.Module.Digest)
			default:
				check(e.Process.ExeVersion, e.Process.Digest)
				check(e.Target.ExeVersion, e.Target.Digest)
			}
		}
		return nil
	})
	if err != nil || joined[true] != 8 || joined[false] != 16 {
		t.Errorf("%d joined and %d not, %v; want 8 and 16", joined[true], joined[false], err)
	}
}

func TestUpdatesOfOneBatchAreBounded(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	updates := make([]event.Container, maxUpdates+7)
	for i := range updates {
		updates[i] = event.Container{ID: fmt.Sprint(i), Name: "x"}
	}
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, nil, updates, "x").appendTo(t, s)
	equal(t, "not indexed", s.unjoined.Load(), 7)
	info, err := s.updates.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "indexed", info.State.Msgs, maxUpdates)
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir})
	if _, err := Open(t.Context(), Config{Dir: dir}); !errors.Is(err, ErrLocked) {
		t.Errorf("second open: %v, want ErrLocked", err)
	}
	s.Close()
	open(t, Config{Dir: dir})
}

func TestReadOnlyMakesNothing(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(t.Context(), Config{Dir: dir, ReadOnly: true}); !errors.Is(err, ErrNoLog) {
		t.Errorf("open: %v, want ErrNoLog", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("made %v", entries)
	}
	if _, err := Open(t.Context(), Config{Dir: filepath.Join(dir, "absent"), ReadOnly: true}); !errors.Is(err, ErrNoLog) {
		t.Errorf("open: %v, want ErrNoLog", err)
	}
}

func TestReadOnlyKeepsTheLimits(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Config{Dir: dir, MaxBytes: 12345678})
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, nil, nil, "x").appendTo(t, s)
	s.Close()
	s = open(t, Config{Dir: dir, ReadOnly: true})
	st, err := s.Status(t.Context())
	if err != nil || st.MaxBytes != 12345678 {
		t.Errorf("limit %d, err %v, want 12345678", st.MaxBytes, err)
	}
	equal(t, "log", readAll(t, s), []string{"1:x"})
}

// A full disk refuses batches before JetStream meets it, since that would need a restart.
func TestFullDiskIsTemporary(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), MinFree: 1 << 60})
	b := newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, nil, nil, "x")
	if _, err := s.Append(t.Context(), &b.header, b.events, b.frame); !errors.Is(err, ErrDiskFull) {
		t.Errorf("append: %v, want ErrDiskFull", err)
	}
	s.cfg.MinFree = 1
	if !b.appendTo(t, s) {
		t.Error("not stored when there was room again")
	}
	select {
	case <-s.Failed():
		t.Error("the log counts as failed")
	default:
	}
}

func TestLostJetStreamIsNoticed(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir(), Timeout: time.Second})
	if err := s.server.ShutdownJetStream(); err != nil { // as it does itself after an I/O error
		t.Fatal(err)
	}
	b := newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, nil, nil, "x")
	if _, err := s.Append(t.Context(), &b.header, b.events, b.frame); err == nil {
		t.Fatal("append succeeded")
	}
	<-s.Failed()
}

func TestEveryWriteIsSynced(t *testing.T) {
	s := open(t, Config{Dir: t.TempDir()})
	if !s.server.JetStreamConfig().SyncAlways {
		t.Error("JetStream acknowledges before it syncs")
	}
	// The folder counts as durable only when nothing can have been made in it since.
	newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 1}, nil, nil, "x").appendTo(t, s)
	if info, err := os.Stat(s.dir.path); err != nil || s.dir.synced.After(info.ModTime()) {
		t.Errorf("folder of the stream: %v, synced %v", err, s.dir.synced)
	}
}

func TestDirSyncerSeesNewFiles(t *testing.T) {
	dir := t.TempDir()
	d := &dirSyncer{path: dir}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
	if err := d.sync(); err != nil || !d.synced.Equal(old) {
		t.Fatalf("synced %v, err %v, want %v", d.synced, err, old)
	}
	if err := os.WriteFile(filepath.Join(dir, "2.blk"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.sync(); err != nil || !d.synced.Equal(old) {
		t.Errorf("a folder that changed just now counts as synced for good: %v, err %v", d.synced, err)
	}
}

func TestSubjectsAreInverse(t *testing.T) {
	key := markKey{agentA, 18446744073709551615}
	if got, err := keyOf(subjectOf(key)); err != nil || got != key {
		t.Errorf("key %v, err %v, want %v", got, err, key)
	}
	for _, subject := range []string{"taskguard.batches.3.x.1", "taskguard.batches.3", "taskguard.batches.3." + agentA.String() + ".x"} {
		if key, err := keyOf(subject); err == nil {
			t.Errorf("subject %q was read as %v", subject, key)
		}
	}
}

func FuzzContainerSubjects(f *testing.F) {
	for _, id := range []string{"", "c0ffee", "a.b", "*", ">", "a b", "a\r\nPUB", strings.Repeat("f", 128), "é"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		subject := containerSubject(agentA, id)
		tokens := strings.Split(subject, ".")
		safe := len(tokens) == 4 && tokens[3] != "" && !strings.ContainsAny(subject, "*> \t\r\n") && len(id) <= 128
		if validContainerID(id) && !safe {
			t.Errorf("id %q makes subject %q", id, subject)
		}
	})
}
