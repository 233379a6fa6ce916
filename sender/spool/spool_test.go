package spool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func mustOpen(t *testing.T, cfg Config) *Spool {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// frameOf returns a frame that no other entry has.
func frameOf(e Entry, size int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%d/%d.", e.Epoch, e.Sequence), size)[:size]
}

// put appends a batch and returns what was evicted for it.
func put(s *Spool, e Entry, frame []byte) (evicted []Entry, err error) {
	err = s.Put(e, frame, func(old []Entry) { evicted = old })
	return evicted, err
}

func mustPut(t *testing.T, s *Spool, e Entry, size int) []Entry {
	t.Helper()
	evicted, err := put(s, e, frameOf(e, size))
	if err != nil {
		t.Fatal(err)
	}
	return evicted
}

// drain takes every batch out of the spool and returns "epoch/sequence:events" of each; one that is corrupt is set
// aside and marked.
func drain(t *testing.T, s *Spool) (got []string) {
	t.Helper()
	for {
		e, ok := next(s)
		if !ok {
			return got
		}
		line := fmt.Sprintf("%d/%d:%d", e.Epoch, e.Sequence, e.Events)
		frame, err := s.Read(e)
		switch {
		case errors.Is(err, ErrCorrupt):
			line += " corrupt"
			if err := s.SetAside(heldIn(s), "corrupt"); err != nil {
				line += " and gone"
			}
		case err != nil:
			t.Fatal(err)
		case !bytes.Equal(frame, frameOf(e, len(frame))):
			t.Fatalf("batch %s has another content", line)
		default:
			s.Remove(heldIn(s))
		}
		got = append(got, line)
	}
}

func wantDrained(t *testing.T, s *Spool, want ...string) {
	t.Helper()
	if got := drain(t, s); !slices.Equal(got, want) {
		t.Errorf("spool held %q, want %q", got, want)
	}
	if got := s.Stats(); got.Batches != 0 || got.Events != 0 || got.Bytes != 0 {
		t.Errorf("empty spool says %+v", got)
	}
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		names = append(names, f.Name())
	}
	return names
}

func TestOldestFirstOverEpochsAndReopen(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "a", "spool")}
	s := mustOpen(t, cfg)
	for _, e := range []Entry{
		{Epoch: 9, Sequence: 10, Events: 1}, {Epoch: 10, Sequence: 1, Events: 2}, {Epoch: 9, Sequence: 9, Events: 3},
		{Epoch: 1<<64 - 1, Sequence: 1<<64 - 1, Events: 1<<64 - 7},
	} {
		mustPut(t, s, e, 100)
	}
	for _, reopened := range []*Spool{s, mustOpen(t, cfg)} {
		if got, want := reopened.Stats().Batches, 4; got != want {
			t.Fatalf("%d batches, want %d", got, want)
		}
	}
	wantDrained(t, mustOpen(t, cfg), "9/9:3", "9/10:1", "10/1:2",
		"18446744073709551615/18446744073709551615:18446744073709551609")
	if left := files(t, cfg.Dir); len(left) != 0 {
		t.Errorf("files left: %q", left)
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, Config{Dir: dir})
	e := Entry{Epoch: 1, Sequence: 1}
	mustPut(t, s, e, 10)
	e, _ = next(s)
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, e.name()): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", path, err, info.Mode(), want)
		}
	}
}

func TestEvictionIsExact(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), MaxBytes: 4 * block}
	s := mustOpen(t, cfg)
	for i := uint64(1); i <= 4; i++ {
		if evicted := mustPut(t, s, Entry{Epoch: 1, Sequence: i, Events: 10 * i}, block); len(evicted) != 0 {
			t.Fatalf("batch %d evicted %v: all fit", i, evicted)
		}
	}
	var lost uint64
	for _, old := range mustPut(t, s, Entry{Epoch: 1, Sequence: 5, Events: 50}, block+1) {
		lost += old.Events
	}
	if want := uint64(10 + 20); lost != want {
		t.Errorf("%d events evicted, want %d", lost, want)
	}
	if got := s.Stats(); got.Bytes != cfg.MaxBytes || got.Events != 30+40+50 {
		t.Errorf("%+v, want a full spool of 120 events", got)
	}
	wantDrained(t, s, "1/3:30", "1/4:40", "1/5:50")
}

func TestFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, Config{Dir: dir, MaxFiles: 3})
	for i := uint64(1); i <= 10; i++ {
		evicted := mustPut(t, s, Entry{Epoch: 1, Sequence: i, Events: i}, 10)
		if found := len(files(t, dir)); found > 3 || (i > 3) != (len(evicted) == 1) {
			t.Errorf("batch %d: %d files, evicted %v", i, found, evicted)
		}
	}
	wantDrained(t, s, "1/8:8", "1/9:9", "1/10:10")

	// One that is held counts, and is not evicted.
	s = mustOpen(t, Config{Dir: t.TempDir(), MaxFiles: 1})
	mustPut(t, s, Entry{Epoch: 1, Sequence: 1}, 1)
	next(s)
	if _, err := put(s, Entry{Epoch: 1, Sequence: 2}, []byte("x")); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want that it is full", err)
	}
}

func TestHeldIsNotEvicted(t *testing.T) {
	s := mustOpen(t, Config{Dir: t.TempDir(), MaxBytes: 2 * block})
	mustPut(t, s, Entry{Epoch: 1, Sequence: 1}, 1)
	mustPut(t, s, Entry{Epoch: 1, Sequence: 2}, 1)
	held, _ := next(s)
	if evicted := mustPut(t, s, Entry{Epoch: 1, Sequence: 3}, 1); len(evicted) != 1 || evicted[0].Sequence != 2 {
		t.Errorf("evicted %v, want batch 2", evicted)
	}
	big := Entry{Epoch: 1, Sequence: 4}
	if evicted, err := put(s, big, frameOf(big, block+1)); !errors.Is(err, ErrFull) || len(evicted) != 0 {
		t.Errorf("put what cannot fit beside the held batch: %v, evicted %v, want ErrFull and none", err, evicted)
	}
	if again, _ := next(s); again != held {
		t.Errorf("next is %v, want the held %v", again, held)
	}
	s.Release(heldIn(s))
	if evicted := mustPut(t, s, big, 1); len(evicted) != 1 || evicted[0].Sequence != 1 {
		t.Errorf("evicted %v, want batch 1, which is the oldest again", evicted)
	}
	wantDrained(t, s, "1/3:0", "1/4:0")
}

func TestPutRefusesTooLarge(t *testing.T) {
	s := mustOpen(t, Config{Dir: t.TempDir()})
	if _, err := put(s, Entry{Epoch: 1, Sequence: 1}, make([]byte, MaxFrame+1)); err == nil {
		t.Error("frame above MaxFrame accepted")
	}
	s = mustOpen(t, Config{Dir: t.TempDir(), MaxBytes: block})
	mustPut(t, s, Entry{Epoch: 1, Sequence: 1}, 1)
	evicted, err := put(s, Entry{Epoch: 1, Sequence: 2}, make([]byte, block+1))
	if !errors.Is(err, ErrFull) || len(evicted) != 0 {
		t.Errorf("%v, evicted %v, want ErrFull without eviction", err, evicted)
	}
	wantDrained(t, s, "1/1:0")
}

