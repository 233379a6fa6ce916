package container

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/dockertest"
)

// TestDocker follows a real engine that runs containers as the ECS agent starts them.
func TestDocker(t *testing.T) {
	docker := dockertest.Start(t)
	docker.Import(t, "shop:1")
	image := docker.Run(t, "inspect", "--format", "{{.Id}}", "shop:1")
	hierarchy, err := FindHierarchy("/proc")
	if err != nil {
		t.Fatal(err)
	}
	tracker := newTracker(t, Config{Docker: "unix://" + docker.Socket, Hierarchy: hierarchy})
	if err := tracker.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	defer run(t, tracker)()
	answers := func() bool { ok, _ := tracker.State(); return ok }
	eventually(t, "the engine", answers)

	start := func(t *testing.T, name string, args ...string) (id string, want event.Container) {
		t.Helper()
		task := docker.NewTask(t)
		cidfile := filepath.Join(t.TempDir(), "id")
		run := append([]string{"run", "--net", "none", "--name", name, "--cidfile", cidfile}, task.Args...)
		docker.Run(t, append(run, args...)...)
		content, err := os.ReadFile(cidfile)
		if err != nil {
			t.Fatal(err)
		}
		id = string(content)
		return id, event.Container{
			ID: id, Name: name, Image: "shop:1", ImageID: image, Runtime: "docker", ECS: &event.ECS{
				Cluster: "demo", ClusterARN: clusterARN, TaskARN: task.ARN, TaskID: task.ID, Family: "shop", Revision: "42", Container: "web",
			},
		}
	}
	described := func(t *testing.T, c *event.Container, want event.Container) {
		t.Helper()
		eventually(t, "the description", func() bool { return !tracker.Describe(c, 0).Pending })
		if diff := cmp.Diff(want, identity(tracker.Describe(c, 0)), sameFacts); diff != "" {
			t.Error(diff)
		}
	}

	t.Run("a container that runs, by its cgroup id", func(t *testing.T) {
		_, want := start(t, "web-1", "--detach", "shop:1", "sleep", "1000")
		cgroup := cgroupID(t, hierarchy, docker.Run(t, "inspect", "--format", "{{.State.Pid}}", "web-1"))
		tracker.Locate(cgroup, "")
		eventually(t, "the cgroup", func() bool { return tracker.Locate(cgroup, "") != nil })
		described(t, tracker.Locate(cgroup, ""), want)
	})

	t.Run("a container that is gone after one short command", func(t *testing.T) {
		id, want := start(t, "web-2", "--rm", "shop:1", "/bin/true")
		if out := docker.Run(t, "ps", "--all", "--quiet", "--filter", "id="+id); out != "" {
			eventually(t, "the container's end", func() bool {
				return docker.Run(t, "ps", "--all", "--quiet", "--filter", "id="+id) == ""
			})
		}
		described(t, tracker.Locate(0, "/ecs/demo/"+want.ECS.TaskID+"/"+id), want)
	})

	t.Run("the engine restarts", func(t *testing.T) {
		docker.Stop(t)
		eventually(t, "the remedy in the state", func() bool {
			ok, reason := tracker.State()
			return !ok && strings.Contains(reason, "start docker")
		})
		before := tracker.Locate(0, "/docker/"+id2)
		if !tracker.Describe(before, 0).Pending {
			t.Error("not pending while the engine is down")
		}
		docker.Restart(t)
		eventually(t, "the engine", answers)
		described(t, before, event.Container{ID: id2, Runtime: "docker"}) // it never existed
		id, want := start(t, "web-3", "--rm", "shop:1", "/bin/true")
		described(t, tracker.Locate(0, "/ecs/demo/"+want.ECS.TaskID+"/"+id), want)
	})
}

// TestDockerInSlices has a real container where Docker's systemd driver puts those of a task, in the cgroups that
// systemd would make: neither needs systemd to run. Only its cgroup names the task.
func TestDockerInSlices(t *testing.T) {
	docker := dockertest.Start(t)
	docker.Import(t, "shop:1")
	hierarchy, err := FindHierarchy("/proc")
	if err != nil {
		t.Fatal(err)
	}
	tracker := newTracker(t, Config{Docker: "unix://" + docker.Socket, Hierarchy: hierarchy})
	defer run(t, tracker)()
	id := docker.Run(t, "run", "--detach", "--net", "none", "--name", "web-1", "shop:1", "sleep", "1000")
	pid := docker.Run(t, "inspect", "--format", "{{.State.Pid}}", id)

	task := docker.NewTask(t).ID
	path := "/ecstasks.slice/ecstasks-" + task + ".slice/docker-" + id + ".scope"
	scope := filepath.Join(hierarchy.MountPoint, path)
	if err := os.MkdirAll(scope, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		docker.Run(t, "rm", "--force", id)
		eventually(t, "an empty cgroup", func() bool { return syscall.Rmdir(scope) == nil })
		if err := os.Remove(filepath.Dir(scope)); err != nil { // what is above may be another test's too
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(scope, "cgroup.procs"), []byte(pid), 0); err != nil {
		t.Fatal(err)
	}
	cgroup := cgroupID(t, hierarchy, pid)
	tracker.Locate(cgroup, "")
	eventually(t, "the cgroup", func() bool { return tracker.Locate(cgroup, "") != nil })
	want := event.Container{ID: id, Name: "web-1", Image: "shop:1", Runtime: "docker", ECS: &event.ECS{TaskID: task}}
	want.ImageID = docker.Run(t, "inspect", "--format", "{{.Id}}", "shop:1")
	for _, found := range []*event.Container{tracker.Locate(cgroup, ""), tracker.Locate(0, path)} {
		eventually(t, "the description", func() bool { return !tracker.Describe(found, 0).Pending })
		if diff := cmp.Diff(want, identity(tracker.Describe(found, 0)), sameFacts); diff != "" {
			t.Error(diff)
		}
	}
}

// identity leaves out what says how a container is made and run.
func identity(c event.Container) event.Container {
	return event.Container{
		ID: c.ID, Name: c.Name, Image: c.Image, ImageID: c.ImageID, Runtime: c.Runtime, ECS: c.ECS, Pending: c.Pending,
	}
}

// cgroupID returns the id of a process's cgroup in a hierarchy.
func cgroupID(t *testing.T, h Hierarchy, pid string) uint64 {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if h.Version == 1 && strings.Contains(","+f[1]+",", ","+h.Controller+",") || h.Version == 2 && f[0] == "0" {
			info, err := os.Stat(filepath.Join(h.MountPoint, f[2]))
			if err != nil {
				t.Fatal(err)
			}
			return info.Sys().(*syscall.Stat_t).Ino
		}
	}
	t.Fatalf("no line for %+v in %s", h, content)
	return 0
}
