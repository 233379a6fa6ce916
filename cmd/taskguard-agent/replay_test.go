package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/event/eventtest"
	"github.com/taskguard/taskguard/sender/batch"
)

const corpus = "../../testdata/corpus/container.jsonl"

// endpoint takes batches by TLS and returns the JSON lines of their events.
func endpoint(t *testing.T, cfg *config) *bytes.Buffer {
	t.Helper()
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		frame, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		data, err := codec.Decompress(nil, frame)
		if err != nil {
			t.Error(err)
		}
		b, err := batch.Decode(data)
		if err != nil {
			t.Error(err)
			return
		}
		for i := range b.Events {
			if err := json.NewEncoder(&lines).Encode(&b.Events[i]); err != nil {
				t.Error(err)
			}
		}
		io.WriteString(w, `{"status":"stored"}`)
	}))
	t.Cleanup(server.Close)
	cfg.EndpointURL = server.URL
	cfg.EndpointCAFile = filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(cfg.EndpointCAFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return &lines
}

// What is replayed reaches the endpoint as it was recorded, to the byte.
func TestReplayIsFaithful(t *testing.T) { replayIsFaithful(t, corpus) }

func TestReplayIsFaithfulToEveryKind(t *testing.T) {
	var recording bytes.Buffer
	out := json.NewEncoder(&recording)
	for _, kind := range event.Kinds() {
		for _, group := range eventtest.Groups() {
			var e event.Event
			eventtest.Full(&e)
			eventtest.KeepGroup(&e, group)
			e.Kind, e.Target.Exit = kind, event.Exit{}
			e.Process.ParentID, e.Target.ParentID = e.Process.Ancestors[0].ID, e.Target.Ancestors[0].ID
			if e.Process.Exit = (event.Exit{}); kind == event.ProcessExit { // no other event tells of it
				e.Process.Exit = event.Exit{Ended: true, Code: 3}
			}
			if err := out.Encode(&e); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "recording.jsonl")
	if err := os.WriteFile(file, recording.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	replayIsFaithful(t, file)
}

func replayIsFaithful(t *testing.T, file string) {
	t.Helper()
	cfg := defaultConfig()
	received := endpoint(t, &cfg)
	l, err := replayFile(t.Context(), cfg, file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := uint64(bytes.Count(recorded, []byte("\n"))); l.Acked != n || n == 0 {
		t.Errorf("%d events acknowledged, want %d", l.Acked, n)
	}
	if diff := cmp.Diff(canonical(t, string(recorded)), canonical(t, received.String())); diff != "" {
		t.Errorf("(-recorded +received):\n%s", diff)
	}
}

// canonical gives each line the same order of keys.
func canonical(t *testing.T, lines string) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(lines) {
		var v any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(text))
	}
	return out
}

func TestReplayOfWhatIsNoRecording(t *testing.T) {
	cfg := defaultConfig()
	endpoint(t, &cfg)
	first, err := os.ReadFile(corpus)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(first), "\n")
	for _, test := range []struct{ name, content, want string }{
		{"empty", "", "no event in it"},
		{"no JSON", "hello\n", "line 1"},
		{"damaged later", line + "\n{\"kind\":", "line 2"},
		{"two hosts", line + "\n" + strings.Replace(line, `"hostname":"`, `"hostname":"x`, 1) + "\n", "line 2: a second host"},
		{"unknown kind", line + "\n" + `{"time":"2026-01-01T00:00:00Z","kind":"no.kind"}` + "\n", "unknown event kind"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "recording.jsonl")
			if err := os.WriteFile(file, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := replayFile(t.Context(), cfg, file, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestReplayWithoutEndpoint(t *testing.T) {
	cfg := defaultConfig()
	cfg.EndpointURL = "https://127.0.0.1:1"
	_, err := replayFile(t.Context(), cfg, corpus, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "0 of 52 events acknowledged") || !strings.Contains(err.Error(), "refuses") {
		t.Errorf("got %v, want what was not delivered, and why", err)
	}
}
