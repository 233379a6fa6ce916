package tiny

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestProgram(t *testing.T) {
	for _, sleep := range []time.Duration{0, 20 * time.Millisecond, 1001 * time.Millisecond} {
		file := filepath.Join(t.TempDir(), "tiny")
		if err := os.WriteFile(file, Program(sleep), 0o700); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if out, err := exec.Command(file, "an argument").CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v, output %q; want success and none", err, out)
		}
		if took := time.Since(start); took < sleep {
			t.Errorf("it slept for %v, want %v", took, sleep)
		}
	}
}
