package container

import (
	"strings"

	"github.com/taskguard/taskguard/collector/event"
)

// engines lists who names a cgroup "<prefix>-<id>[.scope]", or "<slice>:<prefix>:<id>" where a systemd name meets a
// runtime that does not use systemd.
var engines = [...]struct{ prefix, runtime string }{
	{"docker", docker},
	{"cri-containerd", "containerd"},
	{"nerdctl", "containerd"},
	{"crio", "cri-o"},
	{"libpod", "podman"},
}

const docker = "docker"

// ParsePath tells which container a cgroup belongs to, by its path alone: the container's id, the runtime where the
// path names it, and the ECS task id where the path has one. It understands what Docker, ECS on EC2 and on Fargate,
// BuildKit, containerd, CRI-O, Podman and Kubernetes name their cgroups, with either cgroup driver and under any
// parent.
//
// A cgroup below the container's own belongs to it too. Of containers in containers it is the outermost that
// counts: the only one the engine of this host knows, and the only one whose name no container can choose.
func ParsePath(path string) (event.Container, bool) {
	f, ok := find(path)
	if !ok {
		return event.Container{}, false
	}
	return f.container(), true
}

// found is what a path tells, as substrings of it.
type found struct{ id, runtime, task string }

// container returns a copy that does not keep the path alive.
func (f found) container() event.Container {
	c := event.Container{ID: strings.Clone(f.id), Runtime: f.runtime}
	if f.task != "" {
		c.ECS = &event.ECS{TaskID: strings.Clone(f.task)}
	}
	return c
}

// find is ParsePath without allocating.
func find(path string) (found, bool) {
	var task, above string
	ecs := false // below a cgroup of the ECS agent
	for more := true; more; {
		var name string
		name, path, more = strings.Cut(path, "/")
		name = strings.TrimSuffix(name, " (deleted)") // as /proc/PID/cgroup shows a removed cgroup
		if f, ok := findInName(name, above, ecs); ok {
			if f.task == "" {
				f.task = task
			}
			return f, true
		}
		switch slice, ok := strings.CutPrefix(name, "ecstasks-"); {
		case name == "ecs":
			ecs = true
		case ok && isTask(strings.TrimSuffix(slice, ".slice")):
			task = strings.TrimSuffix(slice, ".slice")
		case ecs && isTask(name):
			task = name
		}
		above = name
	}
	return found{}, false
}

// findInName says which container the cgroup with that name is, if it is one. above is its parent's name.
func findInName(name, above string, ecs bool) (found, bool) {
	if isHex(name, 64) {
		runtime := ""
		if ecs || above == docker {
			runtime = docker
		}
		return found{id: name, runtime: runtime}, true
	}
	if isFargate(name) {
		return found{id: name, runtime: "containerd", task: name[:32]}, true
	}
	if above == "buildkit" && isBuild(name) {
		return found{id: name, runtime: "buildkit"}, true
	}
	name = strings.TrimSuffix(name, ".scope")
	separator := "-"
	if slice := strings.IndexByte(name, ':'); slice >= 0 {
		name, separator = name[slice+1:], ":"
	}
	for _, engine := range engines {
		id, ok := strings.CutPrefix(name, engine.prefix)
		if !ok {
			continue
		}
		id, ok = strings.CutPrefix(id, separator)
		switch {
		case ok && isHex(id, 64):
			return found{id: id, runtime: engine.runtime}, true
		case ok && engine.runtime == docker && isBuild(id):
			return found{id: id, runtime: "buildkit"}, true
		}
	}
	return found{}, false
}

// isTask reports whether s is an ECS task id: 32 hexadecimal digits, or a UUID as older agents gave.
func isTask(s string) bool {
	if len(s) != 36 {
		return isHex(s, 32)
	}
	for i, n := range [...]int{8, 4, 4, 4, 12} {
		part, rest, _ := strings.Cut(s, "-")
		if !isHex(part, n) || i == 4 && rest != "" {
			return false
		}
		s = rest
	}
	return true
}

// isFargate reports whether s is a container's id on Fargate: its task's id and a number.
func isFargate(s string) bool {
	if len(s) < 34 || len(s) > 53 || s[32] != '-' || !isHex(s[:32], 32) {
		return false
	}
	return all(s[33:], func(c byte) bool { return '0' <= c && c <= '9' })
}

// isBuild reports whether s is the id of a build step's container: 25 digits in base 36.
func isBuild(s string) bool {
	return len(s) == 25 && all(s, func(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' })
}

func isHex(s string, length int) bool {
	return len(s) == length && all(s, func(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' })
}

func all(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}
