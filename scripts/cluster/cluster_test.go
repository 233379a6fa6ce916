package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/https"
	"github.com/taskguard/taskguard/sender/spool"
)

// Every server and every endpoint is killed under load, one after another, and started again: nothing is lost, and
// nothing is there twice.
func TestClusterSurvivesKills(t *testing.T) {
	bin := build(t)
	dir, err := os.MkdirTemp("", "tg") // the path of a unix socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c, err := newCluster(bin, filepath.Join(bin, "nats-server"), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, e := range c.endpoints {
				t.Log(e.Log())
			}
		}
	})
	bucket := "file://" + filepath.Join(dir, "bucket")
	c.flags = []string{"--set", "store.url=" + bucket, "--set", "store.interval=2s"}
	if err := c.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const agents = 4
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var loads []*load
	var running sync.WaitGroup
	for n := range agents {
		l := newLoad(t, c, n)
		loads = append(loads, l)
		running.Go(func() { l.run(ctx) })
	}
	delivered := func(what string) {
		t.Helper()
		for n, l := range loads {
			from := l.sender.Ledger().Observed
			for end := time.Now().Add(2 * time.Minute); l.sender.Ledger().Acked < from; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s: agent %d is not served for two minutes: %+v, %+v", what, n, l.sender.Ledger(), l.sender.Upload())
				}
			}
		}
		t.Logf("all agents are served %s", what)
	}
	delivered("at first")
	for i := range c.servers {
		c.servers[i].Kill()
		delivered(fmt.Sprintf("without server %d", i))
		if err := c.startServer(i); err != nil {
			t.Fatal(err)
		}
		delivered(fmt.Sprintf("with server %d again", i))
	}
	for i := range c.endpoints {
		c.endpoints[i].Endpoint.Kill()
		delivered(fmt.Sprintf("without endpoint %d", i))
		if err := c.startEndpoint(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		delivered(fmt.Sprintf("with endpoint %d again", i))
	}
	stop()
	running.Wait()

	var acked uint64
	want := map[string]bool{}
	for n, l := range loads {
		ledger := l.sender.Ledger()
		if ledger.Observed != ledger.Acked || ledger.Observed != l.emitted.Load() {
			t.Errorf("agent %d: %+v, want all %d events acknowledged", n, ledger, l.emitted.Load())
		}
		acked += ledger.Acked
		for i := range l.emitted.Load() {
			want[l.name(i)] = true
		}
	}
	for i, e := range c.endpoints {
		out, err := e.Events(t.Context(), "--json")
		if err != nil {
			t.Fatal(err)
		}
		wantOnce(t, fmt.Sprintf("endpoint %d reads from the log", i), out, want)
	}
	var out []byte
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
		out, err = exec.Command(filepath.Join(bin, "taskguard-endpoint"), "events", "--json", "--store", bucket).Output()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(out, []byte("\n")) >= len(want) || time.Now().After(end) {
			break
		}
	}
	wantOnce(t, "the bucket has", out, want)
	if acked != uint64(len(want)) {
		t.Errorf("%d events were acknowledged, %d emitted", acked, len(want))
	}
}

// wantOnce checks that the printed events are those wanted, each once.
func wantOnce(t *testing.T, who string, out []byte, want map[string]bool) {
	t.Helper()
	stored, seen := 0, map[string]bool{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); stored++ {
		var e event.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.File == nil {
			t.Fatalf("%v: %s", err, lines.Bytes())
		}
		if seen[e.File.Path] || !want[e.File.Path] {
			t.Errorf("%s is there twice, or was never sent", e.File.Path)
		}
		seen[e.File.Path] = true
	}
	t.Logf("%s %d events, %d of them different; %d were emitted", who, stored, len(seen), len(want))
	if stored != len(want) || len(seen) != len(want) {
		t.Errorf("%s %d events, %d different, want %d", who, stored, len(seen), len(want))
	}
}

// build builds what runs, into a folder.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/", "../../cmd/...", "github.com/nats-io/nats-server/v2")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return dir
}

// load is an agent that emits numbered events, and delivers them to any of the endpoints.
type load struct {
	number     int
	sender     *sender.Sender
	emitted    atomic.Uint64
	transports []*https.Transport
	turn       atomic.Uint64
}

func newLoad(t *testing.T, c *cluster, number int) *load {
	t.Helper()
	l := &load{number: number}
	agent := event.ID{byte(1 + number), 1}
	for _, e := range c.endpoints {
		transport, err := https.New(https.Config{
			URL: "https://" + e.Address(), CAFile: e.CA(), Agent: agent, Timeout: 10 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(transport.Close)
		l.transports = append(l.transports, transport)
	}
	sp, err := spool.Open(spool.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	l.sender, err = sender.New(sender.Config{
		Agent: agent, Epoch: uint64(time.Now().UnixNano()), Host: func() event.Host { return event.Host{Hostname: "load"} },
		Spool: sp, Transport: l, SealInterval: 100 * time.Millisecond, DrainTimeout: 2 * time.Minute, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *load) name(n uint64) string { return fmt.Sprintf("/%d/%d", l.number, n) }

// Send delivers to the endpoint whose turn it is, as a load balancer that takes one from who does not answer.
func (l *load) Send(ctx context.Context, frame []byte) error {
	err := l.transports[l.turn.Load()%uint64(len(l.transports))].Send(ctx, frame)
	if err != nil {
		l.turn.Add(1)
	}
	return err
}

// run emits until ctx is done, and then delivers what is left.
func (l *load) run(ctx context.Context) {
	delivered, end := context.WithCancel(context.Background())
	var emitting sync.WaitGroup
	emitting.Go(func() {
		defer end()
		for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
			for range 5 {
				l.sender.Emit(&event.Event{Time: time.Now(), Kind: event.FileOpen, File: &event.File{Path: l.name(l.emitted.Load())}})
				l.emitted.Add(1)
			}
		}
		for range 1200 { // two minutes
			if ledger := l.sender.Ledger(); ledger.Open+ledger.Spooled == 0 {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	_ = l.sender.Run(delivered) // which fails only when it ran before
	emitting.Wait()
}
