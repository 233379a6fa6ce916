package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/hash"
	"github.com/taskguard/taskguard/collector/host"
	"github.com/taskguard/taskguard/collector/process"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/spool"
)

// hearing is an endpoint that keeps the heartbeats, unless it fails.
type hearing struct {
	t     *testing.T
	codec *batch.Codec

	mu    sync.Mutex
	fail  error
	heard []event.Event
}

func (h *hearing) Send(_ context.Context, frame []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return h.fail
	}
	data, err := h.codec.Decompress(nil, frame)
	if err != nil {
		h.t.Error(err)
		return nil
	}
	b, err := batch.Decode(data)
	if err != nil {
		h.t.Error(err)
		return nil
	}
	for _, e := range b.Events {
		if e.Kind == event.AgentHeartbeat {
			h.heard = append(h.heard, e)
		}
	}
	return nil
}

func (h *hearing) failing(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = err
}

// beating returns an agent in a bubble with which nothing is wrong, that beats until the test's end.
func beating(t *testing.T, endpoint *hearing, edit func(*agent)) *agent {
	t.Helper()
	cfg := defaultConfig()
	cfg.StateDir, cfg.IMDS = t.TempDir(), false
	log := slog.New(slog.DiscardHandler)
	a := &agent{
		cfg: cfg, log: log, started: time.Now(), state: &state{Agent: event.ID{7}}, recent: newRecent(), vitals: new(vitals),
		sources: idle(cfg),
	}
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
	if a.spool, err = spool.Open(spool.Config{Dir: cfg.StateDir + "/spool", MaxBytes: 64 << 10, MaxMemory: 1, Logger: log}); err != nil {
		t.Fatal(err)
	}
	if endpoint.codec, err = batch.NewCodec(); err != nil {
		t.Fatal(err)
	}
	if a.sender, err = sender.New(sender.Config{
		Agent: a.state.Agent, Epoch: 1, Host: a.host.Identity, Spool: a.spool, Transport: endpoint,
	}); err != nil {
		t.Fatal(err)
	}
	a.vitals.inForce(cfg)
	if edit != nil {
		edit(a)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { a.beat(ctx) })
	running.Go(func() {
		if err := a.sender.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	return a
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endpoint := &hearing{t: t}
		a := beating(t, endpoint, nil)
		for pid := range uint32(10) {
			a.sender.Emit(connect(pid + 1))
		}
		time.Sleep(2*heartbeatInterval + 2*time.Second)
		synctest.Wait()
		if n := len(endpoint.heard); n != 2 {
			t.Fatalf("%d heartbeats in two minutes", n)
		}
		for i, e := range endpoint.heard {
			h := e.Agent.Heartbeat
			if h == nil || h.UptimeSeconds != uint64(60*(i+1)) || h.CPUSeconds <= 0 || h.MemoryBytes == 0 {
				t.Fatalf("heartbeat %d: %+v", i, h)
			}
			if h.Observed != 10+uint64(i) || h.Acked != h.Observed || h.Lost != 0 || len(h.Issues) != 0 {
				t.Errorf("heartbeat %d: %+v, want %d events, all delivered", i, h, 10+i)
			}
			if h.SpoolMaxBytes != 64<<10 || h.SpoolBatches != 0 || h.SpoolEvents != 0 || h.SpoolBytes != 0 {
				t.Errorf("heartbeat %d: %+v, want an empty spool", i, h)
			}
			if h.ConfigHash != configHash(a.cfg) || len(h.ConfigHash) != 64 {
				t.Errorf("hash %q, want %q", h.ConfigHash, configHash(a.cfg))
			}
			if e.Agent.Version != agentVersion() || e.Agent.Instance.Kernel == "" || len(e.Agent.Sources) != len(observable()) {
				t.Errorf("heartbeat %d: %+v, want version, kernel and every source", i, e.Agent)
			}
		}
	})
}

