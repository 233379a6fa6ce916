package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/taskguard/taskguard/collector/event"
)

// A replica is killed at each of its operations, before and after its effect; another takes over.
func TestKilledAtEveryStep(t *testing.T) {
	for at := 1; ; at++ {
		for _, after := range []bool{false, true} {
			w := newWorld(t)
			w.fill()
			killed := &replica{world: w, at: at, after: after}
			if err := killed.role(t, "a").partition(0).run(t.Context()); err == nil {
				if at < 15 {
					t.Errorf("%d operations, want some more", at)
				}
				w.account(t, "not killed")
				return
			}
			if err := (&replica{world: w}).role(t, "b").partition(0).run(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.account(t, fmt.Sprintf("killed at %d, after %t", at, after))
		}
	}
}

// Replicas are killed one after the other, also while they finish what others left.
func TestKilledAgainAndAgain(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t)
		w.fill()
		for {
			r := &replica{world: w, at: 2 + random.IntN(14), after: random.IntN(2) == 0}
			if random.IntN(8) == 0 {
				r.at = 0
			}
			if r.role(t, "a").partition(0).run(t.Context()) == nil {
				break
			}
		}
		w.account(t, fmt.Sprintf("seed %d", seed))
	}
}

// Two replicas believe that they have a partition.
func TestTwoAtOnce(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for i := range uint64(20) {
		w.append(0, message(100+2*i, 3, "111122223333", 0, 4))
	}
	var both sync.WaitGroup
	for _, owner := range []string{"a", "b"} {
		role := (&replica{world: w}).role(t, owner)
		both.Go(func() {
			for {
				err := role.partition(0).run(t.Context())
				if err == nil {
					return
				}
				if !errors.Is(err, errConflict) {
					t.Errorf("%s: %v", owner, err)
					return
				}
			}
		})
	}
	both.Wait()
	w.account(t, "two at once")
}

// A replica that was away while another did its work puts what it had planned, and stops.
func TestReplacedWhilePutting(t *testing.T) {
	w := newWorld(t)
	w.fill()
	once := false
	stale := &replica{world: w, hook: func(string) {
		if once {
			return
		}
		once = true
		if err := (&replica{world: w}).role(t, "b").partition(0).run(t.Context()); err != nil {
			t.Error(err)
		}
		w.account(t, "replaced")
	}}
	if err := stale.role(t, "a").partition(0).run(t.Context()); !errors.Is(err, errConflict) {
		t.Errorf("it goes on: %v", err)
	}
	w.account(t, "after the stale one")
}

// A state that was made anew gives files other names.
func TestNewLife(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for range 2 {
		if err := (&replica{world: w}).role(t, "a").partition(0).run(t.Context()); err != nil {
			t.Fatal(err)
		}
		clear(w.values)
		clear(w.revs)
	}
	rows, _ := w.visible(t)
	if want := 2 * len(w.appended()); len(rows) != want {
		t.Errorf("%d rows, want %d", len(rows), want)
	}
}

// What was planned and is gone from the log when it is to be made again is no reason to stop.
func TestPlanOfWhatIsGone(t *testing.T) {
	w := newWorld(t)
	w.fill()
	killed := &replica{world: w, hook: func(string) {}}
	role := killed.role(t, "a")
	killed.hook = func(string) { killed.kill() }
	if err := role.partition(0).run(t.Context()); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	w.log[0] = w.log[0][len(w.log[0])-1:]
	if err := (&replica{world: w}).role(t, "b").partition(0).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.account(t, "what is left")
}

