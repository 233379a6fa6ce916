package container

import (
	"reflect"
	"strings"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
)

const (
	id1    = "3c1b8f5d2a6e4b0f9d7c5a3e1f0b2d4c6e8a0c2e4f6b8d0a1c3e5f7b9d1c3e5f"
	id2    = "aa00bb11cc22dd33ee44ff5500661177228833994400551166227733884499aa"
	task32 = "0123456789abcdef0123456789abcdef"
	uuid   = "01234567-89ab-cdef-0123-456789abcdef"
	build  = "k2o0mf5v1uz7gqk4dr3xw8b9y"
)

func TestParsePath(t *testing.T) {
	tests := []struct{ name, path, id, runtime, task string }{
		{"ecs agent, v1", "/ecs/" + task32 + "/" + id1, id1, "docker", task32},
		{"ecs agent, uuid task", "/ecs/" + uuid + "/" + id1, id1, "docker", uuid},
		{"ecs agent, cluster", "/ecs/my-cluster/" + task32 + "/" + id1, id1, "docker", task32},
		{"ecs agent, systemd", "/ecstasks.slice/ecstasks-" + task32 + ".slice/docker-" + id1 + ".scope",
			id1, "docker", task32},
		{"ecs agent, systemd, uuid", "/ecstasks.slice/ecstasks-01234567.slice/ecstasks-" + uuid + ".slice/docker-" + id1 +
			".scope", id1, "docker", uuid},
		{"ecs agent, no task limits", "/ecs/" + id1, id1, "docker", ""},
		{"fargate", "/ecs/" + task32 + "/" + task32 + "-1234567890", task32 + "-1234567890", "containerd", task32},
		{"fargate, no parent", "/" + task32 + "-7", task32 + "-7", "containerd", task32},
		{"docker, cgroupfs", "/docker/" + id1, id1, "docker", ""},
		{"docker, no leading slash", "docker/" + id1, id1, "docker", ""},
		{"docker, systemd", "/system.slice/docker-" + id1 + ".scope", id1, "docker", ""},
		{"docker, systemd name without systemd", "/system.slice:docker:" + id1, id1, "docker", ""},
		{"docker, own parent", "/batch/jobs/" + id1, id1, "", ""},
		{"docker, removed cgroup", "/docker/" + id1 + " (deleted)", id1, "docker", ""},
		{"docker, seen from a cgroup namespace", "/../../docker/" + id1, id1, "docker", ""},
		{"docker, sub-cgroup", "/docker/" + id1 + "/init.scope", id1, "docker", ""},
		{"docker, deep sub-cgroup", "/ecs/" + task32 + "/" + id1 + "/system.slice/cron.service", id1, "docker", task32},
		{"docker in docker", "/docker/" + id1 + "/docker/" + id2, id1, "docker", ""},
		{"docker in an ecs task", "/ecs/" + task32 + "/" + id1 + "/ecs/" + uuid + "/" + id2, id1, "docker", task32},
		{"buildkit, cgroupfs", "/docker/buildkit/" + build, build, "buildkit", ""},
		{"buildkit, systemd", "/system.slice/docker-" + build + ".scope", build, "buildkit", ""},
		{"nerdctl", "/system.slice/nerdctl-" + id1 + ".scope", id1, "containerd", ""},
		{"podman, systemd", "/machine.slice/libpod-" + id1 + ".scope/container", id1, "podman", ""},
		{"podman, cgroupfs", "/libpod_parent/libpod-" + id1, id1, "podman", ""},
		{"podman, rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id1 + ".scope",
			id1, "podman", ""},
		{"kubernetes, containerd", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod01234567_89ab_cdef_" +
			"0123_456789abcdef.slice/cri-containerd-" + id1 + ".scope", id1, "containerd", ""},
		{"kubernetes, crio", "/kubepods.slice/kubepods-pod0.slice/crio-" + id1 + ".scope", id1, "cri-o", ""},
		{"kubernetes, cgroupfs", "/kubepods/besteffort/pod" + uuid + "/" + id1, id1, "", ""},
		{"kubernetes, colons", "/system.slice/containerd.service/kubepods-burstable-pod0.slice:cri-containerd:" + id1,
			id1, "containerd", ""},

		{name: "root", path: "/"},
		{name: "empty", path: ""},
		{name: "service", path: "/system.slice/docker.service"},
		{name: "session", path: "/user.slice/user-0.slice/session-1.scope"},
		{name: "32 digits that are no task's", path: "/process_api/" + task32},
		{name: "a task's own cgroup", path: "/ecs/demo/" + task32},
		{name: "a task's own slice", path: "/ecstasks.slice/ecstasks-" + task32 + ".slice"},
		{name: "podman's monitor", path: "/machine.slice/libpod-conmon-" + id1 + ".scope"},
		{name: "crio's monitor", path: "/kubepods.slice/crio-conmon-" + id1 + ".scope"},
		{name: "63 digits", path: "/docker/" + id1[1:]},
		{name: "65 digits", path: "/docker/" + id1 + "0"},
		{name: "capitals", path: "/docker/" + strings.ToUpper(id1)},
		{name: "not hexadecimal", path: "/docker/g" + id1[1:]},
		{name: "buildkit's parent", path: "/docker/buildkit"},
		{name: "25 letters elsewhere", path: "/docker/" + build},
		{name: "fargate without a number", path: "/ecs/" + task32 + "/" + task32 + "-"},
		{name: "fargate with a long number", path: "/ecs/" + task32 + "/" + task32 + "-" + strings.Repeat("1", 21)},
		{name: "prefix without dash", path: "/docker" + id1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, ok := ParsePath(tt.path)
			if ok != (tt.id != "") || c.ID != tt.id || c.Runtime != tt.runtime || taskOf(c) != tt.task {
				t.Errorf("ParsePath(%q) = %+v (task %q), %v; want id %q runtime %q task %q",
					tt.path, c, taskOf(c), ok, tt.id, tt.runtime, tt.task)
			}
		})
	}
}

