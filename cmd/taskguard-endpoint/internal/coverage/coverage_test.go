package coverage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// world is a log, states and leases in memory.
type world struct {
	mu       sync.Mutex
	messages []stream.Message
	more     chan struct{}
	values   map[string][]byte
	revision map[string]uint64
	owner    map[string]string
	until    map[string]time.Time
	puts     int
	failAt   int // the put that fails after its effect; 0 is none
}

func newWorld() *world {
	return &world{more: make(chan struct{}), values: map[string][]byte{}, revision: map[string]uint64{}, owner: map[string]string{}, until: map[string]time.Time{}}
}

func (w *world) add(agent byte, host event.Host, events ...event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sequence := uint64(len(w.messages) + 1)
	w.messages = append(w.messages, stream.Message{Sequence: sequence, Stored: time.Now(), Batch: &batch.Batch{
		Header: batch.Header{ID: batch.ID{Agent: event.ID{agent}, Epoch: 1, Sequence: sequence}, Host: host}, Events: events,
	}})
	close(w.more)
	w.more = make(chan struct{})
}

func (w *world) ReadPartition(ctx context.Context, partition int, after uint64, each func(stream.Message) error, _ func(uint64, uint64)) error {
	for {
		w.mu.Lock()
		list, more := w.messages, w.more
		w.mu.Unlock()
		for _, m := range list {
			if m.Sequence > after && stream.PartitionOf(m.Batch.ID.Agent) == partition {
				if err := each(m); err != nil {
					return err
				}
				after = m.Sequence
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

func (w *world) State(_ context.Context, key string) ([]byte, uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.values[key], w.revision[key], nil
}

func (w *world) PutState(_ context.Context, key string, value []byte, revision uint64) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.revision[key] != revision {
		return 0, stream.ErrConflict
	}
	w.values[key], w.revision[key] = value, revision+1
	if w.puts++; w.puts == w.failAt {
		return 0, errors.New("no answer")
	}
	return revision + 1, nil
}

func (w *world) Lease(_ context.Context, name, owner string, ttl time.Duration) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.owner[name] != owner && time.Now().Before(w.until[name]) {
		return false, nil
	}
	w.owner[name], w.until[name] = owner, time.Now().Add(ttl)
	return true, nil
}

// heard is a sink that remembers.
type heard struct {
	name    string
	mu      sync.Mutex
	list    []Change
	refuses bool
}

func (h *heard) Name() string { return h.name }

func (h *heard) Tell(_ context.Context, c *Change) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuses {
		return errors.New("not now")
	}
	h.list = append(h.list, *c)
	return nil
}

// texts returns what was told, in short, and forgets it.
func (h *heard) texts() (texts []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.list {
		who := c.Detail.Details.Type
		if d := c.Detail.Details.EC2; d != nil {
			who = d.InstanceID
		}
		texts = append(texts, fmt.Sprintf("%s %s->%s %s", who, c.Detail.PreviousStatus, c.Detail.CurrentStatus, c.Detail.Issue))
	}
	h.list = nil
	return texts
}

func startRole(t *testing.T, w *world, owner string, sinks ...Sink) (role *Role, stop func()) {
	t.Helper()
	role, err := New(Config{Log: w, States: w, Leases: w, Owner: owner, Sinks: sinks})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- role.Run(ctx) }()
	return role, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

var host = event.Host{InstanceID: "i-1", AccountID: "111122223333", Region: "eu-central-1", Hostname: "h"}

func beat(issues ...string) event.Event {
	return event.Event{Kind: event.AgentHeartbeat, Agent: &event.Agent{
		Version: "1.2.3", Heartbeat: &event.Heartbeat{Issues: issues}, Instance: &event.Instance{
			Type: "m5.large", ECSCluster: "prod", ContainerInstanceARN: "arn:aws:ecs:eu-central-1:111122223333:container-instance/prod/0123",
			Tags: []event.Tag{{Key: managedTag, Value: "true"}},
		},
	}}
}

func want(t *testing.T, h *heard, texts ...string) {
	t.Helper()
	got := h.texts()
	slices.Sort(got) // which of cluster and instance is told first is open
	slices.Sort(texts)
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", texts) {
		t.Errorf("told %q\nwant %q", got, texts)
	}
}

func TestChangesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), &heard{}
		role, stop := startRole(t, w, "a", h)
		w.add(1, host, beat())
		time.Sleep(3*lookEvery + time.Second)
		want(t, h, "i-1 ->HEALTHY ", "ECS ->HEALTHY ")
		list, err := List(t.Context(), w)
		if err != nil || len(list) != 2 {
			t.Fatalf("%+v, %v", list, err)
		}
		got, _ := json.Marshal(list)
		for _, text := range []string{
			`"accountId":"111122223333","coverageStatus":"HEALTHY"`, `"resourceType":"ECS"`, `"clusterName":"prod"`,
			`"coveredContainerInstances":1,"compatibleContainerInstances":1`, `"instanceType":"m5.large"`,
			`"clusterArn":"arn:aws:ecs:eu-central-1:111122223333:cluster/prod"`, `"version":"1.2.3"`, `"managementType":"AUTO_MANAGED"`,
		} {
			if !strings.Contains(string(got), text) {
				t.Errorf("no %s in %s", text, got)
			}
		}

		w.add(1, host, beat(event.IssueKindUnhealthy+":file.open", event.IssueKindUnhealthy+":container.start"))
		time.Sleep(3*lookEvery + time.Second)
		want(t, h, "i-1 HEALTHY->UNHEALTHY Agent not reporting: not observed: file.open",
			"ECS HEALTHY->UNHEALTHY Agent not reporting: not observed: file.open")
		w.add(1, host, beat(event.IssueKindUnhealthy+":container.start"))
		time.Sleep(3*lookEvery + time.Second)
		want(t, h, "i-1 UNHEALTHY->HEALTHY ", "ECS UNHEALTHY->HEALTHY ")

		for range 20 { // any batch says that the agent is there
			time.Sleep(time.Minute)
			w.add(1, host)
		}
		want(t, h)
		time.Sleep(DefaultUnseen + 3*lookEvery + time.Second)
		want(t, h, "i-1 HEALTHY->UNHEALTHY No Agent Reporting: Agent disconnected",
			"ECS HEALTHY->UNHEALTHY No Agent Reporting: Agent disconnected")
		w.add(1, host, beat(event.IssueExcludedByTag))
		time.Sleep(3*lookEvery + time.Second)
		want(t, h) // the issue has changed, the status has not
		if list, err = List(t.Context(), w); err != nil || !strings.HasPrefix(list[1].Issue, "Agent Not Provisioned: Instances with exclusion") {
			t.Errorf("%+v, %v", list, err)
		}
		time.Sleep(forgetAfter + time.Minute)
		if list, err = List(t.Context(), w); err != nil || len(list) != 0 {
			t.Errorf("%+v, %v: want all forgotten", list, err)
		}
		if s := role.Stats(); s.Told != 8 || s.Dropped+s.Forgotten != 0 {
			t.Errorf("%+v", s)
		}
		stop()
	})
}

// What was not taken is told again, in order, with the same id, also by another replica; and nothing else is told twice.
func TestChangesAreToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), &heard{refuses: true}
		_, stop := startRole(t, w, "a", h)
		w.add(1, host, beat())
		time.Sleep(time.Minute)
		want(t, h)
		stop()
		h.refuses = false
		_, stop = startRole(t, w, "b", h)
		time.Sleep(2 * time.Minute)
		want(t, h, "i-1 ->HEALTHY ", "ECS ->HEALTHY ")
		stop()
		_, stop = startRole(t, w, "c", h)
		w.add(1, host, beat())
		time.Sleep(2 * time.Minute)
		want(t, h)
		stop()
	})
}

