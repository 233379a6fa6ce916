package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/process"
)

// Status is what is used here of the object that `taskguard-agent status --json` prints.
type Status struct {
	Agent struct {
		Version       string  `json:"version"`
		PID           int     `json:"pid"`
		UptimeSeconds float64 `json:"uptime_seconds"`
		CPUSeconds    float64 `json:"cpu_seconds"`
		RSSBytes      uint64  `json:"rss_bytes"`
	} `json:"agent"`
	Host     event.Host        `json:"host"`
	Instance event.Instance    `json:"instance"`
	IMDS     string            `json:"imds"`
	Ledger   Ledger            `json:"ledger"`
	Kinds    map[string]Kind   `json:"kinds"`
	Sources  map[string]Source `json:"sources"`
	Upload   struct {
		Problem string `json:"problem"`
		Retries uint64 `json:"retries"`
	} `json:"upload"`
	ECS struct {
		Connected bool   `json:"connected"`
		Reason    string `json:"reason"`
	} `json:"ecs"`
	Containers struct {
		Connected bool `json:"connected"`
		container.Stats
	} `json:"containers"`
	Processes process.Stats `json:"processes"`
}

// Ledger accounts for every event.
type Ledger struct {
	Observed uint64            `json:"observed"`
	Acked    uint64            `json:"acked"`
	Spooled  uint64            `json:"spooled"`
	Open     uint64            `json:"open"`
	Lost     map[string]uint64 `json:"lost"`
}

// Kind counts the events of a kind.
type Kind struct {
	Observed uint64 `json:"observed"`
	Lost     uint64 `json:"lost"`
}

// Source is where a kind of events comes from.
type Source struct {
	Via     string `json:"via"`
	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason"`
}

// AllLost returns the sum of what was lost.
func (l *Ledger) AllLost() (n uint64) {
	for _, count := range l.Lost {
		n += count
	}
	return n
}

// Balanced reports whether every event is accounted for.
func (l *Ledger) Balanced() bool { return l.Observed == l.Acked+l.Spooled+l.Open+l.AllLost() }

// AtRest reports whether nothing is on its way.
func (l *Ledger) AtRest() bool { return l.Open == 0 && l.Spooled == 0 }

// Status asks the agent how it is. Asking makes no event but for the first time, which connects.
func (s *Stack) Status(ctx context.Context) (*Status, error) {
	var status Status
	if err := get(ctx, s.agent, &status); err != nil {
		return nil, fmt.Errorf("ask agent: %w", err)
	}
	return &status, nil
}

// StoredBytes returns how many bytes the batches that the endpoint has stored take.
func (s *Stack) StoredBytes(ctx context.Context) (uint64, error) {
	var status struct {
		Log struct {
			Bytes uint64 `json:"bytes"`
		} `json:"log"`
	}
	client := unixClient(filepath.Join(s.Data(), "endpoint.sock"))
	defer client.CloseIdleConnections()
	if err := get(ctx, client, &status); err != nil {
		return 0, fmt.Errorf("ask endpoint: %w", err)
	}
	return status.Log.Bytes, nil
}

// unixClient returns a client of one connection that is kept.
func unixClient(socket string) *http.Client {
	return &http.Client{Timeout: startTimeout, Transport: &http.Transport{
		MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}

func get(ctx context.Context, client *http.Client, status any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/v1/status", nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return json.NewDecoder(response.Body).Decode(status)
}

// Settle asks until the ledger is at rest or the time is over, and returns the last answer. A host on which something
// happens all the time is never at rest: then all that was observed before is what counts, see Delivered.
func (s *Stack) Settle(ctx context.Context, patience time.Duration) (*Status, error) {
	return s.until(ctx, patience, func(status *Status) bool { return status.Ledger.AtRest() })
}

// Delivered asks until all that was observed so far is acknowledged or lost, and returns the last answer; or an error
// when the time is over before. Batches are delivered in order.
func (s *Stack) Delivered(ctx context.Context, patience time.Duration) (*Status, error) {
	// What the kernel reported is in the agent's hands within this time.
	if err := sleep(ctx, time.Second); err != nil {
		return nil, err
	}
	now, err := s.Status(ctx)
	if err != nil {
		return nil, err
	}
	done := func(status *Status) bool { return status.Ledger.Acked+status.Ledger.AllLost() >= now.Ledger.Observed }
	status, err := s.until(ctx, patience, done)
	if err == nil && !done(status) {
		err = fmt.Errorf("wait for delivery: after %s not all of %d events: %+v, %s", patience, now.Ledger.Observed,
			status.Ledger, status.Upload.Problem)
	}
	return status, err
}

func (s *Stack) until(ctx context.Context, patience time.Duration, done func(*Status) bool) (*Status, error) {
	deadline := time.Now().Add(patience)
	for {
		status, err := s.Status(ctx)
		if err != nil {
			return nil, err
		}
		if done(status) || time.Now().After(deadline) {
			return status, nil
		}
		if err := sleep(ctx, 2*pollInterval); err != nil {
			return nil, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
