package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// childVariable makes the test binary behave as the program, for tests that need a process to kill.
const childVariable = "TASKGUARD_ENDPOINT_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), childVariable+"=1")
	return cmd
}

// endpoint is a serve that runs, and a client that trusts it.
type endpoint struct {
	data   string
	url    string
	logged []string // up to when it listened
	client *http.Client
	stop   context.CancelFunc
	ended  chan error
}

// startServe runs serve in this process until the test ends.
func startServe(t *testing.T, data string, args ...string) *endpoint {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	e := &endpoint{data: data, stop: cancel, ended: make(chan error, 1)}
	stderr, w := io.Pipe()
	args = append([]string{"serve", "--data", data, "--listen", "127.0.0.1:0", "--tls-self-signed"}, args...)
	go func() {
		err := run(ctx, args, io.Discard, w)
		w.CloseWithError(err)
		e.ended <- err
	}()
	t.Cleanup(func() { e.close(t) })
	e.connect(t, stderr)
	return e
}

// connect waits until serve says on stderr that it listens, and makes the client.
func (e *endpoint) connect(t *testing.T, stderr io.Reader) {
	t.Helper()
	lines := bufio.NewScanner(stderr)
	listening := regexp.MustCompile(`msg=listening addr=(\S+)`)
	for e.url == "" {
		if !lines.Scan() {
			t.Fatalf("serve ended: %v\n%s", lines.Err(), strings.Join(e.logged, "\n"))
		}
		e.logged = append(e.logged, lines.Text())
		if found := listening.FindStringSubmatch(lines.Text()); found != nil {
			e.url = "https://" + found[1]
		}
	}
	go func() {
		for lines.Scan() {
		}
	}()
	ca, err := os.ReadFile(filepath.Join(e.data, "tls", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	e.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true,
	}}
	t.Cleanup(e.client.CloseIdleConnections)
}

// close stops serve as a signal does, and checks that it ends well.
func (e *endpoint) close(t *testing.T) {
	t.Helper()
	e.stop()
	if err := <-e.ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	e.ended <- nil
	e.client.CloseIdleConnections()
}

// post sends a frame and returns the status and the answer.
func (e *endpoint) post(frame []byte) (int, map[string]string, error) {
	answer, err := e.client.Post(e.url+"/v1/batches", batch.ContentType, bytes.NewReader(frame))
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	var body map[string]string
	err = json.NewDecoder(answer.Body).Decode(&body)
	return answer.StatusCode, body, err
}

func (e *endpoint) mustPost(t *testing.T, frame []byte, want string) {
	t.Helper()
	code, body, err := e.post(frame)
	if err != nil || code != 200 || body["status"] != want {
		t.Fatalf("post: %d %v %v, want 200 %s", code, body, err, want)
	}
}

// command runs the program in this process and returns what it printed.
func command(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	err = run(t.Context(), args, &out, &errs)
	return out.String(), err
}

func mustCommand(t *testing.T, args ...string) string {
	t.Helper()
	out, err := command(t, args...)
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return out
}

