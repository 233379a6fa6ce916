package container

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskguard/taskguard/collector/event"
)

// fakeEngine speaks the part of the Docker API that a tracker uses, as dockerd 20.10 writes it.
type fakeEngine struct {
	mu         sync.Mutex
	api        string // "1.41" by default
	containers []fakeContainer
	delay      time.Duration                                           // before every answer
	misbehave  func(w http.ResponseWriter, r *http.Request) (did bool) // instead of an answer
	streams    []chan string
	said       []fakeMessage // what it repeats
	execs      map[string]map[string]any
	requests   []string // "METHOD path", without the API version

	connections chan net.Conn
	server      *http.Server
	up          bool
}

type fakeMessage struct {
	at   time.Time
	line string
}

type fakeContainer struct {
	id, name, image, imageID string
	labels                   map[string]string
	env                      []string
	oomKilled                bool
}

// newFakeEngine returns an engine that is reached without a network, for use in a bubble of synctest.
func newFakeEngine() *fakeEngine {
	return &fakeEngine{api: "1.41", connections: make(chan net.Conn)}
}

// The three methods of net.Listener.

func (e *fakeEngine) Accept() (net.Conn, error) {
	conn, ok := <-e.connections
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (e *fakeEngine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.up {
		close(e.connections)
	}
	e.up = false
	return nil
}

func (e *fakeEngine) Addr() net.Addr { return &net.UnixAddr{Name: "fake", Net: "unix"} }

func (e *fakeEngine) start() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.up, e.connections = true, make(chan net.Conn)
	e.server = &http.Server{Handler: e}
	server := e.server
	go server.Serve(e)
}

func (e *fakeEngine) stop() {
	e.server.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.streams = nil
}

