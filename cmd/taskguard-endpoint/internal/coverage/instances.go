package coverage

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
	"github.com/taskguard/taskguard/collector/event"
)

// managedTag is the instance's tag that says whether its agent is managed by automation.
const managedTag = "TaskGuardManaged"

// instances is what is known of the hosts of a partition's agents, by agent.
type instances struct {
	After  uint64               `json:"after"` // what the log has behind this was not looked at
	Agents map[string]*instance `json:"agents"`
}

// instance is a host with an agent.
type instance struct {
	Resource
	ContainerInstance string   `json:"containerInstanceArn,omitempty"`
	Issues            []string `json:"issues,omitempty"` // of its last heartbeat
}

// note takes what a batch says of its host.
func (in *instance) note(m *stream.Message) {
	h := &m.Batch.Host
	in.AccountID, in.Region = cut(h.AccountID), cut(h.Region)
	in.ID = cut(cmp.Or(h.InstanceID, h.MachineID, h.Hostname, m.Batch.ID.Agent.String()))
	if m.Stored.After(in.LastSeen) {
		in.LastSeen = m.Stored.UTC()
	}
	if in.Details.EC2 == nil {
		in.Details = Details{Type: TypeEC2, EC2: &EC2Details{ManagementType: Manual}}
	}
	in.Details.EC2.InstanceID = in.ID
	for i := range m.Batch.Events {
		e := &m.Batch.Events[i]
		if e.Agent == nil || e.Kind != event.AgentStart && e.Kind != event.AgentHeartbeat {
			continue
		}
		in.agent(e.Agent)
	}
}

// agent takes what an agent says of itself.
func (in *instance) agent(a *event.Agent) {
	in.Details.EC2.AgentDetails.Version = cut(a.Version)
	if i := a.Instance; i != nil {
		in.Details.EC2.InstanceType, in.Details.EC2.ClusterARN = cut(i.Type), cut(clusterARN(i))
		in.ContainerInstance = cut(i.ContainerInstanceARN)
		in.Details.EC2.ManagementType = Manual
		if slices.Contains(i.Tags, event.Tag{Key: managedTag, Value: "true"}) {
			in.Details.EC2.ManagementType = AutoManaged
		}
	}
	if a.Heartbeat != nil {
		in.Issues = nil
		for _, code := range a.Heartbeat.Issues[:min(len(a.Heartbeat.Issues), maxIssues)] {
			in.Issues = append(in.Issues, cut(code))
		}
	}
}

const (
	maxText   = 256 // bytes of what an agent says of itself
	maxIssues = 64  // more than there are codes and kinds
)

// cut bounds a text that an agent chose.
func cut(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxText)], "") }

// clusterARN is the cluster's, from the container instance's, or else its name.
func clusterARN(i *event.Instance) string {
	// arn:PARTITION:ecs:REGION:ACCOUNT:container-instance/CLUSTER/ID
	prefix, rest, ok := strings.Cut(i.ContainerInstanceARN, ":container-instance/")
	if cluster, _, named := strings.Cut(rest, "/"); ok && named {
		return prefix + ":cluster/" + cluster
	}
	return i.ECSCluster
}

// judge returns how it is now. Before began nobody listened.
func (in *instance) judge(began, now time.Time, unseen time.Duration) (status, issue string) {
	var kinds []string
	for _, code := range in.Issues {
		// Without an engine there are no containers to tell of.
		if kind, ok := strings.CutPrefix(code, event.IssueKindUnhealthy+":"); ok && !strings.HasPrefix(kind, "container.") {
			kinds = append(kinds, kind)
		}
	}
	switch {
	case now.Sub(in.LastSeen) > unseen && now.Sub(began) <= unseen && in.Status != "":
		return in.Status, in.Issue // it may be there
	case now.Sub(in.LastSeen) > unseen:
		return Unhealthy, "No Agent Reporting: Agent disconnected"
	case slices.Contains(in.Issues, event.IssueExcludedByTag):
		return Unhealthy, "Agent Not Provisioned: Instances with exclusion tags are excluded from Runtime Monitoring."
	case slices.Contains(in.Issues, event.IssueIMDSUnreachable) && strings.HasPrefix(in.ID, "i-"):
		return Unhealthy, "Agent Not Provisioned: Unable to retrieve instance identity document."
	case len(kinds) > 0:
		return Unhealthy, "Agent not reporting: not observed: " + strings.Join(kinds, ", ")
	}
	return Healthy, ""
}

