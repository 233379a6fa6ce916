package container

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/secret"
)

// toldEvents is a sink that keeps what it is told, but for kinds that are off.
type toldEvents struct {
	mu   sync.Mutex
	off  []event.Kind
	list []event.Event
}

func (s *toldEvents) Wants(kind event.Kind) bool { return !slices.Contains(s.off, kind) }

func (s *toldEvents) Emit(e *event.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, *e)
}

// take returns what came since the last time.
func (s *toldEvents) take() []event.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.list
	s.list = nil
	return list
}

// lines says in one line each what came since the last time.
func (s *toldEvents) lines() []string {
	var lines []string
	for _, e := range s.take() {
		line := e.Kind.String() + " " + event.What(&e)
		if e.Kind == event.AgentLoss {
			line = fmt.Sprintf("%s of %s for %v", e.Kind, e.Agent.Lost, e.Agent.To.Sub(e.Agent.From).Round(time.Minute))
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

func wantTold(t *testing.T, s *toldEvents, want ...string) {
	t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(want, s.lines()); diff != "" {
		t.Errorf("(-want +told):\n%s", diff)
	}
}

// lives runs a test with a tracker that tells of lives, connected to a fake engine.
func lives(t *testing.T, test func(t *testing.T, tracker *Tracker, engine *fakeEngine, told *toldEvents)) {
	t.Helper()
	told := &toldEvents{}
	bubble(t, Config{Sink: told, Mask: secret.Mask}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		synctest.Wait()
		test(t, tracker, engine, told)
	})
}

// exec starts a program in a container, and describes it to who asks if it is to be described.
func (e *fakeEngine) exec(c fakeContainer, id string, described bool, user string, command ...string) {
	if described {
		e.set(func() {
			if e.execs == nil {
				e.execs = map[string]map[string]any{}
			}
			e.execs[id] = map[string]any{"ID": id, "ContainerID": c.id, "Running": true, "ProcessConfig": map[string]any{
				"entrypoint": command[0], "arguments": command[1:], "user": user, "privileged": user == "root",
			}}
		})
	}
	e.say("exec_create: "+command[0]+" "+strings.Join(command[1:], " "), c, "execID", id)
	e.say("exec_start: "+command[0]+" "+strings.Join(command[1:], " "), c, "execID", id)
}

func TestLifeOfAContainer(t *testing.T) {
	lives(t, func(t *testing.T, tracker *Tracker, engine *fakeEngine, told *toldEvents) {
		began := time.Now().UTC()
		engine.create(web)
		time.Sleep(time.Second)
		engine.say("start", web)
		time.Sleep(time.Second)
		engine.exec(web, hexID(7), true, "root", "sh", "-c", "id -u; cat 'a file'")
		time.Sleep(time.Second)
		engine.say("pause", web)
		engine.say("exec_die", web, "execID", hexID(7), "exitCode", "3")
		engine.say("die", web, "exitCode", "3")
		engine.say("stop", web)
		engine.destroy(web)
		synctest.Wait()

		got := told.take()
		for i := range got {
			e := &got[i]
			if e.Container == nil || e.Container.ID != id1 || e.Container.Name != web.name || e.Container.Image != "shop:1" ||
				e.Container.ECS == nil || e.Container.ECS.TaskID != task32 || e.Process != nil {
				t.Errorf("%s: of %+v by %+v", e.Kind, e.Container, e.Process)
			}
			e.Container, e.Time = nil, e.Time.UTC().Truncate(time.Second)
		}
		want := []event.Event{
			{Time: began, Kind: event.ContainerCreate},
			{Time: began.Add(time.Second), Kind: event.ContainerStart},
			{Time: began.Add(2 * time.Second), Kind: event.ContainerExec, Exec: &event.Exec{
				ExecID: hexID(7), Command: "sh\x00-c\x00id -u; cat 'a file'\x00", User: "root", Privileged: true,
			}},
			{Time: began.Add(3 * time.Second), Kind: event.ContainerStop, Stop: &event.Stop{
				ExitCode: event.Some[uint32](3), StartedAt: began.Add(time.Second),
			}},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +told):\n%s", diff)
		}
		if known := tracker.Describe(&event.Container{ID: id1}, 0); known.Pending {
			t.Error("not described")
		}
	})
}

// What runs when the agent starts was neither made nor started; it can end.
func TestLifeThatBeganBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine, told := newFakeEngine(), &toldEvents{}
		engine.containers = []fakeContainer{web}
		engine.start()
		defer engine.stop()
		engine.say("create", web)
		engine.say("start", web)
		time.Sleep(time.Millisecond)
		tracker := newTracker(t, Config{Docker: "unix:///fake", Sink: told})
		tracker.dial = engine.dial
		defer run(t, tracker)()
		wantTold(t, told)
		engine.say("die", web, "exitCode", "0")
		wantTold(t, told, "container.stop exit 0")
		unknown := fakeContainer{id: id2, name: "other", image: "o:2", labels: ecsLabels()}
		engine.say("die", unknown, "exitCode", "1")
		synctest.Wait()
		for _, e := range told.take() {
			if c := e.Container; c.Name != "other" || c.ECS == nil || e.Stop.ExitCode != event.Some[uint32](1) {
				t.Errorf("of one that was not heard of before: %+v, %+v", c, e.Stop)
			}
		}
	})
}

