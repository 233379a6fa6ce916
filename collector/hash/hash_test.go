package hash

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/leaktest"
)

// process is one that runs a file, as the kernel tells of it.
func process(t *testing.T, path string) *event.Process {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	p := &event.Process{PID: uint32(os.Getpid()), Exe: path, ExeInode: st.Ino}
	p.ExeDevice = event.Device(unix.Major(st.Dev)<<20 | unix.Minor(st.Dev))
	p.ExeVersion = event.FileVersion{
		Device: p.ExeDevice, Inode: st.Ino, Size: uint64(st.Size), Changed: uint64(unix.TimespecToNsec(st.Ctim)),
	}
	return p
}

// module is an event of a file that a module is loaded from.
func module(t *testing.T, path string) *event.Event {
	t.Helper()
	p := process(t, path)
	return &event.Event{Kind: event.ModuleLoad, Process: p, Module: &event.Module{
		Path: path, Device: p.ExeDevice, Inode: p.ExeInode, Version: p.ExeVersion,
	}}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	do(t, os.WriteFile(path, []byte(text), 0o600))
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

// run has a hasher read until the test's end.
func run(t *testing.T, h *Hasher) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	check := leaktest.Check(t)
	var running sync.WaitGroup
	running.Go(func() { h.Run(ctx) })
	t.Cleanup(func() {
		stop()
		running.Wait()
		check()
	})
}

// settled waits for what comes of a file, and of that of it which was given out as pending.
func settled(t *testing.T, h *Hasher, v event.FileVersion) event.Digest {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if d := h.Digest(v); d.HashState != event.HashPending {
			return d
		}
	}
	t.Fatal("still pending after a minute")
	return event.Digest{}
}

func TestDigest(t *testing.T) {
	const content = "content"
	for name, test := range map[string]struct {
		// prepare changes what is there, or what the event says, after the event.
		prepare func(t *testing.T, path string, e *event.Event)
		want    event.Digest
	}{
		"as it was": {func(*testing.T, string, *event.Event) {}, event.Digest{SHA256: sumOf(content)}},
		"process gone": {func(_ *testing.T, _ string, e *event.Event) {
			e.Process = &event.Process{PID: 1 << 30, Parent: &event.Process{PID: 1<<30 + 1}}
		}, event.Digest{SHA256: sumOf(content)}},
		"no process": {func(_ *testing.T, _ string, e *event.Event) { e.Process = nil }, event.Digest{SHA256: sumOf(content)}},
		"removed":    {func(t *testing.T, path string, _ *event.Event) { do(t, os.Remove(path)) }, event.Digest{HashState: event.HashVanished}},
		"replaced": {func(t *testing.T, path string, _ *event.Event) {
			do(t, os.Rename(write(t, path+".new", content), path))
		}, event.Digest{HashState: event.HashVanished}},
		"another device": {func(_ *testing.T, _ string, e *event.Event) { e.Module.Device++ }, event.Digest{HashState: event.HashVanished}},
		"behind a link": {func(t *testing.T, path string, _ *event.Event) {
			do(t, os.Rename(path, path+".old"))
			do(t, os.Symlink(path+".old", path))
		}, event.Digest{HashState: event.HashVanished}},
		"behind a link to its directory": {func(t *testing.T, path string, e *event.Event) {
			link := filepath.Dir(path) + ".link"
			do(t, os.Symlink(filepath.Dir(path), link))
			e.Module.Path = filepath.Join(link, filepath.Base(path))
		}, event.Digest{HashState: event.HashVanished}},
		"now a pipe": {func(t *testing.T, path string, e *event.Event) {
			do(t, os.Remove(path))
			do(t, unix.Mkfifo(path, 0o600))
			*e.Module = *module(t, path).Module
		}, event.Digest{HashState: event.HashVanished}},
		"changed": {func(t *testing.T, path string, e *event.Event) {
			e.Module.Version.Changed-- // it was
			write(t, path, content)
		}, event.Digest{HashState: event.HashChanged}},
		"longer": {func(t *testing.T, path string, e *event.Event) { e.Module.Version.Size-- }, event.Digest{HashState: event.HashChanged}},
		"too large": {func(t *testing.T, path string, e *event.Event) {
			do(t, os.Truncate(path, 1001))
			*e.Module = *module(t, path).Module
		}, event.Digest{HashState: event.HashTooLarge}},
		"in another layer": {func(_ *testing.T, _ string, e *event.Event) {
			e.Module.Version.Device, e.Module.Version.Inode = 7, 7
		}, event.Digest{SHA256: sumOf(content)}},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, filepath.Join(realDir(t), "module"), content)
			e := module(t, path)
			test.prepare(t, path, e)
			h := New(Config{MaxBytes: 1000})
			run(t, h)
			h.Enrich(e)
			got := settled(t, h, e.Module.Version)
			count := "ok"
			if test.want.HashState != "" {
				count = string(test.want.HashState)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("digest (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(Stats{count: 1}, h.Stats()); diff != "" {
				t.Errorf("stats (-want +got):\n%s", diff)
			}
		})
	}
}

