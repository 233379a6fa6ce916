package container

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// hexID returns a container id.
func hexID(n int) string { return fmt.Sprintf("%064x", n) }

func newTracker(t *testing.T, c Config) *Tracker {
	t.Helper()
	tracker, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return tracker
}

// run runs the tracker until the test ends.
func run(t *testing.T, tracker *Tracker) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- tracker.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func TestNewRefusesAnAddressItCannotUse(t *testing.T) {
	for _, address := range []string{"/var/run/docker.sock", "tcp://127.0.0.1:2375", "unix://docker.sock", "unix://"} {
		if _, err := New(Config{Docker: address}); err == nil || !strings.Contains(err.Error(), "unix:///path") {
			t.Errorf("New(%q): %v", address, err)
		}
	}
}

func TestLocate(t *testing.T) {
	tracker := newTracker(t, Config{})
	tracker.AddCgroup(7, "/ecs/demo/"+task32)
	tracker.AddCgroup(8, "/ecs/demo/"+task32+"/"+id1)
	tracker.AddCgroup(9, "/ecs/demo/"+task32+"/"+id1+"/init.scope")

	tests := []struct {
		name   string
		cgroup uint64
		path   string
		want   string
	}{
		{"host, by id", 7, "", ""},
		{"container, by id", 8, "", id1},
		{"sub-cgroup, by id", 9, "", id1},
		{"id counts more than path", 7, "/docker/" + id2, ""},
		{"container, by path", 0, "/docker/" + id2, id2},
		{"host, by path", 0, "/system.slice/docker.service", ""},
		{"unknown id with a path", 10, "/docker/" + id2, id2},
		{"the same id afterwards", 10, "", id2},
		{"unknown id", 11, "", ""},
		{"unknown id with the host's path", 12, "/system.slice", ""},
		{"nothing known", 0, "", ""},
	}
	for _, tt := range tests {
		c := tracker.Locate(tt.cgroup, tt.path)
		if id := idOf(c); id != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, id, tt.want)
		}
	}
	if s := tracker.Stats(); s.CgroupsUnknown != 2 {
		t.Errorf("%d cgroups are sought, want 2", s.CgroupsUnknown)
	}
	if a, b := tracker.Locate(8, ""), tracker.Locate(9, ""); a != b {
		t.Error("two cgroups of a container lead to two containers")
	}
	if c := tracker.Locate(8, ""); taskOf(*c) != task32 || c.Pending {
		t.Errorf("got %+v, want the task id, and not pending without an engine", c)
	}
}

func idOf(c *event.Container) string {
	if c == nil {
		return ""
	}
	return c.ID
}

func TestLocateDoesNotAllocate(t *testing.T) {
	tracker := newTracker(t, Config{Docker: "unix:///nowhere"})
	path := "/ecs/demo/" + task32 + "/" + id1
	tracker.AddCgroup(1, path)
	tracker.AddCgroup(2, "/system.slice")
	allocs := testing.AllocsPerRun(100, func() {
		if tracker.Locate(1, "") == nil || tracker.Locate(0, path) == nil || tracker.Locate(2, "") != nil ||
			tracker.Locate(0, "/system.slice/sshd.service") != nil {
			t.Fatal("wrong container")
		}
	})
	if allocs != 0 {
		t.Errorf("Locate allocates %v times", allocs)
	}
}

func BenchmarkLocate(b *testing.B) {
	tracker, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	path := "/ecs/demo/" + task32 + "/" + id1
	tracker.AddCgroup(1, path)
	b.Run("id", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			tracker.Locate(1, "")
		}
	})
	b.Run("path", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			tracker.Locate(0, path)
		}
	})
}

func TestOnlyDockersContainersArePending(t *testing.T) {
	tracker := newTracker(t, Config{Docker: "unix:///nowhere"})
	for path, pending := range map[string]bool{
		"/docker/" + hexID(1):                                 true,
		"/batch/" + hexID(2):                                  true, // under a parent of the user's own
		"/machine.slice/libpod-" + hexID(3) + ".scope":        false,
		"/kubepods.slice/cri-containerd-" + hexID(4):          false,
		"/kubepods.slice/crio-" + hexID(5) + ".scope":         false,
		"/docker/buildkit/" + build:                           false,
		"/ecs/" + task32 + "/" + task32 + "-1":                false,
		"/ecs/demo/" + task32 + "/" + hexID(6) + "/sub.scope": true,
	} {
		if c := tracker.Locate(0, path); c == nil || c.Pending != pending || tracker.Describe(c, 0).Pending != pending {
			t.Errorf("%s: got %+v, want pending %v", path, c, pending)
		}
	}
}

