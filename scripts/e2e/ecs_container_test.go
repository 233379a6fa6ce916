package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/dockertest"
	"github.com/taskguard/taskguard/scripts/ecstest"
	"github.com/taskguard/taskguard/scripts/stack"
)

// The arguments of docker run that place a container in the cgroup of a task, and those that label it.
func cgroupOf(task dockertest.Task) []string { return task.Args[:2] }
func labelsOf(task dockertest.Task) []string { return task.Args[2:] }

// introspected is what the ECS agent's introspection API tells of a task.
func introspected(task dockertest.Task) event.ECS {
	prefix, _, _ := strings.Cut(task.ARN, ":task/")
	return event.ECS{
		Cluster: "demo", ClusterARN: prefix + ":cluster/demo", ContainerInstanceARN: ecstest.InstanceARN,
		TaskARN: task.ARN, TaskID: task.ID, Family: "shop", Revision: "42", Container: "web",
		DesiredStatus: "RUNNING", KnownStatus: "RUNNING", StartedAt: time.Date(2026, 11, 23, 10, 0, 1, 5e8, time.UTC),
		Sources: event.ECSSources{Introspection: event.FactCluster | event.FactClusterARN | event.FactContainerInstanceARN |
			event.FactTaskARN | event.FactTaskID | event.FactFamily | event.FactRevision | event.FactContainer |
			event.FactDesiredStatus | event.FactKnownStatus | event.FactStartedAt},
	}
}

// byCgroup is the same where the cgroup tells the task's id already.
func byCgroup(task event.ECS) event.ECS {
	task.Sources.Cgroup = event.FactTaskID
	task.Sources.Introspection &^= event.FactTaskID
	return task
}

