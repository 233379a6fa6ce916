package ebpf

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/leaktest"
)

// A new cgroup is told of with its number before anything that happens in it.
func TestCgroup(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	o := newObserver(h)
	type seen struct {
		id     uint64
		path   string
		events int
	}
	var mu sync.Mutex
	var cgroups []seen
	cfg := configOf(t, h)
	cfg.Cgroup = func(id uint64, path string) {
		mu.Lock()
		defer mu.Unlock()
		cgroups = append(cgroups, seen{id, path, o.mark()})
	}
	o.run(t, openSource(t, cfg))

	mark := o.mark()
	dir, id := h.newCgroup(t)
	tr := o.trace(t, exec.Command("/bin/sh", "-c", `echo $$ > "$0"/cgroup.procs && exec /bin/true`, dir))
	if got := tr.last(t, event.ProcessExit).Process.Cgroup; got != id {
		t.Fatalf("the process ended in cgroup %d, want %d", got, id)
	}
	events := o.await(t, 0, "the exit", isExit(tr.pid, tr.start))
	mu.Lock()
	defer mu.Unlock()
	path := strings.TrimPrefix(dir, h.dir)
	for _, c := range cgroups {
		if c.id != id {
			continue
		}
		if c.path != path {
			t.Errorf("path %q, want %q", c.path, path)
		}
		for i, e := range events[mark:c.events] {
			if e.Process != nil && e.Process.Cgroup == id {
				t.Errorf("event %d, %s, came before the cgroup", i, e.Kind)
			}
		}
		return
	}
	t.Errorf("cgroup %d was not told of; others: %v", id, cgroups)
}

