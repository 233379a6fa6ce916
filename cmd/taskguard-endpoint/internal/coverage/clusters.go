package coverage

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
)

const (
	clustersKey = "coverage-clusters"
	// maxClusters bounds how many are remembered.
	maxClusters = 2000
)

// clusters follows the ECS clusters that instances are of.
type clusters struct {
	role     *Role
	state    kept[map[string]Resource]
	revision uint64
	asked    map[string]asked // by cluster
}

func (c *clusters) run(ctx context.Context) (err error) {
	if c.state, c.revision, err = load[map[string]Resource](ctx, c.role.cfg.States, clustersKey); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := c.look(ctx, time.Now()); err != nil {
			return err
		}
		wait(ctx, lookEvery)
	}
	return nil
}

// look counts the instances of each cluster, and keeps and tells what has changed.
func (c *clusters) look(ctx context.Context, now time.Time) (err error) {
	known, err := readInstances(ctx, c.role.cfg.States)
	if err != nil {
		return err
	}
	next, changed := make(map[string]Resource), len(c.state.Pending) > 0
	for arn, r := range clustersOf(known) {
		before, ok := c.state.Now[arn]
		if !ok && len(next) >= maxClusters {
			continue
		}
		c.compare(ctx, &r, now)
		r.UpdatedAt = before.UpdatedAt
		if r.Status != before.Status {
			r.UpdatedAt = now.UTC()
			c.state.Pending = append(c.state.Pending, pending{Change: changeOf(&r, before.Status)})
		}
		next[arn] = r
		changed = changed || !sameCluster(before, r)
	}
	if !changed && len(next) == len(c.state.Now) {
		return nil
	}
	c.state.Now = next
	c.revision, err = save(ctx, c.role, clustersKey, &c.state, c.revision)
	return err
}

func sameCluster(a, b Resource) bool {
	return a.Status == b.Status && a.Issue == b.Issue && a.Details.ECS != nil && *a.Details.ECS == *b.Details.ECS
}

// clustersOf returns the clusters of instances, by ARN. When they were updated is not known to it.
func clustersOf(list []*instance) map[string]Resource {
	found := make(map[string]Resource)
	for _, in := range list {
		arn := in.Details.EC2.ClusterARN
		if arn == "" {
			continue
		}
		r, ok := found[arn]
		if !ok {
			r = Resource{AccountID: in.AccountID, Region: in.Region, ID: arn, Status: Healthy, Details: Details{
				Type: TypeECS, ECS: &ClusterDetails{Name: arn[strings.LastIndexByte(arn, '/')+1:]},
			}}
		}
		n := &r.Details.ECS.ContainerInstances
		n.Compatible++
		if in.Status == Healthy {
			n.Covered++
		} else if r.Status == Healthy {
			r.Status, r.Issue = Unhealthy, in.Issue
		}
		if in.LastSeen.After(r.LastSeen) {
			r.LastSeen = in.LastSeen
		}
		found[arn] = r
	}
	return found
}

// readInstances returns the instances of all partitions. Of one that had several agents, one after another, it is the
// last that counts.
func readInstances(ctx context.Context, from States) ([]*instance, error) {
	found := make(map[[2]string]*instance)
	for partition := range stream.Partitions {
		k, _, err := load[instances](ctx, from, partitionKey(partition))
		if err != nil {
			return nil, err
		}
		for _, in := range k.Now.Agents {
			if in.Details.EC2 == nil || in.Status == "" {
				continue
			}
			key := [2]string{in.AccountID, in.ID}
			if other := found[key]; other == nil || other.LastSeen.Before(in.LastSeen) {
				found[key] = in
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *instance) int { return compare(a.Resource, b.Resource) }), nil
}

// List returns all resources that are known: clusters, and then instances.
func List(ctx context.Context, from States) ([]Resource, error) {
	known, err := readInstances(ctx, from)
	if err != nil {
		return nil, err
	}
	k, _, err := load[map[string]Resource](ctx, from, clustersKey)
	if err != nil {
		return nil, err
	}
	list := slices.Collect(maps.Values(k.Now))
	for _, in := range known {
		list = append(list, in.Resource)
	}
	slices.SortFunc(list, compare)
	return list, nil
}
