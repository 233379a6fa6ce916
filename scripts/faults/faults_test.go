// Package faults pulls the cables between agent and endpoint, one after another, and accounts for every event: the
// agent's ledger is observed = acked + spooled + lost, the endpoint has as many events as are acknowledged, none of them
// twice, and what is missing there the ledger calls lost. `make test-faults` prints the table, with faults as long and
// as many as they are meant to be; in `make test` they are shorter and fewer.
package faults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/stack"
)

// full reports whether faults are to last as long, and come as often, as they are meant to.
func full() bool { return os.Getenv("TASKGUARD_FAULTS") == "full" }

// choose returns the one for a full run, or that for a short one.
func choose[T any](whole, short T) T {
	if full() {
		return whole
	}
	return short
}

var (
	built programs
	shown table
)

func TestMain(m *testing.M) {
	if text := os.Getenv(feederVariable); text != "" {
		os.Exit(failure(feedMain(text)))
	}
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	shown.print(os.Stdout)
	os.Exit(code)
}

// programs builds what the tests run, the first time a test asks for it.
type programs struct {
	once sync.Once
	dir  string
	err  error
}

func (p *programs) bin(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("TASKGUARD_BIN"); dir != "" {
		return dir
	}
	p.once.Do(func() {
		if p.dir, p.err = os.MkdirTemp("", "taskguard-faults-bin-"); p.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-buildvcs=false", "-o", p.dir+"/", "../../cmd/...")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			p.err = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.dir
}

// table is what a full run prints at its end.
type table struct {
	mu   sync.Mutex
	rows []string
}

const tableLine = "%-34s %9v %9v %8v %9v %8v  %s\n"

func (b *table) add(t *testing.T, r report, stored uint64, repeats int) {
	name := strings.ReplaceAll(t.Name()[strings.LastIndexByte(t.Name(), '/')+1:], "_", " ")
	row := fmt.Sprintf(tableLine, name, r.Ledger.Observed, r.Ledger.Acked, r.Ledger.Spooled, stored, repeats,
		strings.Trim(fmt.Sprint(r.Ledger.Lost), "map[]"))
	t.Log(strings.TrimSpace(row))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rows = append(b.rows, row)
}

// addPrinted adds the row of a test that another process has logged.
func (b *table) addPrinted(test, log string) {
	for line := range strings.Lines(log) {
		if at := strings.Index(line, ": "+test+" "); at >= 0 && strings.Contains(line[:at], "_test.go:") {
			b.mu.Lock()
			b.rows = append(b.rows, line[at+2:])
			b.mu.Unlock()
		}
	}
}

func (b *table) print(w io.Writer) {
	if !full() || len(b.rows) == 0 {
		return
	}
	slices.Sort(b.rows)
	fmt.Fprintf(w, tableLine+"%s", "fault", "observed", "acked", "spooled", "endpoint", "repeats", "lost", strings.Join(b.rows, ""))
}

// cell is one fault of the table.
type cell struct {
	*testing.T
	endpoint *stack.Stack
	feed     feed
	feeder   *feeder
}

// newCell starts an endpoint, and is ready to feed it.
func newCell(t *testing.T, flags ...string) *cell {
	t.Helper()
	// Not t.TempDir: the path of a unix socket has 107 bytes at most.
	dir, err := os.MkdirTemp("", "tg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := stack.New(built.bin(t), "../../packaging/agent.yaml", dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(s.Log())
		}
	})
	if err := s.StartEndpoint(t.Context(), flags...); err != nil {
		t.Fatal(err)
	}
	return &cell{T: t, endpoint: s, feed: feed{
		Dir: filepath.Join(dir, "feeder"), Agent: newAgent(), URL: "https://" + s.Address(), CA: s.CA(), Rate: 500,
		Timeout: choose(30*time.Second, 2*time.Second),
	}}
}

// start feeds, and returns when it has worked for a while.
func (c *cell) start() {
	c.Helper()
	if err := os.MkdirAll(c.feed.Dir, 0o700); err != nil {
		c.Fatal(err)
	}
	c.feeder = startFeeder(c.T, c.feed)
	c.feeder.await("events to be acknowledged", func(r report) bool { return r.Ledger.Acked > 100 })
}

// hold lets a fault last, and waits until the agent says of it what is wanted.
func (c *cell) hold(d time.Duration, problem string) {
	c.Helper()
	ends := time.Now().Add(d)
	said := regexp.MustCompile(problem)
	c.feeder.await(fmt.Sprintf("a problem like %q", problem), func(r report) bool {
		return said.MatchString(r.Upload.Problem)
	})
	time.Sleep(time.Until(ends))
}

// account waits until what came after the fault is delivered, ends the feeder, and checks the account. What may be lost
// is named by causes, and each of them must have been.
func (c *cell) account(causes ...string) report {
	c.Helper()
	healed := c.feeder.report().Ledger.Observed
	c.feeder.await("events to be acknowledged after the fault", func(r report) bool {
		lost := uint64(0)
		for _, n := range r.Ledger.Lost {
			lost += n
		}
		return r.Ledger.Acked+lost > healed
	})
	return c.settle(c.feeder.stop(), causes...)
}

