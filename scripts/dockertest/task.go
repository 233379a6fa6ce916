package dockertest

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Task is an ECS task as its containers show it.
type Task struct {
	ID  string // 32 hexadecimal digits
	ARN string // of a task in the cluster "demo"
	// CgroupParent and Labels are what the ECS agent gives the task's containers, and Args are the same as arguments of
	// docker run. The container is "web" in revision 42 of the family "shop".
	CgroupParent string
	Labels       map[string]string
	Args         []string
}

// taskParent is the cgroup that the tasks' cgroups are in.
const taskParent = "/ecs/demo"

// NewTask returns a new task. Its cgroups are removed with the engine.
func (d *Daemon) NewTask(t testing.TB) Task {
	t.Helper()
	var random [16]byte
	rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	task := Task{ID: id, ARN: "arn:aws:ecs:eu-central-1:123456789012:task/demo/" + id, CgroupParent: taskParent + "/" + id}
	task.Labels = map[string]string{
		"com.amazonaws.ecs.cluster":                 "demo",
		"com.amazonaws.ecs.container-name":          "web",
		"com.amazonaws.ecs.task-arn":                task.ARN,
		"com.amazonaws.ecs.task-definition-family":  "shop",
		"com.amazonaws.ecs.task-definition-version": "42",
	}
	task.Args = []string{"--cgroup-parent", task.CgroupParent}
	for _, label := range slices.Sorted(maps.Keys(task.Labels)) {
		task.Args = append(task.Args, "--label", label+"="+task.Labels[label])
	}
	d.tasks = append(d.tasks, task)
	return task
}

// removeTasks removes the tasks' cgroups from one hierarchy: an engine does not remove a parent that it was told to
// use. What is above them stays, as another engine may be about to use it.
func removeTasks(hierarchy string, tasks []Task) {
	for _, task := range tasks {
		os.Remove(filepath.Join(hierarchy, taskParent, task.ID))
	}
}

type mount struct{ point, kind string }

// readMounts returns this machine's mounts in the order in which they were made.
func readMounts() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	defer f.Close()
	var mounts []mount
	for lines := bufio.NewScanner(f); lines.Scan(); {
		options, source, _ := strings.Cut(lines.Text(), " - ")
		if o, s := strings.Fields(options), strings.Fields(source); len(o) > 4 && len(s) > 0 {
			mounts = append(mounts, mount{point: o[4], kind: s[0]})
		}
	}
	return mounts, nil
}