// A sink that takes nothing holds up no other, and has no other told twice; it is told all in order when it takes again.
func TestSinksAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, good, bad := newWorld(), &heard{name: "good"}, &heard{name: "bad", refuses: true}
		role, stop := startRole(t, w, "a", bad, good)
		w.add(1, event.Host{InstanceID: "i-1"})
		time.Sleep(time.Minute)
		want(t, good, "i-1 ->HEALTHY ")
		time.Sleep(10 * time.Minute)
		want(t, good, "i-1 HEALTHY->UNHEALTHY No Agent Reporting: Agent disconnected")
		want(t, bad)
		if s := role.Stats(); s.Told != 0 {
			t.Errorf("%+v", s)
		}
		stop()
		bad.refuses = false
		role, stop = startRole(t, w, "b", bad, good)
		time.Sleep(time.Minute)
		if got := bad.texts(); fmt.Sprint(got) != "[i-1 ->HEALTHY  i-1 HEALTHY->UNHEALTHY No Agent Reporting: Agent disconnected]" {
			t.Errorf("told %q", got)
		}
		want(t, good)
		if s := role.Stats(); s.Told != 2 {
			t.Errorf("%+v", s)
		}
		stop()
	})
}

// When the endpoint was away, agents have time to be heard of before they count as silent.
func TestEndpointWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), &heard{}
		_, stop := startRole(t, w, "a", h)
		w.add(1, event.Host{InstanceID: "i-1"})
		w.add(2, event.Host{InstanceID: "i-2"})
		time.Sleep(time.Minute)
		want(t, h, "i-1 ->HEALTHY ", "i-2 ->HEALTHY ")
		stop()
		time.Sleep(time.Hour)
		_, stop = startRole(t, w, "b", h)
		time.Sleep(2 * time.Minute)
		w.add(1, event.Host{InstanceID: "i-1"})
		time.Sleep(DefaultUnseen)
		want(t, h, "i-2 HEALTHY->UNHEALTHY No Agent Reporting: Agent disconnected")
		stop()
	})
}

// A put without an answer: the change may be told twice, with one id, and is told once at least.
func TestNoAnswer(t *testing.T) {
	for failAt := 1; failAt <= 4; failAt++ {
		synctest.Test(t, func(t *testing.T) {
			w, h := newWorld(), &heard{}
			w.failAt = failAt
			_, stop := startRole(t, w, "a", h)
			w.add(1, host, beat())
			time.Sleep(5 * time.Minute)
			stop()
			ids := map[string]int{}
			for _, c := range h.list {
				ids[c.ID]++
			}
			if len(ids) != 2 {
				t.Errorf("put %d has no answer: told %v, want two changes", failAt, ids)
			}
		})
	}
}

func TestInstancesAreBounded(t *testing.T) {
	refuses := &heard{refuses: true}
	role, err := New(Config{Log: newWorld(), States: newWorld(), Leases: newWorld(), Owner: "a", Sinks: []Sink{refuses}})
	if err != nil {
		t.Fatal(err)
	}
	w := worker{role: role, state: kept[instances]{Now: instances{Agents: map[string]*instance{}}}}
	began := time.Now()
	for i := range MaxInstances + 10 {
		h := host
		h.InstanceID = fmt.Sprintf("i-%d", i)
		w.take(&stream.Message{Sequence: uint64(i + 1), Stored: began.Add(time.Duration(i) * time.Second), Batch: &batch.Batch{
			Header: batch.Header{ID: batch.ID{Agent: event.ID{byte(i), byte(i >> 8)}}, Host: h},
			Events: []event.Event{beat(event.Issues()...)},
		}})
	}
	if len(w.state.Now.Agents) != MaxInstances || role.Stats().Forgotten != 10 || w.state.Now.Agents[event.ID{}.String()] != nil {
		t.Errorf("%d instances, %+v", len(w.state.Now.Agents), role.Stats())
	}
	// What agents say of themselves is bounded as well.
	for _, in := range w.state.Now.Agents {
		in.agent(&event.Agent{Version: strings.Repeat("v", 1<<20), Heartbeat: &event.Heartbeat{
			Issues: slices.Repeat([]string{strings.Repeat("x", 1<<10)}, 1000),
		}})
	}
	for range maxPending + 10 {
		w.state.Pending = append(w.state.Pending, pending{Change: *change()})
	}
	if err := w.look(t.Context(), began); err != nil {
		t.Fatal(err)
	}
	states := role.cfg.States.(*world)
	if size := len(states.values[partitionKey(0)]); size > 1<<20 || size < maxBytes/2 {
		t.Errorf("as many as there may be take %d bytes, want 1 MiB at most", size)
	}
	if s := role.Stats(); s.Forgotten < 100 || s.Dropped == 0 {
		t.Errorf("%+v", s)
	}
}

