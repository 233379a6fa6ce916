package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

const (
	answerTimeout  = 30 * time.Second // for one answer of the engine; a busy one has been seen to take 10 s
	inspectors     = 4                // requests about single containers at a time
	execInspectors = 2                // and about execs
	minBackoff     = 100 * time.Millisecond
	maxBackoff     = 5 * time.Second // between attempts to connect: opening a local socket costs next to nothing
	maxPostpone    = time.Minute     // between requests about one container that fail
	steadyAfter    = 2 * maxBackoff  // a session that lasts is a recovery; one that ends at once is not
	messageDelay   = 2 * time.Second // of a message in the stream, at most, behind an answer
	lookback       = time.Minute     // before New: what was made then may be gone before it can be asked about

	maxLogged = 8 // different problems in the log until the engine answers

	maxAnswer = 16 << 20 // bytes of one answer
	maxLine   = 1 << 20  // bytes of one message in the engine's stream
)

// engineState is what State tells, and what the log was told.
type engineState struct {
	connected bool
	reason    string
	failing   int                 // containers whose last request failed
	logged    map[string]struct{} // the problems that were logged since the last recovery
}

// State reports whether the engine answers, and in one sentence what that means or how to remedy it.
func (t *Tracker) State() (connected bool, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.engine.connected && t.engine.failing > 0 {
		return true, fmt.Sprintf("%s, but not about %d of the containers: see its log", t.engine.reason, t.engine.failing)
	}
	return t.engine.connected, t.engine.reason
}

// follow connects to the engine again and again.
func (t *Tracker) follow(ctx context.Context) {
	f := newFollowing(t.began.Add(-lookback))
	backoff := minBackoff
	for {
		began := time.Now()
		err := t.session(ctx, f)
		t.endExecs()
		if ctx.Err() != nil {
			return
		}
		t.disconnected(err)
		if time.Since(began) > maxBackoff {
			backoff = minBackoff
		}
		if !sleep(ctx, backoff/2+rand.N(backoff/2)) {
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// session subscribes to the engine's events, then asks for what exists: a container that is made meanwhile is seen
// twice rather than never. The engine repeats what it still has of events since the last one of the session before.
// It returns when the stream ends, with the reason.
func (t *Tracker) session(ctx context.Context, f *following) (err error) {
	unobserved := time.Now() // since when, as soon as the session has ended
	defer func() { f.ended(unobserved, err) }()
	var working sync.WaitGroup
	defer working.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	engine, transport, err := t.connect(ctx)
	if err != nil {
		return err
	}
	defer transport.base.CloseIdleConnections()

	stream, err := subscribe(ctx, engine.Client, transport, f.since())
	defer func() {
		cancel()
		for range stream.Err { // closed when the stream's goroutine ends
		}
	}()
	if err != nil {
		return fmt.Errorf("subscribe to docker events: %w", err)
	}
	subscribed := time.Now()
	t.resume()
	working.Go(func() { t.list(ctx, engine) })
	working.Go(func() { t.inspectAll(ctx, engine) })
	for range execInspectors {
		working.Go(func() { t.askExecs(ctx, engine) })
	}
	steady := time.NewTicker(steadyAfter)
	defer steady.Stop()
	for {
		select {
		case <-steady.C:
			t.recovered()
			t.resumed(f, false, subscribed)
		case m := <-stream.Messages:
			again := f.take(&m)
			t.resumed(f, again, subscribed)
			if !again {
				t.observe(m)
			}
		case err := <-stream.Err:
			unobserved = time.Now()
			return fmt.Errorf("read docker events: %w", err)
		}
	}
}

// engine is one connection to the engine.
type engine struct {
	*client.Client
	http    *http.Client // with the client's transport
	info    engineInfo
	digests digests
}

// connect returns a client that speaks the engine's version of the API.
func (t *Tracker) connect(ctx context.Context) (*engine, *transport, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	conn, err := t.dial(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to docker: %w%s", err, remedy(err))
	}
	conn.Close()
	transport := &transport{base: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dial(ctx) },
		DisableCompression: true,
		MaxIdleConns:       inspectors + execInspectors,
	}}
	requests := &http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}
	api, err := client.New(client.WithHost(t.config.Docker), client.WithHTTPClient(requests))
	if err != nil {
		return nil, nil, fmt.Errorf("make docker client: %w", err)
	}
	if _, err := api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		transport.base.CloseIdleConnections()
		return nil, nil, fmt.Errorf("agree on docker api version: %w%s", err, remedy(err))
	}
	e := &engine{Client: api, http: requests}
	if info, err := api.Info(ctx, client.InfoOptions{}); err != nil {
		t.failed(fmt.Errorf("ask docker how it confines containers: %w", err))
	} else {
		e.info = engineInfoOf(info.Info.SecurityOptions, strings.TrimPrefix(t.config.Docker, "unix://"))
	}
	return e, transport, nil
}

