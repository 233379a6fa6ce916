package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/taskguard/taskguard/scripts/dockertest"
	"github.com/taskguard/taskguard/scripts/stack"
)

// startLoops starts containers, each of a task of its own, that execute a program again and again, with their name as
// its argument.
func startLoops(t *testing.T, d *dockertest.Daemon, n int) []containerOfTask {
	t.Helper()
	list := make([]containerOfTask, n)
	for i := range list {
		in := containerOfTask{name: fmt.Sprintf("ecs-shop-42-loop-%d", i), task: d.NewTask(t)}
		in.id = d.Run(t, slices.Concat([]string{"run", "--detach", "--net", "none", "--name", in.name}, in.task.Args,
			[]string{"shop:1", "sh", "-c", "while :; do /bin/true " + in.name + "; sleep 0.2; done"})...)
		list[i] = in
	}
	return list
}

// period is a time in which something was so.
type period struct {
	what     string
	from, to time.Time
}

// during notes a period in which every loop went around some times.
func during(t *testing.T, s *stack.Stack, loops []containerOfTask, what string) period {
	t.Helper()
	p := period{what: what, from: time.Now()}
	const some = 100 // a round makes a dozen events or two
	before := eventsOf(t, s)
	await(t, "execs while "+what, func() bool {
		now := eventsOf(t, s)
		return !slices.ContainsFunc(loops, func(in containerOfTask) bool { return now[in.id] < before[in.id]+some })
	})
	p.to = time.Now()
	return p
}

// eventsOf returns how many events the agent has sealed of each container.
func eventsOf(t *testing.T, s *stack.Stack) map[string]uint64 {
	t.Helper()
	out, err := s.Ask(t.Context(), "status", "containers", "--json")
	if err != nil {
		t.Fatal(err)
	}
	sealed := map[string]uint64{}
	for line := range bytes.Lines(out) {
		var c struct {
			ID     string `json:"id"`
			Events uint64 `json:"events"`
		}
		if err := json.Unmarshal(line, &c); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		sealed[c.ID] = c.Events
	}
	return sealed
}

// wantLoops checks that every exec of the loops is attributed, and that each loop had some in each period.
func wantLoops(t *testing.T, s *stack.Stack, loops []containerOfTask, periods ...period) {
	t.Helper()
	wantDescribed(t, s)
	if _, err := s.Delivered(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	total, wrong := 0, 0
	seen := map[[2]string]int{}
	for _, e := range events(t, s, "--kind", "process.exec") {
		args := e.Process.Args.Split()
		if len(args) != 2 || args[0] != "/bin/true" {
			continue
		}
		i := slices.IndexFunc(loops, func(in containerOfTask) bool { return in.name == args[1] })
		if i < 0 {
			continue
		}
		total++
		in := &loops[i]
		if c := e.Container; c == nil || c.ID != in.id || c.Name != in.name || c.Pending || taskARN(&e) != in.task.ARN {
			wrong++
			t.Errorf("exec by %s at %s: container %+v", in.name, e.Time, c)
		}
		for _, p := range periods {
			if e.Time.After(p.from) && e.Time.Before(p.to) {
				seen[[2]string{in.name, p.what}]++
			}
		}
	}
	t.Logf("%s of the loops' execs are attributed", fraction(total-wrong, total))
	for i := range loops {
		for _, p := range periods {
			if n := seen[[2]string{loops[i].name, p.what}]; n == 0 {
				t.Errorf("no exec by %s while %s", loops[i].name, p.what)
			}
		}
	}
}

func TestContainersAreAttributedAcrossAgentRestart(t *testing.T) {
	d := dockertest.Start(t)
	d.Import(t, "shop:1")
	settings := []string{"docker.socket=" + d.Socket, "ecs.agent="}
	s := newStack(t, settings...)
	loops := startLoops(t, d, 4)
	before := during(t, s, loops, "the first agent ran")
	if err := s.Agent.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.StartAgent(t.Context(), append(settings, "host.imds=off")...); err != nil {
		t.Fatal(err)
	}
	after := during(t, s, loops, "the second agent ran")
	// What is sealed is on disk a moment later.
	if _, err := s.Delivered(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	s.Agent.Kill()
	if err := s.StartAgent(t.Context(), append(settings, "host.imds=off")...); err != nil {
		t.Fatal(err)
	}
	again := during(t, s, loops, "the agent after the one that was killed ran")
	wantLoops(t, s, loops, before, after, again)
}

// The engine restarts while its containers run, and once more while the agent does too: what begins in between has no
// name until the engine is back.
func TestContainersAreAttributedAcrossEngineRestart(t *testing.T) {
	d := dockertest.Start(t)
	d.Import(t, "shop:1")
	settings := []string{"docker.socket=" + d.Socket, "ecs.agent="}
	s := newStack(t, settings...)
	loops := startLoops(t, d, 4)
	before := during(t, s, loops, "the engine ran")
	d.Stop(t)
	without := during(t, s, loops, "the engine was stopped")
	d.Restart(t)
	after := during(t, s, loops, "the engine ran again")
	d.Run(t, "exec", loops[0].name, "/bin/true", loops[0].name)

	d.Stop(t)
	if err := s.Agent.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.StartAgent(t.Context(), append(settings, "host.imds=off")...); err != nil {
		t.Fatal(err)
	}
	neither := during(t, s, loops, "the engine was stopped and the agent new")
	if pending := mustStatus(t, s).Containers.Pending; pending == 0 {
		t.Error("no container is pending though nobody could describe one")
	}
	d.Restart(t)
	await(t, "the agent to find the engine", func() bool { return mustStatus(t, s).Containers.Connected })
	both := during(t, s, loops, "both ran again")
	wantLoops(t, s, loops, before, without, after, neither, both)
}