// settle checks the account of a feeder that has ended with everything delivered or lost.
func (c *cell) settle(r report, causes ...string) report {
	c.Helper()
	l, lost := r.Ledger, uint64(0)
	for cause, n := range l.Lost {
		if lost += n; !slices.Contains(causes, cause) {
			c.Errorf("lost %d by %s", n, cause)
		}
	}
	for _, cause := range causes {
		if l.Lost[cause] == 0 {
			c.Errorf("nothing was lost by %s: was there a fault?", cause)
		}
	}
	if l.Observed != l.Acked+l.Spooled+l.Open+lost || l.Spooled+l.Open != 0 {
		c.Errorf("ledger %+v: want observed = acked + lost", l)
	}
	counts, err := c.endpoint.Counts(c.Context())
	if err != nil {
		c.Fatal(err)
	}
	stored := uint64(0)
	for _, n := range counts {
		stored += n
	}
	if stored != l.Acked {
		c.Errorf("the endpoint has %d events, %d were acknowledged: %v", stored, l.Acked, counts)
	}
	distinct, repeats := c.numbers()
	if repeats > 0 {
		c.Errorf("%d events are stored twice", repeats)
	}
	if r.Emitted > 0 && uint64(distinct)+r.LostOpens != r.Emitted {
		c.Errorf("of %d numbered events the endpoint has %d, and %d are lost", r.Emitted, distinct, r.LostOpens)
	}
	shown.add(c.T, r, stored, repeats)
	return r
}

// numbers counts the numbered events that the endpoint has, and those it has again.
func (c *cell) numbers() (distinct, repeats int) {
	c.Helper()
	out, err := c.endpoint.Events(c.Context(), "--json", "--kind", "file.open")
	if err != nil {
		c.Fatal(err)
	}
	seen := map[string]bool{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var e event.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.File == nil {
			c.Fatalf("%v: %s", err, lines.Bytes())
		}
		if seen[e.File.Path] {
			repeats++
		}
		seen[e.File.Path] = true
	}
	return len(seen), repeats
}

// TestFaults holds one fault after another between an agent that delivers and its endpoint.
func TestFaults(t *testing.T) {
	while := choose(20*time.Second, time.Second)
	for name, test := range map[string]func(c *cell){
		"endpoint down": func(c *cell) {
			c.start()
			c.endpoint.Endpoint.Kill()
			c.hold(choose(time.Minute, 2*time.Second), "refuses connections")
			if err := c.endpoint.StartEndpoint(c.Context()); err != nil {
				c.Fatal(err)
			}
			c.account()
		},
		"reset mid-body":   linkFault((*link).reset, while, "closed the connection|reset|broken pipe"),
		"black hole":       linkFault((*link).hole, choose(time.Minute, 3*time.Second), "does not answer in time|handshake"),
		"slow loris":       linkFault((*link).trickle, choose(time.Minute, 3*time.Second), "does not answer in time|handshake"),
		"500":              answerFault(answers(500), while, "answers 500"),
		"503":              answerFault(answers(503), while, "answers 503"),
		"answer swallowed": swallowed(while),
		"429 Retry-After":  retryAfter,
		"413":              tooLarge,
		"400":              malformed,
		"TLS expired":      badCertificate(certificate{host: "127.0.0.1", expired: true}, while, "expired at"),
		"TLS wrong name":   badCertificate(certificate{host: "192.0.2.1"}, while, "is for 192.0.2.1, not for 127.0.0.1"),
		"TLS unknown CA": func(c *cell) {
			g := c.gateway()
			g.certificate.Store(newAuthority(c.T).issue(c.T, certificate{host: "127.0.0.1"}))
			g.cut()
			c.hold(while, "unknown authority")
			g.certificate.Store(g.authority.issue(c.T, certificate{host: "127.0.0.1"}))
			c.account()
		},
		"clock off by 10 min": func(c *cell) { clockOff(c, while) },
		"slow clients":        slowClients,
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			test(newCell(t))
		})
	}
	t.Run("credentials_expired", func(t *testing.T) {
		t.Parallel()
		credentialsExpired(t, while)
	})
}

// linkFault is a link that is bad for a while.
func linkFault(bad func(*link, net.Conn), d time.Duration, problem string) func(c *cell) {
	return func(c *cell) {
		l := newLink(c.T, c.endpoint.Address())
		c.feed.URL = l.url()
		c.start()
		l.become(bad)
		c.hold(d, problem)
		l.become((*link).pass)
		c.account()
	}
}

// gateway starts to feed by way of a gateway.
func (c *cell) gateway() *gateway {
	c.Helper()
	g := newGateway(c.T, c.endpoint.Address(), c.endpoint.CA())
	c.feed.URL, c.feed.CA = g.url(), g.authority.file(c.T)
	c.start()
	return g
}