func (e *fakeEngine) dial(ctx context.Context) (net.Conn, error) {
	e.mu.Lock()
	up, connections := e.up, e.connections
	e.mu.Unlock()
	if !up {
		return nil, &net.OpError{Op: "dial", Net: "unix", Addr: e.Addr(), Err: syscall.ECONNREFUSED}
	}
	client, server := net.Pipe()
	select {
	case connections <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (e *fakeEngine) set(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

// create makes a container and says so in the stream.
func (e *fakeEngine) create(c fakeContainer) {
	e.set(func() { e.containers = append(e.containers, c) })
	e.say("create", c)
}

// destroy removes a container and says so in the stream.
func (e *fakeEngine) destroy(c fakeContainer) {
	e.set(func() { e.containers = nil })
	e.say("destroy", c)
}

// say puts an event into the stream, with attributes that labels take the place of.
func (e *fakeEngine) say(action string, c fakeContainer, nameValue ...string) {
	attributes := map[string]string{}
	for i := 0; i < len(nameValue); i += 2 {
		attributes[nameValue[i]] = nameValue[i+1]
	}
	maps.Copy(attributes, c.labels)
	attributes["image"], attributes["name"] = c.image, c.name
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if n := len(e.said); n > 0 && !now.After(e.said[n-1].at) { // time stands still here
		now = e.said[n-1].at.Add(1)
	}
	line, err := json.Marshal(map[string]any{
		"status": action, "id": c.id, "from": c.image, "Type": "container", "Action": action,
		"Actor": map[string]any{"ID": c.id, "Attributes": attributes},
		"scope": "local", "time": now.Unix(), "timeNano": now.UnixNano(),
	})
	if err != nil {
		panic(err)
	}
	e.said = append(e.said, fakeMessage{now, string(line) + "\n"})
	e.said = e.said[max(0, len(e.said)-maxRepeated):]
	for _, stream := range e.streams {
		stream <- string(line) + "\n"
	}
}

func (e *fakeEngine) count(request string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, r := range e.requests {
		if strings.HasPrefix(r, request) {
			n++
		}
	}
	return n
}

func (e *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v"+e.api)
	e.mu.Lock()
	e.requests = append(e.requests, r.Method+" "+path)
	delay, misbehave := e.delay, e.misbehave
	e.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
			return
		}
	}
	if misbehave != nil && misbehave(w, r) {
		return
	}
	e.mu.Lock()
	containers := e.containers // when it answers, not when it was asked
	e.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch id := strings.TrimSuffix(strings.TrimPrefix(path, "/containers/"), "/json"); {
	case path == "/_ping":
		w.Header().Set("Api-Version", e.api)
		w.Header().Set("Docker-Experimental", "false")
		w.Header().Set("Ostype", "linux")
	case path == "/info":
		io.WriteString(w, `{"SecurityOptions":["name=seccomp,profile=default"]}`)
	case strings.HasPrefix(path, "/images/"):
		io.WriteString(w, `{"Id":"sha256:11","RepoDigests":["other@sha256:00","shop@sha256:dd"]}`)
	case path == "/events":
		e.stream(w, r)
	case strings.HasPrefix(path, "/exec/"):
		e.mu.Lock()
		exec, ok := e.execs[strings.TrimSuffix(strings.TrimPrefix(path, "/exec/"), "/json")]
		e.mu.Unlock()
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		json.NewEncoder(w).Encode(exec)
	case path == "/containers/json":
		list := []map[string]any{}
		for _, c := range containers {
			list = append(list, map[string]any{
				"Id": c.id, "Names": []string{"/" + c.name}, "Image": c.image, "ImageID": c.imageID, "Labels": c.labels,
				"Command": "/bin/sh", "Created": 1795389412, "State": "running", "Ports": []any{}, "Mounts": []any{},
			})
		}
		json.NewEncoder(w).Encode(list)
	default:
		for _, c := range containers {
			if c.id == id {
				json.NewEncoder(w).Encode(map[string]any{
					"Id": c.id, "Name": "/" + c.name, "Image": c.imageID, "Path": "/bin/sh",
					"State":      map[string]any{"OOMKilled": c.oomKilled},
					"Config":     map[string]any{"Image": c.image, "Labels": c.labels, "Env": c.env},
					"HostConfig": map[string]any{"NetworkMode": "none"},
				})
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"message":"No such container: %s"}`, id)
	}
}

func (e *fakeEngine) stream(w http.ResponseWriter, r *http.Request) {
	lines := make(chan string, 16)
	var seconds, nanoseconds int64
	fmt.Sscanf(r.URL.Query().Get("since"), "%d.%d", &seconds, &nanoseconds)
	w.WriteHeader(http.StatusOK)
	e.set(func() {
		e.streams = append(e.streams, lines)
		for _, m := range e.said {
			if !m.at.Before(time.Unix(seconds, nanoseconds)) {
				io.WriteString(w, m.line)
			}
		}
	})
	w.(http.Flusher).Flush()
	for {
		select {
		case line := <-lines:
			io.WriteString(w, line)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

// fail answers every request like the given one with an error.
func fail(suffix string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, suffix) {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, `{"message":"cannot connect to containerd"}`)
		return true
	}
}

var web = fakeContainer{id: id1, name: "ecs-shop-42-web", image: "shop:1", imageID: "sha256:11", labels: ecsLabels()}

// webDescribed is what is known of web in the end.
func webDescribed() event.Container {
	return event.Container{
		ID: id1, Name: "ecs-shop-42-web", Image: "shop:1", ImageID: "sha256:11", ImageDigest: "sha256:dd",
		Runtime: "docker", ECS: ecsTask(), Command: "/bin/sh\x00",
		Labels: []event.Tag{{Key: "maintainer", Value: "somebody"}},
		Posture: &event.Posture{
			NetworkMode: "none", Seccomp: "default",
			Traits: event.TraitNewPrivileges | event.TraitRootUser | event.TraitWritableRoot,
		},
	}
}

// webCreated is what its create event says of web.
func webCreated() event.Container {
	c := webDescribed()
	c.ImageID, c.ImageDigest, c.Command, c.Posture = "", "", "", nil
	return c
}

// sameFacts leaves out by whose word facts of a task are: TestTask has that.
var sameFacts = cmpopts.IgnoreFields(event.ECS{}, "Sources")

// bubble runs a test with a tracker on a fake engine, and with time that passes at once when all wait.
func bubble(t *testing.T, c Config, test func(t *testing.T, tracker *Tracker, engine *fakeEngine)) {
	t.Helper()
	bubbleWith(t, c, func(*fakeEngine) {}, test)
}

// bubbleWith is a bubble whose engine is prepared before the tracker speaks to it.
func bubbleWith(
	t *testing.T, c Config, prepare func(*fakeEngine), test func(t *testing.T, tracker *Tracker, engine *fakeEngine),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		engine := newFakeEngine()
		prepare(engine)
		engine.start()
		c.Docker = "unix:///fake"
		tracker := newTracker(t, c)
		tracker.dial = engine.dial
		stop := run(t, tracker)
		test(t, tracker, engine)
		stop()
		engine.stop()
	})
}

func TestContainerThatRunsWhenTheAgentStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := newFakeEngine()
		engine.containers = []fakeContainer{web}
		engine.start()
		defer engine.stop()
		tracker := newTracker(t, Config{Docker: "unix:///fake"})
		tracker.dial = engine.dial
		defer run(t, tracker)()
		synctest.Wait()
		got := tracker.Describe(tracker.Locate(0, "/ecs/"+task32+"/"+id1), 0)
		if diff := cmp.Diff(webDescribed(), got, sameFacts); diff != "" {
			t.Error(diff)
		}
		if updates := tracker.Updates(); updates != nil {
			t.Errorf("an update of what was never pending: %v", updates)
		}
		if ok, reason := tracker.State(); !ok || reason != "docker at unix:///fake answers (api 1.41)" {
			t.Errorf("state: %v, %q", ok, reason)
		}
	})
}

// The engine takes 10 s for every answer. Events are located at once; names follow.
func TestSlowEngine(t *testing.T) {
	slow := func(engine *fakeEngine) { engine.delay, engine.containers = 10*time.Second, []fakeContainer{web} }
	bubbleWith(t, Config{}, slow, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		before := time.Now()
		tracker.AddCgroup(1, "/ecs/demo/"+task32+"/"+id1)
		c := tracker.Locate(1, "")
		want := event.Container{ID: id1, Runtime: "docker", ECS: &event.ECS{TaskID: task32}, Pending: true}
		if diff := cmp.Diff(want, tracker.Describe(c, 0), sameFacts); diff != "" {
			t.Error(diff)
		}
		if !time.Now().Equal(before) {
			t.Error("the event path waited")
		}
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]event.Container{webDescribed()}, tracker.Updates(), sameFacts); diff != "" {
			t.Error(diff)
		}
		if updates := tracker.Updates(); updates != nil {
			t.Errorf("the update came again: %v", updates)
		}
		if diff := cmp.Diff(webDescribed(), tracker.Describe(c, 0), sameFacts); diff != "" {
			t.Error(diff)
		}
	})
}

// Name, image and labels come with the create event; the rest when inspect is answered.
func TestCreateEventIsUsedAtOnce(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		synctest.Wait()
		engine.set(func() { engine.delay = 10 * time.Second })
		engine.create(web)
		synctest.Wait()
		tracker.AddCgroup(1, "/ecs/demo/"+task32+"/"+id1)
		want := webCreated()
		want.Pending = true
		if diff := cmp.Diff(want, tracker.Describe(tracker.Locate(1, ""), 0), sameFacts); diff != "" {
			t.Error(diff)
		}
		time.Sleep(21 * time.Second)
		if diff := cmp.Diff([]event.Container{webDescribed()}, tracker.Updates(), sameFacts); diff != "" {
			t.Error(diff)
		}
	})
}

// A container may be gone before anybody could ask about it; what its create event said remains.
func TestContainerThatIsGoneBeforeItIsInspected(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		synctest.Wait()
		engine.set(func() { engine.delay = time.Second })
		engine.create(web)
		engine.destroy(web)
		synctest.Wait()
		c := tracker.Locate(0, "/ecs/demo/"+task32+"/"+id1)
		tracker.Describe(c, 0)
		time.Sleep(2 * time.Second)
		want := webCreated()
		if diff := cmp.Diff([]event.Container{want}, tracker.Updates(), sameFacts); diff != "" {
			t.Error(diff)
		}
		time.Sleep(defaultRetain - 3*time.Second)
		if got := tracker.Describe(c, 0); got.Name != want.Name {
			t.Errorf("forgotten before its time: %+v", got)
		}
		time.Sleep(defaultRetain)
		if s := tracker.Stats(); s.Containers != 0 || s.Undescribed != 0 {
			t.Errorf("not forgotten: %+v", s)
		}
	})
}

// What looks like Docker's and is not becomes not pending when Docker says so.
func TestContainerThatTheEngineDoesNotKnow(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		c := tracker.Locate(0, "/kubepods/burstable/pod1/"+id2)
		if !tracker.Describe(c, 0).Pending {
			t.Error("not pending before the engine was asked")
		}
		time.Sleep(messageDelay + time.Second)
		if diff := cmp.Diff([]event.Container{{ID: id2}}, tracker.Updates(), sameFacts); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Hour)
		if n := engine.count("GET /containers/" + id2); n != 2 {
			t.Errorf("asked %d times, want twice", n)
		}
	})
}

// The engine's word of a container's creation may come after its word that the container is gone.
func TestMessageThatIsLate(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		synctest.Wait()
		tracker.AddCgroup(8, "/ecs/demo/"+task32+"/"+id1)
		c := tracker.Locate(8, "")
		tracker.Describe(c, 1)
		synctest.Wait()
		if n := engine.count("GET /containers/" + id1); n != 1 {
			t.Fatalf("asked %d times, want once", n)
		}
		tracker.note(id1, facts{Container: event.Container{Name: "web"}, labels: ecsLabels()}, time.Now())
		time.Sleep(messageDelay + time.Second)
		updates := tracker.Updates()
		if len(updates) != 1 || updates[0].Name != "web" || updates[0].ECS == nil || updates[0].ECS.TaskARN != demoTaskARN {
			t.Errorf("updates %+v, want one with name and task", updates)
		}
	})
}

// What was made before this tracker is described though it gave nothing of it out, and is gone: another may have, and
// ended.
func TestWhatAnotherTrackerGaveOutIsDescribed(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		synctest.Wait()
		named := facts{Container: event.Container{Name: "web"}, labels: ecsLabels()}
		tracker.note(id1, named, tracker.began.Add(-time.Second))
		tracker.note(id2, named, time.Now())
		time.Sleep(messageDelay + time.Second)
		if updates := tracker.Updates(); len(updates) != 1 || updates[0].ID != id1 || updates[0].Pending {
			t.Errorf("updates %+v, want that of the container that existed before", updates)
		}
	})
}

// At the end all that is known of a container is said, as nobody says more; but one whose name or task is not known
// stays pending, for the next tracker to describe.
func TestEndOfRunDescribesWhatIsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tracker := newTracker(t, Config{Docker: "unix:///nowhere"})
		stop := run(t, tracker)
		for cgroup, id := range map[uint64]string{8: id1, 9: id2} {
			tracker.AddCgroup(cgroup, "/ecs/demo/"+task32+"/"+id)
			tracker.Describe(tracker.Locate(cgroup, ""), 1)
		}
		tracker.note(id1, facts{Container: event.Container{Name: "web"}, labels: ecsLabels()}, time.Now())
		stop()
		if updates := tracker.Updates(); len(updates) != 1 || updates[0].ID != id1 || updates[0].Pending {
			t.Errorf("updates %+v, want that of the container with a name", updates)
		}
		if c := tracker.Describe(tracker.Locate(9, ""), 1); !c.Pending {
			t.Errorf("%+v is not pending", c)
		}
	})
}

func TestRename(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		synctest.Wait()
		engine.create(web)
		synctest.Wait()
		renamed := web
		renamed.name = "other"
		engine.say("rename", renamed)
		synctest.Wait()
		if got := tracker.Describe(&event.Container{ID: id1}, 0); got.Name != "other" || got.Pending {
			t.Errorf("got %+v", got)
		}
	})
}

// Whatever the engine does instead of answering, containers are told apart, and are described when it recovers.
func TestEngineThatMisbehaves(t *testing.T) {
	type answer = func(http.ResponseWriter, *http.Request) bool
	every := func(f func(w http.ResponseWriter, r *http.Request)) answer {
		return func(w http.ResponseWriter, r *http.Request) bool { f(w, r); return true }
	}
	endless := func(w io.Writer) {
		chunk := bytes.Repeat([]byte("x"), 64<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	at := func(suffix string, f func(w http.ResponseWriter, r *http.Request)) answer {
		return func(w http.ResponseWriter, r *http.Request) bool {
			ok := strings.HasSuffix(r.URL.Path, suffix)
			if ok {
				f(w, r)
			}
			return ok
		}
	}
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	tests := []struct {
		name   string
		answer answer
		reason string
	}{
		{"hangs", every(hang), "docker hangs"},
		{"fails", fail(""), "cannot connect to containerd"},
		{"talks garbage", every(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") }),
			"invalid character"},
		{"cuts the connection", every(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), "EOF"},
		{"hangs in events", at("/events", hang), "no answer within 30s"},
		{"fails in events", fail("/events"), "subscribe to docker events"},
		{"ends the stream", at("/events", func(w http.ResponseWriter, _ *http.Request) {}), "read docker events: EOF"},
		{"never ends an event", at("/events", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"Type":"`)
			endless(w)
		}), "too long"},
		{"is too old", at("/_ping", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Api-Version", "1.39")
		}), "minimum supported API version is 1.40"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			config := Config{Retain: time.Hour, Logger: slog.New(slog.NewTextHandler(&log, nil))}
			misbehaves := func(engine *fakeEngine) { engine.misbehave = tt.answer }
			bubbleWith(t, config, misbehaves, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
				c := tracker.Locate(0, "/ecs/"+task32+"/"+id1)
				if idOf(c) != id1 || !tracker.Describe(c, 0).Pending {
					t.Errorf("got %+v", c)
				}
				// Only now, as the tracker asks beside the test, and some of these engines answer what comes before they fail.
				engine.set(func() { engine.containers = []fakeContainer{web} })
				time.Sleep(10 * time.Minute)
				if ok, reason := tracker.State(); ok && tt.name != "ends the stream" || !strings.Contains(reason, tt.reason) {
					t.Errorf("state: %v, %q; want %q", ok, reason, tt.reason)
				}
				if tracker.Stats().EngineFailures == 0 {
					t.Error("failures are not counted")
				}
				engine.set(func() { engine.misbehave = nil })
				time.Sleep(2 * time.Minute)
				if ok, reason := tracker.State(); !ok {
					t.Errorf("state after recovery: %q", reason)
				}
				if diff := cmp.Diff(webDescribed(), tracker.Describe(c, 0), sameFacts); diff != "" {
					t.Error(diff)
				}
				if updates := tracker.Updates(); len(updates) != 1 {
					t.Errorf("%d updates", len(updates))
				}
			})
			warnings, recoveries := strings.Count(log.String(), "level=WARN"), strings.Count(log.String(), "level=INFO")
			if warnings == 0 || warnings > 3 || recoveries == 0 || recoveries > 2 {
				t.Errorf("%d problems and %d recoveries in the log:\n%s", warnings, recoveries, log.String())
			}
		})
	}
}