// Files are closed by their age; folders are by account, region and hour of storing.
func TestAgeAndFolders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.ends = false
		ctx, cancel := context.WithCancel(t.Context())
		role := (&replica{world: w}).role(t, "a")
		done := make(chan error)
		go func() { done <- role.Run(ctx) }()
		synctest.Wait()
		time.Sleep(time.Hour)
		w.append(0, message(1, 1, "111122223333", 0, 2))
		w.append(0, message(2, 1, "111122223333", 0, 1))
		w.append(0, message(3, 2, "../../etc", 0, 1))
		synctest.Wait()
		time.Sleep(DefaultMaxFileAge - time.Second)
		synctest.Wait()
		if _, names := w.visible(t); len(names) != 0 {
			t.Errorf("too early: %s", names)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		w.account(t, "aged")
		_, names := w.visible(t)
		var folders []string
		for _, name := range names {
			folders = append(folders, name[:strings.LastIndex(name, "/")])
		}
		want := []string{
			"file_activity/account=111122223333/region=eu-west-1/day=2026-11-24/hour=09",
			"file_activity/account=111122223333/region=eu-west-1/day=2026-11-24/hour=10",
			"file_activity/account=unknown/region=eu-west-1/day=2026-11-24/hour=10",
		}
		if fmt.Sprint(folders) != fmt.Sprint(want) {
			t.Errorf("folders %s, want %s", folders, want)
		}
		if got := role.Stats(); got.Events != 4 || got.Files != 3 || got.Failures != 0 || got.Held != 1 || got.Bytes == 0 {
			t.Errorf("stats %+v", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Who is told to stop makes visible what it has read, and leaves the partition to others.
func TestStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.ends = false
		w.fill()
		ctx, cancel := context.WithCancel(t.Context())
		role := (&replica{world: w}).role(t, "a")
		role.cfg.MaxFileBytes = DefaultMaxFileBytes
		done := make(chan error)
		go func() { done <- role.Run(ctx) }()
		synctest.Wait()
		if _, names := w.visible(t); len(names) != 0 {
			t.Errorf("too early: %s", names)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.account(t, "stopped")
		time.Sleep(time.Second)
		if ok, err := (&replica{world: w}).Lease(t.Context(), "store-0", "b", time.Hour); !ok || err != nil {
			t.Errorf("the lease is kept (%v)", err)
		}
	})
}

// slowLeases take their time, as a cluster's do.
type slowLeases struct{ Leases }

func (l slowLeases) Lease(ctx context.Context, name, owner string, ttl time.Duration) (bool, error) {
	time.Sleep(10 * time.Millisecond)
	return l.Leases.Lease(ctx, name, owner, ttl)
}

// A partition that is to be had is found at once, however many are not.
func TestFreePartitionIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const partitions, free, day = 16, 7, 24 * time.Hour
		w := newWorld(t)
		w.ends = false
		r := &replica{world: w}
		for n := range partitions - 1 {
			if _, err := r.role(t, fmt.Sprint("other ", n)).enrol(t.Context(), day); err != nil {
				t.Fatal(err)
			}
		}
		for n := range partitions {
			if n != free {
				r.Lease(t.Context(), leaseOf(n), "other", day)
			}
		}
		role := r.role(t, "a")
		role.cfg.Partitions, role.cfg.Leases, role.share.quota = partitions, slowLeases{r}, 1
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { role.Run(ctx) })
		time.Sleep(time.Second)
		if held := role.Stats().Held; held != 1 {
			t.Errorf("%d partitions held, want that which nobody has", held)
		}
		cancel()
		running.Wait()
	})
}

// Replicas share the partitions; when one dies, the other has all of them after a while, and nothing is lost.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const partitions = 5
		w := newWorld(t)
		w.ends = false
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		start := func(owner string) (*replica, *Store) {
			r := &replica{world: w}
			role := r.role(t, owner)
			role.cfg.Partitions = partitions
			role.share.quota = partitions
			all.Go(func() { role.Run(ctx) })
			return r, role
		}
		held := func(roles ...*Store) (list []int) {
			synctest.Wait()
			for _, role := range roles {
				list = append(list, role.Stats().Held)
			}
			return list
		}
		sequence := uint64(0)
		fill := func() {
			for n := range partitions {
				sequence++
				w.append(n, message(2*sequence, byte(n), "111122223333", 0, 3))
			}
		}
		ra, a := start("a")
		fill()
		time.Sleep(time.Minute)
		if got := held(a); got[0] != partitions {
			t.Errorf("alone: %v", got)
		}
		_, b := start("b")
		fill()
		time.Sleep(5 * time.Minute)
		if got := held(a, b); got[0]+got[1] != partitions || got[0] > 3 || got[1] > 3 {
			t.Errorf("two: %v", got)
		}
		fill()
		ra.kill()
		time.Sleep(3 * DefaultLeaseTTL)
		if got := held(b); got[0] != partitions {
			t.Errorf("one has died: the other has %v", got)
		}
		fill()
		time.Sleep(2 * DefaultMaxFileAge)
		synctest.Wait()
		w.account(t, "shared")
		cancel()
		all.Wait()
	})
}