func taskOf(c event.Container) string {
	if c.ECS == nil {
		return ""
	}
	return c.ECS.TaskID
}

func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{
		"/ecs/demo/" + task32 + "/" + id1, "/ecs/" + uuid + "/" + id1 + "/init.scope", "/docker/" + id1 + " (deleted)",
		"/ecstasks-" + task32 + ".slice/docker-" + id1 + ".scope", "/system.slice:docker:" + id1,
		"/docker/buildkit/" + build, "/ecs/x/" + task32 + "-42", "/kubepods/pod1/crio-" + id2, "/",
	} {
		f.Add(seed, "/docker/"+id2)
	}
	f.Fuzz(func(t *testing.T, path, below string) {
		c, ok := ParsePath(path)
		if !ok {
			if !reflect.ValueOf(c).IsZero() {
				t.Fatalf("ParsePath(%q) = %+v, false: want nothing", path, c)
			}
			return
		}
		if !strings.Contains(path, c.ID) || !isHex(c.ID, 64) && !isFargate(c.ID) && !isBuild(c.ID) {
			t.Errorf("ParsePath(%q): id %q", path, c.ID)
		}
		if task := taskOf(c); c.ECS != nil && (!strings.Contains(path, task) || !isTask(task)) {
			t.Errorf("ParsePath(%q): task id %q", path, task)
		}
		// Whatever is below a container, and wherever the hierarchy is mounted, it is the same container.
		for _, same := range []string{path + "/" + below, "/" + path, path + "/", path + "/docker/" + id2} {
			again, ok := ParsePath(same)
			if !ok || again.ID != c.ID || again.Runtime != c.Runtime || taskOf(again) != taskOf(c) {
				t.Errorf("ParsePath(%q) = %+v, but ParsePath(%q) = %+v", path, c, same, again)
			}
		}
		if c.Pending || c.Name != "" || c.Image != "" {
			t.Errorf("ParsePath(%q) made up %+v", path, c)
		}
	})
}
