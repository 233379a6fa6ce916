package hash

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// kept is a sink that copies what it needs.
type kept struct {
	mu      sync.Mutex
	modules []event.Module
	kinds   []event.Kind
	lost    uint64
}

func (k *kept) Emit(e *event.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kinds = append(k.kinds, e.Kind)
	if e.Module != nil {
		k.modules = append(k.modules, *e.Module)
	}
}

func (k *kept) Lost(_ event.Kind, _, _ string, n uint64) { k.lost += n }

func load(path string, inode uint64) *event.Event {
	return &event.Event{
		Time: time.Now(), Kind: event.ModuleLoad, Process: &event.Process{PID: uint32(os.Getpid())},
		Module: &event.Module{Call: "finit_module", Path: path, Inode: inode},
	}
}

// of is an event of a file that is there.
func of(t *testing.T, path string) *event.Event {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	e := load(path, st.Ino)
	e.Module.Device = event.Device(unix.Major(st.Dev)<<20 | unix.Minor(st.Dev))
	return e
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// realDir is a directory whose path has no links.
func realDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	do(t, err)
	return dir
}

func TestDigest(t *testing.T) {
	const content = "content"
	for name, test := range map[string]struct {
		// prepare changes what is there, or what the event says, after the event.
		prepare    func(t *testing.T, path string, e *event.Event)
		sum, state string
	}{
		"as it was": {func(*testing.T, string, *event.Event) {}, sumOf(content), ""},
		"process gone": {func(_ *testing.T, _ string, e *event.Event) {
			e.Process = &event.Process{PID: 1 << 30, Parent: &event.Process{PID: 1<<30 + 1}}
		}, sumOf(content), ""},
		"no process": {func(_ *testing.T, _ string, e *event.Event) { e.Process = nil }, sumOf(content), ""},
		"removed":    {func(t *testing.T, path string, _ *event.Event) { do(t, os.Remove(path)) }, "", Vanished},
		"replaced": {func(t *testing.T, path string, _ *event.Event) {
			do(t, os.Rename(write(t, path+".new", content), path))
		}, "", Vanished},
		"another device": {func(_ *testing.T, _ string, e *event.Event) { e.Module.Device++ }, "", Vanished},
		"behind a link": {func(t *testing.T, path string, _ *event.Event) {
			do(t, os.Rename(path, path+".old"))
			do(t, os.Symlink(path+".old", path))
		}, "", Vanished},
		"behind a link to its directory": {func(t *testing.T, path string, e *event.Event) {
			link := filepath.Dir(path) + ".link"
			do(t, os.Symlink(filepath.Dir(path), link))
			e.Module.Path = filepath.Join(link, filepath.Base(path))
		}, "", Vanished},
		"now a pipe": {func(t *testing.T, path string, e *event.Event) {
			do(t, os.Remove(path))
			do(t, unix.Mkfifo(path, 0o600))
			*e.Module = *of(t, path).Module
		}, "", Vanished},
		"changed": {func(t *testing.T, path string, e *event.Event) {
			e.Time = time.Now().Add(-time.Second)
			write(t, path, content)
		}, "", Changed},
		"too large": {func(t *testing.T, path string, e *event.Event) {
			do(t, os.Truncate(path, 1001))
			e.Time = time.Now()
		}, "", TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, filepath.Join(realDir(t), "module"), content)
			e := of(t, path)
			test.prepare(t, path, e)
			sink := &kept{}
			h := New(Config{MaxBytes: 1000, Sink: sink})
			h.Emit(e)
			h.Close()
			want := *e.Module
			want.SHA256, want.HashState = test.sum, test.state
			if diff := cmp.Diff([]event.Module{want}, sink.modules); diff != "" {
				t.Errorf("module (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(Stats{test.state: 1}, h.Stats()); diff != "" {
				t.Errorf("stats (-want +got):\n%s", diff)
			}
		})
	}
}

// What a writer does to a file meanwhile gives no digest of a mixture.
func TestDigestOfChangingFile(t *testing.T) {
	path := filepath.Join(realDir(t), "module")
	const size = 1 << 20
	contents := [2][]byte{make([]byte, size), make([]byte, size)}
	contents[1][size-1] = 1
	do(t, os.WriteFile(path, contents[0], 0o600))
	valid := map[string]bool{sumOf(string(contents[0])): true, sumOf(string(contents[1])): true}
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := file.WriteAt(contents[i%2], 0); err != nil {
				t.Error(err)
				return
			}
		}
	})
	r := &reader{cfg: Config{ProcRoot: "/proc", MaxBytes: size, BytesPerSecond: 1 << 40, MaxCache: 1}, cache: map[version]string{}}
	e := of(t, path)
	e.Time = time.Now().Add(time.Hour) // only what happens meanwhile counts
	states := map[string]int{}
	// The writer may be late to get the CPU.
	for i, deadline := 0, time.Now().Add(time.Minute); i < 20 || states[Changed] == 0 && time.Now().Before(deadline); i++ {
		sum, state := r.digest(hold(e))
		states[state]++
		if state == "" && !valid[sum] || state != "" && state != Changed {
			t.Errorf("digest %s, state %q", sum, state)
		}
	}
	close(stop)
	writing.Wait()
	if states[Changed] == 0 {
		t.Errorf("no change was seen: %v", states)
	}
}