// The engine's list fails, or is too long to be read; every container is asked for by itself.
func TestListThatFails(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"500": fail("/containers/json"),
		"too long": func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/containers/json") {
				return false
			}
			io.WriteString(w, `[{"Id":"`+strings.Repeat("x", maxAnswer)+`"}]`)
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			prepare := func(engine *fakeEngine) { engine.misbehave, engine.containers = answer, []fakeContainer{web} }
			bubbleWith(t, Config{}, prepare, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
				c := tracker.Locate(0, "/ecs/"+task32+"/"+id1)
				synctest.Wait()
				if diff := cmp.Diff(webDescribed(), tracker.Describe(c, 0), sameFacts); diff != "" {
					t.Error(diff)
				}
				if s := tracker.Stats(); s.EngineFailures != 1 {
					t.Errorf("got %+v, want one failure", s)
				}
			})
		})
	}
}

// A container that cannot be inspected is asked about ever more rarely, and does not stand in the way of others.
func TestInspectThatFails(t *testing.T) {
	bubble(t, Config{Retain: 24 * time.Hour}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		synctest.Wait()
		engine.set(func() { engine.misbehave = fail(id2 + "/json") })
		bad := tracker.Locate(0, "/docker/"+id2)
		tracker.Describe(bad, 0)
		time.Sleep(time.Hour)
		if n := engine.count("GET /containers/" + id2); n < 60 || n > 75 {
			t.Errorf("asked %d times in an hour, want about once a minute", n)
		}
		ok, reason := tracker.State()
		if !ok || !strings.Contains(reason, "not about 1 of the containers") {
			t.Errorf("state: %v, %q", ok, reason)
		}
		engine.create(web)
		synctest.Wait()
		if got := tracker.Describe(&event.Container{ID: id1}, 0); got.Pending {
			t.Errorf("another container waits for the one that fails: %+v", got)
		}
		engine.set(func() { engine.misbehave = nil })
		time.Sleep(2 * time.Minute)
		if ok, reason := tracker.State(); !ok || strings.Contains(reason, "not about") {
			t.Errorf("state after recovery: %v, %q", ok, reason)
		}
		if updates := tracker.Updates(); len(updates) != 1 || updates[0].ID != id2 {
			t.Errorf("updates: %+v", updates)
		}
	})
}

