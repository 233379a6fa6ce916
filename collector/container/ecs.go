package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

const (
	ecsTimeout   = 5 * time.Second  // for one answer of the ECS agent
	ecsAbsent    = 30 * time.Second // between attempts while it does not answer
	ecsReconcile = time.Minute      // between lists of all tasks
	ecsPause     = time.Second      // between attempts for one container: the agent may learn of it later than we do
	ecsAttempts  = 5                // for a container that is of a task, by its path or its labels
	ecsOneByOne  = 16               // containers that are asked for one by one; more are looked up in the list of all
)

// ecsState is what is known of the ECS agent.
type ecsState struct {
	connected bool
	reason    string
	instance  event.ECS // what holds for every task of this host
	logged    string    // the problem that was logged last
	// metadataAgain is when the task metadata endpoint may be asked again, after it could not be reached.
	metadataAgain time.Time
}

// wish is what is to be asked about a container.
type wish struct {
	attempts int
	next     time.Time // no request before
}

// ECSState reports whether the ECS agent answers, and in one sentence what that means.
func (t *Tracker) ECSState() (connected bool, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ecs.connected, t.ecs.reason
}

// Instance returns what the ECS agent says of this host: its cluster, and its ARN as a container instance.
func (t *Tracker) Instance() event.ECS {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ecs.instance
}

// The answers of the ECS agent's introspection API (agent 1.77 and later, before that with fewer fields), and of the
// task metadata endpoint, version 4, as far as they are used.
type (
	instanceAnswer struct {
		Cluster              string
		ContainerInstanceArn string
		Version              string
	}
	taskAnswer struct {
		Arn           string
		DesiredStatus string
		KnownStatus   string
		Family        string
		Version       string
		Containers    []containerAnswer
	}
	containerAnswer struct {
		DockerID  string `json:"DockerId"`
		Name      string
		StartedAt time.Time
	}
	tasksAnswer    struct{ Tasks []taskAnswer }
	metadataAnswer struct {
		Cluster       string
		TaskARN       string
		Family        string
		Revision      string
		DesiredStatus string
		KnownStatus   string
		LaunchType    string
		ServiceName   string
		TaskTags      map[string]string
		Containers    []containerAnswer
	}
)

// followECS keeps what the ECS agent says of this host's tasks up to date. It never gives up on it.
func (t *Tracker) followECS(ctx context.Context) {
	for {
		err := t.ecsSession(ctx)
		if ctx.Err() != nil {
			return
		}
		t.ecsFailed(err)
		if !sleep(ctx, ecsAbsent) {
			return
		}
	}
}