func TestBootstrap(t *testing.T) {
	fs := newCgroupFS(t, "/system.slice/sshd.service", "/ecs/"+task32+"/"+id1+"/init.scope")
	tracker := newTracker(t, Config{Hierarchy: fs.hierarchy()})
	if err := tracker.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/": "", "/system.slice/sshd.service": "", "/ecs/" + task32: "",
		"/ecs/" + task32 + "/" + id1: id1, "/ecs/" + task32 + "/" + id1 + "/init.scope": id1,
	} {
		if got := idOf(tracker.Locate(fs.id(path), "")); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	if s := tracker.Stats(); s.CgroupsUnknown != 0 || s.Containers != 1 || s.Cgroups != 7 {
		t.Errorf("got %+v", s)
	}
}

func TestBootstrapWithoutHierarchy(t *testing.T) {
	if err := newTracker(t, Config{}).Bootstrap(); err == nil || !strings.Contains(err.Error(), "no cgroup hierarchy") {
		t.Errorf("got %v", err)
	}
	err := newTracker(t, Config{Hierarchy: Hierarchy{MountPoint: "/nowhere"}}).Bootstrap()
	if err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("got %v", err)
	}
}

// A cgroup that nobody reported is found by one walk; one that is gone by then is not looked for for ever.
func TestUnknownCgroupIsSoughtOnce(t *testing.T) {
	fs := newCgroupFS(t, "/docker")
	synctest.Test(t, func(t *testing.T) {
		tracker := newTracker(t, Config{Hierarchy: fs.hierarchy(), Retain: time.Hour})
		if err := tracker.Bootstrap(); err != nil {
			t.Fatal(err)
		}
		defer run(t, tracker)()
		missed := fs.add("/docker/" + id1)
		const vanished = 1 << 60
		if tracker.Locate(missed, "") != nil {
			t.Fatal("an unknown cgroup led somewhere")
		}
		for range 3 {
			if tracker.Locate(vanished, "") != nil {
				t.Fatal("a vanished cgroup led somewhere")
			}
		}
		time.Sleep(2 * walkPause)
		if got := idOf(tracker.Locate(missed, "")); got != id1 {
			t.Errorf("got %q after the walk, want %q", got, id1)
		}
		walks := tracker.Stats().Walks
		for range 10 {
			if tracker.Locate(vanished, "") != nil {
				t.Error("a vanished cgroup led somewhere")
			}
			time.Sleep(2 * walkPause)
		}
		if more := tracker.Stats().Walks - walks; more != 0 {
			t.Errorf("%d more walks for a cgroup that is gone", more)
		}
		if s := tracker.Stats(); s.CgroupsUnknown != 2 || s.CgroupsFound != 1 {
			t.Errorf("got %+v, want 2 unknown, 1 found", s)
		}
	})
}

func TestWalksForUnknownCgroupsAreFarApart(t *testing.T) {
	fs := newCgroupFS(t)
	synctest.Test(t, func(t *testing.T) {
		tracker := newTracker(t, Config{Hierarchy: fs.hierarchy(), Retain: time.Hour})
		defer run(t, tracker)()
		for id := range uint64(1000) {
			tracker.Locate(1<<60+id, "")
			time.Sleep(10 * time.Millisecond)
		}
		if walks := tracker.Stats().Walks; walks < 9 || walks > 11 {
			t.Errorf("%d walks in 10 s, want one a second", walks)
		}
	})
}

