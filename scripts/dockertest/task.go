package dockertest

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Task is an ECS task as its containers show it.
type Task struct {
	ID  string // 32 hexadecimal digits
	ARN string // of a task in the cluster "demo"
	// Args are the arguments of docker run that make a container one of the task's: its cgroup's parent and the labels
	// that the ECS agent sets. The container is "web" in revision 42 of the family "shop".
	Args []string
}

// taskParent is the cgroup that the tasks' cgroups are in.
const taskParent = "/ecs/demo"

// NewTask returns a new task. Its cgroups are removed with the engine.
func (d *Daemon) NewTask(t testing.TB) Task {
	t.Helper()
	var random [16]byte
	rand.Read(random[:])
	id := hex.EncodeToString(random[:])
	task := Task{ID: id, ARN: "arn:aws:ecs:eu-central-1:123456789012:task/demo/" + id}
	task.Args = []string{"--cgroup-parent", taskParent + "/" + id}
	for _, label := range []string{
		"cluster=demo", "container-name=web", "task-arn=" + task.ARN,
		"task-definition-family=shop", "task-definition-version=42",
	} {
		task.Args = append(task.Args, "--label", "com.amazonaws.ecs."+label)
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
