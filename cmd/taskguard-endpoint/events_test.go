package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ingest"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// fill stores two hosts' events: names are those of their processes.
func fill(t *testing.T, e *endpoint) {
	web := &event.Container{ID: "aaaa1111", Name: "web"}
	late := &event.Container{ID: "bbbb2222", Pending: true}
	old := exec1("old", nil)
	old.Time = old.Time.Add(-time.Hour)
	failed := exec1("failed", nil)
	failed.Kind, failed.Result = event.FileOpen, 13
	failed.File = &event.File{Path: "/etc/shadow"}
	a, b := newMaker(t, 1), newMaker(t, 2)
	e.mustPost(t, a.next(nil, old, exec1("web1", web), exec1("late1", late)), "stored")
	e.mustPost(t, b.next(nil, failed, exec1("b1", nil)), "stored")
	e.mustPost(t, a.next([]event.Container{{ID: "bbbb2222", Name: "db", Image: "postgres"}}, exec1("a2", nil)), "stored")
}

func TestEventsFilters(t *testing.T) {
	e := startServe(t, t.TempDir())
	fill(t, e)
	cases := []struct{ args, want string }{
		{"", "old web1 late1 failed b1 a2"},
		{"--kind process.exec", "old web1 late1 b1 a2"},
		{"--kind file.open,net.connect", "failed"},
		{"--kind file.open --kind process.exec", "old web1 late1 failed b1 a2"},
		{"--kind dns.query", ""},
		{"--container aaaa", "web1"},
		{"--container web", "web1"},
		{"--container db", "late1"}, // described after its event was stored
		{"--container nothing", ""},
		{"--host host2", "failed b1"},
		{"--since 10m", "web1 late1 failed b1 a2"},
		{"--since " + time.Now().Add(-2*time.Hour).Format(time.RFC3339), "old web1 late1 failed b1 a2"},
		{"--since 10m --host host1 --kind process.exec --container web", "web1"},
	}
	check := func(how string) {
		for _, c := range cases {
			args := append([]string{"events", "--json", "--data", e.data}, strings.Fields(c.args)...)
			var names []string
			for line := range strings.Lines(mustCommand(t, args...)) {
				var got event.Event
				if err := json.Unmarshal([]byte(line), &got); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				if again, _ := json.Marshal(&got); string(again)+"\n" != line {
					t.Errorf("line is not the event's JSON form:\n%s%s", line, again)
				}
				names = append(names, got.Process.Name)
			}
			equal(t, how+" "+c.args, strings.Join(names, " "), c.want)
		}
	}
	check("from serve")
	e.close(t)
	check("from the folder")
}

func TestEventsForPeople(t *testing.T) {
	e := startServe(t, t.TempDir())
	fill(t, e)
	served := mustCommand(t, "events", "--data", e.data)
	lines := strings.Split(strings.TrimSpace(served), "\n")
	if len(lines) != 7 || !strings.Contains(lines[0], "KIND") || !strings.Contains(served, "/etc/shadow") {
		t.Errorf("want a heading and 6 events:\n%s", served)
	}
	if strings.Contains(served, "\x1b") {
		t.Error("colours, but this is no terminal")
	}
	equal(t, "counts", mustCommand(t, "events", "--count", "--data", e.data),
		"file.open                       1\nprocess.exec                    5\ntotal                           6\n")
	equal(t, "counts of some", countEvents(t, e.data, "--host", "host2"), counts{"file.open": 1, "process.exec": 1})
	e.close(t)
	equal(t, "from the folder", mustCommand(t, "events", "--data", e.data), served)
}

// A newer agent's kind reaches --json and --count, and is not silently left out for people.
func TestUnknownKinds(t *testing.T) {
	e := startServe(t, t.TempDir())
	strange := exec1("a", nil)
	strange.Kind = 200
	e.mustPost(t, newMaker(t, 1).next(nil, strange, exec1("b", nil)), "stored")
	equal(t, "counts", countEvents(t, e.data), counts{"kind(200)": 1, "process.exec": 1})
	if out := mustCommand(t, "events", "--json", "--data", e.data); !strings.Contains(out, `"kind(200)"`) {
		t.Errorf("json: %s", out)
	}
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), []string{"events", "--data", e.data}, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	shown := strings.Contains(stdout.String(), "kind(200)")
	if counted := strings.Contains(stderr.String(), "1 events of kinds unknown"); shown == counted {
		t.Errorf("want it shown or counted:\n%s%s", stdout.String(), stderr.String())
	}
}

func TestFollow(t *testing.T) {
	e := startServe(t, t.TempDir())
	m := newMaker(t, 1)
	e.mustPost(t, m.next(nil, exec1("before", nil)), "stored")
	ctx, interrupt := context.WithCancel(t.Context())
	out, w := io.Pipe()
	ended := make(chan error)
	go func() { ended <- run(ctx, []string{"events", "--follow", "--json", "--data", e.data}, w, io.Discard) }()
	lines := bufio.NewScanner(out)
	next := func() string {
		var got event.Event
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &got) != nil {
			t.Fatalf("no event: %q %v", lines.Text(), lines.Err())
		}
		return got.Process.Name
	}
	equal(t, "first", next(), "before")
	e.mustPost(t, m.next(nil, exec1("after", nil)), "stored")
	equal(t, "second", next(), "after")
	interrupt()
	if err := <-ended; err != nil {
		t.Errorf("interrupted: %v, want exit 0", err)
	}
}

