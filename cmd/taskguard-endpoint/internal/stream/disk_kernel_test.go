package stream

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/taskguard/taskguard/sender/batch"
)

// A disk that fills up under the log: what was acknowledged stays, and the log says that it needs to be opened again.
func TestRealDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		if strings.Contains(os.Getenv("TASKGUARD_REQUIRE"), "kernel") {
			t.Fatalf("mount tmpfs: %v", err)
		}
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	s := open(t, Config{Dir: dir, MinFree: 1, Timeout: time.Second})
	var acknowledged []string
	for seq := uint64(1); ; seq++ {
		b := newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: seq}, nil, nil, "x")
		b.frame = append(b.frame, skippableFrame(100<<10)...)
		if _, err := s.Append(t.Context(), &b.header, b.events, b.frame); err != nil {
			t.Logf("batch %d: %v", seq, err)
			break
		}
		acknowledged = append(acknowledged, fmt.Sprintf("%d:x", seq))
	}
	<-s.Failed()
	s.Close()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	s = open(t, Config{Dir: dir, MinFree: 1})
	if len(acknowledged) == 0 {
		t.Fatal("nothing was stored")
	}
	equal(t, "log", readAll(t, s), acknowledged)
	if !newBatch(t, batch.ID{Agent: agentA, Epoch: 1, Sequence: 1000}, nil, nil, "x").appendTo(t, s) {
		t.Error("not stored when there was room again")
	}
	s.Close()
}
