package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"text/tabwriter"
	"time"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/dockertest"
	"github.com/taskguard/taskguard/scripts/stack"
	"github.com/taskguard/taskguard/scripts/tiny"
)

// churn runs a program of 2 ms many times in containers, at full speed. Each time it has a number as its argument.
type churn struct {
	docker  *client.Client
	in      []containerOfTask // by number
	seconds float64           // that it took
}

// containerOfTask is a container as the ECS agent makes it.
type containerOfTask struct {
	id, name string
	task     dockertest.Task
}

const (
	churnImage     = "tiny:1"
	churnProgram   = "/tiny" // ends after churnSleep
	churnSleep     = 2 * time.Millisecond
	sleeperProgram = "/sleeper" // does not end while the test runs
	churners       = 8          // at a time: dockerd is not faster with more
)

// churnSize is how many times a test runs the program: CHURN_CONTAINERS, or 100.
func churnSize(t *testing.T) int {
	t.Helper()
	text := os.Getenv("CHURN_CONTAINERS")
	if text == "" {
		return 100
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("CHURN_CONTAINERS=%q: want a number of containers", text)
	}
	return n
}

// Containers, each of a task of its own, that are started, run the program once, and are removed at once.
func TestChurnIsAttributed(t *testing.T) {
	d := dockertest.Start(t)
	s := newStack(t, "docker.socket="+d.Socket, "ecs.agent=")
	c := newChurn(t, d, churnSize(t))
	if err := c.run(t, c.runContainer); err != nil {
		t.Fatal(err)
	}
	status := wantDescribed(t, s)
	wantNothingLost(t, s)
	c.wantAttributed(t, s, status)
	if n := uint64(len(c.in)); status.Containers.Bound.Containers != n { // other engines' containers get no names
		t.Errorf("%d containers were bound, want %d", status.Containers.Bound.Containers, n)
	}
}

// Programs that are executed in containers which run already.
func TestChurnOfExecsIsAttributed(t *testing.T) {
	d := dockertest.Start(t)
	s := newStack(t, "docker.socket="+d.Socket, "ecs.agent=")
	c := newChurn(t, d, churnSize(t))
	sleepers := c.sleepers(t, d, 8)
	for number := range c.in {
		c.in[number] = sleepers[number%len(sleepers)]
	}
	if err := c.run(t, c.execInContainer); err != nil {
		t.Fatal(err)
	}
	status := wantDescribed(t, s)
	wantNothingLost(t, s)
	c.wantAttributed(t, s, status)
}

