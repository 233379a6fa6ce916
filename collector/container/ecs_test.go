package container

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/secret"
	"github.com/taskguard/taskguard/scripts/ecstest"
)

const endpointID = "cc05ad2b-4a1f-4c6f-9d8b-27ac2de37ef6"

// fakeECS answers as the ECS agent does, where it is reached.
type fakeECS struct {
	ecstest.Agent
	down     bool
	unrouted bool // 169.254.170.2 leads nowhere
}

// reached reports whether there is an answer at an address.
func (f *fakeECS) reached(address string) (ok bool) {
	f.Set(func() { ok = !f.down && !(f.unrouted && strings.HasPrefix(address, "169.254.")) })
	return ok
}

// webTask is the task that web is in.
func webTask() ecstest.Task { return ecstest.NewTask(demoTaskARN, id1) }

// ecsBubble runs a test with a tracker on a fake engine and a fake ECS agent.
func ecsBubble(t *testing.T, c Config, test func(t *testing.T, tracker *Tracker, engine *fakeEngine, ecs *fakeECS)) {
	t.Helper()
	c.ECS, c.ECSMetadata = "http://127.0.0.1:51678", "http://169.254.170.2"
	synctest.Test(t, func(t *testing.T) {
		engine, ecs := newFakeEngine(), &fakeECS{Agent: ecstest.Agent{
			Cluster: "demo", Tasks: []ecstest.Task{webTask()}, Endpoints: map[string]string{endpointID: id1},
		}}
		engine.start()
		connections := &pipes{made: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Handler: ecs}
		go server.Serve(connections)
		c.Docker = "unix:///fake"
		tracker := newTracker(t, c)
		tracker.dial = engine.dial
		tracker.ecsClient = newECSClient(func(ctx context.Context, network, address string) (net.Conn, error) {
			if !ecs.reached(address) {
				return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
			}
			return connections.dial(ctx)
		})
		stop := run(t, tracker)
		test(t, tracker, engine, ecs)
		stop()
		tracker.ecsClient.CloseIdleConnections()
		server.Close()
		engine.stop()
	})
}

// pipes is a listener without a network.
type pipes struct {
	made   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.made:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.made <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// webInTask is what the ECS agent adds to web.
func webInTask() *event.ECS {
	task := ecsTask()
	task.ContainerInstanceARN, task.DesiredStatus, task.KnownStatus = ecstest.InstanceARN, "RUNNING", "RUNNING"
	task.StartedAt = time.Date(2026, 11, 23, 10, 0, 1, 5e8, time.UTC)
	return task
}

func TestECSAgentConfirmsLabels(t *testing.T) {
	ecsBubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine, _ *fakeECS) {
		synctest.Wait()
		engine.create(web)
		tracker.AddCgroup(1, "/ecs/demo/"+task32+"/"+id1)
		synctest.Wait()
		got := tracker.Describe(tracker.Locate(1, ""), 0)
		want := webInTask()
		want.Sources = event.ECSSources{Cgroup: event.FactTaskID, Introspection: event.FactCluster | event.FactClusterARN |
			event.FactContainerInstanceARN | event.FactTaskARN | event.FactFamily | event.FactRevision | event.FactContainer |
			event.FactDesiredStatus | event.FactKnownStatus | event.FactStartedAt}
		if diff := cmp.Diff(want, got.ECS); diff != "" || got.Pending {
			t.Errorf("pending %v\n%s", got.Pending, diff)
		}
		if ok, reason := tracker.ECSState(); !ok || !strings.Contains(reason, "cluster demo") {
			t.Errorf("%v, %q", ok, reason)
		}
	})
}

// Containers without labels, also those that Docker will not tell of, are known by the ECS agent's word.
func TestECSAgentWithoutLabels(t *testing.T) {
	ecsBubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine, _ *fakeECS) {
		synctest.Wait()
		engine.set(func() { engine.misbehave = fail("/json") })
		tracker.AddCgroup(1, "/docker/"+id1)
		if got := tracker.Describe(tracker.Locate(1, ""), 0); got.ECS != nil || !got.Pending {
			t.Errorf("%+v", got)
		}
		engine.set(func() { engine.misbehave = nil; engine.containers = []fakeContainer{{id: id1, name: "n", image: "i"}} })
		time.Sleep(2 * time.Second)
		got := tracker.Describe(tracker.Locate(1, ""), 0)
		if diff := cmp.Diff(webInTask(), got.ECS, sameFacts); diff != "" || got.Pending {
			t.Errorf("pending %v\n%s", got.Pending, diff)
		}
	})
}