func TestStop(t *testing.T) {
	hiding := web
	hiding.labels = map[string]string{"exitCode": "0", "signal": "1"}
	killedInside := web
	killedInside.oomKilled = true
	for _, test := range []struct {
		name string
		of   fakeContainer
		say  []string // each an action and what goes with it
		want string
	}{
		{"exit", web, []string{"die exitCode 0"}, "exit 0"},
		{"killed", web, []string{"kill signal 9", "die exitCode 137"}, "exit 137, signal 9"},
		{"stopped in vain, then killed", web, []string{"kill signal 15", "kill signal 9", "die exitCode 137"}, "exit 137, signal 9"},
		{"exits by itself after a signal", web, []string{"kill signal 1", "die exitCode 0"}, "exit 0"},
		{"a signal of the last life", web, []string{"kill signal 9", "start", "die exitCode 137"}, "exit 137"},
		{"out of memory", web, []string{"oom", "die exitCode 137"}, "exit 137, OOM-killed"},
		{"out of memory, told of late", web, []string{"die exitCode 137", "oom"}, "exit 137, OOM-killed"},
		{"out of memory in the last life", web, []string{"oom", "start", "die exitCode 0"}, "exit 0"},
		{"inspected", killedInside, []string{"die exitCode 137"}, "exit 137, OOM-killed"},
		{"a label hides the code", hiding, []string{"kill signal 9", "die exitCode 137"}, ""},
		{"garbage", web, []string{"kill signal x", "die exitCode -1"}, ""},
		{"nothing said", web, []string{"kill", "die"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			lives(t, func(t *testing.T, _ *Tracker, engine *fakeEngine, told *toldEvents) {
				engine.create(test.of)
				engine.say("start", test.of)
				time.Sleep(2 * time.Second) // until it was inspected again
				told.take()
				for _, line := range test.say {
					words := strings.Fields(line)
					engine.say(words[0], test.of, words[1:]...)
					synctest.Wait()
				}
				time.Sleep(stopDelay)
				synctest.Wait()
				list := slices.DeleteFunc(told.take(), func(e event.Event) bool { return e.Kind == event.ContainerStart })
				if len(list) != 1 || list[0].Kind != event.ContainerStop || event.What(&list[0]) != test.want {
					t.Errorf("got %+v, want %q", list, test.want)
				}
			})
		})
	}
}

// A life that ended for lack of memory is not confused with the next one, and an end that waits is not behind what is
// covered, nor lost at the tracker's end.
func TestStopThatWaits(t *testing.T) {
	lives(t, func(t *testing.T, tracker *Tracker, engine *fakeEngine, told *toldEvents) {
		engine.create(web)
		engine.say("start", web)
		time.Sleep(2 * time.Second)
		told.take()
		ended := time.Now()
		engine.say("die", web, "exitCode", "137")
		engine.say("start", web)
		time.Sleep(time.Second)
		wantTold(t, told, "container.start shop:1")
		if at := tracker.Covered(time.Now()); at.After(ended) {
			t.Errorf("covered until %v, after the end at %v", at, ended)
		}
		engine.say("oom", web)
		wantTold(t, told, "container.stop exit 137, OOM-killed")
		engine.say("die", web, "exitCode", "0")
		wantTold(t, told, "container.stop exit 0")
		if now := time.Now(); !tracker.Covered(now).Equal(now) {
			t.Error("not covered though nothing waits")
		}
		engine.say("start", web)
		engine.say("die", web, "exitCode", "137")
		wantTold(t, told, "container.start shop:1")
		tracker.releaseStops() // as Run does at its end
		wantTold(t, told, "container.stop exit 137")
		time.Sleep(time.Minute)
		wantTold(t, told)
	})
}

func TestStopsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &toldEvents{}
		tracker := newTracker(t, Config{Sink: told})
		waiting := func() int {
			tracker.mu.Lock()
			defer tracker.mu.Unlock()
			return len(tracker.stops)
		}
		for i := range maxStops + 3 {
			tracker.stop(time.Now(), &event.Container{ID: fmt.Sprint(i)}, event.Stop{ExitCode: event.Some[uint32](137)})
		}
		if n := len(told.take()); n != 3 || waiting() != maxStops {
			t.Errorf("%d told of at once, %d wait; want 3 and %d", n, waiting(), maxStops)
		}
		time.Sleep(stopDelay)
		synctest.Wait()
		if n := len(told.take()); n != maxStops || waiting() != 0 {
			t.Errorf("%d told of later, %d wait; want %d and none", n, waiting(), maxStops)
		}
	})
}

// Whoever starts an exec chooses its command: no secret in it leaves the host, described or not.
func TestExecCommandIsMasked(t *testing.T) {
	const hidden = "hunter2-S3cr3t"
	for _, command := range [][]string{
		{"mysql", "--password", hidden + " " + hidden, "-e", "select 1"},
		{"mysql", "-p" + hidden},
		{"sh", "-c", "PGPASSWORD=" + hidden + " psql; echo --token '" + hidden + "'"},
		{"curl", "-H", "Authorization: Bearer " + hidden, "http://x"},
		{"curl", "http://me:" + hidden + "@db/x"},
		{"env", "AWS_SECRET_ACCESS_KEY=" + hidden, "true"},
	} {
		for _, described := range []bool{true, false} {
			lives(t, func(t *testing.T, _ *Tracker, engine *fakeEngine, told *toldEvents) {
				engine.exec(web, hexID(1), described, "", command...)
				synctest.Wait()
				list := told.take()
				if len(list) != 1 || list[0].Exec == nil {
					t.Fatalf("told of %+v", list)
				}
				x := list[0].Exec
				if strings.Contains(string(x.Command), "hunter2") || !strings.Contains(string(x.Command), "***") {
					t.Errorf("%q is told as %q", command, x.Command)
				}
				if x.Unverified == described || described && len(x.Command.Split()) != len(command) {
					t.Errorf("described %v: %+v", described, x)
				}
			})
		}
	}
}

// An answer is taken only if it is about the exec that the message is about.
func TestExecThatIsNotAskedAbout(t *testing.T) {
	lives(t, func(t *testing.T, tracker *Tracker, engine *fakeEngine, told *toldEvents) {
		engine.exec(web, hexID(1), true, "", "true", "a  b")
		engine.set(func() { engine.execs[hexID(2)] = engine.execs[hexID(1)] })
		engine.exec(web, hexID(2), false, "", "false")
		engine.exec(fakeContainer{id: id2, name: "x"}, hexID(1), false, "", "true", "a  b")
		hiding := fakeContainer{id: hexID(3), labels: map[string]string{"execID": hexID(1)}}
		engine.create(hiding)
		engine.exec(hiding, hexID(4), false, "", "true", "a  b")
		engine.exec(web, "../containers/json", false, "", "true")
		engine.exec(web, hexID(5), false, "", strings.Repeat("x", 2*maxCommand))
		engine.say("exec_start", web)
		synctest.Wait()
		var got []string
		for _, e := range told.take() {
			if e.Exec != nil {
				got = append(got, fmt.Sprintf("%v unverified %v truncated %v", len(e.Exec.Command), e.Exec.Unverified, e.Exec.Truncated))
			}
		}
		slices.Sort(got)
		want := []string{
			"0 unverified true truncated false", "10 unverified true truncated false", "10 unverified true truncated false",
			"10 unverified false truncated false", "4097 unverified true truncated true", "5 unverified true truncated false",
			"6 unverified true truncated false",
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +told):\n%s", diff)
		}
		if n := engine.count("GET /exec/"); n != 4 {
			t.Errorf("asked %d times, want of those with an id that can be one", n)
		}
		if s := tracker.Stats(); s.ExecsUnverified != 6 {
			t.Errorf("%d unverified execs counted", s.ExecsUnverified)
		}
	})
}

