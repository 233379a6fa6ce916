package main

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// query says which events to read. The zero query is all of them.
type query struct {
	kinds     []event.Kind // any of them
	container string       // a prefix of the container's id, or its name
	host      string       // the host's instance id, machine id or name
	since     time.Time
	follow    bool
	count     bool // count by kind instead of giving the events
}

// parseQuery reads the query string of GET /v1/events.
func parseQuery(values url.Values) (query, error) {
	q := query{container: values.Get("container"), host: values.Get("host")}
	var err error
	if q.kinds, err = parseKinds(values["kind"]); err != nil {
		return query{}, err
	}
	if since := values.Get("since"); since != "" {
		if q.since, err = parseSince(since, time.Now()); err != nil {
			return query{}, err
		}
	}
	for name, flag := range map[string]*bool{"follow": &q.follow, "count": &q.count} {
		if text := values.Get(name); text != "" {
			if *flag, err = strconv.ParseBool(text); err != nil {
				return query{}, fmt.Errorf("%s=%q: want 1 or 0", name, text)
			}
		}
	}
	if q.follow && q.count {
		return query{}, fmt.Errorf("follow excludes count, which has no end to wait for")
	}
	return q, nil
}

// values is the inverse of parseQuery.
func (q *query) values() url.Values {
	values := url.Values{}
	for _, k := range q.kinds {
		values.Add("kind", k.String())
	}
	set := func(name, value string) {
		if value != "" {
			values.Set(name, value)
		}
	}
	set("container", q.container)
	set("host", q.host)
	if !q.since.IsZero() {
		set("since", q.since.Format(time.RFC3339Nano))
	}
	if q.follow {
		set("follow", "1")
	}
	if q.count {
		set("count", "1")
	}
	return values
}

// parseKinds reads names of kinds, each of which may be a comma list.
func parseKinds(names []string) ([]event.Kind, error) {
	var kinds []event.Kind
	for _, list := range names {
		for name := range strings.SplitSeq(list, ",") {
			k, err := event.ParseKind(strings.TrimSpace(name))
			if err != nil {
				return nil, err
			}
			kinds = append(kinds, k)
		}
	}
	return kinds, nil
}

// parseSince reads a time, or how long before now it was.
func parseSince(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return time.Time{}, fmt.Errorf("since %q: want a duration such as 10m, or a time such as %s", s,
			now.UTC().Format(time.RFC3339))
	}
	return now.Add(-d), nil
}

// match reports whether the query is for e.
func (q *query) match(e *event.Event) bool {
	return (len(q.kinds) == 0 || slices.Contains(q.kinds, e.Kind)) &&
		!e.Time.Before(q.since) &&
		(q.container == "" || matchContainer(e.Container, q.container)) &&
		(q.host == "" || matchHost(e.Host, q.host))
}

func matchContainer(c *event.Container, s string) bool {
	return c != nil && (strings.HasPrefix(c.ID, s) || c.Name == s)
}

func matchHost(h *event.Host, s string) bool {
	return h != nil && (h.InstanceID == s || h.MachineID == s || h.Hostname == s)
}