func TestCorruptIsSetAsideAndTheRestDelivered(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	s := mustOpen(t, cfg)
	damage := map[uint64]func(path string) error{
		2: func(path string) error { return os.Truncate(path, 500) },
		3: func(path string) error { return os.Truncate(path, 0) },
		4: os.Remove,
		5: func(path string) error {
			data, err := os.ReadFile(path)
			data[999] ^= 1
			return errors.Join(err, os.WriteFile(path, data, 0o600))
		},
		6: func(path string) error { return os.Truncate(path, MaxFrame+1) }, // sparse
	}
	for i := uint64(1); i <= 7; i++ {
		e := Entry{Epoch: 1, Sequence: i, Events: i}
		mustPut(t, s, e, 1000)
		e.crc = checksum(frameOf(e, 1000))
		if f := damage[i]; f != nil && i != 4 {
			if err := f(filepath.Join(cfg.Dir, e.name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	s = mustOpen(t, cfg)
	gone := Entry{Epoch: 1, Sequence: 4, Events: 4}
	gone.crc = checksum(frameOf(gone, 1000))
	if err := damage[4](filepath.Join(cfg.Dir, gone.name())); err != nil {
		t.Fatal(err)
	}
	wantDrained(t, s, "1/1:1", "1/2:2 corrupt", "1/3:3 corrupt", "1/4:4 corrupt and gone",
		"1/5:5 corrupt", "1/6:6 corrupt", "1/7:7")
	for _, name := range files(t, filepath.Join(cfg.Dir, rejectedDir)) {
		if !strings.HasSuffix(name, ".batch.corrupt") {
			t.Errorf("%s set aside, want its cause at the end", name)
		}
	}
}

func TestRejectedIsBounded(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), MaxRejected: 3 * block}
	s := mustOpen(t, cfg)
	reject := func(from, to uint64) {
		t.Helper()
		for i := from; i <= to; i++ {
			mustPut(t, s, Entry{Epoch: 1, Sequence: i}, 10)
			if _, ok := next(s); !ok {
				t.Fatal("spool is empty")
			}
			if err := s.SetAside(heldIn(s), "too_large/../x"); err != nil {
				t.Fatal(err)
			}
			if got := s.Stats(); got.RejectedBytes > cfg.MaxRejected || got.Bytes != 0 {
				t.Fatalf("%+v after batch %d: bound exceeded", got, i)
			}
		}
	}
	reject(1, 5)
	s = mustOpen(t, cfg)
	if got := s.Stats(); got.Rejected != 3 || got.RejectedBytes != cfg.MaxRejected {
		t.Errorf("reopened with %+v, want 3 batches set aside", got)
	}
	reject(6, 7)
	left := files(t, filepath.Join(cfg.Dir, rejectedDir))
	if len(left) != 3 || !strings.Contains(left[0], "-00000000000000000005-") ||
		!strings.HasSuffix(left[0], ".batch.too_large____x") {
		t.Errorf("rejected holds %q, want batches 5 to 7", left)
	}
}

func TestUnknownFilesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	good := Entry{Epoch: 1, Sequence: 1}
	unknown := []string{
		"README", "x.tmp", ".batch", "1-1-1-00000000.batch", good.name() + "x", " " + good.name(), "-" + good.name(),
		strings.Replace(good.name(), "-0-", "-00-", 1), strings.ToUpper(Entry{crc: 0xabcdef01}.name()),
	}
	for _, name := range unknown {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, good.name()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, Entry{Epoch: 2, Sequence: 2}.name())); err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	s := mustOpen(t, Config{Dir: dir})
	wantDrained(t, s)
	if after := files(t, dir); !slices.Equal(before, after) {
		t.Errorf("files %q, want %q", after, before)
	}
}

func TestTemporaryFilesAreRemovedAndCounted(t *testing.T) {
	dir := t.TempDir()
	e := Entry{Epoch: 1, Sequence: 1}
	if err := os.WriteFile(filepath.Join(dir, e.name()+tmpSuffix), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, Config{Dir: dir})
	if got := s.Stats(); got.Temporary != 1 || got.Batches != 0 || len(files(t, dir)) != 0 {
		t.Errorf("%+v, files %q, want one temporary file counted and removed", got, files(t, dir))
	}
}

func TestMissingDirectoryIsMadeAgain(t *testing.T) {
	cfg := Config{Dir: filepath.Join(t.TempDir(), "spool")}
	s := mustOpen(t, cfg)
	if err := os.RemoveAll(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, Entry{Epoch: 1, Sequence: 1}, 10)
	wantDrained(t, s, "1/1:0")
}

func TestOpenRefuses(t *testing.T) {
	occupied := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(occupied, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]Config{
		"no directory": {}, "a file": {Dir: occupied}, "negative": {Dir: t.TempDir(), MaxBytes: -1},
	} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
}

func TestChanged(t *testing.T) {
	s := mustOpen(t, Config{Dir: t.TempDir()})
	mustPut(t, s, Entry{Epoch: 1, Sequence: 1}, 10)
	mustPut(t, s, Entry{Epoch: 1, Sequence: 2}, 10) // does not block
	select {
	case <-s.Changed():
	default:
		t.Error("Changed did not receive after Put")
	}
}

func FuzzParseName(f *testing.F) {
	f.Add(Entry{Epoch: 1, Sequence: 2, Events: 3, crc: 4}.name())
	f.Fuzz(func(t *testing.T, name string) {
		if e, ok := parseName(name, 0); ok && e.name() != name {
			t.Errorf("%q accepted as %q", name, e.name())
		}
	})
}