func answerFault(f fault, d time.Duration, problem string) func(c *cell) {
	return func(c *cell) {
		g := c.gateway()
		g.fault.Store(&f)
		c.hold(d, problem)
		g.fault.Store(nil)
		c.account()
		if g.faults.Load() == 0 {
			c.Error("no request met the fault")
		}
	}
}

// swallowed: the endpoint stores, and the agent does not hear of it.
func swallowed(d time.Duration) func(c *cell) {
	return func(c *cell) {
		g := c.gateway()
		f := fault(g.swallows)
		g.fault.Store(&f)
		c.hold(d, "closed the connection|stream error|INTERNAL_ERROR")
		g.fault.Store(nil)
		c.account()
	}
}

// retryAfter: a receiver that asks to wait is not asked again before.
func retryAfter(c *cell) {
	g := c.gateway()
	var mu sync.Mutex
	var asked []time.Time
	f := fault(func(w http.ResponseWriter, _ *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, time.Now())
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	g.fault.Store(&f)
	c.hold(choose(20*time.Second, 5*time.Second), "answers 429")
	g.fault.Store(nil)
	c.account()
	mu.Lock()
	defer mu.Unlock()
	for i := 1; i < len(asked); i++ {
		if wait := asked[i].Sub(asked[i-1]); wait < 2*time.Second-10*time.Millisecond {
			c.Errorf("asked again after %v, want 2s or more", wait)
		}
	}
}

// tooLarge: something in between takes no body above 300 bytes, which a batch of the feeder has.
func tooLarge(c *cell) {
	g := c.gateway()
	f := fault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.ContentLength <= 300 {
			return false
		}
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return true
	})
	g.fault.Store(&f)
	began := c.feeder.report().Ledger.Acked
	c.feeder.await("batches to be sent in parts", func(r report) bool {
		return r.Ledger.Acked > began+choose[uint64](5000, 500)
	})
	if g.faults.Load() == 0 {
		c.Error("no request was too large")
	}
	g.fault.Store(nil)
	c.account()
}

// malformed: the receiver says of some batches that it will never take them.
func malformed(c *cell) {
	g := c.gateway()
	f := fault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintln(w, `{"error":"malformed"}`)
		return true
	})
	g.fault.Store(&f)
	c.feeder.await("batches to be rejected", func(r report) bool { return r.Upload.Rejected > choose[uint64](3, 1) })
	g.fault.Store(nil)
	c.account("send/rejected")
}

func badCertificate(bad certificate, d time.Duration, problem string) func(c *cell) {
	return func(c *cell) {
		g := c.gateway()
		good := g.certificate.Swap(g.authority.issue(c.T, bad))
		g.cut()
		c.hold(d, problem)
		g.certificate.Store(good)
		c.account()
	}
}

// clockOff: this host's clock is ten minutes behind the receiver's, which the agent notices.
func clockOff(c *cell, d time.Duration) {
	c.feed.Skew = -10 * time.Minute
	g := newGateway(c.T, c.endpoint.Address(), c.endpoint.CA())
	g.proxy.ModifyResponse = func(r *http.Response) error {
		r.Header.Set("Date", time.Now().Add(10*time.Minute).UTC().Format(http.TimeFormat))
		return nil
	}
	c.feed.URL, c.feed.CA = g.url(), g.authority.file(c.T)
	c.start()
	c.feeder.await("the skew to be noticed", func(r report) bool { return (r.Skew + 10*time.Minute).Abs() < time.Minute })
	time.Sleep(d)
	c.account()
}

// slowClients: others hold connections to the endpoint and send a byte now and then.
func slowClients(c *cell) {
	l := newLink(c.T, c.endpoint.Address())
	clients := choose(500, 50)
	for range clients {
		client, ok := l.dial()
		if !ok {
			c.Fatal("cannot connect")
		}
		l.running.Go(func() {
			for _, err := client.Write([]byte{22}); err == nil; _, err = client.Write([]byte{3}) {
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	c.start()
	began := c.feeder.report().Ledger.Acked
	c.feeder.await("events to be acknowledged beside slow clients", func(r report) bool {
		return r.Ledger.Acked > began+choose[uint64](10_000, 1000)
	})
	c.account()
}

// credentialsExpired: the agent's certificate ends, and is renewed.
func credentialsExpired(t *testing.T, d time.Duration) {
	a := newAuthority(t)
	config := filepath.Join(t.TempDir(), "endpoint.yaml")
	write(t, config, []byte("auth:\n  mtls:\n    ca_file: "+a.file(t)+"\n"))
	c := newCell(t, "--config", config)
	l := newLink(t, c.endpoint.Address())
	c.feed.URL = l.url()
	c.feed.Cert, c.feed.Key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	of := certificate{uri: "taskguard://" + instance.AccountID + "/" + instance.InstanceID}
	files(t, a.issue(t, of), c.feed.Cert, c.feed.Key)
	c.start()
	of.expired = true
	files(t, a.issue(t, of), c.feed.Cert, c.feed.Key)
	l.cut()
	c.hold(d, "client certificate expired")
	of.expired = false
	files(t, a.issue(t, of), c.feed.Cert, c.feed.Key)
	c.account()
}
