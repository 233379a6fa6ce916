package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/coverage"
	"github.com/taskguard/taskguard/collector/event"
)

// What an agent says of itself is what the command shows.
func TestCoverageIsShown(t *testing.T) {
	data := t.TempDir()
	e := startServe(t, data)
	defer e.close(t)
	m := newMaker(t, 1)
	e.mustPost(t, m.next(nil, event.Event{Time: time.Now(), Kind: event.AgentStart, Agent: &event.Agent{Version: "9.8.7"}}), "stored")
	show := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := run(t.Context(), append([]string{"coverage", "--data", data}, args...), &out, io.Discard)
		return out.String(), err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		text, err := show()
		if err != nil || time.Now().After(end) {
			t.Fatalf("%v: %s", err, text)
		}
		if strings.Contains(text, "HEALTHY") && strings.Contains(text, "9.8.7") {
			break
		}
	}
	if text, err := show("--json", "--filter", "COVERAGE_STATUS=UNHEALTHY"); err != nil || text != "[]\n" {
		t.Errorf("%q, %v: want an empty list", text, err)
	}
	if text, err := show("--json", "--filter", "AGENT_VERSION=9.8.7"); err != nil || !strings.Contains(text, `"coverageStatus":"HEALTHY"`) {
		t.Errorf("%q, %v", text, err)
	}
	for _, wrong := range [][]string{{"--filter", "X=1"}, {"--sort", "X"}} {
		if _, err := show(wrong...); exitCode(err) != 2 {
			t.Errorf("%v: %v, want a usage error", wrong, err)
		}
	}
	if err := run(t.Context(), []string{"coverage", "--data", t.TempDir()}, io.Discard, io.Discard); err == nil {
		t.Error("no serve runs, and there is no error")
	}
}

func TestCoverageTable(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	err := printCoverage(&out, []coverage.Resource{
		{AccountID: "1", ID: "prod", Status: coverage.Unhealthy, Issue: "x\x1b[31m", LastSeen: now.Add(-time.Minute), Details: coverage.Details{
			Type: coverage.TypeECS, ECS: &coverage.ClusterDetails{Name: "prod", ContainerInstances: coverage.ContainerInstanceDetails{Covered: 1, Compatible: 2}},
		}},
		{ID: "i-1", Status: coverage.Healthy, LastSeen: now, Details: coverage.Details{
			Type: coverage.TypeEC2, EC2: &coverage.EC2Details{InstanceID: "i-1", ManagementType: coverage.Manual},
		}},
	}, now)
	const want = `TYPE  ACCOUNT  RESOURCE  STATUS     COVERED  AGENT  MANAGED  SEEN      ISSUE
ECS   1        prod      UNHEALTHY  1/2      -      -        1m0s ago  x\x1b[31m
EC2   -        i-1       HEALTHY    -        -      MANUAL   0s ago    -
`
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s\nwant\n%s", err, out.String(), want)
	}
}