func TestFollowEndsWithServe(t *testing.T) {
	e := startServe(t, t.TempDir())
	e.mustPost(t, newMaker(t, 1).next(nil, exec1("a", nil)), "stored")
	out, w := io.Pipe()
	ended := make(chan error)
	go func() { ended <- run(t.Context(), []string{"events", "-f", "--data", e.data}, w, io.Discard) }()
	lines := bufio.NewScanner(out)
	lines.Scan() // it is reading
	go io.Copy(io.Discard, out)
	e.close(t)
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "the endpoint stopped") {
		t.Errorf("got %v, want to be told that the endpoint stopped", err)
	}
}

func TestIncompleteReadsSaySo(t *testing.T) {
	data := t.TempDir()
	store, err := stream.Open(t.Context(), stream.Config{Dir: data})
	if err != nil {
		t.Fatal(err)
	}
	damaged := batch.Header{ID: batch.ID{Agent: event.ID{7}, Epoch: 1, Sequence: 1}}
	if _, err := store.Append(t.Context(), &damaged, 1, []byte("not a frame")); err != nil {
		t.Fatal(err)
	}
	store.Close()
	check := func(how string) {
		for _, args := range []string{"", "--json", "--count", "--count --json"} {
			_, err := command(t, append([]string{"events", "--data", data}, strings.Fields(args)...)...)
			if err == nil || exitCode(err) != 1 || !strings.Contains(err.Error(), "1 are damaged") {
				t.Errorf("%s %s: %v, want exit 1 and what is missing", how, args, err)
			}
		}
	}
	check("from the folder")
	startServe(t, data)
	check("from serve")
}

// stalledWriter is a client that takes the first bytes of an answer and then waits.
type stalledWriter struct {
	*httptest.ResponseRecorder
	stalled chan struct{}
	resume  chan struct{}
	lines   int
}

func (w *stalledWriter) Write(p []byte) (int, error) {
	if w.lines == 0 {
		close(w.stalled)
		<-w.resume
	}
	w.lines += bytes.Count(p, []byte("\n"))
	return len(p), nil
}

// A reader that does not read costs a few batches of memory, not the log.
func TestSlowReaderIsWaitedFor(t *testing.T) {
	store, err := stream.Open(t.Context(), stream.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	m := newMaker(t, 1)
	const batches, size = 60, 1 << 20
	noise := make([]byte, size)
	rng := rand.NewChaCha8([32]byte{})
	for range batches {
		_, _ = rng.Read(noise)
		e := event.Event{Time: time.Now(), Kind: event.DNSResponse, DNS: &event.DNS{Payload: noise}}
		frame := m.next(nil, e)
		h := batch.Header{ID: batch.ID{Agent: m.agent, Epoch: 1, Sequence: m.sequence}}
		if _, err := store.Append(t.Context(), &h, 1, frame); err != nil {
			t.Fatal(err)
		}
	}
	h := newLocalHandler(store, func() ingest.Counts { return ingest.Counts{} })
	w := &stalledWriter{httptest.NewRecorder(), make(chan struct{}), make(chan struct{}), 0}
	before := heap()
	ended := make(chan struct{})
	go func() {
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/events", nil))
		close(ended)
	}()
	<-w.stalled
	if grown := heap() - before; grown > batches*size/2 {
		t.Errorf("heap grew by %d MiB while the reader stalled; the log has %d", grown>>20, batches*size>>20)
	}
	close(w.resume)
	<-ended
	equal(t, "events read in the end", w.lines, batches)
	equal(t, "error", w.Header().Get(errorTrailer), "")
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestReadersAreBounded(t *testing.T) {
	h := &localHandler{readers: make(chan struct{}, maxReaders)}
	for range maxReaders {
		h.readers <- struct{}{}
	}
	w := httptest.NewRecorder()
	h.events(w, httptest.NewRequest(http.MethodGet, "/v1/events", nil))
	if w.Code != 503 || !strings.Contains(w.Body.String(), "16 others are reading") {
		t.Errorf("answer %d %s", w.Code, w.Body)
	}
}

func TestReadAPIRefusesBadQueries(t *testing.T) {
	h := newLocalHandler(nil, nil)
	for _, q := range []string{"kind=x", "since=x", "follow=maybe", "count=2", "follow=1&count=1"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/events?"+q, nil))
		if w.Code != 400 || w.Body.Len() == 0 {
			t.Errorf("%s: %d %s, want 400 with a reason", q, w.Code, w.Body)
		}
	}
}

func TestQueryRoundTrip(t *testing.T) {
	for _, q := range []query{
		{},
		{kinds: []event.Kind{event.ProcessExec, event.DNSQuery}, container: "a&b", host: "é=1", follow: true},
		{since: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), count: true},
	} {
		got, err := parseQuery(q.values())
		if err != nil {
			t.Errorf("%+v: %v", q, err)
		}
		equal(t, "query", fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", q))
	}
}