// Each code is there when what it stands for happens, for as long as that lasts, or is new, and not before.
func TestIssues(t *testing.T) {
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	lost := func(codes ...string) []string { return append([]string{event.IssueEventsLost}, codes...) }
	provoked := map[string]bool{}
	for _, test := range []struct {
		name    string
		before  func(*agent) // it begins to beat
		provoke func(t *testing.T, a *agent, endpoint *hearing)
		want    []string
		lasts   bool
	}{
		{name: "a kind that nothing observes", lasts: true, before: func(a *agent) {
			a.sources = &sources{coverage: newCoverage(a.cfg.Events)}
			a.sources.settings.Off = slices.DeleteFunc(observable(), func(k event.Kind) bool { return k == event.FileOpen })
			a.sources.auditRefused = errors.New("no permission")
		}, want: []string{event.IssueKindUnhealthy + ":file.open"}},
		{name: "the kernel's buffer is full", provoke: func(_ *testing.T, a *agent, _ *hearing) {
			a.sender.Lost(event.FileOpen, "kernel", "ring_full", 3)
		}, want: lost()},
		{name: "an outage, and a spool too small for it", provoke: func(t *testing.T, a *agent, endpoint *hearing) {
			endpoint.failing(errors.New("black hole"))
			for range 40 {
				a.sender.Emit(connect(1))
				time.Sleep(time.Second)
			}
			endpoint.failing(nil)
		}, want: lost(event.IssueSpoolEvicting)},
		{name: "no disk", provoke: func(t *testing.T, a *agent, _ *hearing) {
			dir := a.cfg.StateDir + "/spool"
			if err := errors.Join(os.Rename(dir, dir+".away"), os.WriteFile(dir, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			a.sender.Emit(connect(1))
			time.Sleep(2 * time.Second)
			if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
				t.Fatal(err)
			}
		}, want: lost(event.IssueSpoolUnwritable)},
		{name: "an endpoint that takes nothing", lasts: true, provoke: func(_ *testing.T, a *agent, endpoint *hearing) {
			endpoint.failing(errors.New("black hole"))
			a.sender.Emit(connect(1))
			time.Sleep(2 * heartbeatInterval)
		}, want: []string{event.IssueUploadFailing}},
		{name: "a batch that the endpoint refuses", provoke: func(_ *testing.T, a *agent, endpoint *hearing) {
			endpoint.failing(&sender.Failure{Err: errors.New("no batch"), Reject: sender.RejectMalformed})
			a.sender.Emit(connect(1))
			time.Sleep(5 * time.Second)
			endpoint.failing(nil)
		}, want: lost(event.IssueBatchesRejected)},
		{name: "a clock that is ahead", lasts: true, before: func(a *agent) {
			a.skew = func() time.Duration { return 10 * time.Minute }
		}, want: []string{event.IssueClockSkewed}},
		{name: "a clock that is behind", lasts: true, before: func(a *agent) {
			a.skew = func() time.Duration { return -maxSkew - time.Second }
		}, want: []string{event.IssueClockSkewed}},
		{name: "clocks that nearly agree", before: func(a *agent) { a.skew = func() time.Duration { return maxSkew } }},
		{name: "a tag", lasts: true, before: func(a *agent) { a.idle = true }, want: []string{event.IssueExcludedByTag}},
		{name: "no metadata service", lasts: true, before: func(a *agent) { a.cfg.IMDS = true },
			want: []string{event.IssueIMDSUnreachable}},
		{name: "losses of the run before", before: func(a *agent) {
			a.sender.Lost(event.FileOpen, "kernel", "ring_full", 3)
			l, u := a.sender.Ledger(), a.sender.Upload()
			a.vitals.begin(marksOf(&l, &u))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				endpoint := &hearing{t: t}
				a := beating(t, endpoint, test.before)
				if test.provoke != nil {
					if h := a.fares(a.states()); len(h.Issues) != 0 {
						t.Errorf("%v, before anything is wrong", h.Issues)
					}
					test.provoke(t, a, endpoint)
					synctest.Wait() // until what is sealed at this moment is on disk
				}
				h := a.nextHeartbeat(a.states())
				if !slices.Equal(h.Issues, test.want) {
					t.Errorf("%v, want %v: %+v", h.Issues, test.want, h)
				}
				for _, code := range h.Issues {
					code, _, _ = strings.Cut(code, ":")
					provoked[code] = true
				}
				// An operator still sees what the last heartbeat told.
				if shown := a.fares(a.states()).Issues; !slices.Equal(shown, test.want) {
					t.Errorf("status shows %v, want %v", shown, test.want)
				}
				if again := a.nextHeartbeat(a.states()).Issues; !slices.Equal(again, test.want) && test.lasts {
					t.Errorf("then %v, want still %v", again, test.want)
				} else if len(again) > 0 && !test.lasts {
					t.Errorf("then %v, want none: nothing new happened", again)
				}
			})
		})
	}
	for _, code := range event.Issues() {
		if !provoked[code] {
			t.Errorf("%s was not provoked", code)
		}
	}
	if len(provoked) != len(event.Issues()) {
		t.Errorf("%v, want no code that is not documented: %v", provoked, event.Issues())
	}
}

// Two configurations have one hash if they are the same to the agent.
func TestConfigHash(t *testing.T) {
	load := func(overrides ...string) string {
		cfg, err := loadConfig("../../packaging/agent.yaml", overrides)
		if err != nil {
			t.Fatal(err)
		}
		return configHash(cfg)
	}
	plain := load()
	if again, said := load(), load("events.open_all=false"); again != plain || said != plain {
		t.Error("one configuration has two hashes")
	}
	seen := map[string]string{plain: "none"}
	for _, override := range []string{
		"state_dir=/x", "events.off=file.open", "log.level=debug", "endpoint.url=https://x", "spool.max_bytes=2MiB",
	} {
		if with := load(override); seen[with] != "" {
			t.Errorf("%s has the hash of %s", override, seen[with])
		} else {
			seen[with] = override
		}
	}
}

func TestStatusShowsTheHeartbeat(t *testing.T) {
	a := startLocal(t)
	a.vitals.inForce(a.cfg)
	a.sender.Lost(event.FileOpen, "kernel", "ring_full", 3)
	var s status
	if err := json.NewDecoder(ask(t, a, "/v1/status")).Decode(&s); err != nil {
		t.Fatal(err)
	}
	h := s.Heartbeat
	if h == nil || h.Lost != 3 || h.ConfigHash != configHash(a.cfg) || !slices.Contains(h.Issues, "events_lost") ||
		!slices.Contains(h.Issues, "kind_unhealthy:file.open") {
		t.Fatalf("%+v", h)
	}
	h.Issues = append(h.Issues, "\x1b[2J")
	var out bytes.Buffer
	if err := printStatus(&out, &s, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"issues      events_lost\n", " kind_unhealthy (", `\x1b[2J`, "config      sha256 " + h.ConfigHash + "\n",
		"spool       ", " of 1 MiB\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	out.Reset()
	s.Heartbeat = &event.Heartbeat{}
	if err := printStatus(&out, &s, false); err != nil || !strings.Contains(out.String(), "issues      none\n") {
		t.Errorf("%v:\n%s", err, out.String())
	}
}