func TestQuery(t *testing.T) {
	list := []Resource{
		{AccountID: "1", ID: "i-1", Status: Healthy, Details: Details{Type: TypeEC2, EC2: &EC2Details{InstanceID: "i-1", ManagementType: Manual}}},
		{AccountID: "2", ID: "i-2", Status: Unhealthy, Issue: "x", Details: Details{Type: TypeEC2, EC2: &EC2Details{InstanceID: "i-2", ManagementType: AutoManaged}}},
		{AccountID: "2", ID: "arn:x/prod", Status: Unhealthy, Details: Details{Type: TypeECS, ECS: &ClusterDetails{Name: "prod"}}},
	}
	for _, test := range []struct {
		q    Query
		want string
	}{
		{Query{}, "[i-1 i-2 arn:x/prod]"},
		{Query{Filter: []string{"COVERAGE_STATUS=UNHEALTHY"}}, "[i-2 arn:x/prod]"},
		{Query{Filter: []string{"COVERAGE_STATUS=UNHEALTHY", "RESOURCE_TYPE=EC2"}}, "[i-2]"},
		{Query{Filter: []string{"ACCOUNT_ID=1", "ACCOUNT_ID=2"}, Sort: "INSTANCE_ID", Desc: true}, "[i-2 i-1 arn:x/prod]"},
		{Query{Filter: []string{"ECS_CLUSTER_NAME=prod"}}, "[arn:x/prod]"},
		{Query{Sort: "COVERAGE_STATUS"}, "[i-1 i-2 arn:x/prod]"},
		{Query{Filter: []string{"MANAGEMENT_TYPE=MANUAL"}}, "[i-1]"},
		{Query{Filter: []string{"NAME=x"}}, "want KEY=VALUE, with one of ACCOUNT_ID"},
		{Query{Filter: []string{"ACCOUNT_ID"}}, "want KEY=VALUE"},
		{Query{Sort: "x"}, "want one of ACCOUNT_ID"},
	} {
		got, err := test.q.Apply(list)
		var ids []string
		for _, r := range got {
			ids = append(ids, r.ID)
		}
		if text := fmt.Sprint(ids); err == nil && text != test.want || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %s, %v, want %s", test.q, text, err, test.want)
		}
	}
}

func change() *Change {
	in := &instance{Resource: Resource{Status: Unhealthy, Issue: "No Agent Reporting: Agent disconnected", UpdatedAt: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)}}
	in.note(&stream.Message{Batch: &batch.Batch{Header: batch.Header{Host: host}, Events: []event.Event{beat()}}})
	c := changeOf(&in.Resource, Healthy)
	return &c
}