func TestRetention(t *testing.T) {
	fs := newCgroupFS(t)
	synctest.Test(t, func(t *testing.T) {
		tracker := newTracker(t, Config{Hierarchy: fs.hierarchy()})
		defer run(t, tracker)()
		id, host := fs.add("/docker/"+id1), fs.add("/system.slice")
		tracker.AddCgroup(id, "/docker/"+id1)
		tracker.AddCgroup(host, "/system.slice")

		time.Sleep(time.Hour + time.Second) // between two walks
		if got := idOf(tracker.Locate(id, "")); got != id1 {
			t.Fatalf("a living container was forgotten: %q", got)
		}
		fs.remove("/docker/" + id1)
		fs.remove("/system.slice")
		time.Sleep(defaultRetain)
		if got := idOf(tracker.Locate(id, "")); got != id1 {
			t.Errorf("got %q within %v of its end", got, defaultRetain)
		}
		time.Sleep(defaultRetain)
		if s := tracker.Stats(); s.Containers != 0 || s.Cgroups != 2 { // the root and /docker
			t.Errorf("got %+v long after the end of all", s)
		}
	})
}

// A cgroup whose directory a walk could not see yet, as it was made meanwhile, is not forgotten.
func TestACgroupThatAWalkMissedComesBack(t *testing.T) {
	fs := newCgroupFS(t)
	tracker := newTracker(t, Config{Hierarchy: fs.hierarchy()})
	tracker.AddCgroup(fs.add("/docker"), "/docker")
	tracker.markGone(time.Now().Add(-time.Hour)) // by a walk before it was made
	tracker.generation++
	tracker.markGone(time.Now().Add(-time.Hour))
	if err := tracker.walk(); err != nil {
		t.Fatal(err)
	}
	tracker.forget(time.Now())
	if s := tracker.Stats(); s.Cgroups != 2 {
		t.Errorf("got %+v, want the root and /docker", s)
	}
}

func TestContainersAreBounded(t *testing.T) {
	const limit = 4
	tracker := newTracker(t, Config{Docker: "unix:///nowhere", MaxContainers: limit})
	for n := range limit {
		tracker.AddCgroup(uint64(n+1), "/docker/"+hexID(n))
	}
	tracker.AddCgroup(100, "/ecs/"+task32+"/"+hexID(100))
	c := tracker.Locate(100, "")
	if idOf(c) != hexID(100) || taskOf(*c) != task32 || c.Pending {
		t.Errorf("a container beyond the bound: got %+v, want its id, not pending", c)
	}
	if s := tracker.Stats(); s.Containers != limit || s.Pending != limit || s.ContainersRefused != 1 {
		t.Errorf("got %+v", s)
	}
	tracker.destroyed(hexID(2))
	tracker.AddCgroup(101, "/docker/"+hexID(101))
	if c := tracker.Locate(101, ""); idOf(c) != hexID(101) || !c.Pending {
		t.Errorf("got %+v, want the ended container's place", c)
	}
	if got := idOf(tracker.Locate(3, "")); got != hexID(2) {
		t.Errorf("the ended container's cgroup leads to %q, want %q", got, hexID(2))
	}
	if s := tracker.Stats(); s.Containers != limit || s.ContainersEvicted != 1 || s.ContainersRefused != 1 {
		t.Errorf("got %+v", s)
	}
}

func TestCgroupsAreBounded(t *testing.T) {
	const limit = 8
	tracker := newTracker(t, Config{MaxCgroups: limit})
	for n := range 10 * limit {
		tracker.AddCgroup(uint64(n+1), "/docker/"+id1+"/"+hexID(n))
		if got := idOf(tracker.Locate(uint64(n+1), "")); got != id1 {
			t.Fatalf("cgroup %d: got %q", n, got)
		}
	}
	if s := tracker.Stats(); s.Cgroups != limit || s.CgroupsEvicted != 9*limit {
		t.Errorf("got %+v", s)
	}
	if got := tracker.containers[id1].cgroups; got != limit {
		t.Errorf("%d cgroups counted in the container, want %d", got, limit)
	}
	for n := range 2 * maxSought {
		tracker.Locate(1<<60+uint64(n), "")
	}
	if len(tracker.unknown) != maxSought {
		t.Errorf("%d cgroups wait for a walk, want %d", len(tracker.unknown), maxSought)
	}
}

