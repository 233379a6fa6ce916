package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// fakeStore counts what it is given.
type fakeStore struct {
	mu   sync.Mutex
	seen map[batch.ID]bool
	err  error
	hold chan struct{} // unless nil, Append waits for it
}

func (s *fakeStore) Append(ctx context.Context, h *batch.Header, _ int, _ []byte) (bool, error) {
	if s.hold != nil {
		<-s.hold
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false, s.err
	}
	if s.seen == nil {
		s.seen = make(map[batch.ID]bool)
	}
	repeat := s.seen[h.ID]
	s.seen[h.ID] = true
	return !repeat, nil
}

// partly is what a store says that has the first events of a batch.
type partly uint32

func (p partly) Error() string { return "has a part" }

func (p partly) StoredEvents() uint32 { return uint32(p) }

// A batch of which a part is stored is answered with how much that is, and is no fault of the store.
func TestConflict(t *testing.T) {
	h := newHandler(t, Config{Store: &fakeStore{err: fmt.Errorf("append: %w", partly(7))}})
	r := httptest.NewRequest(http.MethodPost, "/v1/batches", bytes.NewReader(newFrame(t, event.ID{1}, 1)))
	r.Header.Set("Content-Type", batch.ContentType)
	r.Header.Set("Taskguard-Agent", event.ID{1}.String())
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusConflict || w.Header().Get("Taskguard-Stored") != "7" || !strings.Contains(w.Body.String(), "has a part") {
		t.Errorf("answer %d, %v, %s", w.Code, w.Header(), w.Body)
	}
}

