package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/taskguard/taskguard/scripts/leaktest"
)

var errDead = errors.New("the process is dead")

// faultyDisk is a real directory behind faults. At step failAt it fails with err; unless once is set, so does every
// step after it. It knows what a power cut would undo.
type faultyDisk struct {
	osDisk
	failAt int
	once   bool
	err    error

	steps    int
	unsynced map[string]bool // files with content that may be lost
	renames  [][2]string     // since the directory was synced
}

func (d *faultyDisk) step() error {
	d.steps++
	if d.steps == d.failAt || d.steps > d.failAt && d.failAt > 0 && !d.once {
		return d.err
	}
	return nil
}

func (d *faultyDisk) Create(path string) (file, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	f, err := d.osDisk.Create(path)
	if d.unsynced == nil {
		d.unsynced = map[string]bool{}
	}
	d.unsynced[path] = true
	return &faultyFile{file: f, disk: d, path: path}, err
}

func (d *faultyDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.unsynced[to] = d.unsynced[from]
	delete(d.unsynced, from)
	d.renames = append(d.renames, [2]string{from, to})
	return d.osDisk.Rename(from, to)
}

func (d *faultyDisk) Remove(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	return d.osDisk.Remove(path)
}

func (d *faultyDisk) SyncDir(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.renames = nil
	return d.osDisk.SyncDir(path)
}

