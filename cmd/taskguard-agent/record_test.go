package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
)

// recorded records a stream and returns the file's content and what the operator is told.
func recorded(t *testing.T, ctx context.Context, in io.Reader, maxBytes int64) (content, told string, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "recording.jsonl")
	r, err := newRecording(file, maxBytes, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err = record(ctx, in, r, &out)
	text, readErr := os.ReadFile(file)
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(text), strings.ReplaceAll(out.String(), file, "FILE"), err
}

// What is recorded of a running agent is replayed as it was.
func TestRecordIsReplayed(t *testing.T) {
	a := startLocal(t)
	file := filepath.Join(t.TempDir(), "recording.jsonl")
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var out, stderr bytes.Buffer
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"events", "--record", file, "--socket", a.cfg.Socket, "--kind", "net.connect"}, &out, &stderr)
	}()
	// It records from when it has subscribed on: events are sent until two batches' worth is there.
	sent := 0
	for n := 0; n < 5; {
		a.sender.Emit(connect(uint32(sent + 1)))
		a.sender.Emit(&event.Event{Time: time.Now(), Kind: event.AgentStart, Agent: &event.Agent{}}) // not asked for
		sent++
		content, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		n = bytes.Count(content, []byte("\n"))
	}
	interrupt()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
	recording, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := canonical(t, string(recording))
	if told := out.String(); !strings.HasPrefix(told, "recorded ") ||
		!strings.HasSuffix(told, ": interrupted; the local stream dropped 0\n") {
		t.Errorf("told %q", &out)
	}
	if stderr.Len() != 0 {
		t.Errorf("%q on what is no terminal", &stderr)
	}

	cfg := defaultConfig()
	received := endpoint(t, &cfg)
	l, err := replayFile(t.Context(), cfg, file, slog.New(slog.DiscardHandler))
	if err != nil || l.Acked != uint64(len(lines)) {
		t.Fatalf("%d of %d lines replayed (%v)", l.Acked, len(lines), err)
	}
	if diff := cmp.Diff(lines, canonical(t, received.String())); diff != "" {
		t.Errorf("(-recorded +replayed):\n%s", diff)
	}
}

func TestRecordOverwritesNothing(t *testing.T) {
	a := startLocal(t)
	file := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(file, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), []string{"events", "--record", file, "--socket", a.cfg.Socket}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "it exists") {
		t.Errorf("got %v, want a refusal", err)
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("it holds %q now (%v)", content, err)
	}
	// Without an agent there is no recording, and no empty file.
	none := filepath.Join(t.TempDir(), "none")
	args := []string{"events", "--record", none, "--socket", none + ".sock"}
	if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
		t.Error("recorded from no agent")
	}
	if _, err := os.Stat(none); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file of no recording: %v", err)
	}
}

func TestRecordUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--record", "x", "--max-bytes", "0"}, {"--record", "x", "--max-bytes", "much"}, {"--record", "x", "--json"},
		{"--record", "x", "--kind", "no.kind"},
	} {
		err := run(t.Context(), append([]string{"events", "--socket", "/nowhere"}, args...), io.Discard, io.Discard)
		if usage := (usageError{}); !errors.As(err, &usage) {
			t.Errorf("%q: %v, want a mistake in the command line", args, err)
		}
	}
}

// At its bound a recording has whole events, as many as fit.
func TestRecordIsBounded(t *testing.T) {
	line := `{"time":"2026-01-01T00:00:00Z","kind":"process.exec","result":0}` + "\n"
	for max, want := range map[int]int{3 * len(line): 3, 3*len(line) + 1: 3, 4*len(line) - 1: 3, len(line) - 1: 0} {
		content, told, err := recorded(t, t.Context(), strings.NewReader(strings.Repeat(line, 10)), int64(max))
		if err != nil || content != strings.Repeat(line, want) || !strings.Contains(told, "stopped at --max-bytes;") {
			t.Errorf("at most %d bytes: %d (%v), told %q, want %d lines of %d", max, len(content), err, told, want, len(line))
		}
	}
}

