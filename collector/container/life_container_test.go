package container

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/secret"
	"github.com/taskguard/taskguard/scripts/dockertest"
)

// TestLivesByDocker compares what a real engine's containers do with what is told of them.
func TestLivesByDocker(t *testing.T) {
	docker := dockertest.Start(t)
	docker.Import(t, "shop:1")
	before := docker.Run(t, "run", "--detach", "--net", "none", "--name", "before", "shop:1", "sleep", "1000")
	told := &toldEvents{}
	tracker := newTracker(t, Config{Docker: "unix://" + docker.Socket, Sink: told, Mask: secret.Mask})
	defer run(t, tracker)()
	eventually(t, "the engine", func() bool { ok, _ := tracker.State(); return ok })

	// of waits until so much was told of a container, and returns it, in order.
	var all []event.Event
	of := func(t *testing.T, name string, n int) []string {
		t.Helper()
		var lines []string
		eventually(t, "what is told of "+name, func() bool {
			all = append(all, told.take()...)
			slices.SortStableFunc(all, func(a, b event.Event) int { return a.Time.Compare(b.Time) })
			lines = nil
			for _, e := range all {
				if e.Container != nil && e.Container.Name == name {
					lines = append(lines, strings.TrimSpace(e.Kind.String()+" "+event.What(&e)))
				}
			}
			return len(lines) >= n
		})
		return lines
	}
	want := func(t *testing.T, name string, want ...string) {
		t.Helper()
		if got := of(t, name, len(want)); !slices.Equal(got, want) {
			t.Errorf("%s: told %q, want %q", name, got, want)
		}
	}
	const created, started = "container.create shop:1", "container.start shop:1"
	detached := func(name string, args ...string) []string {
		return append([]string{"run", "--detach", "--net", "none", "--name", name}, args...)
	}

	t.Run("ends by itself", func(t *testing.T) {
		task := docker.NewTask(t)
		args := append([]string{"run", "--rm", "--net", "none", "--name", "web-1"}, task.Args...)
		docker.Run(t, append(args, "shop:1", "true")...)
		want(t, "web-1", created, started, "container.stop exit 0")
		for _, e := range all {
			if c := e.Container; c != nil && c.Name == "web-1" && (c.ECS == nil || c.ECS.TaskID != task.ID || c.ECS.Family != "shop") {
				t.Errorf("%s: task %+v", e.Kind, c.ECS)
			}
		}
		stop := all[slices.IndexFunc(all, func(e event.Event) bool { return e.Kind == event.ContainerStop })]
		if d := stop.Time.Sub(stop.Stop.StartedAt); d <= 0 || d > time.Minute {
			t.Errorf("it is said to have run for %v", d)
		}
	})

	t.Run("an exec with a secret", func(t *testing.T) {
		docker.Run(t, detached("web-2", "shop:1", "sleep", "1000")...)
		docker.Run(t, "exec", "--user", "7", "web-2", "sh", "-c", "exit 0", "--password", "hunter2 S3cr3t")
		docker.Run(t, "exec", "web-2", "true")
		docker.Run(t, "kill", "web-2")
		want(t, "web-2", created, started, "container.exec sh -c exit 0 --password *** (user 7)", "container.exec true",
			"container.stop exit 137, signal 9")
		for _, e := range all {
			if x := e.Exec; x != nil && (x.Unverified || x.Truncated || len(x.ExecID) != 64) {
				t.Errorf("exec %+v", x)
			}
		}
		if n := tracker.Stats().ExecsUnverified; n != 0 {
			t.Errorf("%d execs were not asked about", n)
		}
	})

	t.Run("a command that is not there", func(t *testing.T) {
		if out, err := docker.Try(detached("web-3", "shop:1", "/nowhere")...); err == nil {
			t.Errorf("it started: %s", out)
		}
		want(t, "web-3", created)
	})

	t.Run("is started again by the engine", func(t *testing.T) {
		docker.Run(t, detached("web-4", "--restart", "on-failure:1", "shop:1", "sh", "-c", "exit 3")...)
		want(t, "web-4", created, started, "container.stop exit 3", started, "container.stop exit 3")
	})

	t.Run("labels that hide what the engine says", func(t *testing.T) {
		if _, err := docker.Try("run", "--net", "none", "--name", "web-5", "--label", "exitCode=0", "shop:1", "false"); err == nil {
			t.Error("it did not fail")
		}
		want(t, "web-5", created, started, "container.stop")
	})

	t.Run("runs since before", func(t *testing.T) {
		docker.Run(t, "rm", "--force", before)
		want(t, "before", "container.stop exit 137, signal 9")
	})

	t.Run("out of memory", func(t *testing.T) {
		const limit = "16m"
		if warning := docker.Run(t, "create", "--net", "none", "--memory", limit, "shop:1", "true"); strings.Contains(warning, "not support memory limit") {
			t.Skipf("memory cannot be limited here: %s", warning)
		}
		// tail keeps a line, however long, in memory.
		out, err := docker.Try("run", "--net", "none", "--name", "web-6", "--memory", limit, "shop:1", "tail", "/dev/zero")
		if err == nil || strings.Contains(out, "Error response from daemon") { // it did not start
			t.Fatalf("memory is not limited: %v: %s", err, out)
		}
		want(t, "web-6", created, started, "container.stop exit 137, OOM-killed")
	})

	t.Run("the engine restarts", func(t *testing.T) {
		docker.Run(t, detached("web-7", "shop:1", "sleep", "1000")...)
		want(t, "web-7", created, started)
		docker.Restart(t) // the container goes on
		eventually(t, "the interval that was not observed", func() bool {
			all = append(all, told.take()...)
			return slices.ContainsFunc(all, func(e event.Event) bool {
				return e.Kind == event.AgentLoss && e.Agent.Lost == event.ContainerStop && e.Agent.To.After(e.Agent.From)
			})
		})
		docker.Run(t, "kill", "web-7")
		want(t, "web-7", created, started, "container.stop exit 137, signal 9")
	})
}
