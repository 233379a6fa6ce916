package container

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
)

const (
	clusterARN  = "arn:aws:ecs:eu-central-1:123456789012:cluster/demo"
	demoTaskARN = "arn:aws:ecs:eu-central-1:123456789012:task/demo/" + task32
)

func ecsLabels() map[string]string {
	return map[string]string{
		"com.amazonaws.ecs.cluster":                 "demo",
		"com.amazonaws.ecs.container-name":          "web",
		"com.amazonaws.ecs.task-arn":                demoTaskARN,
		"com.amazonaws.ecs.task-definition-family":  "shop",
		"com.amazonaws.ecs.task-definition-version": "42",
		"maintainer": "somebody",
	}
}

func ecsTask() *event.ECS {
	return &event.ECS{
		Cluster: "demo", ClusterARN: clusterARN, TaskARN: demoTaskARN, TaskID: task32, Family: "shop", Revision: "42",
		Container: "web",
	}
}

func TestWhatTheEngineSaysIsAdded(t *testing.T) {
	all := facts{Container: event.Container{Name: "ecs-shop-42-web", Image: "shop:1", ImageID: "sha256:1"}, labels: ecsLabels()}
	tests := []struct {
		name  string
		known event.Container
		facts facts
		want  event.Container
	}{
		{"everything", event.Container{ID: id1, Runtime: "docker", Pending: true}, all, event.Container{
			ID: id1, Name: "ecs-shop-42-web", Image: "shop:1", ImageID: "sha256:1", Runtime: "docker", ECS: ecsTask(),
			Pending: true,
		}},
		{"nothing", event.Container{ID: id1, ECS: &event.ECS{TaskID: task32}}, facts{},
			event.Container{ID: id1, ECS: &event.ECS{TaskID: task32}}},
		{"nothing takes nothing away", event.Container{ID: id1, Name: "a", Image: "b", ECS: ecsTask()}, facts{},
			event.Container{ID: id1, Name: "a", Image: "b", ECS: ecsTask()}},
		{"docker knows it, so it is docker's", event.Container{ID: id1}, facts{Container: event.Container{Name: "x"}},
			event.Container{ID: id1, Name: "x", Runtime: "docker"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.known
			c := tracked{known: &before, told: told{fromCgroup: before.ECS}}
			c.add(tt.facts)
			if diff := cmp.Diff(&tt.want, c.known, sameFacts); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.known, before); diff != "" {
				t.Errorf("what was known was changed in place: %s", diff)
			}
		})
	}
}

// Law: the layers of an image are those of every container of it.
func TestImageLayers(t *testing.T) {
	for lower, want := range map[string]string{
		"":                               "",
		"/d/1-init/diff:/d/b/diff:/d/a":  "/d/b/diff:/d/a",
		"/d/2-init/diff:/d/b/diff:/d/a":  "/d/b/diff:/d/a",
		"/d/1-init/diff":                 "",
		"/d/b/diff:/d/a/diff":            "/d/b/diff:/d/a/diff",
		strings.Repeat("/x:", maxLayers): "",
	} {
		if got := imageLayers(lower); got != want {
			t.Errorf("layers of %.40q: %q, want %q", lower, got, want)
		}
	}
}

func TestHostileLabelsAreCut(t *testing.T) {
	long := strings.Repeat("ü\n", 64<<10)
	labels := ecsLabels()
	for name := range labels {
		labels[name] = long
	}
	got := labelled(labels)
	for _, s := range []string{got.Cluster, got.Family, got.Revision, got.Container, cut(long)} {
		if len(s) > maxValue || len(s) < maxValue-utf8.UTFMax || !utf8.ValidString(s) || !strings.HasPrefix(long, s) {
			t.Errorf("%d bytes, valid %v", len(s), utf8.ValidString(s))
		}
	}
	if got.TaskID != "" || got.TaskARN != "" {
		t.Errorf("task id %q, ARN %q from a label that has none", got.TaskID, got.TaskARN)
	}
	if got := cut(strings.Repeat("\x80", 2000)); len(got) > maxValue || len(got) < maxValue-utf8.UTFMax {
		t.Errorf("%d bytes of what is not text", len(got))
	}
}

// The path may come after the engine's word, and the other way round.
func TestTaskIDOfThePathIsAdded(t *testing.T) {
	tracker := newTracker(t, Config{Docker: "unix:///nowhere"})
	tracker.note(id1, facts{Container: event.Container{Name: "web", Image: "shop:1"}}, time.Now())
	first := tracker.Locate(0, "/docker/"+id1)
	tracker.AddCgroup(5, "/ecs/"+task32+"/"+id1)
	if c := tracker.Locate(5, ""); taskOf(*c) != task32 || c.Name != "web" {
		t.Errorf("got %+v (task %q)", c, taskOf(*c))
	}
	if taskOf(*first) != "" {
		t.Error("what was given out was changed in place")
	}
}

// A profile is all of what follows the first separator, whichever of the two.
func TestSeccompOptions(t *testing.T) {
	for option, want := range map[string]string{
		"seccomp=unconfined": "unconfined", "seccomp:unconfined": "unconfined", "seccomp=builtin": "default",
		`seccomp={"names":["a=b"]}`: "custom", `seccomp:{"comment":"a=b"}`: "custom", "label=disable": "default",
	} {
		p := event.Posture{Seccomp: "default"}
		if confine(&p, option); p.Seccomp != want {
			t.Errorf("%s: %q, want %q", option, p.Seccomp, want)
		}
	}
}