// ecsSession asks for the instance, for all tasks now and then, and for single ones when a container began to wait. It
// returns when the agent does not answer, with the reason.
func (t *Tracker) ecsSession(ctx context.Context) error {
	if err := t.askInstance(ctx); err != nil {
		return err
	}
	reconcile := time.NewTicker(ecsReconcile)
	defer reconcile.Stop()
	for all := true; ; {
		if all {
			if err := t.askTasks(ctx); err != nil {
				return err
			}
			t.wishForAll()
			all = false
		}
		next, err := t.fulfil(ctx)
		if err != nil {
			return err
		}
		retry := time.NewTimer(next)
		select {
		case <-reconcile.C:
			if err := t.askInstance(ctx); err != nil {
				return err
			}
			all = true
		case <-t.wished:
		case <-retry.C:
		case <-ctx.Done():
		}
		retry.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// askInstance asks for what holds for all tasks.
func (t *Tracker) askInstance(ctx context.Context) error {
	var answer instanceAnswer
	if err := t.ask(ctx, t.config.ECS+"/v1/metadata", &answer); err != nil {
		return fmt.Errorf("ask ecs agent for its instance: %w", err)
	}
	var instance event.ECS
	setCluster(&instance, answer.Cluster)
	if arn := answer.ContainerInstanceArn; isARN(arn, ":container-instance/") {
		instance.ContainerInstanceARN = cut(arn)
		if prefix, _, _ := strings.Cut(arn, ":container-instance/"); instance.ClusterARN == "" && instance.Cluster != "" {
			instance.ClusterARN = prefix + ":cluster/" + instance.Cluster
		}
	}
	if instance.Cluster == "" {
		return errors.New("ask ecs agent for its instance: it has not joined a cluster yet")
	}
	t.ecsAnswered(instance, cut(answer.Version))
	return nil
}

// isARN reports whether s may be the ARN of such a resource.
func isARN(s, resource string) bool {
	return strings.HasPrefix(s, "arn:aws") && strings.Contains(s, resource) && len(s) <= maxValue
}

// askTasks asks for all tasks.
func (t *Tracker) askTasks(ctx context.Context) error {
	var answer tasksAnswer
	if err := t.ask(ctx, t.config.ECS+"/v1/tasks", &answer); err != nil {
		return fmt.Errorf("ask ecs agent for its tasks: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range answer.Tasks {
		t.introspected(&answer.Tasks[i])
	}
	return nil
}

// introspected takes what the introspection API says of one task, for those of its containers that are known. t.mu is
// held.
func (t *Tracker) introspected(answer *taskAnswer) {
	task := event.ECS{
		Family: cut(answer.Family), Revision: cut(answer.Version),
		DesiredStatus: cut(answer.DesiredStatus), KnownStatus: cut(answer.KnownStatus),
	}
	if !t.believe(&task, answer.Arn) {
		return
	}
	t.tellAll(fromIntrospection, &task, answer.Containers)
}

// tellAll takes what one source says of a task, for those of its containers that are known. t.mu is held.
func (t *Tracker) tellAll(from source, task *event.ECS, containers []containerAnswer) {
	for i := range containers {
		answer := &containers[i]
		if c, ok := t.containers[answer.DockerID]; ok {
			own := *task
			own.Container, own.StartedAt = cut(answer.Name), answer.StartedAt.UTC()
			c.tell(from, &own)
			t.bind(c)
		}
	}
}

// believe notes a task's ARN, and reports whether the task can be one of this instance: the ARN is one, of the cluster
// that the agent is in. t.mu is held.
func (t *Tracker) believe(task *event.ECS, arn string) bool {
	parsed, ok := parseTaskARN(arn)
	if !ok || parsed.cluster != "" && parsed.cluster != t.ecs.instance.Cluster ||
		t.ecs.instance.ClusterARN != "" && !strings.HasPrefix(t.ecs.instance.ClusterARN, parsed.prefix) {
		t.stats.TasksDisbelieved++
		return false
	}
	setTask(task, arn)
	task.Cluster, task.ClusterARN = t.ecs.instance.Cluster, t.ecs.instance.ClusterARN
	task.ContainerInstanceARN = t.ecs.instance.ContainerInstanceARN
	return true
}

// ask gets one answer of the ECS agent.
func (t *Tracker) ask(ctx context.Context, address string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, ecsTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	response, err := t.ecsClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return errUnknown
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", address, response.Status)
	}
	body := &bounded{ReadCloser: response.Body, left: maxAnswer}
	if err := json.NewDecoder(body).Decode(answer); err != nil {
		return fmt.Errorf("read answer of %s: %w", address, err)
	}
	return nil
}

// errUnknown says that the ECS agent does not know what it was asked about.
var errUnknown = errors.New("not known")

// newECSClient returns a client that goes to the agent and nowhere else.
func newECSClient(dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Transport: &http.Transport{DialContext: dial, DisableCompression: true, MaxIdleConns: 2, IdleConnTimeout: ecsReconcile},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("a redirection, which the ecs agent does not answer with")
		},
	}
}

// wishFor has the ECS agent asked about a container; it is pending until then, if it is of a task by what is known.
// t.mu is held.
func (t *Tracker) wishFor(c *tracked) {
	if !t.ecs.connected || t.containers[c.known.ID] != c {
		return
	}
	c.wish = &wish{}
	if c.known.ECS == nil { // most likely it is no task's
		c.wish.attempts = ecsAttempts - 1
	}
	t.wishes[c.known.ID] = c
	signal(t.wished)
}

// wishForAll has the ECS agent asked about all containers that are of a task and of which it has said nothing.
func (t *Tracker) wishForAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.containers {
		if c.known.ECS != nil && c.told[fromIntrospection] == nil && c.wish == nil && !c.refused {
			t.wishFor(c)
		}
	}
}

// fulfil asks about the containers that wait for it, and returns how long it is until there are some again.
func (t *Tracker) fulfil(ctx context.Context) (time.Duration, error) {
	for {
		due, wait := t.dueWishes(time.Now())
		if len(due) == 0 {
			return wait, nil
		}
		if len(due) > ecsOneByOne {
			if err := t.askTasks(ctx); err != nil {
				return 0, err
			}
		}
		for _, id := range due {
			if err := t.grant(ctx, id, len(due) <= ecsOneByOne); err != nil {
				return 0, err
			}
		}
	}
}

// dueWishes returns the containers to ask about now, or how long it is until there are some.
func (t *Tracker) dueWishes(now time.Time) (due []string, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait = ecsReconcile
	for id, c := range t.wishes {
		if d := c.wish.next.Sub(now); d > 0 {
			wait = min(wait, d)
		} else {
			due = append(due, id)
		}
	}
	return due, wait
}

// grant asks about one container: the introspection API, unless it has just been asked about all, and the metadata
// endpoint.
func (t *Tracker) grant(ctx context.Context, id string, introspect bool) error {
	arn, endpoint, told, ok := t.wanted(id)
	if !ok {
		return nil
	}
	if introspect && !told[fromIntrospection] {
		if err := t.introspect(ctx, "dockerid", id); err != nil && !errors.Is(err, errUnknown) {
			return err
		}
		// The agent may know the task before it knows the container.
		if arn != "" {
			if err := t.introspect(ctx, "taskarn", arn); err != nil && !errors.Is(err, errUnknown) {
				return err
			}
		}
	}
	if endpoint != "" && !told[fromMetadata] {
		t.askMetadata(ctx, endpoint)
	}
	t.attempted(id)
	return ctx.Err()
}