// next returns the oldest batch of all.
func next(s *Spool) (Entry, bool) {
	lanes := s.Lanes()
	if len(lanes) == 0 {
		return Entry{}, false
	}
	return s.Next(lanes[0].Epoch)
}

// heldIn returns the epoch of a batch that is held, 0 if none is.
func heldIn(s *Spool) uint64 {
	for epoch := range s.held {
		return epoch
	}
	return 0
}

// Batches of several epochs are handed out and held on their own, and those that wait are told by epoch.
func TestLanes(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Entry{{Epoch: 1, Sequence: 1}, {Epoch: 1, Sequence: 2}, {Epoch: 3, Sequence: 3}, {Epoch: 2, Sequence: 1}} {
		e.Events = 1
		if err := s.Put(e, []byte("x"), nil); err != nil {
			t.Fatal(err)
		}
	}
	wantLanes := func(want string) {
		t.Helper()
		var got []string
		for _, l := range s.Lanes() {
			if l.Oldest.IsZero() {
				t.Errorf("epoch %d: no time", l.Epoch)
			}
			got = append(got, fmt.Sprintf("%d:%d", l.Epoch, l.Batches))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("lanes %v, want %s", got, want)
		}
	}
	wantLanes("[1:2 2:1 3:1]")
	for _, epoch := range []uint64{3, 1} {
		if e, ok := s.Next(epoch); !ok || e.Epoch != epoch {
			t.Errorf("next of epoch %d: %+v, %t", epoch, e, ok)
		}
	}
	wantLanes("[1:2 2:1 3:1]")
	s.Remove(3)
	s.Remove(3) // which is held no more
	wantLanes("[1:2 2:1]")
	if _, ok := s.Next(3); ok {
		t.Error("an epoch has a batch that was removed")
	}
	s.Release(1)
	if e, ok := s.Next(1); !ok || e.Sequence != 1 {
		t.Errorf("after its release: %+v, %t, want the first batch", e, ok)
	}
	if err := s.SetAside(1, "x"); err != nil {
		t.Error(err)
	}
	wantLanes("[1:1 2:1]")
}

// What the disk does not take is kept in memory, within a limit, and handed out in its turn.
func TestMemory(t *testing.T) {
	disk := &faultyDisk{err: syscall.EROFS}
	s, err := open(Config{Dir: t.TempDir(), MaxMemory: 250}, disk)
	if err != nil {
		t.Fatal(err)
	}
	frame := func(sequence uint64) []byte { return bytes.Repeat([]byte{byte(sequence)}, 100) }
	put := func(sequence uint64, want error) {
		t.Helper()
		err := s.Put(Entry{Epoch: 1, Sequence: sequence, Events: 1}, frame(sequence), nil)
		if !errors.Is(err, want) || errors.Is(err, ErrInMemory) != errors.Is(want, ErrInMemory) {
			t.Errorf("put %d: %v, want %v", sequence, err, want)
		}
	}
	put(1, nil)
	disk.failAt = disk.steps + 1
	put(2, ErrInMemory)
	put(3, ErrInMemory)
	put(4, syscall.EROFS) // and not in memory
	if st := s.Stats(); st.Batches != 3 || st.Memory != 2 || st.MemoryBytes != 200 || st.Bytes-int64(st.Leftover)*block != block {
		t.Errorf("%+v, want two of three batches in memory", st)
	}
	disk.failAt = 0
	put(5, nil)
	for _, sequence := range []uint64{1, 2, 3, 5} {
		e, ok := next(s)
		got, err := s.Read(e)
		if !ok || e.Sequence != sequence || err != nil || !bytes.Equal(got, frame(sequence)) {
			t.Errorf("next is %+v, %d bytes, %v, want batch %d", e, len(got), err, sequence)
		}
		if sequence != 3 {
			s.Remove(1)
		} else if err := s.SetAside(1, "x"); err == nil {
			t.Error("a batch in memory was set aside")
		}
	}
	if st := s.Stats(); st != (Stats{MaxBytes: DefaultMaxBytes}) {
		t.Errorf("%+v at the end, want nothing", st)
	}
}
