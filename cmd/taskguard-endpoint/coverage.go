package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/eventbridge"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/coverage"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
	"github.com/taskguard/taskguard/collector/event"
)

// startCoverage starts the role coverage, unless it is not wanted: then it returns nil.
func (c *config) startCoverage(ctx context.Context, s *serving, log *stream.Store) (*coverage.Role, error) {
	if !slices.Contains(c.Roles, roleCoverage) {
		return nil, nil
	}
	sinks := []coverage.Sink{coverage.LogSink{Logger: s.log}}
	if c.Coverage.Webhook != "" {
		sinks = append(sinks, coverage.Webhook{URL: c.Coverage.Webhook, Client: &http.Client{
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}})
	}
	cfg := coverage.Config{
		Log: log, States: log, Leases: log, Owner: replicaName(), Unseen: c.Coverage.Unseen, Logger: s.log,
	}
	if c.Coverage.EventBus != "" || c.Coverage.ECS {
		found, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(c.Coverage.BusRegion), awsconfig.WithEC2IMDSRegion())
		if err != nil {
			return nil, fmt.Errorf("find aws credentials for coverage: %w", err)
		}
		if c.Coverage.EventBus != "" {
			sinks = append(sinks, coverage.EventBridge{Client: eventbridge.NewFromConfig(found), Bus: c.Coverage.EventBus})
		}
		if c.Coverage.ECS {
			cfg.ECS = ecs.NewFromConfig(found)
		}
	}
	cfg.Sinks = sinks
	role, err := coverage.New(cfg)
	if err != nil {
		return nil, err
	}
	s.startRole("coverage", role.Run)
	return role, nil
}

// coverageMetrics tells of the role coverage.
type coverageMetrics struct{ role *coverage.Role }

// Describe implements prometheus.Collector: without descriptions the metrics are not checked in advance.
func (coverageMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m coverageMetrics) Collect(to chan<- prometheus.Metric) {
	if m.role == nil {
		return
	}
	st := m.role.Stats()
	for _, c := range []roleCount{
		{"told", "Changes of coverage that every sink has taken.", st.Told},
		{"dropped", "Changes of coverage that were not taken for so long that there was no room for more.", st.Dropped},
		{"forgotten", "Instances that made room for others.", st.Forgotten},
	} {
		to <- counter("taskguard_endpoint_coverage_"+c.name+"_total", c.help, c.value)
	}
}

func newCoverageCommand() *cobra.Command {
	var data string
	var asJSON bool
	var q coverage.Query
	cmd := &cobra.Command{
		Use:   "coverage",
		Short: "Show which instances and ECS clusters are watched, and why others are not",
		Long: "Show which instances and ECS clusters are watched, and why others are not, as the serve that runs on the folder\n" +
			"knows it. Filter and sort keys are those of GuardDuty's ListCoverage.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if data == "" {
				return usagef("--data is required: the folder that serve keeps everything in")
			}
			if _, err := q.Apply(nil); err != nil {
				return usagef("%w", err)
			}
			list, err := askCoverage(cmd.Context(), data)
			if err != nil {
				return err
			}
			if list, err = q.Apply(list); err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(list)
			}
			return printCoverage(cmd.OutOrStdout(), list, time.Now())
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", "", "folder that serve keeps everything in (required)")
	f.BoolVar(&asJSON, "json", false, "print one JSON list")
	f.StringArrayVar(&q.Filter, "filter", nil, "KEY=VALUE, such as COVERAGE_STATUS=UNHEALTHY; of several with one key, one has to fit")
	f.StringVar(&q.Sort, "sort", "", "a key, such as UPDATED_AT")
	f.BoolVar(&q.Desc, "desc", false, "the other way round")
	return cmd
}

// askCoverage asks the serve that runs on a data folder.
func askCoverage(ctx context.Context, data string) ([]coverage.Resource, error) {
	served, err := dialServe(ctx, data)
	if err != nil {
		return nil, err
	}
	if served == nil {
		return nil, fmt.Errorf("no serve runs on %s: start it", data)
	}
	defer served.close()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://endpoint/v1/coverage", nil)
	if err != nil {
		return nil, err
	}
	answer, err := served.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask serve: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		return nil, fmt.Errorf("ask serve: %s", strings.TrimSpace(string(reason)))
	}
	var list []coverage.Resource
	if err := json.NewDecoder(answer.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("read coverage: %w", err)
	}
	return list, nil
}

// printCoverage prints a table for people.
func printCoverage(out io.Writer, list []coverage.Resource, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TYPE\tACCOUNT\tRESOURCE\tSTATUS\tCOVERED\tAGENT\tMANAGED\tSEEN\tISSUE")
	for i := range list {
		r := &list[i]
		covered, version, managed := "-", "-", "-"
		if d := r.Details.ECS; d != nil {
			covered = fmt.Sprintf("%d/%d", d.ContainerInstances.Covered, d.ContainerInstances.Compatible)
		}
		if d := r.Details.EC2; d != nil {
			version, managed = shownOr(d.AgentDetails.Version), d.ManagementType
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s ago\t%s\n", r.Details.Type, shownOr(r.AccountID), shownOr(r.ID), r.Status,
			covered, version, managed, now.Sub(r.LastSeen).Round(time.Second), shownOr(r.Issue))
	}
	return w.Flush()
}

// shownOr makes what an agent says of itself safe to show; a dash stands for nothing.
func shownOr(text string) string {
	if text == "" {
		return "-"
	}
	return event.Escape(text)
}