// An executable that has no name any more is read as long as it runs, through any process that runs it.
func TestDigestOfRemovedExecutable(t *testing.T) {
	path := filepath.Join(realDir(t), "sleep")
	program, err := exec.LookPath("sleep")
	do(t, err)
	content, err := os.ReadFile(program)
	do(t, err)
	do(t, os.WriteFile(path, content, 0o700))
	command := exec.Command(path, "60")
	do(t, command.Start())
	t.Cleanup(func() {
		command.Process.Kill()
		command.Wait()
	})
	p := process(t, path)
	p.PID = uint32(command.Process.Pid)
	do(t, os.Remove(path))
	var st unix.Stat_t // to be unlinked changed it
	do(t, unix.Stat(fmt.Sprintf("/proc/%d/exe", p.PID), &st))
	p.ExeVersion.Changed = uint64(unix.TimespecToNsec(st.Ctim))
	h := New(Config{})
	run(t, h)
	h.Note(p)
	if got := settled(t, h, p.ExeVersion); got.SHA256 != sumOf(string(content)) {
		t.Errorf("digest %+v", got)
	}
}

// A file is seen through other processes of the container when its own has ended.
func TestDigestThroughAnotherProcess(t *testing.T) {
	root := t.TempDir() // a /proc where only one process is left
	const pid = 4321
	do(t, os.MkdirAll(filepath.Join(root, fmt.Sprint(pid)), 0o755))
	do(t, os.Symlink("/", filepath.Join(root, fmt.Sprint(pid), "root")))
	path := write(t, filepath.Join(realDir(t), "program"), "content")
	shop := &event.Container{ID: "shop"}
	other := process(t, path)
	other.PID, other.Container, other.ExeVersion.Inode = pid, shop, 1 // runs something else
	gone := process(t, path)
	gone.PID, gone.Container = 1234, shop
	h := New(Config{ProcRoot: root})
	run(t, h)
	h.Note(other)
	settled(t, h, other.ExeVersion)
	h.Note(gone)
	if got := settled(t, h, gone.ExeVersion); got.SHA256 != sumOf("content") {
		t.Errorf("digest %+v", got)
	}
}

