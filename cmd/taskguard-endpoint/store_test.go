package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"testing"
	"time"
)

// What is received is in the bucket when serve has ended, and read from there it is what the log has.
func TestStoredEventsAreReadAgain(t *testing.T) {
	data, bucket := t.TempDir(), "file://"+t.TempDir()
	e := startServe(t, data, "--set", "store.url="+bucket)
	m := newMaker(t, 1)
	for i := range 20 {
		e.mustPost(t, m.next(nil, exec1(fmt.Sprint("p", i), nil), exec1("q", nil)), "stored")
	}
	e.close(t)
	read := func(args ...string) map[string]int {
		t.Helper()
		var out bytes.Buffer
		if err := run(t.Context(), append([]string{"events", "--json"}, args...), &out, io.Discard); err != nil {
			t.Fatal(err)
		}
		lines := map[string]int{}
		for line := range bytes.Lines(out.Bytes()) {
			if !json.Valid(line) {
				t.Errorf("no JSON: %s", line)
			}
			lines[string(line)]++
		}
		return lines
	}
	want := read("--data", data)
	equal(t, "events in the bucket", read("--store", bucket), want)
	equal(t, "events of another kind", len(read("--store", bucket, "--kind", "dns.query")), 0)
	equal(t, "events since later", len(read("--store", bucket, "--since", time.Now().Add(2*time.Hour).Format(time.RFC3339))), 0)

	// Serving again stores nothing twice.
	e = startServe(t, data, "--set", "store.url="+bucket, "--set", "store.interval=1s")
	e.mustPost(t, m.next(nil, exec1("more", nil)), "stored")
	for len(read("--store", bucket)) < 41 {
		time.Sleep(20 * time.Millisecond)
	}
	e.close(t)
	equal(t, "events after more", len(read("--store", bucket)), len(read("--data", data)))
	total := 0
	for _, times := range read("--store", bucket) {
		total += times
	}
	equal(t, "events in all", total, 41)
}

func TestStoreSettings(t *testing.T) {
	for _, url := range []string{"s3://bucket?region=eu-central-1", "file:///var/lib/x"} {
		if !validBucket(url) {
			t.Errorf("%s is refused", url)
		}
	}
	for _, url := range []string{"", "x", "gs://bucket", "s3:", "file://host/x", "file:x", "://"} {
		if validBucket(url) {
			t.Errorf("%s is taken", url)
		}
	}
}
