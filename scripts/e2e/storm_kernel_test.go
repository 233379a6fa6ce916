package e2e

import (
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/stack"
)

const stormSize = 10_000

func TestStormIsStoredOnce(t *testing.T) {
	s := newStack(t)
	storm := startStorm(t, stormSize, 0)
	storm.wait(t)
	wantNothingLost(t, s)
	storm.wantEachOnce(t, s)
}

func TestStormSurvivesEndpointOutage(t *testing.T) {
	s := newStack(t)
	storm := startStorm(t, stormSize, 2000)
	await(t, "a third of the storm to be acknowledged", func() bool {
		return observed(t, s, event.ProcessExec) > stormSize/3
	})
	s.Endpoint.Kill()
	ended := time.Now()
	storm.wait(t)
	await(t, "batches to be spooled and the agent to notice", func() bool {
		status := mustStatus(t, s)
		return status.Ledger.Spooled > 0 && status.Upload.Problem != ""
	})
	time.Sleep(time.Until(ended.Add(10 * time.Second))) // the outage
	if err := s.StartEndpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantNothingLost(t, s)
	storm.wantEachOnce(t, s)
	if retries := mustStatus(t, s).Upload.Retries; retries == 0 {
		t.Error("no upload was tried in vain: there was no outage")
	}
}

func TestKilledAgentReportsTheGap(t *testing.T) {
	s := newStack(t)
	storm := startStorm(t, 4000, 1000)
	await(t, "half of the storm", func() bool { return observed(t, s, event.ProcessExec) > 2000 })
	before := mustStatus(t, s).Ledger
	s.Agent.Kill()
	killed := time.Now()
	storm.wait(t)
	restarted := time.Now()
	if err := s.StartAgent(t.Context(), "host.imds=off"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delivered(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}

	stored, missing := 0, 0
	for number, n := range storm.stored(t, s) {
		switch {
		case n > 1:
			t.Errorf("number %d is stored %d times", number, n)
		case n == 0:
			missing++
		case missing > 0:
			t.Errorf("number %d is stored though %d before it are not: the gap is not one", number, missing)
			missing = 0
		}
		stored += n
	}
	t.Logf("stored %d of 4000 execs; before the kill: %+v", stored, before)
	if missing == 0 {
		t.Error("nothing is missing: the agent was not killed in the middle of the storm")
	}
	counts, err := s.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	total := uint64(0)
	for _, n := range counts {
		total += n
	}
	if sealed := before.Acked + before.Spooled; total < sealed {
		t.Errorf("the endpoint has %d events, though %d were sealed when the agent was killed", total, sealed)
	}
	wantGap(t, s, killed, restarted)
}

// wantGap checks that the endpoint was told that nothing was observed between two moments.
func wantGap(t *testing.T, s *stack.Stack, from, to time.Time) {
	t.Helper()
	for _, e := range events(t, s, "--kind", "agent.loss") {
		t.Logf("agent.loss: %+v", *e.Agent)
		if !e.Agent.From.IsZero() && !e.Agent.From.After(from) && !e.Agent.To.Before(to) && e.Agent.Cause == "killed" {
			return
		}
	}
	t.Errorf("no agent.loss covers %s to %s", from, to)
}

func mustStatus(t *testing.T, s *stack.Stack) *stack.Status {
	t.Helper()
	status, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func observed(t *testing.T, s *stack.Stack, kind event.Kind) uint64 {
	t.Helper()
	return mustStatus(t, s).Kinds[kind.String()].Observed
}
