package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/leaktest"
	"github.com/taskguard/taskguard/sender/batch"
)

func TestStoredOnceAcrossRestarts(t *testing.T) {
	data := t.TempDir()
	m := newMaker(t, 1)
	first, second := m.next(nil, exec1("a", nil)), m.next(nil, exec1("b", nil))

	e := startServe(t, data)
	e.mustPost(t, first, "stored")
	e.mustPost(t, first, "repeat")
	e.close(t)

	e = startServe(t, data) // agents still trust it
	e.mustPost(t, first, "repeat")
	e.mustPost(t, second, "stored")
	equal(t, "while it runs", countEvents(t, data), counts{"process.exec": 2})
	e.close(t)
	equal(t, "when it does not", countEvents(t, data), counts{"process.exec": 2})
}

func TestConcurrentDuplicatesAreStoredOnce(t *testing.T) {
	e := startServe(t, t.TempDir())
	m := newMaker(t, 1)
	for range 10 {
		frame := m.next(nil, exec1("a", nil))
		var mu sync.Mutex
		got := map[string]int{}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, body, err := e.post(frame)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				got[body["status"]]++
			})
		}
		wg.Wait()
		equal(t, "answers", got, map[string]int{"stored": 1, "repeat": 7})
	}
	equal(t, "stored", countEvents(t, e.data), counts{"process.exec": 10})
}

// What was answered with 200 is there after SIGKILL in the middle of a storm, and sending all again adds only the rest.
func TestAcknowledgedBatchesSurviveSIGKILL(t *testing.T) {
	data := t.TempDir()
	m := newMaker(t, 1)
	const batches, killAfter = 60, 25
	var frames [][]byte
	for range batches {
		frames = append(frames, m.next(nil, exec1("a", nil), exec1("b", nil)))
	}
	e, acknowledged := &endpoint{data: data}, 0
	server := child("serve", "--data", data, "--listen", "127.0.0.1:0", "--tls-self-signed")
	stderr, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	e.connect(t, stderr)
	for _, frame := range frames {
		code, _, err := e.post(frame)
		if err != nil {
			break // killed
		}
		if code == 200 {
			acknowledged++
		}
		if acknowledged == killAfter { // without waiting: the next one is on its way when it dies
			go server.Process.Signal(syscall.SIGKILL)
		}
	}
	_ = server.Wait()
	if acknowledged < killAfter || acknowledged == batches {
		t.Fatalf("%d of %d batches acknowledged before the kill", acknowledged, batches)
	}

	// One more may have been stored without its answer getting out.
	if n := countEvents(t, data)["process.exec"]; n != uint64(2*acknowledged) && n != uint64(2*acknowledged+2) {
		t.Errorf("%d events after the kill, %d batches of 2 were acknowledged", n, acknowledged)
	}
	again := startServe(t, data)
	for _, frame := range frames {
		if code, body, err := again.post(frame); err != nil || code != 200 {
			t.Fatalf("post: %d %v %v", code, body, err)
		}
	}
	equal(t, "after sending all again", countEvents(t, data), counts{"process.exec": 2 * batches})
}

func TestRefusedBatchesLeaveNothing(t *testing.T) {
	e := startServe(t, t.TempDir())
	m := newMaker(t, 1)
	good := m.next(nil, exec1("a", nil))
	for name, body := range map[string][]byte{
		"garbage": []byte("garbage"), "empty": nil, "truncated": good[:len(good)-9],
		"bomb":      m.codec.Compress(nil, make([]byte, batch.MaxSize+1)),
		"oversized": make([]byte, batch.MaxCompressed+1),
	} {
		if code, answer, err := e.post(body); err != nil || code < 400 || code > 499 || answer["error"] == "" {
			t.Errorf("%s: %d %v %v, want 4xx with a reason", name, code, answer, err)
		}
	}
	answer, err := e.client.Post(e.url+"/v1/batches", "application/json", bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	equal(t, "wrong content type", answer.StatusCode, 415)
	equal(t, "events", countEvents(t, e.data), counts{})
	equal(t, "batches", logStatus(t, e).Log.Stored, 0)
	equal(t, "refused", logStatus(t, e).Requests.Refused, 6)
	e.mustPost(t, good, "stored")
}

type statusAnswer struct {
	Log      struct{ Stored, Batches uint64 }
	Requests struct{ Stored, Repeats, Refused, Limited uint64 }
}

// logStatus asks GET /v1/status on the socket.
func logStatus(t *testing.T, e *endpoint) (s statusAnswer) {
	t.Helper()
	from, err := dialServe(t.Context(), e.data)
	if err != nil || from == nil {
		t.Fatalf("dial: %v", err)
	}
	defer from.close()
	answer, err := from.http.Get("http://endpoint/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTLSOnly(t *testing.T) {
	e := startServe(t, t.TempDir())
	addr := strings.TrimPrefix(e.url, "https://")
	roots := e.client.Transport.(*http.Transport).TLSClientConfig.RootCAs
	if conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots, MaxVersion: tls.VersionTLS11}); err == nil {
		conn.Close()
		t.Error("TLS 1.1 was accepted")
	}
	if conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: x509.NewCertPool()}); err == nil {
		conn.Close()
		t.Error("a client that does not trust the authority connected")
	}
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	answer, err := http.Get("http://" + addr + "/v1/health")
	if err == nil {
		answer.Body.Close()
		if answer.StatusCode == 200 {
			t.Error("plain HTTP was answered")
		}
	}
}