func TestTaskMetadataEndpoint(t *testing.T) {
	for _, tags := range []bool{false, true} {
		ecsBubble(t, Config{ECSTags: tags, Mask: secret.Mask}, func(t *testing.T, tracker *Tracker, engine *fakeEngine, _ *fakeECS) {
			synctest.Wait()
			c := web
			c.env = []string{"ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/" + endpointID}
			engine.create(c)
			synctest.Wait()
			want := webInTask()
			want.Service, want.LaunchType = "shop-service", "EC2"
			if tags {
				want.Tags = []event.Tag{{Key: "db-password", Value: "***"}, {Key: "stage", Value: "test"}, {Key: "team", Value: "shop"}}
			}
			got := tracker.Describe(tracker.Locate(0, "/ecs/demo/"+task32+"/"+id1), 0)
			if diff := cmp.Diff(want, got.ECS, sameFacts); diff != "" || got.Pending {
				t.Errorf("pending %v\n%s", got.Pending, diff)
			}
		})
	}
}

// Whoever starts a container can give it an environment that points to the endpoint of another.
func TestTaskMetadataOfAnother(t *testing.T) {
	ecsBubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine, _ *fakeECS) {
		synctest.Wait()
		engine.create(fakeContainer{id: id2, name: "liar", image: "i", env: []string{
			"ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/" + endpointID,
		}})
		time.Sleep(time.Minute)
		if got := tracker.Describe(tracker.Locate(0, "/docker/"+id2), 0); got.ECS != nil || got.Pending {
			t.Errorf("%+v", got)
		}
	})
	for _, uri := range []string{
		"http://169.254.170.2/v4/../../x", "http://10.0.0.1/v4/" + endpointID, "http://169.254.170.2/v4/", "https://169.254.170.2/v4/1",
		"http://169.254.170.2/v4/1?x", "http://169.254.170.2/v4/" + strings.Repeat("1", 200), "http://169.254.170.2@10.0.0.1/v4/1",
	} {
		if id := metadataEndpoint([]string{"ECS_CONTAINER_METADATA_URI_V4=" + uri}); id != "" {
			t.Errorf("%s leads to %q", uri, id)
		}
	}
}

// What cannot be true of this host is not believed, and nothing waits for it for ever.
func TestECSAgentThatLies(t *testing.T) {
	other := strings.Repeat("f", 32)
	for name, lie := range map[string]func(task map[string]any){
		"another cluster": func(task map[string]any) { task["Arn"] = strings.Replace(demoTaskARN, "demo", "prod", 1) },
		"another account": func(task map[string]any) {
			task["Arn"] = strings.Replace(demoTaskARN, "123456789012", "999999999999", 1)
		},
		"no arn":       func(task map[string]any) { task["Arn"] = "x\ny" },
		"another task": func(task map[string]any) { task["Arn"] = strings.Replace(demoTaskARN, task32, other, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			ecsBubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine, ecs *fakeECS) {
				synctest.Wait()
				ecs.Set(func() { lie(ecs.Tasks[0]) })
				tracker.AddCgroup(1, "/ecs/demo/"+task32+"/"+id1)
				engine.create(web)
				time.Sleep(time.Minute)
				got := tracker.Describe(tracker.Locate(1, ""), 0)
				want := ecsTask() // by the path and the labels
				want.Disputed = name == "another task"
				if diff := cmp.Diff(want, got.ECS, sameFacts); diff != "" || got.Pending {
					t.Errorf("pending %v\n%s", got.Pending, diff)
				}
				if n := tracker.Stats().TasksDisbelieved; (n == 0) != (name == "another task") {
					t.Errorf("%d disbelieved", n)
				}
			})
		})
	}
}

func TestTagsAreBounded(t *testing.T) {
	tracker := newTracker(t, Config{})
	tags := map[string]string{}
	for i := range 100 {
		tags[fmt.Sprintf("%02d", i)] = strings.Repeat("x", 10*i)
	}
	size, list := 0, tracker.tagsOf(tags)
	for i, tag := range list {
		size += len(tag.Key) + len(tag.Value)
		if tag.Key != fmt.Sprintf("%02d", i) || tag.Value != tags[tag.Key] {
			t.Errorf("tag %d: %+v", i, tag)
		}
	}
	if size > maxTagBytes || size < maxTagBytes/2 {
		t.Errorf("%d tags of %d bytes, want at most %d", len(list), size, maxTagBytes)
	}
}