// What is from a container's image is found in its layers when the container has gone, also when these are known later
// only.
func TestDigestInLayersOfTheImage(t *testing.T) {
	dir := realDir(t)
	for _, layer := range []string{"top", "middle", "bottom"} {
		do(t, os.MkdirAll(filepath.Join(dir, layer, "bin"), 0o755))
	}
	write(t, filepath.Join(dir, "top/bin/x"), "another") // of another container's
	path := write(t, filepath.Join(dir, "middle/bin/x"), "content")
	do(t, os.Symlink(path, filepath.Join(dir, "bottom/bin/link")))
	layers := []string{filepath.Join(dir, "top"), filepath.Join(dir, "gone"), filepath.Join(dir, "middle"), filepath.Join(dir, "bottom")}
	p := process(t, path)
	p.PID, p.Container = 1<<30, &event.Container{ID: "shop"}
	p.ExeDevice, p.ExeInode = 7, 7 // as the overlay had it
	for name, test := range map[string]struct {
		path   string
		known  bool // at first
		ever   bool
		digest event.Digest
	}{
		"known":               {"/bin/x", true, true, event.Digest{SHA256: sumOf("content")}},
		"known later":         {"/bin/x", false, true, event.Digest{SHA256: sumOf("content")}},
		"never known":         {"/bin/x", false, false, event.Digest{HashState: event.HashVanished}},
		"not in the image":    {"/bin/y", true, true, event.Digest{HashState: event.HashVanished}},
		"out of it by a link": {"/bin/link", true, true, event.Digest{HashState: event.HashVanished}},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			var mu sync.Mutex
			h := New(Config{Layers: func(container string) ([]string, bool) {
				mu.Lock()
				defer mu.Unlock()
				if asked++; container != "shop" || !test.ever || !test.known && asked < 3 {
					return nil, test.ever
				}
				return layers, false
			}})
			run(t, h)
			p.Exe = test.path
			h.Note(p)
			if got := settled(t, h, p.ExeVersion); got != test.digest {
				t.Errorf("digest %+v, want %+v", got, test.digest)
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
	h, r := New(Config{BytesPerSecond: 1 << 40}), &reader{procRoot: "/proc"}
	states := map[event.HashState]int{}
	// The writer may be late to get the CPU.
	for i, deadline := 0, time.Now().Add(time.Minute); i < 20 || states[event.HashChanged] == 0 && time.Now().Before(deadline); i++ {
		p := process(t, path)
		d := h.read(t.Context(), r, &request{wanted: wanted{p.ExeVersion, path, p.ExeDevice, p.ExeInode}, asked: time.Now()}, h.fresh)
		states[d.HashState]++
		if d.HashState == "" && !valid[d.SHA256] || d.HashState != "" && d.HashState != event.HashChanged {
			t.Errorf("digest %+v", d)
		}
	}
	close(stop)
	writing.Wait()
	if states[event.HashChanged] == 0 {
		t.Errorf("no change was seen: %v", states)
	}
}

// What waits when the agent ends was not read; it is not said that there were too many others.
func TestEndIsNoRateLimit(t *testing.T) {
	dir := realDir(t)
	files := []*event.Process{
		process(t, write(t, filepath.Join(dir, "one"), "ten bytes.")), process(t, write(t, filepath.Join(dir, "two"), "ten bytes,")),
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		h := New(Config{MaxBytes: 10, BytesPerSecond: 4})
		for _, p := range files {
			h.Note(p)
		}
		go h.work(ctx, h.fresh)
		for h.Stats()[countOK] == 0 {
			time.Sleep(tick)
		}
		synctest.Wait()
		stop()
		synctest.Wait()
		if d := h.Digest(files[1].ExeVersion); d.HashState != event.HashPending || h.Stats()[string(event.HashRateLimited)] != 0 {
			t.Errorf("digest %+v, stats %v", d, h.Stats())
		}
	})
}

// The clock may have been set back, and some file systems have the time of another one.
func TestFileFromTheFutureKeepsNoReader(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "file"), "text")
	version := process(t, path).ExeVersion
	synctest.Test(t, func(t *testing.T) { // in the year 2000
		file, err := os.Open(path)
		do(t, err)
		defer file.Close()
		began := time.Now()
		sum, err := new(reader).sum(file, version)
		do(t, err)
		if waited := time.Since(began); sum != sumOf("text") || waited > tick {
			t.Errorf("%s after %v, want %s after %v", sum, waited, sumOf("text"), tick)
		}
	})
}

// Law: a digest that was given out as pending is told of once when it is known; one that was not is not.
func TestUpdates(t *testing.T) {
	dir := realDir(t)
	h := New(Config{})
	var want []event.FileDigest
	for i := range 4 {
		p := process(t, write(t, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprint(i)))
		h.Note(p)
		if i%2 == 0 {
			continue
		}
		for range 2 {
			if d := h.Digest(p.ExeVersion); d.HashState != event.HashPending {
				t.Errorf("digest %+v before anything was read", d)
			}
		}
		want = append(want, event.FileDigest{Version: p.ExeVersion, Digest: event.Digest{SHA256: sumOf(fmt.Sprint(i))}})
	}
	run(t, h)
	got := map[event.FileVersion]event.Digest{}
	for deadline := time.Now().Add(time.Minute); h.Stats()["ok"] < 4 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
	}
	for _, u := range h.Updates() {
		got[u.Version] = u.Digest
	}
	if len(got) != 2 || got[want[0].Version] != want[0].Digest || got[want[1].Version] != want[1].Digest {
		t.Errorf("updates %v, want %v", got, want)
	}
	if again := h.Updates(); again != nil {
		t.Errorf("updates told again: %v", again)
	}
}