func TestCacheAndBudgetAreBounded(t *testing.T) {
	dir := realDir(t)
	r := &reader{cfg: Config{ProcRoot: "/proc", MaxBytes: 100, BytesPerSecond: 1, MaxCache: 2}, cache: map[version]string{}}
	digest := func(i int, want string) {
		t.Helper()
		path := filepath.Join(dir, fmt.Sprint(i))
		if _, err := os.Stat(path); err != nil {
			write(t, path, "0123456789012345678901234567890")
		}
		if _, state := r.digest(hold(of(t, path))); state != want {
			t.Errorf("file %d: %q, want %q", i, state, want)
		}
		if len(r.cache) > 2 {
			t.Errorf("%d digests are remembered", len(r.cache))
		}
	}
	digest(0, "")
	digest(1, "")
	digest(2, "") // 93 of 100 bytes
	digest(3, RateLimited)
	digest(2, "") // remembered
}

// held back for as long as an event may be, when a file system does not answer.
func TestHeldBackIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &kept{}
		h := New(Config{MaxHeld: 3, MaxWait: time.Second, Sink: sink})
		answer := make(chan struct{})
		h.digest = func(*held) (string, string) {
			<-answer
			return "late", ""
		}
		began := time.Now()
		for i := range uint64(5) {
			h.Emit(load("/x", 1+i))
		}
		h.Emit(&event.Event{Kind: event.ProcessExec})
		h.Emit(&event.Event{Kind: event.ModuleLoad, Module: &event.Module{Call: "init_module"}})
		// The first three wait.
		if diff := cmp.Diff([]event.Module{
			{Call: "finit_module", Path: "/x", Inode: 4, HashState: RateLimited},
			{Call: "finit_module", Path: "/x", Inode: 5, HashState: RateLimited},
			{Call: "init_module"},
		}, sink.modules); diff != "" {
			t.Errorf("emitted at once (-want +got):\n%s", diff)
		}
		if got := h.Covered(began.Add(time.Hour)); !got.Equal(began) {
			t.Errorf("covered until %v, want %v", got, began)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := len(sink.kinds); got != 7 {
			t.Errorf("%d events after the longest wait, want 7", got)
		}
		if got := h.Covered(began.Add(time.Hour)); !got.Equal(began.Add(time.Hour)) {
			t.Errorf("covered until %v with nothing held back", got)
		}
		h.Close()
		close(answer)
		synctest.Wait() // what comes late changes nothing
		if diff := cmp.Diff(Stats{RateLimited: 5}, h.Stats()); diff != "" {
			t.Errorf("stats (-want +got):\n%s", diff)
		}
		h.Emit(load("/x", 9))
		if got := len(sink.kinds); got != 8 {
			t.Errorf("%d events after one that came after the end, want 8", got)
		}
	})
}

// Closing hands on what is held back, hashed if that does not take too long.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &kept{}
		h := New(Config{MaxWait: time.Second, Sink: sink})
		h.digest = func(w *held) (string, string) {
			time.Sleep(400 * time.Millisecond)
			return fmt.Sprint(w.module.Inode), ""
		}
		for i := range uint64(4) {
			h.Emit(load("/x", 1+i))
		}
		h.Close()
		var got []string
		for _, m := range sink.modules {
			got = append(got, m.SHA256+m.HashState)
		}
		if diff := cmp.Diff([]string{"1", "2", RateLimited, RateLimited}, got); diff != "" {
			t.Errorf("digests (-want +got):\n%s", diff)
		}
		time.Sleep(time.Second) // the worker ends
		synctest.Wait()
		h.Lost(event.ModuleLoad, "kernel", "ring_full", 3)
		if sink.lost != 3 {
			t.Errorf("%d lost, want 3", sink.lost)
		}
	})
}

// Law: what is held back does not change when its owner uses the event again.
func TestHoldCopies(t *testing.T) {
	parent := &event.Process{PID: 1, Name: "init"}
	e := load("/x", 1)
	e.Process.Parent = parent
	w := hold(e)
	want := hold(e)
	*parent, *e.Process, *e.Module = event.Process{}, event.Process{}, event.Module{}
	*e = event.Event{}
	if diff := cmp.Diff(want.event, w.event); diff != "" {
		t.Errorf("event (-before +after):\n%s", diff)
	}
	if w.event.Process.Parent.Name != "init" {
		t.Errorf("parent %+v", w.event.Process.Parent)
	}
}