func newHandler(t testing.TB, cfg Config) *Handler {
	t.Helper()
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func newCodec(t testing.TB) *batch.Codec {
	t.Helper()
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

func newFrame(t testing.TB, agent event.ID, sequence uint64) []byte {
	b := batch.NewBuilder()
	b.Append(&event.Event{Time: time.Unix(1, 0), Kind: event.ProcessExec, Process: &event.Process{PID: 1, Name: "x"}})
	h := batch.Header{ID: batch.ID{Agent: agent, Epoch: 1, Sequence: sequence}}
	return newCodec(t).Compress(nil, b.Seal(nil, h, batch.Late{}))
}

func post(h http.Handler, contentType string, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/v1/batches", body)
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func field(t *testing.T, w *httptest.ResponseRecorder, name string) string {
	t.Helper()
	var body map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		t.Errorf("answer %q is no JSON: %v", w.Body, err)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
	return body[name]
}

func TestStoredThenRepeat(t *testing.T) {
	h := newHandler(t, Config{Store: &fakeStore{}, Version: "v1"})
	frame := newFrame(t, event.ID{1}, 1)
	for _, want := range []string{"stored", "repeat"} {
		w := post(h, batch.ContentType, bytes.NewReader(frame))
		if got := field(t, w, "status"); w.Code != 200 || got != want {
			t.Errorf("answer %d %q, want 200 %q", w.Code, got, want)
		}
	}
	if got, want := h.Counts(), (Counts{Stored: 1, Repeats: 1, Events: 1, Bytes: uint64(len(frame))}); got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
}

// onlyReader hides a body's length, so that it is sent in chunks.
type onlyReader struct{ io.Reader }

// Fields of sender/batch/batch.proto.
const (
	fieldEvents   = 9
	fieldLedger   = 11
	fieldEventDNS = 9
)

func TestRefusals(t *testing.T) {
	codec := newCodec(t)
	good := newFrame(t, event.ID{1}, 1)
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	frames := bytes.Repeat(codec.Compress(nil, make([]byte, batch.MaxSize)), 100)
	events := bytes.Repeat([]byte{fieldEvents<<3 | 2, 0}, batch.MaxSize/2)
	losses := message(fieldLedger, bytes.Repeat([]byte{2<<3 | 2, 0}, batch.MaxSize/4))
	compress := func(b []byte) io.Reader { return bytes.NewReader(codec.Compress(nil, b)) }
	for _, c := range []struct {
		name, contentType string
		body              io.Reader
		status            int
		reason            string
	}{
		{"no type", "", bytes.NewReader(good), 415, batch.ContentType},
		{"wrong type", "application/json", bytes.NewReader(good), 415, batch.ContentType},
		{"declared too large", batch.ContentType, bytes.NewReader(make([]byte, batch.MaxCompressed+1)), 413, "at most"},
		{"too large", batch.ContentType, onlyReader{bytes.NewReader(make([]byte, batch.MaxCompressed+1))}, 413, "more than"},
		{"empty", batch.ContentType, strings.NewReader(""), 400, "empty"},
		{"garbage", batch.ContentType, strings.NewReader("garbage"), 400, "decompress"},
		{"truncated", batch.ContentType, bytes.NewReader(good[:len(good)/2]), 400, "decompress"},
		{"flipped bit", batch.ContentType, bytes.NewReader(flipped), 400, "decompress"},
		{"no batch inside", batch.ContentType, compress([]byte("garbage")), 400, "decode"},
		{"no identity", batch.ContentType, compress(nil), 400, "identity"},
		{"dangling process", batch.ContentType, compress(dangling()), 400, "process 9 of 0"},
		{"bomb", batch.ContentType, compress(make([]byte, batch.MaxSize+1)), 413, "size limit"},
		{"bomb of many frames", batch.ContentType, bytes.NewReader(frames), 413, "size limit"},
		{"millions of events", batch.ContentType, compress(events), 413, "want at most"},
		{"millions of losses", batch.ContentType, compress(losses), 400, "want at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := &fakeStore{}
			h := newHandler(t, Config{Store: store})
			w := post(h, c.contentType, c.body)
			if got := field(t, w, "error"); w.Code != c.status || !strings.Contains(got, c.reason) {
				t.Errorf("answer %d %q, want %d %q", w.Code, got, c.status, c.reason)
			}
			if len(store.seen) != 0 {
				t.Errorf("stored %v", store.seen)
			}
			if got := h.Counts(); got != (Counts{Refused: 1}) {
				t.Errorf("counts %+v", got)
			}
		})
	}
}

// dangling is a batch with an event of a process that is not in its table.
func dangling() []byte {
	identity := append(append([]byte{1<<3 | 2, 16}, bytes.Repeat([]byte{7}, 16)...), 2<<3, 1, 3<<3, 1)
	return append(identity, message(fieldEvents, []byte{1 << 3, 1, 4 << 3, 9})...)
}

func TestPathsAndMethods(t *testing.T) {
	h := newHandler(t, Config{Store: &fakeStore{}, Version: "v9"})
	for _, c := range []struct {
		method, path string
		status       int
		field, want  string
	}{
		{"GET", "/v1/health", 200, "version", "v9"},
		{"POST", "/v1/health", 405, "error", "method POST: want GET"},
		{"GET", "/v1/batches", 405, "error", "method GET: want POST"},
		{"GET", "/", 404, "error", "no such path: want /v1/batches, /v1/health, /healthz or /readyz"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if got := field(t, w, c.field); w.Code != c.status || got != c.want {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, w.Code, got, c.status, c.want)
		}
		if allow := w.Header().Get("Allow"); (w.Code == 405) != (allow != "") {
			t.Errorf("%s %s: Allow %q", c.method, c.path, allow)
		}
	}
}

func TestStoreFailureIsToBeRetried(t *testing.T) {
	var logged bytes.Buffer
	store := &fakeStore{err: errors.New("disk on fire")}
	h := newHandler(t, Config{Store: store, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	frame := newFrame(t, event.ID{1}, 1)
	for range 3 {
		w := post(h, batch.ContentType, bytes.NewReader(frame))
		if w.Code != 503 || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "fire") {
			t.Errorf("answer %d %v %s: want 503, Retry-After, nothing of the inside", w.Code, w.Header(), w.Body)
		}
	}
	store.err = nil
	for range 3 {
		post(h, batch.ContentType, bytes.NewReader(frame))
	}
	for text, times := range map[string]int{"disk on fire": 1, "stored again": 1, "first batch from agent": 1} {
		if n := strings.Count(logged.String(), text); n != times {
			t.Errorf("%q logged %d times, want %d:\n%s", text, n, times, logged.String())
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	store := &fakeStore{hold: make(chan struct{})}
	frame := newFrame(t, event.ID{1}, 1)
	const room = 3
	h := newHandler(t, Config{Store: store, MaxBodies: room * int64(len(frame))})
	answers := make(chan int)
	for range room {
		go func() { answers <- post(h, batch.ContentType, bytes.NewReader(frame)).Code }()
	}
	for range room {
		store.hold <- struct{}{} // each is in the store, still holding its body
		if code := <-answers; code != 200 {
			t.Errorf("answer %d within the bound", code)
		}
	}

	h.bodies.take(h.cfg.MaxBodies)
	w := post(h, batch.ContentType, bytes.NewReader(frame))
	if w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("answer %d %v over the bound, want 503 and Retry-After", w.Code, w.Header())
	}
	h.bodies.give(h.cfg.MaxBodies)
	if got := h.bodies.free; got != h.cfg.MaxBodies {
		t.Errorf("%d bytes free at rest, want %d", got, h.cfg.MaxBodies)
	}
}

func TestDecodesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandler(t, Config{Store: &fakeStore{}, MaxDecodes: 1, DecodeWait: time.Second})
		buf := <-h.slots // somebody decodes
		begin := time.Now()
		if w := post(h, batch.ContentType, bytes.NewReader(newFrame(t, event.ID{1}, 1))); w.Code != 503 {
			t.Errorf("answer %d, want 503", w.Code)
		}
		if waited := time.Since(begin); waited != time.Second {
			t.Errorf("waited %v, want 1s", waited)
		}
		h.slots <- buf
		if w := post(h, batch.ContentType, bytes.NewReader(newFrame(t, event.ID{1}, 1))); w.Code != 200 {
			t.Errorf("answer %d when the other had finished, want 200", w.Code)
		}
	})
}

// Many hostile bodies at once must not take more than a few decodes' worth of memory.
func TestMemoryIsBounded(t *testing.T) {
	codec := newCodec(t)
	bombs := [][]byte{
		bytes.Repeat(codec.Compress(nil, make([]byte, batch.MaxSize)), 100),
		codec.Compress(nil, bytes.Repeat([]byte{fieldEvents<<3 | 2, 0}, batch.MaxSize/2)),
		codec.Compress(nil, message(fieldEvents, message(fieldEventDNS, bytes.Repeat([]byte{4<<3 | 2, 0}, batch.MaxSize/4)))),
	}
	h := newHandler(t, Config{Store: &fakeStore{}, MaxDecodes: 2, DecodeWait: time.Hour})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	const posts = 60
	for i := range posts {
		wg.Go(func() {
			if w := post(h, batch.ContentType, bytes.NewReader(bombs[i%len(bombs)])); w.Code != 400 && w.Code != 413 {
				t.Errorf("answer %d", w.Code)
			}
		})
	}
	wg.Wait()
	runtime.ReadMemStats(&after)
	// All that was ever allocated: decompressing takes up to 24 MiB, growing its buffer; decoding would take 500.
	if allocated := (after.TotalAlloc - before.TotalAlloc) / posts; allocated > 40<<20 {
		t.Errorf("%d MiB allocated for each bomb, want at most 40", allocated>>20)
	}
}

func TestKnownAgentsAreBounded(t *testing.T) {
	r := reporter{log: slog.New(slog.DiscardHandler)}
	for i := range maxKnown + 1 {
		r.contact(&batch.Header{ID: batch.ID{Agent: event.ID{byte(i), byte(i >> 8), byte(i >> 16)}}}, "")
	}
	if len(r.known) > maxKnown {
		t.Errorf("%d agents known, want at most %d", len(r.known), maxKnown)
	}
}

func TestRefusalsAreLoggedRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		r := reporter{log: slog.New(slog.NewTextHandler(&logged, nil))}
		for range 100 {
			r.refusal(&refusal{status: 400, reason: "garbage"}, "")
		}
		time.Sleep(refusalEvery)
		r.refusal(&refusal{status: 400, reason: "garbage"}, "")
		lines := logged.String()
		if strings.Count(lines, "garbage") != 2 || !strings.Contains(lines, "others_since_last_line=99") {
			t.Errorf("want 2 lines, the second with 99 others:\n%s", lines)
		}
	})
}

// message returns a message as a field.
func message(field byte, content []byte) []byte {
	out := []byte{field<<3 | 2}
	n := len(content)
	for n >= 0x80 {
		out = append(out, byte(n)|0x80)
		n >>= 7
	}
	return append(append(out, byte(n)), content...)
}
