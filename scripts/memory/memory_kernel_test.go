package main

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A small host, so that the tool stays one that works.
func TestMemoryOfASmallHost(t *testing.T) {
	if os.Geteuid() != 0 {
		err := errors.New("observing the kernel needs root")
		if slices.Contains(strings.Split(os.Getenv("TASKGUARD_REQUIRE"), ","), "kernel") {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	m := machine{config: "../../packaging/agent.yaml", containers: 20, processes: 200, limit: 96}
	m.bin = t.TempDir()
	m.storm = m.bin + "/storm"
	build := exec.Command("go", "build", "-buildvcs=false", "-o", m.bin+"/", "../../cmd/...", "../storm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var out strings.Builder
	if err := m.run(t.Context(), &out); err != nil {
		t.Error(err)
	}
	t.Logf("\n%s", &out)
	if lines := strings.Count(out.String(), "\n"); lines != 6 {
		t.Errorf("%d lines, want 6", lines)
	}
	m.limit = 1
	if err := m.run(t.Context(), &out); err == nil || !strings.Contains(err.Error(), "want 1 at most") {
		t.Errorf("with a limit of 1 MB: %v", err)
	}
	if left, err := os.ReadDir("/sys/fs/cgroup/memory"); err == nil && slices.ContainsFunc(left, func(e os.DirEntry) bool {
		return strings.HasPrefix(e.Name(), "taskguard-memory-")
	}) {
		t.Error("its cgroups are still there")
	}
}