// A recording says where it ends, and what is missing in it.
func TestRecordTellsOfGaps(t *testing.T) {
	loss := func(stage string, n uint64) string {
		text, err := json.Marshal(&event.Event{Kind: event.AgentLoss, Agent: &event.Agent{Stage: stage, Count: n}})
		if err != nil {
			t.Fatal(err)
		}
		return string(text) + "\n"
	}
	plain := `{"kind":"process.exec","process":{"pid":1,"args":["\"kind\":\"agent.loss\"","x"]}}` + "\n"
	trick := `{"kind":"file.open","x":{"kind":"agent.loss","agent":{"stage":"live","count":9}}}` + "\n"
	interrupted, interrupt := context.WithCancel(t.Context())
	interrupt()
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		ctx  context.Context
		in   io.Reader
		want string
		told string
		err  error
	}{
		{"complete", t.Context(), strings.NewReader(plain + trick), plain + trick,
			"recorded 2 events, 165 bytes, to FILE: the agent ended the stream; the local stream dropped 0\n", nil},
		{"with gaps", t.Context(), strings.NewReader(plain + loss("live", 5) + plain + loss("live", 2)), "",
			"the local stream dropped 7: the recording has gaps, where agent.loss events at the stage live stand\n", nil},
		{"with losses", t.Context(), strings.NewReader(loss("kernel", 3)), loss("kernel", 3),
			"the local stream dropped 0; the agent itself lost 3\n", nil},
		{"cut", t.Context(), strings.NewReader(plain + plain[:20]), plain, "recorded 1 events", nil},
		{"interrupted", interrupted, iotest.ErrReader(context.Canceled), "",
			"recorded 0 events, 0 bytes, to FILE: interrupted;", nil},
		{"broken", t.Context(), io.MultiReader(strings.NewReader(plain+"{"), iotest.ErrReader(broken)), plain,
			"FILE: read events: broken;", broken},
		{"endless line", t.Context(), strings.NewReader(plain + strings.Repeat("x", maxRecordedLine+1)), plain,
			"recorded 1 events", bufio.ErrBufferFull},
	} {
		t.Run(test.name, func(t *testing.T) {
			content, told, err := recorded(t, test.ctx, test.in, 1<<30)
			if !errors.Is(err, test.err) || test.err == nil && err != nil {
				t.Errorf("error %v, want %v", err, test.err)
			}
			if test.want != "" && content != test.want {
				t.Errorf("recorded %q, want %q", content, test.want)
			}
			if !strings.Contains(told, test.told) {
				t.Errorf("told %q, want %q in it", told, test.told)
			}
		})
	}
}

func TestRecordShowsProgress(t *testing.T) {
	var terminal strings.Builder
	r, err := newRecording(filepath.Join(t.TempDir(), "r"), 1<<20, &terminal)
	if err != nil {
		t.Fatal(err)
	}
	if err := record(t.Context(), strings.NewReader("{}\n{}\n"), r, io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := "\rrecording: 2 events, 0 KiB, 0 dropped\n"; terminal.String() != want {
		t.Errorf("shown %q, want %q", terminal.String(), want)
	}
}

// A disk that takes no more ends a recording with an error.
func TestRecordOnFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := &recording{file: full, out: bufio.NewWriter(full), maxBytes: 1 << 20}
	var told strings.Builder
	err = record(t.Context(), strings.NewReader("{}\n"), r, &told)
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("got %v, told %q", err, told.String())
	}
}

// Law: what a client that falls behind receives and what it is told that it missed are all that happened.
func TestFollowTellsOfWhatWasMissed(t *testing.T) {
	a := startLocal(t)
	body := ask(t, a, "/v1/events?follow=1")
	opened := event.Event{Kind: event.FileOpen, File: &event.File{Path: strings.Repeat("x", 4000)}}
	sealed := func() {
		for a.sender.Ledger().Open > 0 {
			runtime.Gosched()
		}
	}
	var sent, got uint64
	for a.sender.Missed() == 0 { // nobody reads
		for range 200 {
			opened.Time = time.Now()
			a.sender.Emit(&opened)
			sent++
		}
		sealed()
	}
	if lost := a.sender.Ledger().Lost; len(lost) > 0 {
		t.Fatalf("%v lost before the stream", lost)
	}
	var marked atomic.Bool
	read := make(chan error, 1)
	go func() {
		defer marked.Store(true)
		decoder := json.NewDecoder(body)
		for {
			var e event.Event
			if err := decoder.Decode(&e); err != nil {
				read <- err
				return
			}
			switch {
			case e.Kind == event.FileOpen:
				got++
			case e.Kind == event.AgentLoss && e.Agent.Lost == event.FileOpen:
				got += e.Agent.Count
			case e.Kind == event.NetConnect: // all that was sent before is told of
				read <- nil
				return
			}
		}
	}()
	for pid := uint32(1); !marked.Load(); pid++ {
		a.sender.Emit(connect(pid))
		sealed() // and received, once there is room for it
	}
	if err := <-read; err != nil || got != sent {
		t.Errorf("%d events received or told of (%v), %d sent", got, err, sent)
	}
}