// worker follows the agents of one partition.
type worker struct {
	role      *Role
	partition int
	state     kept[instances]
	revision  uint64
	dirty     bool
	began     time.Time
}

func partitionKey(partition int) string { return fmt.Sprint("coverage-", partition) }

func (w *worker) run(ctx context.Context) (err error) {
	if w.state, w.revision, err = load[instances](ctx, w.role.cfg.States, partitionKey(w.partition)); err != nil {
		return err
	}
	w.began = time.Now()
	if w.state.Now.Agents == nil {
		w.state.Now.Agents = make(map[string]*instance)
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	messages, ended := make(chan stream.Message), make(chan error, 1)
	go func() {
		ended <- w.role.cfg.Log.ReadPartition(reading, w.partition, w.state.Now.After, func(m stream.Message) error {
			select {
			case messages <- m:
				return nil
			case <-reading.Done():
				return reading.Err()
			}
		}, func(uint64, uint64) {}) // what is gone was older than what comes
	}()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case m := <-messages:
			w.take(&m)
		case <-ticker.C:
			if err := w.look(ctx, time.Now()); err != nil {
				return err
			}
		case err := <-ended:
			return err
		}
	}
}

func (w *worker) take(m *stream.Message) {
	key := m.Batch.ID.Agent.String()
	in := w.state.Now.Agents[key]
	if in == nil {
		in = new(instance)
		w.state.Now.Agents[key] = in
	}
	in.note(m)
	w.state.Now.After, w.dirty = m.Sequence, true
	if len(w.state.Now.Agents) > MaxInstances {
		w.forget()
	}
}

// forget drops the instance that was not seen for the longest time.
func (w *worker) forget() {
	var oldest string
	for key, in := range w.state.Now.Agents {
		if first := w.state.Now.Agents[oldest]; first == nil || in.LastSeen.Before(first.LastSeen) {
			oldest = key
		}
	}
	delete(w.state.Now.Agents, oldest)
	w.role.told[statForgotten].Add(1)
}

// fit forgets instances until the others can be kept.
func (w *worker) fit() error {
	for {
		text, err := json.Marshal(w.state.Now)
		if err != nil || len(text) <= maxBytes {
			return err
		}
		for range len(w.state.Now.Agents)/10 + 1 {
			w.forget()
		}
	}
}

// look judges all instances, and keeps and tells what has changed.
func (w *worker) look(ctx context.Context, now time.Time) (err error) {
	for key, in := range w.state.Now.Agents {
		if now.Sub(in.LastSeen) > forgetAfter {
			delete(w.state.Now.Agents, key)
			w.dirty = true
			continue
		}
		status, issue := in.judge(w.began, now, w.role.cfg.Unseen)
		if status == in.Status && issue == in.Issue {
			continue
		}
		previous := in.Status
		in.Status, in.Issue = status, issue
		w.dirty = true
		if status != previous {
			in.UpdatedAt = now.UTC()
			w.state.Pending = append(w.state.Pending, pending{Change: changeOf(&in.Resource, previous)})
		}
	}
	if !w.dirty && len(w.state.Pending) == 0 {
		return nil
	}
	if err := w.fit(); err != nil {
		return err
	}
	w.revision, err = save(ctx, w.role, partitionKey(w.partition), &w.state, w.revision)
	w.dirty = w.dirty && err != nil
	return err
}
