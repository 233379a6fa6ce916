package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestStorm(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-n", "20", "-rate", "10000", "-opens", "7"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	var r result
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.PID != os.Getpid() || r.Count != 20 || r.Opens != 7 || r.Seconds <= 0 {
		t.Errorf("result %+v", r)
	}
}

func TestStormStopsAtTheFirstFailure(t *testing.T) {
	if err := run(t.Context(), []string{"-n", "3", "-child", "/bin/false"}, io.Discard, io.Discard); err == nil {
		t.Error("a child that failed was not reported")
	}
}

func TestTinyProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tiny")
	if err := os.WriteFile(file, tinyProgram(), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(file).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v, output %q; want success and none", err, out)
	}
}