// An image that cannot be inspected for a moment has its digest later; what is known of its container is told at once. One
// that is not there any more has none.
func TestImageThatIsNotInspected(t *testing.T) {
	for status, want := range map[int]string{http.StatusInternalServerError: "sha256:dd", http.StatusNotFound: ""} {
		bubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
			synctest.Wait()
			refused := 0
			engine.set(func() {
				engine.misbehave = func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.Contains(r.URL.Path, "/images/") || refused > 0 {
						return false
					}
					refused++
					w.WriteHeader(status)
					io.WriteString(w, `{"message":"no"}`)
					return true
				}
			})
			engine.create(web)
			synctest.Wait()
			got := tracker.Describe(&event.Container{ID: id1}, 0)
			if got.Posture == nil || got.Pending != (status != http.StatusNotFound) || got.ImageDigest != "" {
				t.Errorf("status %d, at once: %+v", status, got)
			}
			time.Sleep(time.Minute)
			if got := tracker.Describe(&event.Container{ID: id1}, 0); got.Pending || got.ImageDigest != want {
				t.Errorf("status %d, later: pending %v, digest %q, want %q", status, got.Pending, got.ImageDigest, want)
			}
		})
	}
}

// A hundred containers start at once on an engine that takes 1 s an answer: it is asked about four at a time.
func TestInspectIsBounded(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		synctest.Wait()
		engine.set(func() { engine.delay = time.Second })
		for n := range 100 {
			tracker.AddCgroup(uint64(n+1), "/docker/"+hexID(n))
		}
		time.Sleep(10*time.Second + 1)
		if n := engine.count("GET /containers/0"); n != 11*inspectors {
			t.Errorf("asked %d times in 10 s, want %d", n, 11*inspectors)
		}
		time.Sleep(time.Minute)
		if s := tracker.Stats(); s.Pending != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

func TestEngineRestarts(t *testing.T) {
	var log bytes.Buffer
	config := Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	bubble(t, config, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		time.Sleep(time.Hour)
		engine.stop()
		c := tracker.Locate(0, "/ecs/"+task32+"/"+id1)
		tracker.Describe(c, 0)
		time.Sleep(time.Hour)
		if ok, reason := tracker.State(); ok || !strings.Contains(reason, "connection refused: start docker") {
			t.Errorf("state: %v, %q", ok, reason)
		}
		engine.set(func() { engine.containers = []fakeContainer{web} })
		engine.start()
		time.Sleep(maxBackoff)
		if diff := cmp.Diff(webDescribed(), tracker.Describe(c, 0), sameFacts); diff != "" {
			t.Error(diff)
		}
		other := fakeContainer{id: id2, name: "other", image: "o", imageID: "sha256:2"}
		engine.create(other)
		synctest.Wait()
		if got := tracker.Describe(&event.Container{ID: id2}, 0); got.Name != "other" {
			t.Errorf("the stream after the restart is not followed: %+v", got)
		}
		time.Sleep(steadyAfter)
	})
	if got := strings.Count(log.String(), "\n"); got != 4 { // answers, EOF, refused, answers again
		t.Errorf("%d lines in the log:\n%s", got, log.String())
	}
}

