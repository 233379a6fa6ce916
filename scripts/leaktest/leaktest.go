// Package leaktest tells a test what it left behind in its own process: goroutines and open files.
//
// It promises: what has been told to end gets some time for it, and a failure shows what runs, and what is open.
package leaktest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long what has been told to end may take.
const patience = 20 * time.Second

// Check notes what the process has now. What it returns fails the test if there are more goroutines then, or not as many
// open files.
func Check(t testing.TB) (after func()) {
	t.Helper()
	return check(t, patience)
}

func check(t testing.TB, patience time.Duration) (after func()) {
	t.Helper()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	return func() {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			now := openFiles(t)
			if runtime.NumGoroutine() <= goroutines && len(now) == len(files) {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("%d goroutines, were %d; %d open files, were %d\nfiles before:\n%s\nnow:\n%s\ngoroutines:\n%s",
					runtime.NumGoroutine(), goroutines, len(now), len(files), strings.Join(files, "\n"),
					strings.Join(now, "\n"), stacks())
				return
			}
		}
	}
}

// openFiles lists the descriptors of the process and what they lead to.
func openFiles(t testing.TB) []string {
	t.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil { // the directory itself, which was open while it was read
			continue
		}
		list = append(list, fmt.Sprintf("%s -> %s", entry.Name(), target))
	}
	return list
}

func stacks() []byte {
	text := make([]byte, 1<<20)
	return text[:runtime.Stack(text, true)]
}