// powerCut cuts what was not synced in half and, if it may, undoes the renames that were not.
func (d *faultyDisk) powerCut(t *testing.T, undo bool) {
	t.Helper()
	for path, lost := range d.unsynced {
		if info, err := os.Stat(path); lost && err == nil {
			if err := os.Truncate(path, info.Size()/2); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, r := range slices.Backward(d.renames) {
		if _, err := os.Stat(r[1]); undo && err == nil {
			if err := os.Rename(r[1], r[0]); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// faultyFile writes in two halves, between which it can die.
type faultyFile struct {
	file
	disk *faultyDisk
	path string
}

func (f *faultyFile) Write(p []byte) (int, error) {
	if err := f.disk.step(); err != nil {
		return 0, err
	}
	n, err := f.file.Write(p[:len(p)/2])
	if err != nil {
		return n, err
	}
	if err := f.disk.step(); err != nil {
		return n, err
	}
	m, err := f.file.Write(p[n:])
	return n + m, err
}

func (f *faultyFile) Sync() error {
	if err := f.disk.step(); err != nil {
		return err
	}
	f.disk.unsynced[f.path] = false
	return f.file.Sync()
}

func (f *faultyFile) Close() error { return errors.Join(f.disk.step(), f.file.Close()) }

// life is what one run of the scenario knows when it dies.
type life struct {
	stored map[string]bool // Put returned no error, and the batch is still the spool's
	ended  map[string]bool // removed, set aside or evicted: may be gone, or there again after a power cut
}

// live runs a scenario that uses every operation.
func live(s *Spool) life {
	l := life{map[string]bool{}, map[string]bool{}}
	end := func(e Entry) {
		delete(l.stored, e.name())
		l.ended[e.name()] = true
	}
	store := func(sequence uint64) {
		e := Entry{Epoch: 1, Sequence: sequence, Events: 1}
		e.crc = checksum(frameOf(e, 3000))
		evicted, err := put(s, e, frameOf(e, 3000))
		for _, old := range evicted {
			end(old)
		}
		if err == nil {
			l.stored[e.name()] = true
		}
	}
	store(1)
	store(2)
	if e, ok := next(s); ok {
		s.Remove(heldIn(s))
		end(e)
	}
	store(3)
	store(4)
	store(5) // evicts
	if e, ok := next(s); ok {
		if s.SetAside(heldIn(s), "rejected") == nil {
			end(e)
		}
		end(e)
	}
	store(6)
	return l
}

// Whatever step a crash or a power cut comes after, what Put said is stored is there, what is there is whole, and no
// other file is left.
func TestKillAtEveryStep(t *testing.T) {
	total := &faultyDisk{}
	s, err := open(Config{Dir: t.TempDir(), MaxBytes: 3 * block, MaxMemory: 1}, total)
	if err != nil {
		t.Fatal(err)
	}
	if l := live(s); len(l.stored) != 3 || len(l.ended) != 3 {
		t.Fatalf("undisturbed: %v, want 3 batches stored and 3 ended", l)
	}
	nothingIsLeft := leaktest.Check(t) // a failed step must not leave its file open
	for step := 1; step <= total.steps; step++ {
		for _, cut := range []string{"kill", "power cut", "power cut, renames undone"} {
			t.Run(fmt.Sprintf("step %d %s", step, cut), func(t *testing.T) {
				cfg := Config{Dir: t.TempDir(), MaxBytes: 3 * block, MaxMemory: 1}
				disk := &faultyDisk{failAt: step, err: errDead}
				s, err := open(cfg, disk)
				if err != nil {
					t.Fatal(err)
				}
				l := live(s)
				if cut != "kill" {
					disk.powerCut(t, strings.Contains(cut, "undone"))
				}
				checkAfterCrash(t, cfg, l)
			})
		}
	}
	nothingIsLeft()
}

func checkAfterCrash(t *testing.T, cfg Config, l life) {
	t.Helper()
	s := mustOpen(t, cfg)
	for {
		e, ok := next(s)
		if !ok {
			break
		}
		frame, err := s.Read(e)
		if err != nil || string(frame) != string(frameOf(e, 3000)) {
			t.Errorf("batch %d is not whole: %v", e.Sequence, err)
		}
		delete(l.stored, e.name())
		s.Remove(heldIn(s))
	}
	if len(l.stored) != 0 {
		t.Errorf("stored but gone: %v", l.stored)
	}
	for _, name := range files(t, cfg.Dir) {
		if name != rejectedDir {
			t.Errorf("left over: %s", name)
		}
	}
}

// A disk that fails once, at any step, loses at most the batch that Put reports, and heals.
func TestFaultAtEveryStep(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EROFS, syscall.EIO} {
		for step := 1; step <= 8; step++ {
			t.Run(fmt.Sprintf("%v at step %d", errno, step), func(t *testing.T) {
				cfg := Config{Dir: t.TempDir(), MaxMemory: 1}
				s, err := open(cfg, &faultyDisk{failAt: step, once: true, err: errno})
				if err != nil {
					t.Fatal(err)
				}
				var want []string
				for i := uint64(1); i <= 3; i++ {
					e := Entry{Epoch: 1, Sequence: i}
					_, err := put(s, e, frameOf(e, 100))
					switch {
					case err == nil:
						want = append(want, fmt.Sprintf("1/%d:0", i))
					case !errors.Is(err, errno):
						t.Errorf("error %v, want %v", err, errno)
					case i > 2:
						t.Errorf("put %d after the disk healed: %v", i, err)
					}
				}
				if got := s.Stats(); got.Batches != len(want) {
					t.Errorf("%d batches, want %d", got.Batches, len(want))
				}
				wantDrained(t, mustOpen(t, cfg), want...)
				if left := files(t, cfg.Dir); len(left) != 0 {
					t.Errorf("left over: %q", left)
				}
			})
		}
	}
}

// A disk that turns read-only: puts fail, what cannot be deleted still counts, and all heals afterwards.
func TestReadOnlyDisk(t *testing.T) {
	cfg := Config{Dir: t.TempDir(), MaxBytes: 2 * block, MaxMemory: 1}
	disk := &faultyDisk{err: syscall.EROFS}
	s, err := open(cfg, disk)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, Entry{Epoch: 1, Sequence: 1}, 10)
	mustPut(t, s, Entry{Epoch: 1, Sequence: 2}, 10)
	disk.failAt = 1
	for range 2 {
		if _, ok := next(s); !ok {
			t.Fatal("spool is empty")
		}
		s.Remove(heldIn(s))
	}
	if got := s.Stats(); got.Batches != 0 || got.Leftover != 2 || got.Bytes != cfg.MaxBytes {
		t.Errorf("%+v, want two leftover files that fill the spool", got)
	}
	e := Entry{Epoch: 1, Sequence: 3}
	if _, err := put(s, e, frameOf(e, 10)); !errors.Is(err, ErrFull) {
		t.Errorf("put: %v, want ErrFull", err)
	}
	disk.failAt = 0
	mustPut(t, s, e, 10)
	if got := s.Stats(); got.Batches != 1 || got.Leftover != 0 || got.Bytes != block {
		t.Errorf("%+v, want only batch 3", got)
	}
	if names := files(t, cfg.Dir); len(names) != 1 || filepath.Ext(names[0]) != nameSuffix {
		t.Errorf("files %q, want one batch", names)
	}
}
