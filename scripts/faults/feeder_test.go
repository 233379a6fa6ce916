package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/https"
	"github.com/taskguard/taskguard/sender/spool"
)

// feederVariable has a process of this test binary be a feeder.
const feederVariable = "TASKGUARD_FEEDER"

// feed says what a feeder does. A feeder is the agent's delivery in a process of its own, sender, spool and transport,
// with numbered events in place of a kernel's.
type feed struct {
	Dir        string // of the spool and the ledger
	Agent      event.ID
	URL        string
	CA         string // file
	ServerName string
	Cert, Key  string // files
	Rate       int    // events a second; 0 is none
	Timeout    time.Duration
	Skew       time.Duration // of the clock that events are stamped with
}

// report is what a feeder prints, every 50 ms and at its end, one JSON object a line.
type report struct {
	Emitted   uint64
	Ledger    sender.Ledger
	LostOpens uint64 // numbered events, of what the ledger calls lost
	Upload    sender.Upload
	Skew      time.Duration
}

// instance is whom the feeder says it is on.
var instance = event.Host{Hostname: "feeder", AccountID: "111122223333", InstanceID: "i-0123456789abcdef0"}

// sealed is small, so that faults hit many batches.
const sealed = 64

func (f *feed) config(transport sender.Transport, log *slog.Logger) (sender.Config, error) {
	sp, err := spool.Open(spool.Config{Dir: filepath.Join(f.Dir, "spool"), MaxMemory: 16 << 10, Logger: log})
	if err != nil {
		return sender.Config{}, err
	}
	return sender.Config{
		Agent: f.Agent, Epoch: uint64(time.Now().UnixNano()), Host: func() event.Host { return instance }, Spool: sp,
		Transport: transport, LedgerFile: filepath.Join(f.Dir, "ledger"), SealInterval: 100 * time.Millisecond,
		MaxEvents: sealed, DrainTimeout: 20 * time.Second, Logger: log,
	}, nil
}

func (f *feed) transport() (*https.Transport, error) {
	return https.New(https.Config{
		URL: f.URL, CAFile: f.CA, ServerName: f.ServerName, CertFile: f.Cert, KeyFile: f.Key, Agent: f.Agent,
		Timeout: f.Timeout,
	})
}

// numbered is event number n of a run.
func (f *feed) numbered(epoch, n uint64) *event.Event {
	return &event.Event{Time: time.Now().Add(f.Skew), Kind: event.FileOpen, File: &event.File{
		Path: fmt.Sprintf("/%d/%d", epoch, n),
	}}
}

// deliverTimeout is how long a feeder that feeds no more may go on to deliver.
const deliverTimeout = 5 * time.Minute

// feedMain is the process. It feeds until SIGTERM, and then delivers what it has.
func feedMain(text string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var f feed
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return err
	}
	transport, err := f.transport()
	if err != nil {
		return err
	}
	cfg, err := f.config(transport, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	s, err := sender.New(cfg)
	if err != nil {
		return err
	}
	var emitted atomic.Uint64
	out := json.NewEncoder(os.Stdout)
	tell := func() error {
		l := s.Ledger()
		return out.Encode(report{emitted.Load(), l, l.LostByKind[event.FileOpen], s.Upload(), transport.Skew()})
	}
	var running sync.WaitGroup
	running.Go(func() { f.emit(ctx, s, cfg.Epoch, &emitted) })
	delivered, end := context.WithCancel(context.Background())
	running.Go(func() {
		defer end()
		for ends := (time.Time{}); tell() == nil; time.Sleep(50 * time.Millisecond) {
			if ctx.Err() == nil {
				ends = time.Now().Add(deliverTimeout)
			} else if l := s.Ledger(); l.Spooled+l.Open == 0 || time.Now().After(ends) {
				return
			}
		}
	})
	err = s.Run(delivered)
	running.Wait()
	return errors.Join(err, tell())
}

// emit makes the numbered events, at the rate, until ctx is done.
func (f *feed) emit(ctx context.Context, s *sender.Sender, epoch uint64, emitted *atomic.Uint64) {
	const every = 10 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for due := uint64(time.Since(began).Seconds() * float64(f.Rate)); emitted.Load() < due; {
			s.Emit(f.numbered(epoch, emitted.Add(1)))
		}
	}
}

// feeder is a process that feeds.
type feeder struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan struct{} // closed when it has ended, and all it printed was read

	mu   sync.Mutex
	last report // guarded by mu
	told bool   // guarded by mu
}

func startFeeder(t *testing.T, f feed) *feeder {
	t.Helper()
	text, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	p := &feeder{t: t, cmd: exec.Command("/proc/self/exe"), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), feederVariable+"="+string(text))
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var r report
			if json.Unmarshal(lines.Bytes(), &r) == nil { // one that was killed may leave half a line
				p.mu.Lock()
				p.last, p.told = r, true
				p.mu.Unlock()
			}
		}
		_ = p.cmd.Wait() // its verdict is in ProcessState
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("feeder:\n%s", p.stderr.Bytes())
		}
	})
	return p
}

func (p *feeder) report() report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// kill ends it by SIGKILL.
func (p *feeder) kill() {
	_ = p.cmd.Process.Kill() // it fails when there is nothing left to kill
	<-p.ended
}

// stop tells it to end, and returns its last report.
func (p *feeder) stop() report {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatalf("stop the feeder: %v", err)
	}
	<-p.ended
	if !p.cmd.ProcessState.Success() {
		p.t.Fatalf("feeder: %s", p.cmd.ProcessState)
	}
	return p.report()
}

// await waits until what the feeder reports fits.
func (p *feeder) await(what string, fits func(report) bool) report {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Minute)
	defer cancel()
	for {
		r := p.report()
		if fits(r) {
			return r
		}
		select {
		case <-ctx.Done():
			p.t.Fatalf("waited in vain for %s: %+v", what, r)
		case <-p.ended:
			p.t.Fatalf("the feeder ended while this was waited for: %s: %s", what, p.cmd.ProcessState)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// newAgent is an identity that nobody else has.
func newAgent() (id event.ID) {
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	return id
}

func failure(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}