func TestUpdatesAreBounded(t *testing.T) {
	h := New(Config{})
	for i := range uint64(maxUpdates + 3) {
		h.settle(&request{wanted: wanted{version: event.FileVersion{Inode: i + 1}}, given: true}, event.Digest{SHA256: "x"})
	}
	if got := len(h.Updates()); got != maxUpdates || h.Stats()["updates_dropped"] != 3 {
		t.Errorf("%d updates and %v, want %d and 3 dropped", got, h.Stats(), maxUpdates)
	}
	if len(h.known) != h.cfg.MaxKnown {
		t.Errorf("%d files remembered, want %d", len(h.known), h.cfg.MaxKnown)
	}
}

// A queue that is full and readers that nothing answers leave the event path as quick as ever, and say so.
func TestWaitingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Config{MaxWaiting: 2, MaxContainers: 3})
		note := func(i uint64) event.FileVersion {
			p := &event.Process{PID: uint32(i), Exe: "/x", ExeVersion: event.FileVersion{Inode: i}, Container: &event.Container{ID: fmt.Sprint(i)}}
			h.Note(p)
			return p.ExeVersion
		}
		first := note(1)
		note(2)
		third := note(3)
		if d := h.Digest(third); d.HashState != event.HashRateLimited {
			t.Errorf("digest beyond the queue's end: %+v", d)
		}
		if d := h.Digest(first); d.HashState != event.HashPending {
			t.Errorf("digest in the queue: %+v", d)
		}
		for i := range uint64(10) {
			note(i + 10)
		}
		if len(h.views) != 3 || len(h.waiting) != 2 {
			t.Errorf("%d containers and %d files, want 3 and 2", len(h.views), len(h.waiting))
		}
	})
}

// Files that are tried later wait in no queue; they count all the same.
func TestTriedLaterIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Config{MaxWaiting: 2, Layers: func(string) ([]string, bool) { return nil, true }})
		for i := range uint64(10) {
			h.Note(&event.Process{Exe: "/x", ExeVersion: event.FileVersion{Inode: i + 1}, Container: &event.Container{ID: "c"}})
			select {
			case r := <-h.fresh.queue:
				h.tryLater(r, h.fresh)
			default:
			}
		}
		if len(h.waiting) != 4 || h.Stats()[string(event.HashRateLimited)] != 6 {
			t.Errorf("%d files wait, %v; want 4, and 6 refused", len(h.waiting), h.Stats())
		}
		time.Sleep(time.Minute)
		synctest.Wait() // half of them found no room in the queue
		if h.mu.Lock(); len(h.waiting) != 2 {
			t.Errorf("%d files wait, want 2", len(h.waiting))
		}
		h.mu.Unlock()
	})
}

// A file that waits for the budget is not open: its file system can be unmounted.
func TestWaitingHoldsNoFile(t *testing.T) {
	dir := realDir(t)
	first, second := write(t, filepath.Join(dir, "first"), "1234567890"), write(t, filepath.Join(dir, "second"), "1234567890")
	h := New(Config{MaxBytes: 10, BytesPerSecond: 4, MaxWait: time.Hour})
	run(t, h)
	p, q := process(t, first), process(t, second)
	h.Note(p)
	settled(t, h, p.ExeVersion)
	h.Note(q)
	spent := func() bool {
		h.fresh.budget.mu.Lock()
		defer h.fresh.budget.mu.Unlock()
		return h.fresh.budget.left < 0
	}
	for deadline := time.Now().Add(time.Minute); !spent(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the budget was not asked for a minute")
		}
	}
	for deadline := time.Now().Add(time.Second); isOpen(t, second); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the file is open while it waits")
		}
	}
	if d := h.Digest(q.ExeVersion); d.HashState != event.HashPending {
		t.Errorf("digest %+v: the test shows nothing", d)
	}
	if got := settled(t, h, q.ExeVersion); got.SHA256 != sumOf("1234567890") {
		t.Errorf("digest %+v", got)
	}
}

func isOpen(t *testing.T, path string) bool {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	do(t, err)
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && target == path {
			return true
		}
	}
	return false
}

