package coverage

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge/types"
)

// LogSink writes a line to a log for each change.
type LogSink struct{ Logger *slog.Logger }

// Name implements Sink.
func (LogSink) Name() string { return "log" }

// Tell implements Sink.
func (s LogSink) Tell(_ context.Context, c *Change) error {
	level := slog.LevelInfo
	if c.Detail.CurrentStatus == Unhealthy {
		level = slog.LevelWarn
	}
	r := &c.Detail.Details
	args := []any{"status", c.Detail.CurrentStatus, "before", c.Detail.PreviousStatus, "account", c.Account, "issue", c.Detail.Issue}
	if r.ECS != nil {
		args = append(args, "cluster", r.ECS.Name, "covered", r.ECS.ContainerInstances.Covered, "compatible", r.ECS.ContainerInstances.Compatible)
	} else {
		args = append(args, "instance", r.EC2.InstanceID)
	}
	s.Logger.Log(context.Background(), level, "coverage changed", args...)
	return nil
}

// Webhook posts each change as JSON. Every status of 2xx takes it.
type Webhook struct {
	URL    string
	Client *http.Client // which verifies, and follows no redirect to elsewhere; required
}

// Name implements Sink.
func (Webhook) Name() string { return "webhook" }

// Tell implements Sink.
func (s Webhook) Tell(ctx context.Context, c *Change) error {
	text, err := c.Text()
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("tell webhook: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := s.Client.Do(request)
	if err != nil {
		return fmt.Errorf("tell webhook: %w", err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("tell webhook: it answers %s", answer.Status)
	}
	return nil
}

// PutEvents is the operation of Amazon EventBridge.
type PutEvents interface {
	PutEvents(ctx context.Context, in *eventbridge.PutEventsInput, options ...func(*eventbridge.Options)) (*eventbridge.PutEventsOutput, error)
}

// EventBridge puts each change on an event bus.
type EventBridge struct {
	Client PutEvents
	Bus    string // name or ARN; empty is the account's default
}

// Name implements Sink.
func (EventBridge) Name() string { return "eventbridge" }

// Tell implements Sink.
func (s EventBridge) Tell(ctx context.Context, c *Change) error {
	detail, err := json.Marshal(c.Detail)
	if err != nil {
		return err
	}
	entry := types.PutEventsRequestEntry{
		Source: aws.String(c.Source), DetailType: aws.String(c.DetailType), Detail: aws.String(string(detail)), Time: aws.Time(c.Time),
	}
	if s.Bus != "" {
		entry.EventBusName = aws.String(s.Bus)
	}
	out, err := s.Client.PutEvents(ctx, &eventbridge.PutEventsInput{Entries: []types.PutEventsRequestEntry{entry}})
	if err != nil {
		return fmt.Errorf("tell event bus: %w", err)
	}
	for _, e := range out.Entries {
		if e.ErrorCode != nil {
			return fmt.Errorf("tell event bus: %s: %s", *e.ErrorCode, aws.ToString(e.ErrorMessage))
		}
	}
	return nil
}