// Whoever learns of the cgroups that exist when Watching is called misses none: it is told of those that are made from
// then on, and nothing is observed before.
func TestWatching(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	o := newObserver(h)
	cfg := configOf(t, h)
	var mu sync.Mutex
	told := map[uint64]bool{}
	cfg.Cgroup = func(id uint64, _ string) {
		mu.Lock()
		defer mu.Unlock()
		told[id] = true
	}
	calls, id, before := 0, uint64(0), 0
	cfg.Watching = func() {
		calls++
		_, id = h.newCgroup(t)
		cmd := exec.Command("/bin/true")
		if err := cmd.Run(); err != nil {
			t.Error(err)
		}
		before = cmd.Process.Pid
	}
	o.run(t, openSource(t, cfg))
	tr := o.trace(t, exec.Command("/bin/true"))
	for _, e := range o.await(t, 0, "the exit", isExit(tr.pid, tr.start)) {
		if e.Process != nil && int(e.Process.PID) == before {
			t.Errorf("%s of a process that was there before anything was observed", e.Kind)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if calls != 1 || !told[id] {
		t.Errorf("called %d times, told of the cgroup made then: %v; want once, and that it is", calls, told[id])
	}
}

// The agent's own doing leaves no trace.
func TestSelfIsNotRecorded(t *testing.T) {
	o := observe(t, event.FileOpen, event.NetConnect)
	l := listen(t, "tcp4", "127.0.0.1:0")
	path := filepath.Join(t.TempDir(), "x")
	mark := o.mark()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tr := o.trace(t, exec.Command("/bin/true"))
	for _, e := range o.await(t, mark, "the exit", isExit(tr.pid, tr.start)) {
		if e.Process != nil && e.Process.PID == uint32(os.Getpid()) {
			t.Errorf("recorded %s", e.Kind)
		}
	}
}

// storm runs common, one after another.
func storm(t *testing.T, n int) {
	t.Helper()
	for range n {
		if err := exec.Command("/bin/true").Run(); err != nil {
			t.Fatal(err)
		}
	}
}

// A reader that stalls loses what the smallest ring buffer cannot hold, and every lost record is told of.
func TestStalledReader(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	cfg := configOf(t, h)
	cfg.RingBytes = os.Getpagesize()
	s := openSource(t, cfg)
	storm(t, 100)
	before, err := s.counters()
	if err != nil {
		t.Fatal(err)
	}
	o := newObserver(h)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ended, o); err != nil {
		t.Fatal(err)
	}
	emitted := map[event.Kind]uint64{}
	for _, e := range o.events {
		emitted[e.Kind]++
	}
	for kind := commonKindPROCESS_EXEC; kind < commonKindEVENT_KINDS; kind++ {
		k, c := event.Kind(kind), s.reported[kind]
		lost := o.lost[k.String()+" kernel/ring_full"]
		if c.Attempted != s.received[kind]+c.RingFull+c.Filtered || c.StateFull != 0 {
			t.Errorf("%s: %+v, but %d received", k, c, s.received[kind])
		}
		if lost != c.RingFull || emitted[k] < s.received[kind] {
			t.Errorf("%s: %+v, but %d reported as lost and %d emitted", k, c, lost, emitted[k])
		}
		delete(o.lost, k.String()+" kernel/ring_full")
	}
	if len(o.lost) > 0 {
		t.Errorf("lost besides: %v", o.lost)
	}
	for _, kind := range []commonKind{commonKindPROCESS_EXEC, commonKindPROCESS_FORK, commonKindPROCESS_EXIT} {
		if before[kind].Attempted < 100 || before[kind].RingFull == 0 {
			t.Errorf("%s: no storm: %+v", event.Kind(kind), before[kind])
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// While the reader runs, a loss is reported without waiting for the end.
func TestLossIsReportedInTime(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	cfg := configOf(t, h)
	cfg.RingBytes = os.Getpagesize()
	s := openSource(t, cfg)
	storm(t, 100)
	o := newObserver(h)
	o.losing = true
	o.run(t, s)
	o.until(t, "the loss", func() bool { return o.lost["process.exec kernel/ring_full"] > 0 })
}

// What waits in the ring buffer when the source is told to end is emitted, also if it is too little to wake the reader.
func TestRunDrains(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	s := openSource(t, configOf(t, h))
	o := newObserver(h)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, o) }()
	const n = 20
	want := map[uint32]int{}
	for range n {
		cmd := exec.Command("/bin/true")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		want[uint32(cmd.Process.Pid)] = 3
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, e := range o.events {
		if e.Process != nil && want[e.Process.PID] > 0 {
			want[e.Process.PID]--
		}
	}
	for pid, missing := range want {
		if missing != 0 {
			t.Errorf("%d of 3 events of process %d are missing", missing, pid)
		}
	}
	if len(o.lost) != 0 {
		t.Errorf("lost %v", o.lost)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Nothing stays open or running when a source is closed, whether it has run or not.
func TestCloseGivesAllBack(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	use := func(cfg Config, run bool) {
		s := openSource(t, cfg)
		if run {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.Run(ctx, newObserver(h)); err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	use(configOf(t, h), true) // whatever is opened once and for all
	nothingIsLeft := leaktest.Check(t)
	// One kind at least of each way to attach.
	use(configOf(t, h, event.FileOpen, event.NetConnect, event.DNSQuery, event.ModuleLoad), true)
	use(configOf(t, h), false)
	nothingIsLeft()
}

// A record that cannot wait for its result is lost, and told of. On the tracepoint rung none of a connect waits.
func TestWaitingRecordsAreBounded(t *testing.T) {
	what, err := json.Marshal(dial{Family: unix.AF_UNIX, Type: unix.SOCK_STREAM, Path: "/none/there"})
	if err != nil {
		t.Fatal(err)
	}
	for _, via := range []string{rungFentry, rungKprobe} {
		t.Run(strings.TrimPrefix(via, "ebpf/"), func(t *testing.T) {
			o := observeLosing(t, via, event.NetConnect)
			if _, reason := off(o.source, []event.Kind{event.NetConnect}); reason != "" {
				t.Log("no record waits: ", reason)
				return
			}
			waiting := o.source.objects.shared[commonMapPendingSmall]
			fill(t, waiting, make([]byte, waiting.ValueSize())) // of threads of process 0, which are nobody's
			if tr := o.trace(t, action("connect", string(what))); len(tr.of(event.NetConnect)) != 0 {
				t.Error("the call was recorded")
			}
			o.until(t, "the loss", func() bool { return o.lost["net.connect kernel/state_full"] == 1 })
		})
	}
}

// observeLosing runs a source of its own on one rung until the test ends. That it loses is no failure.
func observeLosing(t *testing.T, via string, kinds ...event.Kind) *observer {
	t.Helper()
	needKernel(t)
	h := findHierarchy(t)
	cfg := configOf(t, h, kinds...)
	cfg.Rungs = []string{via}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	o := newObserver(h)
	o.losing = true
	o.run(t, s)
	return o
}

// fill has a map of waiting records full of one.
func fill(t *testing.T, waiting *ebpf.Map, record []byte) {
	t.Helper()
	for key := uint64(1); ; key++ {
		if err := waiting.Put(key, record); errors.Is(err, unix.E2BIG) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
