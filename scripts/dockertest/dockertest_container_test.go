package dockertest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What Start promises: an engine of its own that runs containers, survives its restart, and leaves nothing.
func TestDaemonLeavesNothing(t *testing.T) {
	var d *Daemon
	var pid, task string
	t.Run("use", func(t *testing.T) {
		d = Start(t)
		d.Import(t, "shop:1")
		demo := d.NewTask(t)
		task = demo.ID
		args := append([]string{"run", "--detach", "--net", "none", "--name", "web"}, demo.Args...)
		d.Run(t, append(args, "shop:1", "sleep", "1000")...)
		pid = d.Run(t, "inspect", "--format", "{{.State.Pid}}", "web")
		cgroup, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
		if err != nil || !strings.Contains(string(cgroup), "/ecs/demo/"+task+"/") {
			t.Errorf("cgroup %s, %v", cgroup, err)
		}
		d.Restart(t)
		if got := d.Run(t, "exec", "web", "echo", "still here"); got != "still here" {
			t.Errorf("after the restart: %q", got)
		}
		d.Stop(t)
	})
	if d == nil {
		t.SkipNow() // the subtest said why
	}
	if _, err := os.Stat("/proc/" + pid); err == nil {
		t.Error("the container's process is still there")
	}
	if _, err := os.Stat(d.dir); err == nil {
		t.Error("the engine's files are still there")
	}
	mounts, err := readMounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.point, d.dir) {
			t.Errorf("%s is still mounted", m.point)
		}
		if _, err := os.Stat(filepath.Join(m.point, "ecs", "demo", task)); err == nil {
			t.Errorf("the task's cgroup is still there in %s", m.point)
		}
	}
}
