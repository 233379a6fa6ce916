package coverage

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// filterKeys are those of GuardDuty's ListCoverage that apply, with the value that a resource has.
func filterKeys() map[string]func(*Resource) string {
	ec2 := func(get func(*EC2Details) string) func(*Resource) string {
		return func(r *Resource) string {
			if r.Details.EC2 == nil {
				return ""
			}
			return get(r.Details.EC2)
		}
	}
	name := func(r *Resource) string {
		if r.Details.ECS == nil {
			return ""
		}
		return r.Details.ECS.Name
	}
	return map[string]func(*Resource) string{
		"ACCOUNT_ID":       func(r *Resource) string { return r.AccountID },
		"RESOURCE_TYPE":    func(r *Resource) string { return r.Details.Type },
		"COVERAGE_STATUS":  func(r *Resource) string { return r.Status },
		"ECS_CLUSTER_NAME": name,
		"CLUSTER_NAME":     name,
		"MANAGEMENT_TYPE":  ec2(func(d *EC2Details) string { return d.ManagementType }),
		"AGENT_VERSION":    ec2(func(d *EC2Details) string { return d.AgentDetails.Version }),
		"INSTANCE_ID":      ec2(func(d *EC2Details) string { return d.InstanceID }),
		"CLUSTER_ARN": func(r *Resource) string {
			if r.Details.ECS != nil {
				return r.ID
			}
			return ec2(func(d *EC2Details) string { return d.ClusterARN })(r)
		},
	}
}

// sortKeys are those of GuardDuty's ListCoverage that apply.
func sortKeys() map[string]func(*Resource) string {
	keys := filterKeys()
	return map[string]func(*Resource) string{
		"ACCOUNT_ID": keys["ACCOUNT_ID"], "COVERAGE_STATUS": keys["COVERAGE_STATUS"],
		"ISSUE":        func(r *Resource) string { return r.Issue },
		"UPDATED_AT":   func(r *Resource) string { return r.UpdatedAt.UTC().Format("2006-01-02T15:04:05.000000000") },
		"CLUSTER_NAME": keys["CLUSTER_NAME"], "ECS_CLUSTER_NAME": keys["ECS_CLUSTER_NAME"], "INSTANCE_ID": keys["INSTANCE_ID"],
	}
}

// Query says which resources are wanted, and in which order.
type Query struct {
	// Filter has KEY=VALUE: of several with one key, one has to fit, and of each key one.
	Filter []string
	Sort   string // a key; empty is by type, account and id
	Desc   bool   // the other way round
}

// Apply returns those of the resources that are wanted. An error says which keys there are.
func (q *Query) Apply(list []Resource) ([]Resource, error) {
	keys, wanted := filterKeys(), map[string][]string{}
	for _, filter := range q.Filter {
		key, value, ok := strings.Cut(filter, "=")
		if keys[key] == nil || !ok {
			return nil, fmt.Errorf("filter %q: want KEY=VALUE, with one of %s", filter, names(keys))
		}
		wanted[key] = append(wanted[key], value)
	}
	list = slices.DeleteFunc(slices.Clone(list), func(r Resource) bool {
		for key, values := range wanted {
			if !slices.Contains(values, keys[key](&r)) {
				return true
			}
		}
		return false
	})
	if q.Sort != "" {
		of := sortKeys()[q.Sort]
		if of == nil {
			return nil, fmt.Errorf("sort by %q: want one of %s", q.Sort, names(sortKeys()))
		}
		slices.SortStableFunc(list, func(a, b Resource) int { return cmp.Compare(of(&a), of(&b)) })
	}
	if q.Desc {
		slices.Reverse(list)
	}
	return list, nil
}

func names(keys map[string]func(*Resource) string) string {
	return strings.Join(slices.Sorted(maps.Keys(keys)), ", ")
}
