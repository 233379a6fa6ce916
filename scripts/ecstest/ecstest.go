// Package ecstest answers as the ECS agent does: its introspection API, as agent 1.77 and later have it, and the task
// metadata endpoint, version 4.
//
// It promises: the answers have the fields, names and status codes of the agent's; what it is asked is counted; and it
// can be made to answer late, wrong or nothing.
package ecstest

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// InstanceARN is the container instance that the agent is on, of the cluster "demo".
const InstanceARN = "arn:aws:ecs:eu-central-1:123456789012:container-instance/demo/fedcba9876543210fedcba9876543210"

// Version is the agent's.
const Version = "Amazon ECS Agent - v1.102.0 (*deadbeef)"

// Task is a task, by the names that the introspection API has for its fields.
type Task = map[string]any

// Agent is an http.Handler. Its fields are changed by Set once it serves.
type Agent struct {
	Cluster string
	Tasks   []Task
	// Endpoints has the containers by the ids of their task metadata endpoints.
	Endpoints map[string]string
	Delay     time.Duration                                           // before every answer
	Misbehave func(w http.ResponseWriter, r *http.Request) (did bool) // instead of an answer

	mu       sync.Mutex
	requests []string
}

// Set changes the agent.
func (a *Agent) Set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

// Requests returns what was asked, each as HOST/PATH?QUERY.
func (a *Agent) Requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.requests)
}

// NewTask is a task of the family "shop", revision 42, that runs one container, "web".
func NewTask(arn, container string) Task {
	return Task{
		"Arn": arn, "DesiredStatus": "RUNNING", "KnownStatus": "RUNNING", "Family": "shop", "Version": "42",
		"Containers": []map[string]any{{
			"DockerId": container, "DockerName": "ecs-shop-42-web-aabb", "Name": "web", "Image": "shop:1", "ImageID": "sha256:11",
			"CreatedAt": "2026-11-23T10:00:00.5Z", "StartedAt": "2026-11-23T10:00:01.5Z", "RestartCount": 1,
			"Ports":    []map[string]any{{"ContainerPort": 80, "Protocol": "tcp", "HostPort": 8080, "HostIp": "0.0.0.0"}},
			"Networks": []map[string]any{{"NetworkMode": "bridge", "IPv4Addresses": []string{"172.17.0.2"}}},
			"Volumes":  []map[string]any{{"Source": "/data", "Destination": "/data"}},
		}},
	}
}

// holds reports whether a container is one of a task's.
func holds(task Task, container string) bool {
	containers, _ := task["Containers"].([]map[string]any)
	return slices.ContainsFunc(containers, func(c map[string]any) bool { return c["DockerId"] == container })
}

// ServeHTTP answers one request.
func (a *Agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.requests = append(a.requests, r.Host+r.URL.RequestURI())
	delay, misbehave := a.Delay, a.Misbehave
	state := answers{cluster: a.Cluster, tasks: slices.Clone(a.Tasks), endpoints: a.Endpoints}
	a.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return
	}
	if misbehave == nil || !misbehave(w, r) {
		w.Header().Set("Content-Type", "application/json")
		state.write(w, r)
	}
}

// answers is what the agent knows when it is asked.
type answers struct {
	cluster   string
	tasks     []Task
	endpoints map[string]string
}

func (a *answers) write(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	switch {
	case r.URL.Path == "/v1/metadata":
		encode(w, map[string]any{"Cluster": a.cluster, "ContainerInstanceArn": InstanceARN, "Version": Version})
	case r.URL.Path == "/v1/tasks" && query.Has("dockerid"):
		a.writeTask(w, func(task Task) bool { return holds(task, query.Get("dockerid")) })
	case r.URL.Path == "/v1/tasks" && query.Has("taskarn"):
		a.writeTask(w, func(task Task) bool { return task["Arn"] == query.Get("taskarn") })
	case r.URL.Path == "/v1/tasks":
		encode(w, map[string]any{"Tasks": a.tasks})
	case strings.HasPrefix(r.URL.Path, "/v4/"):
		a.writeMetadata(w, strings.TrimPrefix(r.URL.Path, "/v4/"))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (a *answers) writeTask(w http.ResponseWriter, match func(Task) bool) {
	if i := slices.IndexFunc(a.tasks, match); i >= 0 {
		encode(w, a.tasks[i])
		return
	}
	w.WriteHeader(http.StatusNotFound)
	_, _ = io.WriteString(w, `{"Arn":"","KnownStatus":"","Family":"","Version":"","Containers":null}`)
}

// writeMetadata answers for ENDPOINT/task and ENDPOINT/taskWithTags.
func (a *answers) writeMetadata(w http.ResponseWriter, path string) {
	endpoint, what, _ := strings.Cut(path, "/")
	container, known := a.endpoints[endpoint]
	i := slices.IndexFunc(a.tasks, func(task Task) bool { return holds(task, container) })
	if !known || i < 0 || what != "task" && what != "taskWithTags" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	task := a.tasks[i]
	answer := map[string]any{
		"Cluster": a.cluster, "TaskARN": task["Arn"], "Family": task["Family"], "Revision": task["Version"],
		"DesiredStatus": "RUNNING", "KnownStatus": "RUNNING", "LaunchType": "EC2", "ServiceName": "shop-service",
		"AvailabilityZone": "eu-central-1a", "Containers": task["Containers"],
	}
	if what == "taskWithTags" {
		answer["TaskTags"] = map[string]string{"team": "shop", "stage": "test", "db-password": "hunter2"}
	}
	encode(w, answer)
}

func encode(w io.Writer, answer any) {
	_ = json.NewEncoder(w).Encode(answer) // whoever asked may be gone
}