// What happened while there was no stream is asked for again, from the last event on.
func TestStreamIsResumed(t *testing.T) {
	var mu sync.Mutex
	var since []string
	bubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		synctest.Wait()
		engine.set(func() {
			engine.misbehave = func(_ http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/events") {
					mu.Lock()
					defer mu.Unlock()
					since = append(since, r.URL.Query().Get("since"))
				}
				return false
			}
		})
		time.Sleep(time.Minute)
		engine.create(web)
		last := time.Now()
		time.Sleep(time.Minute)
		engine.stop()
		engine.start()
		time.Sleep(maxBackoff)
		mu.Lock()
		defer mu.Unlock()
		want := fmt.Sprintf("%d.%09d", last.Add(-overlap).Unix(), last.Nanosecond())
		if len(since) != 1 || since[0] != want {
			t.Errorf("since %v, want %v", since, want)
		}
	})
}

func TestGarbageEventsAreIgnored(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		synctest.Wait()
		for _, id := range []string{"", "x", strings.Repeat("../", 22), strings.ToUpper(id1)} {
			engine.create(fakeContainer{id: id, name: "x"})
			engine.destroy(fakeContainer{id: id, name: "x"})
		}
		synctest.Wait()
		if s := tracker.Stats(); s.Containers != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

// The same over a real socket.
func TestEngineOnASocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "d.sock")
	tracker := newTracker(t, Config{Docker: "unix://" + socket})
	defer run(t, tracker)()
	eventually(t, "the remedy in the state", func() bool {
		ok, reason := tracker.State()
		return !ok && strings.Contains(reason, "install and start docker")
	})
	engine := newFakeEngine()
	engine.containers = []fakeContainer{web}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: engine}
	go server.Serve(listener)
	defer server.Close()
	eventually(t, "the description", func() bool {
		got := tracker.Describe(tracker.Locate(0, "/ecs/"+task32+"/"+id1), 0)
		return cmp.Equal(webDescribed(), got, sameFacts)
	})
}

// eventually waits for something that others do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