func TestSlowClientIsCutOff(t *testing.T) {
	e := startServe(t, t.TempDir(), "--set", "limits.request_timeout=3s")
	roots := e.client.Transport.(*http.Transport).TLSClientConfig.RootCAs
	conn, err := tls.Dial("tcp", strings.TrimPrefix(e.url, "https://"), &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Type: "+batch.ContentType+
		"\r\nContent-Length: 1000\r\n\r\nand no more")
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(conn) // ends when the endpoint hangs up
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 408")) {
		t.Errorf("answer %.200q, want 408", answer)
	}
}

// A request that runs when serve is told to stop is finished.
func TestStopFinishesRunningRequests(t *testing.T) {
	e := startServe(t, t.TempDir())
	frame := newMaker(t, 1).next(nil, exec1("a", nil))
	addr := strings.TrimPrefix(e.url, "https://")
	roots := e.client.Transport.(*http.Transport).TLSClientConfig.RootCAs
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n"+
		"Expect: 100-continue\r\n\r\n", batch.ContentType, len(frame))
	answers := bufio.NewReader(conn)
	if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, "100") {
		t.Fatalf("%q, %v, want to be told to continue", line, err)
	}
	_, _ = answers.ReadString('\n')

	e.stop()
	for { // until it has begun to stop
		late, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		late.Close()
	}
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, "200 OK") {
		t.Errorf("%q, %v, want 200", line, err)
	}
	e.close(t)
	equal(t, "stored", countEvents(t, e.data), counts{"process.exec": 1})
}

// While serve drains, load balancers are told to go elsewhere and batches are still taken.
func TestDrain(t *testing.T) {
	e := startServe(t, t.TempDir(), "--set", "drain_delay=3s")
	m := newMaker(t, 1)
	e.mustPost(t, m.next(nil, exec1("a", nil)), "stored")
	e.stop()
	for code := 200; code != 503; {
		answer, err := e.client.Get(e.url + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		code = answer.StatusCode
	}
	e.mustPost(t, m.next(nil, exec1("a", nil)), "stored")
	e.close(t)
	equal(t, "stored", countEvents(t, e.data), counts{"process.exec": 2})
}

func TestAddressFileAndModes(t *testing.T) {
	e := startServe(t, filepath.Join(t.TempDir(), "made"))
	address, err := os.ReadFile(filepath.Join(e.data, addressFile))
	if err != nil || "https://"+strings.TrimSpace(string(address)) != e.url {
		t.Errorf("address %q, err %v, want that of %s", address, err, e.url)
	}
	for name, want := range map[string]os.FileMode{".": 0o700, socketFile: 0o600, "tls/server-key.pem": 0o600} {
		info, err := os.Stat(filepath.Join(e.data, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, err %v, want %v", name, info.Mode(), err, want)
		}
	}
	e.close(t)
	for _, name := range []string{addressFile, socketFile} {
		if _, err := os.Stat(filepath.Join(e.data, name)); !os.IsNotExist(err) {
			t.Errorf("%s is left behind: %v", name, err)
		}
	}
}

func TestHealth(t *testing.T) {
	e := startServe(t, t.TempDir())
	answer, err := e.client.Get(e.url + "/v1/health")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var body map[string]string
	err = json.NewDecoder(answer.Body).Decode(&body)
	if err != nil || body["status"] != "ok" || body["version"] != endpointVersion() {
		t.Errorf("health %v, err %v", body, err)
	}
}

// After serve has ended nothing of it is left in the process.
func TestServeLeavesNothingBehind(t *testing.T) {
	round := func() {
		data := t.TempDir()
		e := startServe(t, data)
		e.mustPost(t, newMaker(t, 1).next(nil, exec1("a", nil)), "stored")
		countEvents(t, data)
		e.close(t)
		countEvents(t, data)
	}
	round() // what libraries keep for the life of the process
	nothingIsLeft := leaktest.Check(t)
	for range 3 {
		round()
	}
	nothingIsLeft()
}

func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitConns(inner, 2)
	accepted := make(chan net.Conn)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	})
	for range 3 {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	first, second := <-accepted, <-accepted
	if n := len(l.(*limitedListener).free); n != 2 {
		t.Errorf("%d connections count as open, want 2", n)
	}
	select {
	case <-accepted:
		t.Error("a third connection was accepted")
	default:
	}
	first.Close()
	first.Close() // as net/http does
	third := <-accepted
	third.Close()
	second.Close()
	l.Close()
	wg.Wait()
}

func TestSelfSigned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	now := time.Now()
	ca := func() string {
		content, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	make1 := func(hosts []string, now time.Time) string {
		t.Helper()
		if _, err := selfSigned(dir, hosts, now); err != nil {
			t.Fatal(err)
		}
		return ca()
	}
	first := make1([]string{"localhost", "::1"}, now)
	if make1([]string{"localhost"}, now) != first {
		t.Error("an authority that is good was replaced: agents would not trust it")
	}
	second := make1([]string{"example.test"}, now)
	if second == first {
		t.Error("a certificate was kept that is not for the host")
	}
	if make1([]string{"example.test"}, now.Add(selfSignedFor-time.Hour)) == second {
		t.Error("a certificate was kept that is about to end")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("files %v, want ca.pem, server.pem and server-key.pem: nobody may sign with the authority", entries)
	}
}

func TestAgentsAreApart(t *testing.T) {
	e := startServe(t, t.TempDir())
	a, b := newMaker(t, 1), newMaker(t, 2)
	e.mustPost(t, a.next(nil, exec1("a", nil)), "stored")
	start := event.Event{Time: time.Now(), Kind: event.AgentStart, Agent: &event.Agent{Version: "1"}}
	e.mustPost(t, b.next(nil, start), "stored")
	equal(t, "events", countEvents(t, e.data), counts{"process.exec": 1, "agent.start": 1})
}
