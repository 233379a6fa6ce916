package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
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
