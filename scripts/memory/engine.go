package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/taskguard/taskguard/scripts/ecstest"
)

// engine answers as dockerd 20.10 does, for containers that run, none of which starts or ends.
type engine struct{ containers []string } // their ids

// fleet serves the containers: an engine at a socket in dir, and an ECS agent. Each container is of a task of its own.
func fleet(ctx context.Context, dir string, containers []string) (socket, ecs string, stop func(), err error) {
	socket = filepath.Join(dir, "docker.sock")
	docker, err := net.Listen("unix", socket)
	if err != nil {
		return "", "", nil, fmt.Errorf("serve docker: %w", err)
	}
	introspection, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		docker.Close()
		return "", "", nil, fmt.Errorf("serve ecs agent: %w", err)
	}
	agent := &ecstest.Agent{Cluster: "demo"}
	for i, id := range containers {
		agent.Tasks = append(agent.Tasks, ecstest.NewTask(taskARN(i), id))
	}
	base := func(net.Listener) context.Context { return ctx }
	servers := []*http.Server{{Handler: &engine{containers}, BaseContext: base}, {Handler: agent, BaseContext: base}}
	go servers[0].Serve(docker)
	go servers[1].Serve(introspection)
	return socket, "http://" + introspection.Addr().String(), func() {
		for _, server := range servers {
			_ = server.Close() // its connections are local
		}
	}, nil
}

func taskARN(i int) string {
	return fmt.Sprintf("arn:aws:ecs:eu-central-1:123456789012:task/demo/%032x", i+1)
}

// ServeHTTP answers one request.
func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v1.41")
	w.Header().Set("Content-Type", "application/json")
	switch {
	case path == "/_ping":
		w.Header().Set("Api-Version", "1.41")
		w.Header().Set("Ostype", "linux")
	case path == "/info":
		_, _ = io.WriteString(w, `{"SecurityOptions":["name=seccomp,profile=default"]}`)
	case path == "/events":
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case path == "/containers/json":
		list := make([]map[string]any, 0, len(e.containers))
		for i, id := range e.containers {
			list = append(list, listed(i, id))
		}
		_ = json.NewEncoder(w).Encode(list) // whoever asked may be gone
	case strings.HasPrefix(path, "/images/"):
		_, _ = io.WriteString(w, `{"Id":"`+imageID+`","RepoDigests":["registry.example.com/shop@`+imageID+`"]}`)
	case strings.HasPrefix(path, "/containers/"):
		e.inspect(w, strings.TrimSuffix(strings.TrimPrefix(path, "/containers/"), "/json"))
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"message":"page not found"}`)
	}
}

const (
	image   = "registry.example.com/team/shop:2026-11-23"
	imageID = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
)

func name(i int) string { return fmt.Sprintf("ecs-shop-42-web-%016x", i) }

func labels(i int) map[string]string {
	const prefix = "com.amazonaws.ecs."
	return map[string]string{
		prefix + "cluster": "demo", prefix + "container-name": "web", prefix + "task-arn": taskARN(i),
		prefix + "task-definition-family": "shop", prefix + "task-definition-version": "42",
		"org.opencontainers.image.source": "https://git.example.com/team/shop", "team": "shop", "stage": "production",
		"org.opencontainers.image.revision": "0f3b8f0e5d0f4f0a9f430d9d1c6b7a550f3b8f0e",
	}
}

func listed(i int, id string) map[string]any {
	return map[string]any{
		"Id": id, "Names": []string{"/" + name(i)}, "Image": image, "ImageID": imageID, "Labels": labels(i),
		"Command": "/usr/local/bin/shop --listen :8080", "Created": 1795389412, "State": "running", "Status": "Up 2 days",
		"Ports": []any{}, "Mounts": []any{}, "HostConfig": map[string]any{"NetworkMode": "bridge"},
	}
}

func (e *engine) inspect(w http.ResponseWriter, wanted string) {
	for i, id := range e.containers {
		if id == wanted {
			_ = json.NewEncoder(w).Encode(inspected(i, id))
			return
		}
	}
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprintf(w, `{"message":"No such container: %s"}`, wanted)
}

func inspected(i int, id string) map[string]any {
	var env []string
	for n := range 20 {
		env = append(env, fmt.Sprintf("SHOP_SETTING_%d=a value of usual length, the %dth", n, n))
	}
	port := []map[string]any{{"HostIp": "0.0.0.0", "HostPort": fmt.Sprint(32768 + i)}}
	return map[string]any{
		"Id": id, "Name": "/" + name(i), "Created": "2026-11-21T10:00:00.5Z", "Image": imageID, "RestartCount": 1,
		"Path": "/usr/local/bin/shop", "Args": []string{"--listen", ":8080", "--database", "postgres://db.internal:5432/shop"},
		"State": map[string]any{"Status": "running", "Running": true, "Pid": 1, "StartedAt": "2026-11-21T10:00:01.5Z"},
		"Config": map[string]any{
			"Image": image, "Labels": labels(i), "Env": env, "User": "1000", "ExposedPorts": map[string]any{"8080/tcp": map[string]any{}},
		},
		"HostConfig": map[string]any{
			"NetworkMode": "bridge", "CapAdd": []string{"NET_BIND_SERVICE"}, "CapDrop": []string{"ALL"},
			"PortBindings": map[string]any{"8080/tcp": port}, "Binds": []string{"/srv/data:/data", "/etc/ssl/certs:/certs:ro"},
		},
		"Mounts": []map[string]any{
			{"Type": "bind", "Source": "/srv/data", "Destination": "/data", "RW": true},
			{"Type": "bind", "Source": "/etc/ssl/certs", "Destination": "/certs", "RW": false},
		},
		"NetworkSettings": map[string]any{
			"Ports": map[string]any{"8080/tcp": port},
			"Networks": map[string]any{"bridge": map[string]any{
				"IPAddress": fmt.Sprintf("172.17.%d.%d", i>>8&255, i&255), "MacAddress": "02:42:ac:11:00:02",
			}},
		},
	}
}