// An engine that does not answer about execs holds up no more than they can wait, and none of them is lost.
func TestExecsAreBounded(t *testing.T) {
	lives(t, func(t *testing.T, tracker *Tracker, engine *fakeEngine, told *toldEvents) {
		engine.set(func() { engine.delay = time.Hour })
		first := time.Now()
		const more = 10
		for n := range maxExecs + more {
			engine.exec(web, hexID(n), false, "", "true")
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		if n := len(told.take()); n != more {
			t.Errorf("%d told of while %d wait", n, maxExecs)
		}
		if covered := tracker.Covered(time.Now()); !covered.Truncate(time.Millisecond).Equal(first) {
			t.Errorf("covered until %v, want until the first exec that waits, %v", covered, first)
		}
		time.Sleep(execTimeout)
		synctest.Wait()
		if n := len(told.take()); n != maxExecs {
			t.Errorf("%d told of when the time was over, want %d", n, maxExecs)
		}
		if now := time.Now(); !tracker.Covered(now).Equal(now) {
			t.Error("something is still waited for")
		}
	})
}

// The end of the stream, or of the agent, ends the wait for answers.
func TestExecsAreToldOfAtTheEnd(t *testing.T) {
	told := &toldEvents{}
	bubble(t, Config{Sink: told}, func(t *testing.T, tracker *Tracker, engine *fakeEngine) {
		synctest.Wait()
		engine.set(func() { engine.delay = time.Hour })
		for n := range 5 {
			engine.exec(web, hexID(n), false, "", "true")
		}
		synctest.Wait()
		if list := told.take(); len(list) != 0 {
			t.Errorf("told of %d at once", len(list))
		}
	})
	if n := len(told.take()); n != 5 {
		t.Errorf("%d of 5 execs told of", n)
	}
}

// An engine repeats its last messages to every new stream: what was told is not told again, what was missed is.
func TestRepeatedMessagesAreToldOnce(t *testing.T) {
	lives(t, func(t *testing.T, _ *Tracker, engine *fakeEngine, told *toldEvents) {
		engine.create(web)
		engine.say("start", web)
		wantTold(t, told, "container.create shop:1", "container.start shop:1")
		for range 3 {
			engine.stop()
			engine.say("kill", web, "signal", "9")
			engine.say("die", web, "exitCode", "137")
			engine.say("start", web)
			engine.start()
			time.Sleep(time.Minute)
			wantTold(t, told, "container.stop exit 137, signal 9", "container.start shop:1")
		}
		engine.stop()
		engine.start()
		time.Sleep(time.Minute)
		wantTold(t, told)
	})
}

var unobserved = []string{
	"agent.loss of container.create for 1m0s", "agent.loss of container.start for 1m0s",
	"agent.loss of container.exec for 1m0s", "agent.loss of container.stop for 1m0s",
}

// An engine that has forgotten what it said may have forgotten more: the interval was not observed.
func TestWhatAnEngineCannotRepeatIsTold(t *testing.T) {
	for name, meanwhile := range map[string]func(engine *fakeEngine){
		"it restarted": func(engine *fakeEngine) { engine.said = nil },
		"too much happened": func(engine *fakeEngine) {
			for range maxRepeated {
				engine.say("kill", web, "signal", "0")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			lives(t, func(t *testing.T, _ *Tracker, engine *fakeEngine, told *toldEvents) {
				engine.create(web)
				wantTold(t, told, "container.create shop:1")
				engine.set(func() { engine.misbehave = fail("/_ping") })
				engine.stop()
				engine.start()
				time.Sleep(time.Minute)
				meanwhile(engine)
				engine.set(func() { engine.misbehave = nil })
				time.Sleep(maxBackoff + steadyAfter)
				wantTold(t, told, unobserved...)
				engine.say("start", web)
				wantTold(t, told, "container.start shop:1")
			})
		})
	}
}

// An engine that is not there says nothing that could be missed; one that does not let the agent in does.
func TestEngineThatIsReachedLate(t *testing.T) {
	test := func(t *testing.T, there bool, want ...string) {
		synctest.Test(t, func(t *testing.T) {
			engine, told := newFakeEngine(), &toldEvents{}
			if there {
				engine.misbehave = fail("/_ping")
				engine.start()
			}
			tracker := newTracker(t, Config{Docker: "unix:///fake", Sink: told})
			tracker.dial = engine.dial
			defer run(t, tracker)()
			time.Sleep(time.Minute)
			engine.say("start", web)
			if !there {
				engine.start()
			}
			engine.set(func() { engine.misbehave = nil })
			defer engine.stop()
			time.Sleep(maxBackoff + steadyAfter)
			wantTold(t, told, want...)
		})
	}
	t.Run("absent", func(t *testing.T) { test(t, false, "container.start shop:1") })
	t.Run("fails", func(t *testing.T) { test(t, true, append(slices.Clone(unobserved), "container.start shop:1")...) })
}

// A message that is too long to be read is not asked for again, or nothing could ever be read behind it.
func TestMessageThatIsTooLong(t *testing.T) {
	lives(t, func(t *testing.T, tracker *Tracker, engine *fakeEngine, told *toldEvents) {
		long := fakeContainer{id: id2, name: "long", labels: map[string]string{"x": strings.Repeat("x", 3*maxLine)}}
		engine.create(long)
		time.Sleep(maxBackoff)
		engine.create(web)
		time.Sleep(maxBackoff)
		list := told.take()
		if len(list) != 5 || list[0].Kind != event.AgentLoss || list[4].Kind != event.ContainerCreate {
			t.Errorf("got %+v, want an interval that was not observed, and what came behind it", list)
		}
		if n := engine.count("GET /events"); n > 3 { // a second time, as here it is read in the moment it is said
			t.Errorf("%d streams, want 2 or 3", n)
		}
	})
}

// Nothing is asked or told of kinds that nobody wants.
func TestKindsThatAreOff(t *testing.T) {
	lives(t, func(t *testing.T, tracker *Tracker, engine *fakeEngine, told *toldEvents) {
		told.off = []event.Kind{event.ContainerExec, event.ContainerCreate}
		engine.create(web)
		engine.exec(web, hexID(1), true, "", "true")
		engine.say("die", web, "exitCode", "0")
		wantTold(t, told, "container.stop exit 0")
		if n := engine.count("GET /exec/"); n != 0 {
			t.Errorf("asked %d times", n)
		}
	})
}

// What a container does cannot make the tracker keep more than it may, nor lose anything.
func TestFloodOfMessages(t *testing.T) {
	lives(t, func(t *testing.T, tracker *Tracker, engine *fakeEngine, told *toldEvents) {
		const n = 4000
		for range n / 2 {
			engine.say("start", web)
			engine.say("die", web, "exitCode", "0")
		}
		synctest.Wait()
		if got := len(told.take()); got != n {
			t.Errorf("%d events, want %d", got, n)
		}
		if s := tracker.Stats(); s.Containers != 1 {
			t.Errorf("got %+v", s)
		}
	})
}

func FuzzExecLine(f *testing.F) {
	f.Add("sh -c --password hunter2")
	f.Add("")
	f.Add("a\x00b  c --token=x")
	f.Fuzz(func(t *testing.T, line string) {
		i := inspection{mask: secret.Mask}
		got := string(i.line(line))
		if len(got) > maxCommand+len("***\x00") || got != "" && !strings.HasSuffix(got, "\x00") {
			t.Errorf("%q is told as %q", line, got)
		}
		begin := strings.TrimSuffix(strings.TrimSuffix(got, "\x00"), "***")
		if words := strings.ReplaceAll(line, " ", "\x00"); !strings.HasPrefix(words, begin) {
			t.Errorf("%q is told as %q, which is not its beginning", line, got)
		}
		if again, any := secret.Mask(got); any && !i.cut {
			t.Errorf("%q is told as %q, with the secret of %q", line, got, again)
		}
	})
}
