package audit

import (
	"os/exec"
	"strconv"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
)

// In a storm each program that runs is told of once, or counted as lost.
func TestKernelStorm(t *testing.T) {
	control(t)
	_, sink, stop := start(t, Config{Kinds: []event.Kind{event.ProcessExec}})
	const programs = 500
	const loop = "i=0; while [ $i -lt $0 ]; do /bin/true; i=$((i+1)); done"
	cmd := exec.Command("/bin/sh", "-c", loop, strconv.Itoa(programs))
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	stop()
	seen := map[uint32]int{}
	for _, e := range sink.events {
		if e.Process.PPID == uint32(cmd.Process.Pid) {
			seen[e.Process.PID]++
		}
	}
	var lost uint64
	for _, n := range sink.lost {
		lost += n
	}
	for pid, n := range seen {
		if n != 1 {
			t.Errorf("the exec of %d was told of %d times", pid, n)
		}
	}
	// Other programs on the machine may be among the lost ones, so the account is only exact when there are none.
	if missing := programs - len(seen); missing < 0 || uint64(missing) > lost {
		t.Errorf("%d of %d execs are missing, %v counted as lost", missing, programs, sink.lost)
	}
	t.Logf("%d of %d seen, lost %v", len(seen), programs, sink.lost)
}
