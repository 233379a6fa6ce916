package container

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
)

func TestTask(t *testing.T) {
	other := strings.Repeat("f", 32)
	fake := map[string]string{
		labelTaskARN: "arn:aws:ecs:eu-central-1:999999999999:task/fake/" + other, labelCluster: "fake", labelFamily: "fake",
	}
	agent := &event.ECS{
		Cluster: "demo", TaskARN: demoTaskARN, TaskID: task32, Family: "shop", Revision: "42", KnownStatus: "RUNNING",
	}
	all := event.FactCluster | event.FactClusterARN | event.FactTaskARN | event.FactTaskID | event.FactFamily |
		event.FactRevision | event.FactContainer
	for name, test := range map[string]struct {
		told told
		want *event.ECS
	}{
		"nobody":      {told{}, nil},
		"labels only": {told{fromLabel: labelled(ecsLabels())}, with(ecsTask(), event.ECSSources{Label: all})},
		"path and labels": {
			told{fromCgroup: {TaskID: task32}, fromLabel: labelled(ecsLabels())},
			with(ecsTask(), event.ECSSources{Cgroup: event.FactTaskID, Label: all &^ event.FactTaskID}),
		},
		"labels of another task than the path's": {
			told{fromCgroup: {TaskID: task32}, fromLabel: labelled(fake)},
			&event.ECS{TaskID: task32, Disputed: true, Sources: event.ECSSources{Cgroup: event.FactTaskID}},
		},
		"labels of another task than the agent's": {
			told{fromIntrospection: agent, fromLabel: labelled(fake)},
			func() *event.ECS {
				want := *agent
				want.Disputed = true
				want.Sources.Introspection = event.FactCluster | event.FactTaskARN | event.FactTaskID | event.FactFamily |
					event.FactRevision | event.FactKnownStatus
				return &want
			}(),
		},
		"the agent's word counts more than a label's": {
			told{fromIntrospection: agent, fromLabel: labelled(map[string]string{
				labelTaskARN: demoTaskARN, labelFamily: "lies", labelContainer: "web",
			})},
			func() *event.ECS {
				want := *agent
				want.Container, want.ClusterARN = "web", clusterARN
				want.Sources.Introspection = event.FactCluster | event.FactTaskARN | event.FactTaskID | event.FactFamily |
					event.FactRevision | event.FactKnownStatus
				want.Sources.Label = event.FactContainer | event.FactClusterARN
				return &want
			}(),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.told.task()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func with(task *event.ECS, sources event.ECSSources) *event.ECS {
	task.Sources = sources
	return task
}

// Law: it does not matter in which order the sources tell, or how often.
func TestTaskWhateverTheOrder(t *testing.T) {
	tell := map[source]*event.ECS{
		fromCgroup:        {TaskID: task32},
		fromMetadata:      {TaskID: task32, TaskARN: demoTaskARN, Service: "s", LaunchType: "EC2", Tags: []event.Tag{{Key: "k"}}},
		fromIntrospection: {TaskID: task32, Family: "shop", KnownStatus: "RUNNING", StartedAt: time.Unix(1, 0)},
		fromLabel:         labelled(ecsLabels()),
	}
	var want *event.Container
	for range 50 {
		c := tracked{known: &event.Container{ID: id1}}
		for range 3 {
			for _, from := range rand.Perm(int(sourceCount)) {
				if source(from) == fromLabel {
					c.add(facts{labels: ecsLabels()})
				} else {
					c.tell(source(from), tell[source(from)])
				}
			}
		}
		if want == nil {
			want = c.known
		}
		if diff := cmp.Diff(want, c.known); diff != "" {
			t.Fatal(diff)
		}
	}
}

func TestParseTaskARN(t *testing.T) {
	for arn, want := range map[string]taskARN{
		demoTaskARN: {"arn:aws:ecs:eu-central-1:123456789012:", "demo", task32},
		"arn:aws-us-gov:ecs:us-gov-west-1:123456789012:task/" + uuid: {
			"arn:aws-us-gov:ecs:us-gov-west-1:123456789012:", "", uuid,
		},
	} {
		if got, ok := parseTaskARN(arn); !ok || got != want {
			t.Errorf("%s: %+v, %v", arn, got, ok)
		}
	}
	for _, arn := range []string{
		"", "arn", "arn:aws:ecs:eu-central-1:123456789012:task/", "arn:aws:ecs:eu-central-1:123456789012:task/demo/x",
		"arn:aws:ecs:eu-central-1:123456789012:service/demo/" + task32, "arn:aws:s3:eu-central-1:123456789012:task/demo/" + task32,
		"arn:aws:ecs:eu-central-1:12345678901x:task/demo/" + task32, demoTaskARN + "\n", demoTaskARN + strings.Repeat("x", 2000),
		"x" + demoTaskARN, strings.Repeat(":", 10),
	} {
		if got, ok := parseTaskARN(arn); ok {
			t.Errorf("%q is taken for %+v", arn, got)
		}
	}
}

func TestSetCluster(t *testing.T) {
	for in, want := range map[string]event.ECS{
		"":                       {},
		"demo":                   {Cluster: "demo"},
		clusterARN:               {Cluster: "demo", ClusterARN: clusterARN},
		"arn:aws:ecs:eu:1:nope/": {Cluster: "arn:aws:ecs:eu:1:nope/"},
	} {
		var got event.ECS
		if setCluster(&got, in); !cmp.Equal(got, want) {
			t.Errorf("%q: %+v", in, got)
		}
	}
}
