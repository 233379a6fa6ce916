package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender"
)

// heartbeatInterval is how often the agent says that it is alive, and how its sources are.
const heartbeatInterval = time.Minute

// maxSkew is by how much the clocks of host and endpoint may differ: AWS refuses signed requests beyond it.
const maxSkew = 5 * time.Minute

// beat tells the endpoint and systemd's watchdog that the agent is alive.
func (a *agent) beat(ctx context.Context) {
	heartbeat := time.NewTicker(heartbeatInterval)
	defer heartbeat.Stop()
	var watchdog <-chan time.Time
	if interval, err := daemon.SdWatchdogEnabled(false); err == nil && interval > 0 {
		t := time.NewTicker(interval / 2)
		defer t.Stop()
		watchdog = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-heartbeat.C:
			states := a.states()
			a.tell(event.AgentHeartbeat, states, a.nextHeartbeat(states))
		case <-watchdog:
			a.sender.Ledger() // takes the lock that the event path takes: a process that hangs there is not alive
			notify(a.log, daemon.SdNotifyWatchdog)
		}
	}
}

// vitals are what a heartbeat is made of beside what the parts of the agent say. It may be used by several goroutines.
type vitals struct {
	mu         sync.Mutex
	configHash string
	// last and before are what was counted at the last heartbeat and at the one before.
	last, before marks
}

// marks are counts that are an issue when they grow.
type marks struct{ lost, evicted, unwritten, rejected uint64 }

func marksOf(l *sender.Ledger, u *sender.Upload) marks {
	return marks{
		lost: sum(l.Lost), evicted: l.Lost["spool/evicted"], unwritten: l.Lost["spool/write"] + l.Lost["spool/full"],
		rejected: u.Rejected,
	}
}

// begin has what was counted before this run be no issue of it.
func (v *vitals) begin(counted marks) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last, v.before = counted, counted
}

// inForce notes the configuration.
func (v *vitals) inForce(cfg config) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.configHash = configHash(cfg)
}

// configHash is the SHA-256 of a configuration with its defaults, in hex: the same for agents of one version that are to
// do the same, whatever their files look like.
func configHash(cfg config) string {
	text, err := json.Marshal(cfg)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// nextHeartbeat returns how the agent fares, with what went wrong since the heartbeat before.
func (a *agent) nextHeartbeat(states []event.SourceState) *event.Heartbeat {
	v := a.vitals
	v.mu.Lock()
	defer v.mu.Unlock()
	h, counted := a.heartbeat(states, v.last)
	v.before, v.last = v.last, counted
	return h
}

// fares returns how the agent fares now, with what went wrong in the last one to two heartbeats.
func (a *agent) fares(states []event.SourceState) *event.Heartbeat {
	v := a.vitals
	v.mu.Lock()
	defer v.mu.Unlock()
	h, _ := a.heartbeat(states, v.before)
	return h
}

// heartbeat returns how the agent fares, with what grew from the marks on, and what is counted now. The caller holds the
// vitals' lock.
func (a *agent) heartbeat(states []event.SourceState, from marks) (*event.Heartbeat, marks) {
	ledger, upload, spooled := a.sender.Ledger(), a.sender.Upload(), a.spool.Stats()
	counted := marksOf(&ledger, &upload)
	h := &event.Heartbeat{
		UptimeSeconds: uint64(max(time.Since(a.started), 0) / time.Second), ConfigHash: a.vitals.configHash,
		SpoolBatches: uint64(spooled.Batches), SpoolEvents: spooled.Events, SpoolBytes: spooled.Bytes,
		SpoolMaxBytes: spooled.MaxBytes, Observed: ledger.Observed, Acked: ledger.Acked, Lost: counted.lost,
	}
	h.CPUSeconds, h.MemoryBytes = usage()
	h.Issues = append(unhealthyKinds(states), a.issues(from, counted, &upload)...)
	return h, counted
}

func unhealthyKinds(states []event.SourceState) (codes []string) {
	for _, s := range states {
		if !s.Healthy {
			codes = append(codes, event.IssueKindUnhealthy+":"+s.Kind.String())
		}
	}
	return codes
}

// issues are those of the agent as a whole.
func (a *agent) issues(from, to marks, upload *sender.Upload) (codes []string) {
	for _, issue := range []struct {
		code string
		is   bool
	}{
		{event.IssueEventsLost, to.lost > from.lost},
		{event.IssueSpoolEvicting, to.evicted > from.evicted},
		{event.IssueSpoolUnwritable, to.unwritten > from.unwritten || a.spool.Stats().Memory > 0},
		{event.IssueUploadFailing, upload.Problem != "" && time.Since(upload.Since) > heartbeatInterval},
		{event.IssueBatchesRejected, to.rejected > from.rejected},
		{event.IssueClockSkewed, a.skew != nil && a.skew().Abs() > maxSkew},
		{event.IssueExcludedByTag, a.idle},
		{event.IssueIMDSUnreachable, a.cfg.IMDS && !a.host.Answers()},
	} {
		if issue.is {
			codes = append(codes, issue.code)
		}
	}
	return codes
}