// countEvents returns what events --count says.
func countEvents(t *testing.T, data string, args ...string) counts {
	t.Helper()
	var n counts
	out := mustCommand(t, append([]string{"events", "--data", data, "--count", "--json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &n); err != nil {
		t.Fatalf("%q: %v", out, err)
	}
	return n
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s:\n got %s\nwant %s", what, g, w)
	}
}

// maker makes the batches of one run of an agent.
type maker struct {
	t        *testing.T
	codec    *batch.Codec
	agent    event.ID
	host     event.Host
	sequence uint64
}

func newMaker(t *testing.T, agent byte) *maker {
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	host := event.Host{Hostname: fmt.Sprintf("host%d", agent), BootID: event.ID{9}}
	return &maker{t: t, codec: codec, agent: event.ID{agent}, host: host}
}

// next returns the next batch's frame.
func (m *maker) next(updates []event.Container, events ...event.Event) []byte {
	m.sequence++
	b := batch.NewBuilder()
	for i := range events {
		b.Append(&events[i])
	}
	h := batch.Header{ID: batch.ID{Agent: m.agent, Epoch: 1, Sequence: m.sequence}, Host: m.host, Updates: batch.Updates{Containers: updates}}
	return m.codec.Compress(nil, b.Seal(nil, h, batch.Late{}))
}

// exec1 returns a process.exec event.
func exec1(name string, container *event.Container) event.Event {
	return event.Event{Time: time.Now().Truncate(0).UTC(), Kind: event.ProcessExec, Process: &event.Process{
		PID: 42, Name: name, Exe: "/bin/" + name, Args: event.NewArgv([]string{name, "-<&>"}), Container: container,
	}}
}

func TestUsageErrors(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args string
		want string
	}{
		{"bogus", "unknown argument"},
		{"serve --data DIR", "a certificate is required"},
		{"serve --data DIR --tls-cert x", "a certificate is required"},
		{"serve --data DIR --tls-cert x --tls-key y", "load certificate"},
		{"serve --data DIR --tls-self-signed --tls-cert x", "excludes"},
		{"serve --data DIR --tls-self-signed --max-bytes 10QB", "10GiB"},
		{"serve --data DIR --tls-self-signed --max-bytes 1MiB", "want a size of 16MiB or more"},
		{"serve --data DIR --tls-self-signed --retention 1s", "want a time of 1m or more"},
		{"serve --data DIR --tls-self-signed --set drain_delay=1h", "want a time of up to 1m"},
		{"serve --data DIR --tls-self-signed --host=", "tls.hosts is empty"},
		{"serve --data DIR --tls-self-signed --log-level loud", "--log-level: log.level"},
		{"serve --config /nonexistent/endpoint.yaml", "read config"},
		{"serve --tls-self-signed --set limits.evnts=1", "limits.evnts: unknown key: want one of limits.body_bytes"},
		{"serve --tls-self-signed --set limits.events=65537", "want a number from 1 to 65536"},
		{"serve --nonsense", "unknown flag"},
		{"serve extra", "unknown argument"},
		{"events", "--data is required"},
		{"events --data DIR --kind process.explode", "unknown event kind"},
		{"events --data DIR --since yesterday", "want a duration"},
		{"events --data DIR --since -10m", "want a duration"},
		{"events --data DIR --follow --count", "excludes"},
		{"version extra", "unknown argument"},
	} {
		_, err := command(t, strings.Fields(strings.ReplaceAll(c.args, "DIR", dir))...)
		if err == nil || exitCode(err) != 2 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v (exit %d), want %q (exit 2)", c.args, err, exitCode(err), c.want)
		}
	}
}

func TestOtherErrors(t *testing.T) {
	data := t.TempDir()
	startServe(t, data)
	hidden := t.TempDir()
	startServe(t, hidden)
	if err := os.Rename(filepath.Join(hidden, socketFile), filepath.Join(hidden, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		want string
	}{
		{"events --data " + t.TempDir(), "no batches were ever stored there"},
		{"events --follow --data " + t.TempDir(), "no serve runs on"},
		{"events --data " + hidden, "is serve starting or stopping?"},
		{"serve --tls-self-signed --listen 127.0.0.1:0 --data " + data, "in use by another process"},
		{"serve --tls-self-signed --listen 256.0.0.1:0 --data " + t.TempDir(), "listen for agents"},
		{"serve --tls-self-signed --listen 127.0.0.1:0 --metrics-listen 256.0.0.1:0 --data " + t.TempDir(), "listen for metrics"},
	} {
		_, err := command(t, strings.Fields(c.args)...)
		if err == nil || exitCode(err) != 1 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q (exit 1)", c.args, err, c.want)
		}
	}
}

func TestExitCodesOfTheProgram(t *testing.T) {
	for args, want := range map[string]int{"version": 0, "bogus": 2, "events --data " + t.TempDir(): 1} {
		out, err := child(strings.Fields(args)...).CombinedOutput()
		code := 0
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			code = exit.ExitCode()
		}
		if code != want || want != 0 && !strings.HasPrefix(string(out), "taskguard-endpoint: ") {
			t.Errorf("%s: exit %d, want %d: %s", args, code, want, out)
		}
	}
}

func TestCompletionAndHelp(t *testing.T) {
	if out := mustCommand(t, "completion", "bash"); !strings.Contains(out, "taskguard-endpoint") {
		t.Error("no completion for bash")
	}
	if out := mustCommand(t, "--help"); !strings.Contains(out, "serve") || !strings.Contains(out, "events") {
		t.Errorf("help: %s", out)
	}
}
