package host

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Clock turns the kernel's time of an event, nanoseconds since boot, into wall clock time. The zero Clock takes the
// boot for 1970: use NewClock. All methods may be called from several goroutines.
//
// When the wall clock is set, what Wall returns follows at the next Refresh; the order of events, and the time
// between them, is right within one Refresh whatever happens to the wall clock.
type Clock struct {
	offset atomic.Int64 // nanoseconds from 1970 to boot, as of the last Refresh
}

// NewClock returns a clock that was just refreshed.
func NewClock() *Clock {
	var c Clock
	c.Refresh()
	return &c
}

// Wall returns the wall clock time, in UTC, that was bootNs nanoseconds after boot by CLOCK_BOOTTIME, which goes on
// while the machine is suspended. Wall(0) is the time of the boot.
func (c *Clock) Wall(bootNs uint64) time.Time {
	return time.Unix(0, c.offset.Load()+int64(bootNs)).UTC()
}

// Refresh compares the clocks again. It takes some microseconds; call it every few seconds.
func (c *Clock) Refresh() {
	c.offset.Store(offset(bootClock, func() int64 { return time.Now().UnixNano() }))
}

// offset returns the difference between two clocks, read in turn. The thread may lose its CPU between two readings;
// of a few tries the tightest counts.
func offset(boot, wall func() int64) int64 {
	const tries = 8
	var best, width int64
	before := boot()
	for i := range tries {
		now := wall()
		after := boot()
		if i == 0 || after-before < width {
			width = after - before
			best = now - before - width/2
		}
		before = after
	}
	return best
}

// bootClock reads CLOCK_BOOTTIME, which every kernel since 2.6.39 has.
func bootClock() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	return now.Nano()
}