// Law: what ran before the agent, however much of it, does not keep waiting what may soon be gone.
func TestFreshFilesDoNotWait(t *testing.T) {
	dir := realDir(t)
	h := New(Config{MaxBytes: 1000, BytesPerSecond: 40, MaxWait: time.Hour})
	var last event.FileVersion
	for i := range 10 {
		p := process(t, write(t, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprintf("%900d", i)))
		p.Partial = true
		h.Note(p)
		last = p.ExeVersion
	}
	run(t, h)
	p := process(t, write(t, filepath.Join(dir, "fresh"), "fresh"))
	h.Note(p)
	if got := settled(t, h, p.ExeVersion); got.SHA256 != sumOf("fresh") {
		t.Errorf("digest %+v", got)
	}
	if d := h.Digest(last); d.HashState != event.HashPending {
		t.Errorf("digest %+v of a file that has to wait for minutes: the test shows nothing", d)
	}
}

// What was not found is looked for again, after a while, when it is used again; a digest is not.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Config{})
		for _, test := range []struct {
			digest event.Digest
			after  time.Duration
			want   bool
		}{
			{event.Digest{SHA256: "x"}, time.Hour, false},
			{event.Digest{HashState: event.HashTooLarge}, time.Hour, false},
			{event.Digest{HashState: event.HashChanged}, time.Hour, false},
			{event.Digest{HashState: event.HashVanished}, retryAfter - 1, false},
			{event.Digest{HashState: event.HashVanished}, retryAfter, true},
			{event.Digest{HashState: event.HashRateLimited}, retryAfter, true},
			{event.Digest{HashState: event.HashError}, retryAfter, true},
		} {
			v := event.FileVersion{Inode: 1}
			h.settle(&request{wanted: wanted{version: v}}, test.digest)
			time.Sleep(test.after)
			if got := h.wants(v); got != test.want {
				t.Errorf("%+v is wanted again after %v: %v", test.digest, test.after, got)
			}
		}
	})
}

// Law: no more is read than the budget allows, whoever asks when, and what would wait for too long is refused at once.
func TestBudget(t *testing.T) {
	began := time.Unix(0, 0)
	b := budget{perSecond: 10, most: 100, left: 100, then: began}
	for i, test := range []struct {
		size  int64
		at    time.Duration
		delay time.Duration
		ok    bool
	}{
		{100, 0, 0, true},
		{20, 0, 2 * time.Second, true},
		{90, 0, 0, false}, // 11 s
		{70, 0, 9 * time.Second, true},
		{10, 9 * time.Second, time.Second, true},
		{100, time.Hour, 0, true}, // no more is saved than most
		{1, time.Hour, 100 * time.Millisecond, true},
	} {
		delay, ok := b.take(test.size, 10*time.Second, began.Add(test.at))
		if delay != test.delay || ok != test.ok {
			t.Errorf("step %d: wait %v, %v, want %v, %v", i, delay, ok, test.delay, test.ok)
		}
	}
	// What has waited for too long is read if there is nothing to wait for.
	if _, ok := b.take(10, -time.Hour, began.Add(2*time.Hour)); !ok {
		t.Error("refused though there was enough")
	}
	if _, ok := b.take(100, -time.Hour, began.Add(2*time.Hour)); ok {
		t.Error("not refused though there was not enough")
	}
}

// A file that is used again and again is no work, and no garbage.
func TestKnownFileAllocatesNothing(t *testing.T) {
	p := process(t, write(t, filepath.Join(realDir(t), "x"), "x"))
	h := New(Config{})
	run(t, h)
	h.Note(p)
	settled(t, h, p.ExeVersion)
	if n := testing.AllocsPerRun(100, func() {
		h.Note(p)
		h.Digest(p.ExeVersion)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkNoteKnown(b *testing.B) {
	h := New(Config{})
	p := &event.Process{PID: 1, ExeVersion: event.FileVersion{Inode: 1}, Container: &event.Container{ID: "c"}}
	h.settle(&request{wanted: wanted{version: p.ExeVersion}}, event.Digest{SHA256: "x"})
	b.ReportAllocs()
	for b.Loop() {
		h.Note(p)
	}
}

func BenchmarkSum(b *testing.B) {
	path := filepath.Join(b.TempDir(), "x")
	if err := os.WriteFile(path, make([]byte, 8<<20), 0o600); err != nil {
		b.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	time.Sleep(tick)
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		b.Fatal(err)
	}
	v := event.FileVersion{Size: uint64(st.Size), Changed: uint64(unix.TimespecToNsec(st.Ctim))}
	r := reader{}
	b.SetBytes(st.Size)
	for b.Loop() {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			b.Fatal(err)
		}
		if _, err := r.sum(file, v); err != nil {
			b.Fatal(err)
		}
	}
}