// With more cgroups than may be remembered, a walk finds the one that was asked for and leaves the others.
func TestAWalkBeyondTheBound(t *testing.T) {
	const limit = 6
	fs := newCgroupFS(t)
	tracker := newTracker(t, Config{Hierarchy: fs.hierarchy(), MaxCgroups: limit})
	wanted := fs.add("/docker/" + id1)
	for n := range limit {
		tracker.AddCgroup(uint64(1<<60+n), "/system.slice")
	}
	tracker.Locate(wanted, "")
	if err := tracker.walk(); err != nil {
		t.Fatal(err)
	}
	if got := idOf(tracker.Locate(wanted, "")); got != id1 {
		t.Errorf("got %q, want %q", got, id1)
	}
	if s := tracker.Stats(); s.Cgroups != limit || s.CgroupsEvicted != 1 {
		t.Errorf("got %+v", s)
	}
	for n := range limit {
		fs.add(fmt.Sprintf("/more/%d", n))
	}
	if err := tracker.walk(); err != nil || tracker.Stats().WalksFailed != 1 {
		t.Errorf("a walk that was cut short is not counted: %v, %+v", err, tracker.Stats())
	}
}

// However many cgroups look like containers of an engine that is not ours, those that ours tells of keep their names and
// tasks from before their first process until their end.
func TestContainersOfOthersMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 64
		tracker := newTracker(t, Config{Docker: "unix:///nowhere", Hierarchy: Hierarchy{MountPoint: t.TempDir()}, MaxContainers: limit})
		others := 0
		foreign := func(n int, described bool) {
			for range n {
				others++
				tracker.AddCgroup(uint64(others), "/docker/"+hexID(others))
				if described {
					tracker.settle(hexID(others), facts{}) // the engine does not have it
				}
			}
		}
		for _, described := range []bool{true, false} {
			foreign(2*limit, described)
			for n := range limit / 2 {
				id := hexID(1<<40 + others + n)
				tracker.note(id, facts{Container: event.Container{Name: "web"}, labels: ecsLabels()}, time.Now())
				foreign(limit, described)
				cgroup := uint64(1<<40 + others)
				tracker.AddCgroup(cgroup, "/ecs/demo/"+task32+"/"+id)
				foreign(limit, described)
				c := tracker.Describe(tracker.Locate(cgroup, ""), 1)
				if c.Name != "web" || c.ECS == nil || c.ECS.TaskARN != demoTaskARN {
					t.Fatalf("others described %v, container %d: %+v", described, n, c)
				}
				tracker.destroyed(id)
			}
		}
		if s := tracker.Stats(); s.Containers > limit || s.ContainersEvicted == 0 {
			t.Errorf("got %+v", s)
		}
	})
}

func TestUpdatesAreBounded(t *testing.T) {
	const limit = 4
	tracker := newTracker(t, Config{Docker: "unix:///nowhere", MaxContainers: limit})
	for n := range 2 * limit {
		c := tracker.Locate(0, "/docker/"+hexID(n))
		tracker.Describe(c, 0)
		tracker.settle(c.ID, facts{Container: event.Container{Name: "x"}})
		tracker.destroyed(c.ID)
	}
	if s := tracker.Stats(); s.UpdatesDropped != limit || s.Containers != limit {
		t.Errorf("got %+v", s)
	}
	if got := len(tracker.Updates()); got != limit {
		t.Errorf("%d updates, want %d", got, limit)
	}
	if got := tracker.Updates(); got != nil {
		t.Errorf("updates came twice: %v", got)
	}
}

func TestAPendingContainerThatIsForgottenIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker := newTracker(t, Config{Docker: "unix:///nowhere", Retain: time.Minute})
		for n := range 3 {
			tracker.note(hexID(n), facts{Container: event.Container{Name: "x"}}, time.Now())
			tracker.destroyed(hexID(n))
		}
		c := tracker.Locate(0, "/docker/"+hexID(1))
		tracker.Describe(c, 0)
		time.Sleep(time.Minute - time.Second)
		tracker.forget(time.Now())
		if s := tracker.Stats(); s.Containers != 3 || s.Undescribed != 0 {
			t.Errorf("before its time: got %+v", s)
		}
		time.Sleep(time.Second)
		tracker.forget(time.Now())
		if s := tracker.Stats(); s.Containers != 0 || s.Pending != 0 || s.Undescribed != 1 {
			t.Errorf("got %+v, want one undescribed", s)
		}
		if got := tracker.Describe(c, 0); got.ID != c.ID || got.Name != "x" || !got.Pending {
			t.Errorf("a forgotten container is described as %+v, want what the caller had", got)
		}
	})
}
