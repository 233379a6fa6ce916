package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/hash"
	"github.com/taskguard/taskguard/collector/host"
	"github.com/taskguard/taskguard/collector/process"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/spool"
)

// received is an endpoint that takes everything.
type received struct{}

func (received) Send(context.Context, []byte) error { return nil }

// startLocal runs an agent without sources, and what operators ask.
func startLocal(t *testing.T) *agent {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	cfg := defaultConfig()
	cfg.StateDir = t.TempDir()
	cfg.Socket = filepath.Join(cfg.StateDir, "run", "agent.sock")
	cfg.EndpointURL = "https://endpoint.example"
	a := &agent{
		cfg: cfg, log: log, started: time.Now(), state: &state{Agent: event.ID{7}}, recent: newRecent(), vitals: new(vitals),
		sources: &sources{coverage: newCoverage(cfg.Events)},
	}
	a.sources.auditRefused = errors.New("no permission")
	a.selfTest = newSelfTest(a.sources, nil, log)
	var err error
	if a.host, err = host.Open(t.Context(), host.Config{}); err != nil {
		t.Fatal(err)
	}
	if a.tracker, err = container.New(container.Config{}); err != nil {
		t.Fatal(err)
	}
	a.table = process.NewTable(process.Config{Locator: a.tracker})
	a.accounts, a.hasher = process.NewAccounts(process.AccountsConfig{}), hash.New(hash.Config{})
	if a.spool, err = spool.Open(spool.Config{Dir: cfg.StateDir + "/spool", MaxBytes: 1 << 20, Logger: log}); err != nil {
		t.Fatal(err)
	}
	if a.sender, err = sender.New(sender.Config{
		Agent: a.state.Agent, Epoch: 1, Host: a.host.Identity, Spool: a.spool, Transport: received{},
		SealInterval: 5 * time.Millisecond,
	}); err != nil {
		t.Fatal(err)
	}
	l, err := listenLocal(a)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { a.recent.follow(ctx, a.sender) })
	running.Go(func() {
		if err := a.sender.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
		if err := l.close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(cfg.Socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("socket after close: %v, want none", err)
		}
	})
	return a
}

func ask(t *testing.T, a *agent, path string) io.ReadCloser {
	t.Helper()
	body, err := getLocal(t.Context(), a.cfg.Socket, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { body.Close() })
	return body
}

func connect(pid uint32) *event.Event {
	return &event.Event{Time: time.Now(), Kind: event.NetConnect, Process: &event.Process{PID: pid, Snapshot: uint64(pid)},
		Net: &event.Net{}}
}

func TestStatusIsExact(t *testing.T) {
	a := startLocal(t)
	for pid := range uint32(10) {
		a.sender.Emit(connect(pid + 1))
	}
	a.sender.Lost(event.FileOpen, "kernel", "ring_full", 3)
	var s struct {
		Ledger struct {
			Observed, Acked, Spooled, Open uint64
			Lost                           map[string]uint64
		}
		Kinds   map[string]struct{ Observed, Lost uint64 }
		Sources map[string]struct {
			Via, Reason string
			Healthy     bool
		}
	}
	if err := json.NewDecoder(ask(t, a, "/v1/status")).Decode(&s); err != nil {
		t.Fatal(err)
	}
	l := s.Ledger
	if l.Lost["kernel/ring_full"] != 3 || l.Observed < 13 || l.Observed != l.Acked+l.Spooled+l.Open+3 {
		t.Errorf("ledger %+v, want 10 events, 3 lost ones and what tells of them, each in its place", l)
	}
	if n := s.Kinds["net.connect"].Observed; n != 10 {
		t.Errorf("%d connects observed, want 10", n)
	}
	if n := s.Kinds["file.open"]; n.Lost != 3 || n.Observed != 3 {
		t.Errorf("file.open: %+v, want 3 observed and lost", n)
	}
	for _, kind := range observable() {
		source := s.Sources[kind.String()]
		if slices.Contains(container.Kinds(), kind) {
			if source.Via != "off" || !source.Healthy || source.Reason != "off by configuration: docker.socket is empty" {
				t.Errorf("source of %s: %+v, want off with its reason", kind, source)
			}
			continue
		}
		if source.Via != "off" || source.Healthy || source.Reason != "ebpf: off by configuration; audit: no permission" {
			t.Errorf("source of %s: %+v, want off with both reasons", kind, source)
		}
	}
}

func TestEventsOfTheLastMoments(t *testing.T) {
	a := startLocal(t)
	a.sender.Emit(connect(4711))
	a.sender.Emit(&event.Event{Time: time.Now(), Kind: event.AgentStart, Agent: &event.Agent{}})
	for { // until sealed
		lines := bufio.NewScanner(ask(t, a, "/v1/events?kind=net.connect"))
		if lines.Scan() {
			var e event.Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Fatal(err)
			}
			if e.Kind != event.NetConnect || e.Process.PID != 4711 || lines.Scan() {
				t.Errorf("got %s and more, want the one connect", lines.Text())
			}
			return
		}
	}
}

func TestFollowShowsWhatComes(t *testing.T) {
	a := startLocal(t)
	lines := bufio.NewScanner(ask(t, a, "/v1/events?follow=1")) // answered when it is subscribed
	a.sender.Emit(connect(1))
	if !lines.Scan() || !strings.Contains(lines.Text(), `"kind":"net.connect"`) {
		t.Errorf("got %q, %v, want the connect", lines.Text(), lines.Err())
	}
}

func TestRecentIsBounded(t *testing.T) {
	r := newRecent()
	for range 100 {
		r.add(make([]byte, recentBytes/10))
	}
	if n := len(r.all()); n != 10 || r.bytes > recentBytes {
		t.Errorf("%d frames of %d bytes, want 10", n, r.bytes)
	}
	r.add(make([]byte, 2*recentBytes))
	if n := len(r.all()); n != 1 {
		t.Errorf("%d frames, want the newest alone when it takes all the room", n)
	}
}

func TestSocket(t *testing.T) {
	a := startLocal(t)
	info, err := os.Stat(a.cfg.Socket)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v, want mode 600", info.Mode(), err)
	}
	if _, err := listenLocal(a); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("second agent on the socket: %v, want it refused", err)
	}
	if _, err := getLocal(t.Context(), a.cfg.Socket, "/v1/events?kind=nope"); err == nil ||
		!strings.Contains(err.Error(), "unknown event kind") {
		t.Errorf("unknown kind: %v, want it named", err)
	}
	if _, err := getLocal(t.Context(), a.cfg.Socket+"x", "/v1/status"); err == nil || !strings.Contains(err.Error(), "is it running?") {
		t.Errorf("no agent: %v, want a hint", err)
	}

	stale := filepath.Join(t.TempDir(), "agent.sock")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	b := *a
	b.cfg.Socket = stale
	l, err := listenLocal(&b)
	if err != nil {
		t.Fatalf("over a socket that a crash left: %v", err)
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
}