// A plan has no more files than it may.
func TestFilesAtTheCap(t *testing.T) {
	w := newWorld(t)
	for i := range uint64(maxFiles + 2) {
		w.append(0, message(i+1, 1, fmt.Sprintf("%012d", i), 0, 1))
	}
	role := (&replica{world: w}).role(t, "a")
	role.cfg.MaxFileBytes = DefaultMaxFileBytes
	g := role.partition(0).grow()
	defer g.discard()
	for i, m := range w.log[0][:maxFiles] {
		if g.full(DefaultMaxFileBytes) {
			t.Fatalf("full after %d files, want %d", i, maxFiles)
		}
		if err := g.add(m); err != nil {
			t.Fatal(err)
		}
	}
	if !g.full(DefaultMaxFileBytes) {
		t.Error("not full at the cap")
	}
	if err := role.partition(0).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.account(t, "many accounts")
}

// Rows in memory have a cap, whatever one batch has.
func TestRowGroupAtTheCap(t *testing.T) {
	w := newWorld(t)
	m := message(1, 1, "111122223333", 0, 200)
	for i := range m.Batch.Events {
		m.Batch.Events[i].File.Path = "/" + strings.Repeat("x", 1<<10)
	}
	w.append(0, m)
	role := (&replica{world: w}).role(t, "a")
	role.codec, role.inMemory = &parquet.Snappy, 100<<10
	g := role.partition(0).grow()
	defer g.discard()
	if err := g.add(m); err != nil {
		t.Fatal(err)
	}
	if g.buffered >= role.inMemory {
		t.Errorf("%d bytes are in memory", g.buffered)
	}
	if err := role.partition(0).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.account(t, "long rows")
}

func TestMembersAtTheCap(t *testing.T) {
	w := newWorld(t)
	for i := range maxMembers {
		if n, err := (&replica{world: w}).role(t, fmt.Sprint(i)).enrol(t.Context(), time.Hour); err != nil || n != i+1 {
			t.Fatalf("%d members (%v), want %d", n, err, i+1)
		}
	}
	role := (&replica{world: w}).role(t, "one more")
	if _, err := role.enrol(t.Context(), time.Hour); err == nil {
		t.Error("one more is taken")
	}
	if _, err := (&replica{world: w}).role(t, "7").enrol(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if n, err := role.enrol(t.Context(), time.Hour); err != nil || n != maxMembers {
		t.Errorf("%d members (%v), want %d", n, err, maxMembers)
	}
}

func TestFolderName(t *testing.T) {
	for name, want := range map[string]string{
		"": "unknown", "111122223333": "111122223333", "us-gov-west-1": "us-gov-west-1", "..": "unknown", "a/b": "unknown",
		"A": "unknown", "a=b": "unknown", "é": "unknown", strings.Repeat("1", maxFolderName): strings.Repeat("1", maxFolderName),
		strings.Repeat("1", maxFolderName+1): "unknown",
	} {
		if got := folderName(name); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	w.fill()
	if err := (&replica{world: w}).role(t, "a").partition(0).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		since time.Time
		want  int
	}{
		{time.Time{}, len(w.appended())},
		{time.Date(2026, 11, 24, 10, 4, 59, 0, time.UTC), len(w.appended())},
		{time.Date(2026, 11, 24, 10, 5, 0, 0, time.UTC), len(w.appended())}, // all but sequence 1 are of 10 o'clock
		{time.Date(2026, 11, 24, 11, 5, 0, 0, time.UTC), 0},
	} {
		n := 0
		err := w.events(t.Context(), test.since, func(e *event.Event) error {
			if e.Kind != event.FileOpen || e.File == nil || e.Host == nil || e.Process.Exe != "/bin/cat" {
				t.Errorf("event %+v", e)
			}
			n++
			return nil
		})
		if err != nil || n != test.want {
			t.Errorf("since %s: %d events (%v), want %d", test.since, n, err, test.want)
		}
	}
	stop := errors.New("enough")
	if err := w.events(t.Context(), time.Time{}, func(*event.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("it goes on: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	r := &replica{world: newWorld(t)}
	good := Config{URL: "file://" + t.TempDir(), Log: r, States: r, Leases: r, Partitions: 1, Owner: "a"}
	s, err := New(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"no log": func(c *Config) { c.Log = nil }, "no owner": func(c *Config) { c.Owner = "" },
		"no partitions": func(c *Config) { c.Partitions = 0 }, "no url": func(c *Config) { c.URL = "" },
		"relative": func(c *Config) { c.URL = "file://here/there" }, "no such scheme": func(c *Config) { c.URL = "ftp://a/b" },
	} {
		bad := good
		change(&bad)
		if _, err := New(t.Context(), bad); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