// The event has the keys of GuardDuty's, and nothing else.
func TestEventHasTheKeysOfGuardDuty(t *testing.T) {
	text, err := change().Text()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"version":"0","id":"ID","detail-type":"TaskGuard Runtime Protection Unhealthy","source":"taskguard",` +
		`"account":"111122223333","time":"2026-11-24T10:00:00Z","region":"eu-central-1","resources":[],"detail":{"schemaVersion":"1.0",` +
		`"resourceAccountId":"111122223333","currentStatus":"UNHEALTHY","previousStatus":"HEALTHY","resourceDetails":{"resourceType":"EC2",` +
		`"ec2InstanceDetails":{"instanceId":"i-1","instanceType":"m5.large","clusterArn":"arn:aws:ecs:eu-central-1:111122223333:cluster/prod",` +
		`"agentDetails":{"version":"1.2.3"},"managementType":"AUTO_MANAGED"}},"issue":"No Agent Reporting: Agent disconnected",` +
		`"lastUpdatedAt":"2026-11-24T10:00:00Z"}}`
	if got := strings.Replace(string(text), change().ID, "ID", 1); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestWebhook(t *testing.T) {
	status := http.StatusNoContent
	var got Change
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%v, %v", err, r.Header)
		}
		w.WriteHeader(status)
	}))
	defer server.Close()
	sink := Webhook{URL: server.URL, Client: server.Client()}
	if err := sink.Tell(t.Context(), change()); err != nil || got.ID != change().ID {
		t.Errorf("%v, %+v", err, got)
	}
	status = http.StatusInternalServerError
	if err := sink.Tell(t.Context(), change()); err == nil {
		t.Error("a refusal counts as taken")
	}
}

// The wire format of PutEvents, by AWS's own client.
func TestEventBridge(t *testing.T) {
	answer := `{"FailedEntryCount":0,"Entries":[{"EventId":"1"}]}`
	var body string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		body = r.Header.Get("X-Amz-Target") + string(text)
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	client := eventbridge.New(eventbridge.Options{
		Region: "eu-central-1", BaseEndpoint: aws.String(server.URL), Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
	})
	sink := EventBridge{Client: client, Bus: "security"}
	if err := sink.Tell(t.Context(), change()); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		"AWSEvents.PutEvents", `"Source":"taskguard"`, `"DetailType":"TaskGuard Runtime Protection Unhealthy"`, `"EventBusName":"security"`,
		`"Detail":"{\"schemaVersion\":\"1.0\"`,
	} {
		if !strings.Contains(body, part) {
			t.Errorf("no %s in %s", part, body)
		}
	}
	answer = `{"FailedEntryCount":1,"Entries":[{"ErrorCode":"ThrottlingException","ErrorMessage":"slow down"}]}`
	if err := sink.Tell(t.Context(), change()); err == nil || !strings.Contains(err.Error(), "ThrottlingException") {
		t.Errorf("%v, want what was refused", err)
	}
}

// A cluster with a container instance that has no agent is not covered. Wire format by AWS's own client.
func TestECSIsAsked(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		text, _ := io.ReadAll(r.Body)
		if !strings.Contains(string(text), "cluster/prod") || !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".ListContainerInstances") {
			t.Errorf("%s %s", r.Header.Get("X-Amz-Target"), text)
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		if strings.Contains(string(text), "nextToken") {
			_, _ = io.WriteString(w, `{"containerInstanceArns":["b"]}`)
		} else {
			_, _ = io.WriteString(w, `{"containerInstanceArns":["a"],"nextToken":"2"}`)
		}
	}))
	defer server.Close()
	world := newWorld()
	role, err := New(Config{Log: world, States: world, Leases: world, Owner: "a", ECS: ecs.New(ecs.Options{
		BaseEndpoint: aws.String(server.URL), Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""),
	})})
	if err != nil {
		t.Fatal(err)
	}
	w := worker{role: role, state: kept[instances]{Now: instances{Agents: map[string]*instance{}}}}
	w.take(&stream.Message{Sequence: 1, Stored: time.Now(), Batch: &batch.Batch{Header: batch.Header{Host: host}, Events: []event.Event{beat()}}})
	if err := w.look(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	c := clusters{role: role}
	for range 3 {
		if err := c.look(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	list, err := List(t.Context(), world)
	if err != nil || len(list) != 2 || list[0].Status != Unhealthy || list[0].Issue != "No Agent Reporting" ||
		list[0].Details.ECS.ContainerInstances != (ContainerInstanceDetails{Covered: 1, Compatible: 2}) {
		t.Errorf("%+v, %v", list, err)
	}
	if asked != 2 { // two pages, once
		t.Errorf("ecs was asked %d times", asked)
	}
}

func TestLogSink(t *testing.T) {
	var text strings.Builder
	sink := LogSink{slog.New(slog.NewTextHandler(&text, nil))}
	if err := sink.Tell(t.Context(), change()); err != nil || !strings.Contains(text.String(), `level=WARN msg="coverage changed" status=UNHEALTHY`) {
		t.Errorf("%v, %s", err, text.String())
	}
}