// remedy says what to do about an engine that cannot be connected to.
func remedy(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ": install and start docker, or turn it off in the configuration"
	case errors.Is(err, syscall.ECONNREFUSED):
		return ": start docker"
	case errors.Is(err, fs.ErrPermission):
		return ": run the agent as root or in the socket's group"
	case errors.Is(err, context.DeadlineExceeded):
		return ": docker hangs, see journalctl -u docker"
	}
	return ""
}

// subscribe returns the engine's stream of the events that tell of the lives of containers. It must be drained also when
// there is an error, and without delay: an engine drops what a slow reader does not take, and does not say so.
func subscribe(ctx context.Context, e *client.Client, t *transport, since time.Time) (client.EventsResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(answerTimeout, cancel)
	stream := e.Events(ctx, client.EventsListOptions{
		Since: fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond()),
		Filters: client.Filters{}.Add("type", string(events.ContainerEventType)).Add("event",
			string(events.ActionCreate), string(events.ActionStart), string(events.ActionRename),
			string(events.ActionExecStart), string(events.ActionKill), string(events.ActionOOM),
			string(events.ActionDie), string(events.ActionDestroy)),
	})
	switch {
	case !late.Stop():
		return stream, fmt.Errorf("no answer within %v%s", answerTimeout, remedy(context.DeadlineExceeded))
	case !t.streaming.Load():
		return stream, <-stream.Err
	}
	return stream, nil
}

// list notes what the engine says of the running containers, in one answer. If it fails nothing is lost: those with
// a cgroup are asked for one by one anyway.
func (t *Tracker) list(ctx context.Context, engine *engine) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	result, err := engine.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		if ctx.Err() != context.Canceled {
			t.failed(fmt.Errorf("list containers: %w", err))
		}
		return
	}
	t.answered(engine)
	for _, c := range result.Items {
		if !isHex(c.ID, 64) {
			continue
		}
		f := facts{labels: c.Labels}
		f.ImageID = cut(c.ImageID)
		if len(c.Names) > 0 {
			f.Name = nameOf(c.Names[0])
		}
		// The list shows an id in place of a name that has since moved to another image.
		if !strings.HasPrefix(c.Image, "sha256:") {
			f.Image = cut(c.Image)
		}
		t.note(c.ID, f, time.Unix(c.Created, 0))
	}
}

// labelsOf returns the labels of a container, which the attributes of the event of its creation are but for two.
func labelsOf(attributes map[string]string) map[string]string {
	labels := maps.Clone(attributes)
	delete(labels, "name")
	delete(labels, "image")
	return labels
}

// nameOf returns a container's name from one that may be a path.
func nameOf(name string) string { return cut(strings.TrimPrefix(name, "/")) }

// inspectAll asks about every container that waits for its description, at once: some are gone within 300 ms.
func (t *Tracker) inspectAll(ctx context.Context, engine *engine) {
	var asking sync.WaitGroup
	defer asking.Wait()
	free := make(chan struct{}, inspectors)
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	for {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if id, ok := t.due(time.Now()); ok {
			asking.Go(func() {
				t.inspect(ctx, engine, id)
				<-free
			})
			continue
		}
		<-free
		select {
		case <-t.pending:
		case <-retry.C:
		case <-ctx.Done():
			return
		}
	}
}

// due picks a container to ask about.
func (t *Tracker) due(now time.Time) (id string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, c := range t.waiting {
		if !c.asking && !c.next.After(now) {
			c.asking, c.stale = true, false
			return id, true
		}
	}
	return "", false
}