// An engine that hangs for a while as it starts containers: they go on without it, or wait for it.
func TestChurnUnderFrozenDockerIsAttributed(t *testing.T) {
	d := dockertest.Start(t)
	s := newStack(t, "docker.socket="+d.Socket, "ecs.agent=")
	c := newChurn(t, d, 40)
	ended := make(chan error, 1)
	go func() { ended <- c.run(t, c.runContainer) }()
	for _, number := range []int{0, 12, 25} {
		await(t, "a container's cgroup", func() bool { return c.in[number].hasCgroup(t) })
		d.Freeze(t)
		time.Sleep(5 * time.Second) // what is tested
		d.Thaw(t)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	status := wantDescribed(t, s)
	wantNothingLost(t, s)
	c.wantAttributed(t, s, status)
}

// Agents that begin while containers come and go know each one's task, though the engine made it before they listened
// and has forgotten it by the time they ask. Each agent sees some containers come: the engine repeats no more than its
// last 256 messages to the next one.
func TestChurnAcrossAgentStartsIsAttributed(t *testing.T) {
	d := dockertest.Start(t)
	settings := []string{"docker.socket=" + d.Socket, "ecs.agent="}
	s := newStack(t, settings...)
	c := newChurn(t, d, 60)
	ended := make(chan error, 1)
	go func() { ended <- c.run(t, c.runContainer) }()
	for number := 10; number < len(c.in); number = c.next(t) + 8 {
		await(t, "a container's cgroup", func() bool { return c.in[number].hasCgroup(t) })
		if err := s.Agent.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := s.StartAgent(t.Context(), append(settings, "host.imds=off")...); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	wantDescribed(t, s)
	if _, err := s.Delivered(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	got := c.tally(t, s)
	t.Logf("of %d execs, %d were while an agent observed: %d have the right container id, %d the right task ARN",
		len(c.in), got.stored, got.id, got.task)
	if got.stored < len(c.in)/4 {
		t.Errorf("%d execs are stored: the agents observed too little", got.stored)
	}
}

// newChurn returns a churn of n containers, which are not made yet.
func newChurn(t *testing.T, d *dockertest.Daemon, n int) *churn {
	t.Helper()
	d.ImportPrograms(t, churnImage, map[string][]byte{
		churnProgram: tiny.Program(churnSleep), sleeperProgram: tiny.Program(time.Hour),
	})
	docker, err := client.New(client.WithHost("unix://" + d.Socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { docker.Close() })
	c := &churn{docker: docker, in: make([]containerOfTask, n)}
	for number := range c.in {
		c.in[number] = containerOfTask{name: fmt.Sprintf("ecs-shop-42-web-%04d", number), task: d.NewTask(t)}
	}
	return c
}

// sleepers starts containers that go on.
func (c *churn) sleepers(t *testing.T, d *dockertest.Daemon, n int) []containerOfTask {
	t.Helper()
	list := make([]containerOfTask, n)
	for i := range list {
		list[i] = containerOfTask{name: fmt.Sprintf("ecs-shop-42-sleeper-%d", i), task: d.NewTask(t)}
		if err := c.create(t.Context(), &list[i], false, sleeperProgram); err != nil {
			t.Fatal(err)
		}
		if _, err := c.docker.ContainerStart(t.Context(), list[i].id, client.ContainerStartOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// run does something for all numbers, some at a time.
func (c *churn) run(t *testing.T, do func(ctx context.Context, number int) error) error {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	start := time.Now()
	numbers := make(chan int)
	go func() {
		defer close(numbers)
		for number := range c.in {
			numbers <- number
		}
	}()
	failed := make(chan error)
	for range churners {
		go func() {
			var err error
			for number := range numbers {
				if err == nil {
					err = do(ctx, number)
				}
			}
			failed <- err
		}()
	}
	var err error
	for range churners {
		err = errors.Join(err, <-failed)
	}
	c.seconds = time.Since(start).Seconds()
	return err
}

// runContainer runs one container, until it is removed.
func (c *churn) runContainer(ctx context.Context, number int) error {
	in := &c.in[number]
	if err := c.create(ctx, in, true, churnProgram, strconv.Itoa(number)); err != nil {
		return err
	}
	end := c.docker.ContainerWait(ctx, in.id, client.ContainerWaitOptions{Condition: api.WaitConditionRemoved})
	if _, err := c.docker.ContainerStart(ctx, in.id, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start %s: %w", in.name, err)
	}
	select {
	case r := <-end.Result:
		if r.StatusCode != 0 {
			return fmt.Errorf("run %s: it ended with %d", in.name, r.StatusCode)
		}
		return nil
	case err := <-end.Error:
		return fmt.Errorf("wait for the end of %s: %w", in.name, err)
	}
}

// create makes a container as the ECS agent does.
func (c *churn) create(ctx context.Context, in *containerOfTask, remove bool, command ...string) error {
	created, err := c.docker.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name:   in.name,
		Config: &api.Config{Image: churnImage, Cmd: command, Labels: in.task.Labels},
		HostConfig: &api.HostConfig{
			Resources:   api.Resources{CgroupParent: in.task.CgroupParent},
			NetworkMode: "none", AutoRemove: remove,
		},
	})
	if err != nil {
		return fmt.Errorf("create %s: %w", in.name, err)
	}
	in.id = created.ID
	return nil
}

// execInContainer has the engine execute the program in a container that runs.
func (c *churn) execInContainer(ctx context.Context, number int) error {
	in := &c.in[number]
	made, err := c.docker.ExecCreate(ctx, in.id, client.ExecCreateOptions{Cmd: []string{churnProgram, strconv.Itoa(number)}})
	if err != nil {
		return fmt.Errorf("make exec in %s: %w", in.name, err)
	}
	if _, err := c.docker.ExecStart(ctx, made.ID, client.ExecStartOptions{Detach: true}); err != nil {
		return fmt.Errorf("start exec in %s: %w", in.name, err)
	}
	return nil
}

// next returns the number of the first container whose task has no cgroup yet.
func (c *churn) next(t *testing.T) int {
	for number := range c.in {
		if !c.in[number].hasCgroup(t) {
			return number
		}
	}
	return len(c.in)
}

// hasCgroup reports whether the container's task has a cgroup already, in any hierarchy.
func (in *containerOfTask) hasCgroup(t *testing.T) bool {
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		if list, err := filepath.Glob(pattern + in.task.CgroupParent); err != nil {
			t.Fatal(err)
		} else if len(list) > 0 {
			return true
		}
	}
	return false
}

// wantDescribed waits until no container is pending.
func wantDescribed(t *testing.T, s *stack.Stack) *stack.Status {
	t.Helper()
	await(t, "every container to be described", func() bool { return mustStatus(t, s).Containers.Pending == 0 })
	status := mustStatus(t, s)
	if status.Containers.Undescribed > 0 {
		t.Errorf("%d containers were never described", status.Containers.Undescribed)
	}
	return status
}

// tally is who the endpoint takes a churn's execs for.
type tally struct {
	stored, id, task, name, digest, pending int // of the execs: those with the right id, and so on
	others, othersWrong                     int // execs and exits in containers besides, such as runc's
}

// tally counts, and reports what is wrong: an exec that is not its container's and task's, or is stored twice, and any
// exec or exit in one of the containers that is taken for another task's.
func (c *churn) tally(t *testing.T, s *stack.Stack) (n tally) {
	t.Helper()
	arns := make(map[string]string, len(c.in))
	for _, in := range c.in {
		arns[in.id] = in.task.ARN
	}
	times := make([]int, len(c.in))
	for _, e := range events(t, s, "--kind", "process.exec", "--kind", "process.exit") {
		number, ok := c.number(&e)
		k := e.Container
		if !ok {
			if k != nil && arns[k.ID] != "" {
				n.others++
				n.othersWrong += oneIf(taskARN(&e) != arns[k.ID] || k.Pending)
			}
			continue
		}
		n.stored++
		if times[number]++; times[number] > 1 {
			t.Errorf("exec %d is stored %d times", number, times[number])
		}
		in := &c.in[number]
		if k == nil {
			t.Errorf("exec %d, of %s, is taken for the host's", number, in.id)
			continue
		}
		if k.ID != in.id || taskARN(&e) != in.task.ARN || k.Name != in.name || k.Pending {
			t.Errorf("exec %d, of %s in %s: container %+v", number, in.id, in.task.ID, k)
		}
		n.id += oneIf(k.ID == in.id)
		n.task += oneIf(taskARN(&e) == in.task.ARN)
		n.name += oneIf(k.Name == in.name)
		n.digest += oneIf(e.Process.SHA256 == sumOf(tiny.Program(churnSleep)))
		n.pending += oneIf(k.Pending)
	}
	if n.othersWrong > 0 {
		t.Errorf("%d other events of the containers are wrong", n.othersWrong)
	}
	return n
}

// wantAttributed checks that the endpoint has every exec, attributed, and prints a table.
func (c *churn) wantAttributed(t *testing.T, s *stack.Stack, status *stack.Status) {
	t.Helper()
	got, n, k := c.tally(t, s), len(c.in), &status.Containers
	t.Log("\n" + table(
		"execs in containers", fmt.Sprintf("%d in %.0f s, %.1f a second", n, c.seconds, float64(n)/c.seconds),
		"at the endpoint", fraction(got.stored, n),
		"with the right container id", fraction(got.id, n),
		"with the right task ARN", fraction(got.task, n),
		"with the right container name", fraction(got.name, n),
		"with the program's SHA-256", fraction(got.digest, n),
		"still pending", strconv.Itoa(got.pending),
		"other execs and exits in containers", fmt.Sprintf("%d, %d of them wrong", got.others, got.othersWrong),
		"events with name and task at seal", fmt.Sprintf("%d, %d without", k.EventsBound, k.EventsUnbound),
		"events with all at seal", fmt.Sprintf("%d, %d joined later", k.EventsBound+k.EventsUnbound-k.EventsPending,
			k.EventsPending),
		"time until name and task are known", bindingText(k.Bound),
		"time until all is known", bindingText(k.Described),
		"containers known", fmt.Sprintf("%d, %d forgotten early, %d without room", k.Containers, k.ContainersEvicted, k.ContainersRefused),
		"agent", fmt.Sprintf("%.1f s of CPU, %d MiB", status.Agent.CPUSeconds, status.Agent.RSSBytes>>20),
	))
	if got.stored != n || got.id != n || got.task != n || got.name != n || got.pending > 0 {
		t.Error("not every exec is attributed")
	}
}

func bindingText(b container.Binding) string {
	return fmt.Sprintf("p50 %.0f ms, p99 %.0f ms, longest %.0f ms", 1e3*b.P50, 1e3*b.P99, 1e3*b.Max)
}

// number returns which of the programs an event is the exec of.
func (c *churn) number(e *event.Event) (int, bool) {
	if e.Kind != event.ProcessExec || e.Process == nil {
		return 0, false
	}
	args := e.Process.Args.Split()
	if len(args) != 2 || args[0] != churnProgram {
		return 0, false
	}
	number, err := strconv.Atoi(args[1])
	return number, err == nil && number >= 0 && number < len(c.in)
}

func taskARN(e *event.Event) string {
	if e.Container == nil || e.Container.ECS == nil {
		return ""
	}
	return e.Container.ECS.TaskARN
}

func oneIf(is bool) int {
	if is {
		return 1
	}
	return 0
}

func fraction(n, of int) string {
	return fmt.Sprintf("%d of %d (%.1f %%)", n, of, 100*float64(n)/float64(of))
}

// table returns pairs in columns.
func table(pairs ...string) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for i := 0; i < len(pairs); i += 2 {
		fmt.Fprintf(w, "%s\t%s\n", pairs[i], pairs[i+1])
	}
	_ = w.Flush() // a bytes.Buffer takes all
	return b.String()
}
