package host

import (
	"sync"
	"testing"
	"time"
)

// clocks are two clocks that are offset ns apart; each reading takes some time.
type clocks struct {
	now, offset int64
	takes       []int64 // by the readings in turn, then nothing
}

func (c *clocks) read() int64 {
	c.now += 10
	if len(c.takes) > 0 {
		c.now += c.takes[0]
		c.takes = c.takes[1:]
	}
	return c.now
}

func TestOffsetIsOfTheTightestReading(t *testing.T) {
	const want = 1_800_000_000_000_000_000
	for name, takes := range map[string][]int64{
		"undisturbed":                               nil,
		"first try disturbed":                       {0, 5_000_000, 0},
		"all but one disturbed":                     {0, 9e6, 1, 8e6, 1, 7e6, 1, 6e6, 1, 0, 0, 5e6, 1, 4e6, 1, 3e6},
		"between the wall's and the boot's reading": {0, 0, 1e9},
	} {
		c := &clocks{now: 1e12, offset: want, takes: takes}
		got := offset(c.read, func() int64 { return c.read() + c.offset })
		if got < want-20 || got > want+20 {
			t.Errorf("%s: off by %d ns", name, got-want)
		}
	}
}

func TestClock(t *testing.T) {
	clock := NewClock()
	before := time.Now().Add(-time.Millisecond)
	got := clock.Wall(uint64(bootClock()))
	// The wall clock of a machine under test is slewed, not stepped.
	if after := time.Now().Add(time.Millisecond); got.Before(before) || got.After(after) {
		t.Errorf("now is %v, want between %v and %v", got, before, after)
	}
	if d := clock.Wall(2_000_000_000).Sub(clock.Wall(500_000_000)); d != 1500*time.Millisecond {
		t.Errorf("1.5 s are %v", d)
	}
	if got.Location() != time.UTC {
		t.Errorf("in %v, want UTC", got.Location())
	}
}

// When the wall clock is stepped, what follows the next Refresh is right again.
func TestClockFollowsASteppedWallClock(t *testing.T) {
	clock := NewClock()
	right := clock.offset.Load()
	clock.offset.Add(int64(-time.Hour))
	clock.Refresh()
	if off := time.Duration(clock.offset.Load() - right).Abs(); off > time.Second {
		t.Errorf("off by %v", off)
	}
}

func TestWallWhileRefreshing(t *testing.T) {
	clock := NewClock()
	boot := clock.Wall(0)
	var refreshing sync.WaitGroup
	refreshing.Go(func() {
		for range 1000 {
			clock.Refresh()
		}
	})
	for range 1000 {
		if off := clock.Wall(0).Sub(boot).Abs(); off > time.Second {
			t.Fatalf("off by %v", off)
		}
	}
	refreshing.Wait()
}

func TestWallDoesNotAllocate(t *testing.T) {
	clock := NewClock()
	if n := testing.AllocsPerRun(100, func() { clock.Wall(1) }); n != 0 {
		t.Errorf("Wall allocates %v times", n)
	}
}

func BenchmarkWall(b *testing.B) {
	clock := NewClock()
	for b.Loop() {
		clock.Wall(1)
	}
}
