package container

import (
	"strings"

	"github.com/taskguard/taskguard/collector/event"
)

// source is who tells of a container's task. Of what several tell, the first counts.
type source int

const (
	fromCgroup source = iota
	fromMetadata
	fromIntrospection
	fromLabel
	sourceCount
)

// told is what each source says of a container's task; nil is nothing. What it points to is never changed.
type told [sourceCount]*event.ECS

// task returns what counts of all that was told; nil when it is nothing. A source that contradicts one that counts
// more in the id of the task speaks of another task: it is left out, and the task is disputed.
func (t *told) task() *event.ECS {
	var task *event.ECS
	for from, facts := range t {
		if facts == nil {
			continue
		}
		if task == nil {
			task = new(event.ECS)
		}
		if task.TaskID != "" && facts.TaskID != "" && task.TaskID != facts.TaskID {
			task.Disputed = true
			continue
		}
		add(task, facts, sourceFacts(&task.Sources, source(from)))
	}
	return task
}

func sourceFacts(s *event.ECSSources, from source) *event.ECSFacts {
	switch from {
	case fromCgroup:
		return &s.Cgroup
	case fromMetadata:
		return &s.Metadata
	case fromIntrospection:
		return &s.Introspection
	}
	return &s.Label
}

// add fills in what is not known yet, and notes what that is.
func add(to, from *event.ECS, facts *event.ECSFacts) {
	for _, f := range [...]struct {
		to, from *string
		fact     event.ECSFacts
	}{
		{&to.Cluster, &from.Cluster, event.FactCluster},
		{&to.ClusterARN, &from.ClusterARN, event.FactClusterARN},
		{&to.ContainerInstanceARN, &from.ContainerInstanceARN, event.FactContainerInstanceARN},
		{&to.TaskARN, &from.TaskARN, event.FactTaskARN},
		{&to.TaskID, &from.TaskID, event.FactTaskID},
		{&to.Family, &from.Family, event.FactFamily},
		{&to.Revision, &from.Revision, event.FactRevision},
		{&to.Container, &from.Container, event.FactContainer},
		{&to.Service, &from.Service, event.FactService},
		{&to.LaunchType, &from.LaunchType, event.FactLaunchType},
		{&to.DesiredStatus, &from.DesiredStatus, event.FactDesiredStatus},
		{&to.KnownStatus, &from.KnownStatus, event.FactKnownStatus},
	} {
		if *f.to == "" && *f.from != "" {
			*f.to = *f.from
			*facts |= f.fact
		}
	}
	if to.StartedAt.IsZero() && !from.StartedAt.IsZero() {
		to.StartedAt = from.StartedAt
		*facts |= event.FactStartedAt
	}
	if len(to.Tags) == 0 && len(from.Tags) > 0 {
		to.Tags = from.Tags
		*facts |= event.FactTags
	}
}

// The labels that the ECS agent puts on a task's containers before it starts them.
const (
	labelPrefix    = "com.amazonaws.ecs."
	labelCluster   = labelPrefix + "cluster"
	labelTaskARN   = labelPrefix + "task-arn"
	labelFamily    = labelPrefix + "task-definition-family"
	labelRevision  = labelPrefix + "task-definition-version"
	labelContainer = labelPrefix + "container-name"
)

// labelled returns what a container's labels say of its task; nil when that is nothing.
func labelled(labels map[string]string) *event.ECS {
	task := event.ECS{
		Family:    cut(labels[labelFamily]),
		Revision:  cut(labels[labelRevision]),
		Container: cut(labels[labelContainer]),
	}
	setTask(&task, labels[labelTaskARN])
	setCluster(&task, labels[labelCluster])
	if task.Cluster == "" && task.TaskARN == "" && task.Family == "" && task.Revision == "" && task.Container == "" {
		return nil
	}
	return &task
}

// taskARN is what an ARN like arn:aws:ecs:REGION:ACCOUNT:task/CLUSTER/ID tells; the older form has no cluster.
type taskARN struct{ prefix, cluster, id string }

// parseTaskARN reads the ARN of a task.
func parseTaskARN(arn string) (taskARN, bool) {
	parts := strings.SplitN(arn, ":", 6)
	if len(arn) > maxValue || len(parts) != 6 || parts[0] != "arn" || !strings.HasPrefix(parts[1], "aws") || parts[2] != "ecs" {
		return taskARN{}, false
	}
	path, ok := strings.CutPrefix(parts[5], "task/")
	cluster, id, long := strings.Cut(path, "/")
	if !long {
		cluster, id = "", path
	}
	if !ok || !isTask(id) || len(parts[4]) != 12 || !all(parts[4], func(c byte) bool { return '0' <= c && c <= '9' }) {
		return taskARN{}, false
	}
	return taskARN{prefix: strings.Join(parts[:5], ":") + ":", cluster: cluster, id: id}, true
}

// setTask notes a task's ARN, and what follows from it. One that is none is not taken.
func setTask(task *event.ECS, arn string) {
	parsed, ok := parseTaskARN(arn)
	if !ok {
		return
	}
	task.TaskARN, task.TaskID = cut(arn), strings.Clone(parsed.id)
	if parsed.cluster != "" {
		task.ClusterARN = parsed.prefix + "cluster/" + parsed.cluster
		if task.Cluster == "" {
			task.Cluster = strings.Clone(parsed.cluster)
		}
	}
}

// setCluster notes a cluster, which is given by its name or by its ARN.
func setCluster(task *event.ECS, cluster string) {
	if arn, name, ok := strings.Cut(cluster, ":cluster/"); ok && strings.HasPrefix(arn, "arn:") {
		task.ClusterARN, cluster = cut(cluster), name
	}
	if cluster != "" {
		task.Cluster = cut(cluster)
	}
}
