package main

import (
	"bytes"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// plainURL is where serve said that it answers plain HTTP.
func (e *endpoint) plainURL(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile(`url=(http://[^/]+)/metrics`).FindStringSubmatch(strings.Join(e.logged, "\n"))
	if found == nil {
		t.Fatalf("no address of metrics in %q", e.logged)
	}
	return found[1]
}

func getPlain(t *testing.T, url string) (int, string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func TestMetrics(t *testing.T) {
	e := startServe(t, t.TempDir(), "--metrics-listen", "127.0.0.1:0", "--set", "store.url=file://"+t.TempDir())
	m := newMaker(t, 1)
	frame := m.next(nil, exec1("a", nil), exec1("b", nil))
	e.mustPost(t, frame, "stored")
	e.mustPost(t, frame, "repeat")
	if code, _, err := e.post([]byte("garbage")); err != nil || code != 400 {
		t.Fatal(code, err)
	}
	url := e.plainURL(t)
	for _, path := range []string{"/healthz", "/readyz"} {
		if code, text := getPlain(t, url+path); code != 200 {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	code, text := getPlain(t, url+"/metrics")
	if code != 200 {
		t.Fatalf("%d %s", code, text)
	}
	for _, want := range []string{
		`taskguard_endpoint_requests_total{outcome="stored"} 1`, `taskguard_endpoint_requests_total{outcome="repeat"} 1`,
		`taskguard_endpoint_requests_total{outcome="refused"} 1`, `taskguard_endpoint_requests_total{outcome="limited"} 0`,
		`taskguard_endpoint_events_total 2`, `taskguard_endpoint_log_batches 1`, `taskguard_endpoint_log_up 1`,
		`taskguard_endpoint_store_failures_total 0`, `taskguard_endpoint_coverage_dropped_total 0`,
		`taskguard_endpoint_request_duration_seconds_count{code="200"} 2`, `process_resident_memory_bytes `,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	problems, err := promlint.New(bytes.NewReader([]byte(text))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "taskguard_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	for _, path := range []string{"/v1/batches", "/v1/status", "/"} {
		if code, _ := getPlain(t, url+path); code != 404 {
			t.Errorf("%s is answered with %d by plain HTTP", path, code)
		}
	}
}

// Nothing but the agents' address is listened on unless it is asked for.
func TestMetricsAreOffByDefault(t *testing.T) {
	e := startServe(t, t.TempDir())
	if logged := strings.Join(e.logged, "\n"); strings.Contains(logged, "metrics") {
		t.Errorf("serves metrics: %s", logged)
	}
}

func TestAgentsSpeakHTTP2(t *testing.T) {
	e := startServe(t, t.TempDir())
	answer, err := e.client.Get(e.url + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != 200 || answer.ProtoMajor != 2 {
		t.Errorf("%s %s, want HTTP/2 and 200", answer.Proto, answer.Status)
	}
}