func (t *Tracker) inspect(ctx context.Context, engine *engine, id string) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	result, err := engine.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	c := result.Container
	if err == nil && (c.ID != id || c.Config == nil || c.HostConfig == nil) {
		err = errors.New("the answer is about something else")
	}
	switch {
	case err == nil:
		t.answered(engine)
		i := inspection{engine: engine.info, mask: t.config.Mask, credential: t.config.Credential}
		f := i.facts(&c)
		if f.ImageDigest, err = engine.digest(ctx, c.Image, c.Config.Image); err != nil {
			t.note(id, f, time.Now())
			t.postpone(id, ctx.Err() == context.Canceled)
			return
		}
		t.settle(id, f)
	case errdefs.IsNotFound(err) && t.mayBeTold(id):
	case errdefs.IsNotFound(err):
		t.settle(id, facts{}) // gone, or another engine's: there is no more to learn
	default:
		t.postpone(id, ctx.Err() == context.Canceled)
	}
}

// mayBeTold reports whether the engine's stream may still tell of a container that the engine does not have, and has it
// asked about again if so: the message of its creation may be on its way.
func (t *Tracker) mayBeTold(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.waiting[id]
	if !ok || c.bound || c.missed {
		return false
	}
	c.missed, c.asking = true, false
	c.next = time.Now().Add(messageDelay)
	return true
}

// postpone has a container asked about again: later each time, or at once when the session ended meanwhile.
func (t *Tracker) postpone(id string, canceled bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.waiting[id]
	if !ok {
		return
	}
	c.asking = false
	if canceled {
		return
	}
	t.stats.EngineFailures++
	if c.failures++; c.failures == 1 {
		t.engine.failing++
	}
	c.next = time.Now().Add(min(time.Second<<min(c.failures-1, 10), maxPostpone))
}

// resume has every waiting container asked about at once, in a new session.
func (t *Tracker) resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.waiting {
		c.next = time.Time{}
	}
}

// answered notes that the engine said something of use.
func (t *Tracker) answered(engine *engine) {
	t.mu.Lock()
	log := !t.engine.connected && len(t.engine.logged) == 0
	t.engine.connected = true
	t.engine.reason = fmt.Sprintf("docker at %s answers (api %s)", t.config.Docker, engine.ClientVersion())
	t.mu.Unlock()
	if log {
		t.log.Info("docker answers", "address", t.config.Docker)
	}
}

// recovered ends the problems that were logged, if the engine answers.
func (t *Tracker) recovered() {
	t.mu.Lock()
	log := t.engine.connected && len(t.engine.logged) > 0
	if log {
		clear(t.engine.logged)
	}
	t.mu.Unlock()
	if log {
		t.log.Info("docker answers again", "address", t.config.Docker)
	}
}

func (t *Tracker) disconnected(err error) {
	t.mu.Lock()
	t.engine.connected = false
	t.engine.reason = fmt.Sprintf("%v; until docker at %s answers, new containers have no names", err, t.config.Docker)
	t.mu.Unlock()
	t.failed(err)
}

// failed counts a problem, and logs it unless it was logged since the last recovery.
func (t *Tracker) failed(err error) {
	t.mu.Lock()
	t.stats.EngineFailures++
	_, again := t.engine.logged[err.Error()]
	log := !again && len(t.engine.logged) < maxLogged
	if log {
		t.engine.logged[err.Error()] = struct{}{}
	}
	t.mu.Unlock()
	if log {
		t.log.Warn("docker fails: new containers have no names until it answers",
			"address", t.config.Docker, "error", err)
	}
}

// transport bounds what an answer of the engine may take in memory.
type transport struct {
	base      *http.Transport
	streaming atomic.Bool // the request for events was accepted
}

func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.base.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(request.URL.Path, "/events") {
		response.Body = &bounded{ReadCloser: response.Body, left: maxAnswer}
		return response, nil
	}
	response.Body = &bounded{ReadCloser: response.Body, left: maxLine, line: maxLine}
	if response.StatusCode < http.StatusBadRequest { // what the client takes for accepted
		t.streaming.Store(true)
	}
	return response, nil
}

var errTooLong = errors.New("the answer is too long")

// bounded fails when an answer, or one line of it, is longer than it may be.
type bounded struct {
	io.ReadCloser
	left int // bytes that may follow
	line int // bytes that may follow a newline; 0 when the bound is for the whole
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= n
	if end := bytes.LastIndexByte(p[:n], '\n'); b.line > 0 && end >= 0 {
		b.left = b.line - (n - end - 1)
	}
	if b.left < 0 {
		return 0, errTooLong
	}
	return n, err
}
