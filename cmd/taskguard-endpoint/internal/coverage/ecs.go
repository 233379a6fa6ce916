package coverage

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs"
)

const (
	// askECSEvery is how often ECS is asked about a cluster.
	askECSEvery = 5 * time.Minute
	// maxPages bounds the answer about one cluster: 100 container instances each, as many as a cluster may have.
	maxPages = 50
)

// ListContainerInstances is the operation of Amazon ECS.
type ListContainerInstances interface {
	ListContainerInstances(ctx context.Context, in *ecs.ListContainerInstancesInput, options ...func(*ecs.Options)) (*ecs.ListContainerInstancesOutput, error)
}

// ask returns how many container instances ECS has of a cluster, asked of it in its region some minutes ago at most.
func (c *clusters) ask(ctx context.Context, r *Resource, now time.Time) (int, error) {
	known, ok := c.asked[r.ID]
	if ok && now.Sub(known.at) < askECSEvery {
		return known.count, known.err
	}
	asking, cancel := context.WithTimeout(ctx, tellFor)
	defer cancel()
	known = asked{at: now}
	known.count, known.err = countInstances(asking, c.role.cfg.ECS, r)
	if c.asked == nil || len(c.asked) >= maxClusters {
		c.asked = make(map[string]asked)
	}
	c.asked[r.ID] = known
	return known.count, known.err
}

// asked is what ECS has answered.
type asked struct {
	at    time.Time
	count int
	err   error
}

func countInstances(ctx context.Context, client ListContainerInstances, r *Resource) (count int, err error) {
	in := &ecs.ListContainerInstancesInput{Cluster: &r.ID}
	for range maxPages {
		out, err := client.ListContainerInstances(ctx, in, func(o *ecs.Options) { o.Region = r.Region })
		if err != nil {
			return 0, fmt.Errorf("list container instances of %s: %w", r.ID, err)
		}
		count += len(out.ContainerInstanceArns)
		if in.NextToken = out.NextToken; in.NextToken == nil {
			break
		}
	}
	return count, nil
}

// compare has a cluster be as ECS says: an instance without an agent is not covered.
func (c *clusters) compare(ctx context.Context, r *Resource, now time.Time) {
	if c.role.cfg.ECS == nil {
		return
	}
	count, err := c.ask(ctx, r, now)
	if err != nil {
		c.role.cfg.Logger.Debug("ecs does not say what a cluster has", "cluster", r.ID, "error", err)
		return
	}
	n := &r.Details.ECS.ContainerInstances
	n.Compatible = max(n.Compatible, count)
	if n.Covered < n.Compatible && r.Status == Healthy {
		r.Status, r.Issue = Unhealthy, "No Agent Reporting"
	}
}