// wanted says what is known of a container that is to be asked about: its task's ARN if labels give one and the
// container's cgroup bears it out, the id of its metadata endpoint, and who has told of it; or that nobody asks any more.
func (t *Tracker) wanted(id string) (arn, endpoint string, has [sourceCount]bool, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.wishes[id]
	if !ok {
		return "", "", has, false
	}
	for from, task := range c.told {
		has[from] = task != nil
	}
	if task := c.known.ECS; task != nil && task.Sources.Cgroup != 0 {
		arn = task.TaskARN
	}
	if time.Now().Before(t.ecs.metadataAgain) {
		return arn, "", has, true
	}
	return arn, c.endpoint, has, true
}

// introspect asks for one task.
func (t *Tracker) introspect(ctx context.Context, key, value string) error {
	var answer taskAnswer
	if err := t.ask(ctx, t.config.ECS+"/v1/tasks?"+url.Values{key: {value}}.Encode(), &answer); err != nil {
		return fmt.Errorf("ask ecs agent for a task: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.introspected(&answer)
	return nil
}

// askMetadata asks the task metadata endpoint for the task of a container. Where it cannot be reached, it is left alone
// for a while.
func (t *Tracker) askMetadata(ctx context.Context, endpoint string) {
	path := "/task"
	if t.config.ECSTags {
		path = "/taskWithTags"
	}
	var answer metadataAnswer
	err := t.ask(ctx, t.config.ECSMetadata+"/v4/"+endpoint+path, &answer)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		if !errors.Is(err, errUnknown) {
			t.stats.MetadataFailures++
			t.ecs.metadataAgain = time.Now().Add(ecsAbsent)
		}
		return
	}
	task := event.ECS{
		Family: cut(answer.Family), Revision: cut(answer.Revision), Service: cut(answer.ServiceName),
		LaunchType: cut(answer.LaunchType), DesiredStatus: cut(answer.DesiredStatus), KnownStatus: cut(answer.KnownStatus),
		Tags: t.tagsOf(answer.TaskTags),
	}
	// Whoever made the container chose the endpoint's id: the answer counts for those that it names.
	if t.believe(&task, answer.TaskARN) {
		t.tellAll(fromMetadata, &task, answer.Containers)
	}
}

// maxTagBytes bounds a task's tags.
const maxTagBytes = 4 << 10

// tagsOf returns the tags of a task, without what looks like a secret in them.
func (t *Tracker) tagsOf(tags map[string]string) []event.Tag {
	i := inspection{mask: t.config.Mask}
	var list []event.Tag
	left := maxTagBytes
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		tag := event.Tag{Key: cut(key), Value: cut(i.withoutSecret(key, tags[key]))}
		if left -= len(tag.Key) + len(tag.Value) + itemSize; left < 0 {
			break
		}
		list = append(list, tag)
	}
	return list
}

// attempted ends a wish that has been granted, or that is in vain.
func (t *Tracker) attempted(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.wishes[id]
	if !ok {
		return
	}
	known := c.told[fromIntrospection] != nil && (c.endpoint == "" || c.told[fromMetadata] != nil)
	if c.wish.attempts++; known || c.wish.attempts >= ecsAttempts {
		c.refused = c.told[fromIntrospection] == nil
		t.unwish(c)
		return
	}
	c.wish.next = time.Now().Add(ecsPause)
}

// unwish ends a wish. t.mu is held.
func (t *Tracker) unwish(c *tracked) {
	delete(t.wishes, c.known.ID)
	c.wish = nil
	t.complete(c)
}

// ecsAnswered notes that the agent said what holds for all tasks of this instance.
func (t *Tracker) ecsAnswered(instance event.ECS, version string) {
	t.mu.Lock()
	t.ecs.connected, t.ecs.instance = true, instance
	t.ecs.reason = fmt.Sprintf("ecs agent %s answers, cluster %s", version, instance.Cluster)
	again := t.ecs.logged != ""
	t.ecs.logged = ""
	t.mu.Unlock()
	if again {
		t.log.Info("ecs agent answers", "cluster", instance.Cluster)
	}
}

// ecsFailed notes that the agent does not answer: nothing waits for it. On a host that is no container instance that is
// as it should be.
func (t *Tracker) ecsFailed(err error) {
	t.mu.Lock()
	was := t.ecs.connected
	t.ecs.connected = false
	t.ecs.reason = fmt.Sprintf("%v: tasks are known by the paths and labels of their containers", err)
	for _, c := range t.wishes {
		t.unwish(c)
	}
	log := t.ecs.logged != err.Error()
	t.ecs.logged = err.Error()
	t.mu.Unlock()
	switch {
	case was:
		t.log.Warn("ecs agent does not answer any more", "error", err)
	case log:
		t.log.Debug("ecs agent does not answer", "error", err)
	}
}