// Whatever becomes of the ECS agent, containers are described as far as Docker knows them.
func TestECSAgentThatFails(t *testing.T) {
	answer := func(status int, body string) func(*fakeECS) {
		return func(f *fakeECS) {
			f.Misbehave = func(w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(status)
				io.WriteString(w, body)
				return true
			}
		}
	}
	for name, fault := range map[string]func(f *fakeECS){
		"not there":        func(f *fakeECS) { f.down = true },
		"hangs":            func(f *fakeECS) { f.Delay = time.Hour },
		"answers 500":      answer(500, "{}"),
		"answers garbage":  answer(200, "<html>\x00\xff"),
		"answers nothing":  answer(200, ""),
		"answers too much": answer(200, `{"Cluster":"`+strings.Repeat("x", maxAnswer)+`"}`),
		"redirects": func(f *fakeECS) {
			f.Misbehave = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, "http://10.0.0.1/", 302)
				return true
			}
		},
		"no cluster":        func(f *fakeECS) { f.Cluster = "" },
		"knows no task":     func(f *fakeECS) { f.Tasks = nil },
		"metadata unrouted": func(f *fakeECS) { f.unrouted = true },
	} {
		for _, when := range []string{"before", "after"} {
			t.Run(name+" "+when, func(t *testing.T) {
				ecsBubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine, ecs *fakeECS) {
					if when == "after" {
						synctest.Wait() // it has answered once
					}
					ecs.Set(func() { fault(ecs) })
					c := web
					c.env = []string{"ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/" + endpointID}
					engine.create(c)
					located := tracker.Locate(0, "/ecs/demo/"+task32+"/"+id1)
					pending := tracker.Describe(located, 0).Pending // unless the engine has answered already
					time.Sleep(40 * time.Second)
					got := tracker.Describe(located, 0)
					if got.Pending || got.Name != web.name || got.ECS.TaskARN != demoTaskARN {
						t.Errorf("%+v", got)
					}
					if updates := tracker.Updates(); len(updates) == 1 != pending {
						t.Errorf("updates %+v, pending %v", updates, pending)
					}
					if n := len(ecs.Requests()); n > 30 {
						t.Errorf("%d requests", n)
					}
					ecs.Set(func() {
						ecs.down, ecs.Delay, ecs.Misbehave, ecs.unrouted = false, 0, nil, false
						ecs.Cluster, ecs.Tasks = "demo", []ecstest.Task{webTask()}
					})
					time.Sleep(2 * time.Minute)
					if got := tracker.Describe(located, 0); name != "metadata unrouted" && got.ECS.KnownStatus != "RUNNING" {
						t.Errorf("not reconciled: %+v", got.ECS)
					}
				})
			})
		}
	}
}

// Many containers at once are looked up in one list.
func TestManyContainersAreAskedForTogether(t *testing.T) {
	ecsBubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine, ecs *fakeECS) {
		synctest.Wait()
		const many = 1000
		ecs.Set(func() {
			for i := range many {
				task := webTask()
				task["Arn"] = fmt.Sprintf("%s%032x", strings.TrimSuffix(demoTaskARN, task32), i)
				task["Containers"].([]map[string]any)[0]["DockerId"] = hexID(i)
				ecs.Tasks = append(ecs.Tasks, task)
			}
		})
		engine.set(func() {
			for i := range many {
				engine.containers = append(engine.containers, fakeContainer{id: hexID(i), name: "n", image: "i"})
			}
		})
		for i := range many {
			tracker.AddCgroup(uint64(100+i), fmt.Sprintf("/ecs/%032x/%s", i, hexID(i)))
		}
		time.Sleep(30 * time.Second)
		for i := range many {
			if got := tracker.Describe(tracker.Locate(uint64(100+i), ""), 0); got.Pending || got.ECS.KnownStatus != "RUNNING" {
				t.Fatalf("%d: %+v %+v", i, got, got.ECS)
			}
		}
		if n := len(ecs.Requests()); n > many/4 {
			t.Errorf("%d requests", n)
		}
	})
}