// The ECS agent's word counts more than labels, and without any it is enough.
func TestTaskByIntrospection(t *testing.T) {
	d := dockertest.Start(t)
	d.Import(t, "shop:1")
	another := d.NewTask(t) // of which only labels tell
	agent := &ecstest.Agent{Cluster: "demo"}
	want := map[string]event.ECS{}
	for name, test := range map[string]struct {
		args func(own dockertest.Task) []string
		want func(own event.ECS) event.ECS
	}{
		"plain":  {func(dockertest.Task) []string { return nil }, func(e event.ECS) event.ECS { return e }},
		"honest": {func(own dockertest.Task) []string { return own.Args }, byCgroup},
		"liar": {
			func(dockertest.Task) []string { return labelsOf(another) },
			func(e event.ECS) event.ECS { e.Disputed = true; return e },
		},
		"liar-in-its-cgroup": {
			func(own dockertest.Task) []string { return slices.Concat(cgroupOf(own), labelsOf(another)) },
			func(e event.ECS) event.ECS { e.Disputed = true; return byCgroup(e) },
		},
	} {
		own := d.NewTask(t)
		id := create(t, d, name, test.args(own)...)
		agent.Tasks = append(agent.Tasks, ecstest.NewTask(own.ARN, id))
		want[name] = test.want(introspected(own))
	}
	server := httptest.NewServer(agent)
	t.Cleanup(server.Close)
	s := newStack(t, "docker.socket="+d.Socket, "ecs.agent="+server.URL)
	for name := range want {
		d.Run(t, "start", "--attach", name)
	}
	if _, err := s.Delivered(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	for name, task := range want {
		wantTask(t, s, name, task)
	}
	for _, c := range containers(t, s) {
		task, ok := want[c.Name]
		if !ok {
			continue // another engine's
		}
		delete(want, c.Name)
		if c.ECS == nil || c.Pending || c.Events == 0 {
			t.Errorf("the agent has %+v", c)
		} else if diff := cmp.Diff(task, *c.ECS); diff != "" {
			t.Errorf("the agent has of %s: %s", c.Name, diff)
		}
	}
	if len(want) > 0 {
		t.Errorf("the agent does not have %v", want)
	}
	if status := mustStatus(t, s); !status.ECS.Connected || !strings.Contains(status.ECS.Reason, "cluster demo") {
		t.Errorf("status: %+v", status.ECS)
	}
}

// Whatever the ECS agent answers, a container's task is known by its cgroup and labels.
func TestTaskWithoutTheWordOfTheECSAgent(t *testing.T) {
	d := dockertest.Start(t)
	d.Import(t, "shop:1")
	hang := func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }
	for name, test := range map[string]struct {
		misbehave func(w http.ResponseWriter, r *http.Request) bool
		connected bool
		reason    string
	}{
		"tells of another cluster": {nil, true, "cluster demo"},
		"answers garbage": {func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.WriteString(w, "<html>\x00\xff")
			return true
		}, false, "read answer"},
		"hangs": {hang, false, "deadline exceeded"},
		"hangs when asked for tasks": {func(w http.ResponseWriter, r *http.Request) bool {
			return r.URL.Query().Has("dockerid") && hang(w, r)
		}, false, "deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			agent := &ecstest.Agent{Cluster: "demo", Misbehave: test.misbehave}
			server := httptest.NewServer(agent)
			t.Cleanup(server.Close)
			labelled, placed := d.NewTask(t), d.NewTask(t)
			names := []string{"labelled-" + labelled.ID[:6], "placed-" + placed.ID[:6]}
			ids := []string{create(t, d, names[0], labelled.Args...), create(t, d, names[1], cgroupOf(placed)...)}
			agent.Set(func() {
				for i, task := range []dockertest.Task{labelled, placed} {
					agent.Tasks = append(agent.Tasks, ecstest.NewTask(strings.Replace(task.ARN, "demo", "prod", 1), ids[i]))
				}
			})
			s := newStack(t, "docker.socket="+d.Socket, "ecs.agent="+server.URL)
			for _, name := range names {
				d.Run(t, "start", "--attach", name)
			}
			if _, err := s.Delivered(t.Context(), time.Minute); err != nil {
				t.Fatal(err)
			}
			want := introspected(labelled)
			want.ContainerInstanceARN, want.DesiredStatus, want.KnownStatus, want.StartedAt = "", "", "", time.Time{}
			want.Sources = event.ECSSources{Cgroup: event.FactTaskID, Label: event.FactCluster | event.FactClusterARN |
				event.FactTaskARN | event.FactFamily | event.FactRevision | event.FactContainer}
			wantTask(t, s, names[0], want)
			wantTask(t, s, names[1], event.ECS{TaskID: placed.ID, Sources: event.ECSSources{Cgroup: event.FactTaskID}})
			await(t, "the agent to have asked", func() bool {
				status := mustStatus(t, s)
				return status.ECS.Connected == test.connected && strings.Contains(status.ECS.Reason, test.reason) &&
					(status.Containers.TasksDisbelieved > 0 || !test.connected)
			})
		})
	}
}

// create makes a container that starts a process and ends, and returns its id. It does not start it.
func create(t *testing.T, d *dockertest.Daemon, name string, args ...string) (id string) {
	t.Helper()
	args = slices.Concat([]string{"create", "--name", name, "--net", "none"}, args,
		[]string{"shop:1", "sh", "-c", "/bin/true; echo x >/tmp/written"})
	return d.Run(t, args...)
}

// containers returns what the agent knows of the containers.
func containers(t *testing.T, s *stack.Stack) []container.Known {
	t.Helper()
	out, err := s.Containers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var list []container.Known
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var c container.Known
		if err := decoder.Decode(&c); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
}

// wantTask waits until the endpoint has all about a container, and checks the task of each of its events.
func wantTask(t *testing.T, s *stack.Stack, name string, want event.ECS) {
	t.Helper()
	var list []event.Event
	await(t, "the description of "+name, func() bool {
		list = events(t, s, "--container", name)
		return len(list) > 0 && !slices.ContainsFunc(list, func(e event.Event) bool { return e.Container.Pending })
	})
	if count(list, event.ProcessExec) == 0 {
		t.Errorf("the endpoint has no exec by %s", name)
	}
	for _, e := range list {
		if e.Container.ECS == nil {
			t.Fatalf("%s by %s: no task", e.Kind, name)
		}
		if diff := cmp.Diff(want, *e.Container.ECS); diff != "" {
			t.Fatalf("%s by %s: %s", e.Kind, name, diff)
		}
	}
}
