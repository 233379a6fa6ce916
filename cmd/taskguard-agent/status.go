package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/hash"
	"github.com/taskguard/taskguard/collector/process"
	"github.com/taskguard/taskguard/sender"
)

// status is what the agent says of itself: the object that `status --json` prints.
type status struct {
	Agent struct {
		Version       string    `json:"version"`
		ID            event.ID  `json:"id"`
		Epoch         uint64    `json:"epoch"`
		PID           int       `json:"pid"`
		Started       time.Time `json:"started"`
		UptimeSeconds float64   `json:"uptime_seconds"`
		CPUSeconds    float64   `json:"cpu_seconds"` // user and system time since the start
		RSSBytes      uint64    `json:"rss_bytes"`
	} `json:"agent"`
	Host     event.Host     `json:"host"`
	Instance event.Instance `json:"instance"`
	IMDS     string         `json:"imds"` // whether the instance metadata service answers, and if not, what to do
	Ledger   sender.Ledger  `json:"ledger"`
	// Heartbeat is what the next one would say; its issues are those of the last one to two minutes.
	Heartbeat *event.Heartbeat `json:"heartbeat"`
	kindTable
	Upload struct {
		Endpoint string `json:"endpoint"`
		sender.Upload
	} `json:"upload"`
	Containers struct {
		Connected bool   `json:"connected"` // the container engine answers
		Reason    string `json:"reason,omitempty"`
		container.Stats
	} `json:"containers"`
	ECS struct {
		Connected bool   `json:"connected"` // the ECS agent answers
		Reason    string `json:"reason,omitempty"`
	} `json:"ecs"`
	Processes process.Stats         `json:"processes"`
	Accounts  process.AccountsStats `json:"accounts"`
	Files     hash.Stats            `json:"files"` // by what came of their digests
}

// status describes this moment.
func (a *agent) status() status {
	var s status
	s.Agent.Version, s.Agent.ID, s.Agent.Epoch = agentVersion(), a.state.Agent, a.state.Epoch
	s.Agent.PID, s.Agent.Started, s.Agent.UptimeSeconds = os.Getpid(), a.started, time.Since(a.started).Seconds()
	s.Agent.CPUSeconds, s.Agent.RSSBytes = usage()
	s.Host, s.Instance, s.IMDS = a.host.Identity(), a.instance(), a.host.Reason()
	s.Ledger = a.sender.Ledger()
	states := a.states()
	s.kindTable, s.Heartbeat = newKindTable(states, a.selfTest), a.fares(states)
	filtered := a.filtered()
	for kind, n := range s.Ledger.ObservedByKind {
		s.Kinds[kindName(kind)] = kindStatus{Observed: n, Lost: s.Ledger.LostByKind[kind]}
	}
	for kind, n := range filtered {
		if k := s.Kinds[kind.String()]; n > 0 {
			k.Filtered = n
			s.Kinds[kind.String()] = k
		}
	}
	s.Upload.Endpoint, s.Upload.Upload = a.cfg.EndpointURL, a.sender.Upload()
	s.Containers.Connected, s.Containers.Reason = a.tracker.State()
	s.Containers.Stats = a.tracker.Stats()
	s.ECS.Connected, s.ECS.Reason = a.tracker.ECSState()
	s.Processes, s.Accounts, s.Files = a.table.Stats(), a.accounts.Stats(), a.hasher.Stats()
	return s
}

// filtered counts what the kernel left out as the settings say.
func (a *agent) filtered() map[event.Kind]uint64 {
	filtered := map[event.Kind]uint64{}
	if a.sources.ebpf == nil {
		return filtered
	}
	counts, err := a.sources.ebpf.Counts()
	if err != nil {
		a.log.Debug("kernel counters not read", "error", err)
	}
	for kind, c := range counts {
		filtered[kind] = c.Filtered
	}
	return filtered
}

// usage returns this process's CPU time in seconds and its resident memory in bytes; 0 for what cannot be read.
func usage() (cpu float64, rss uint64) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err == nil {
		cpu = float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	// Second field: resident pages (proc_pid_statm(5)).
	if text, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			pages, _ := strconv.ParseUint(fields[1], 10, 64)
			rss = pages * uint64(os.Getpagesize())
		}
	}
	return cpu, rss
}

func statusCommand() *cobra.Command {
	var socket string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show the running agent's health, ledger and sources", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := getLocal(cmd.Context(), socket, "/v1/status")
			if err != nil {
				return err
			}
			defer body.Close()
			if asJSON {
				_, err := io.Copy(cmd.OutOrStdout(), body)
				return err
			}
			var s status
			if err := json.NewDecoder(body).Decode(&s); err != nil {
				return fmt.Errorf("read status: %w", err)
			}
			return printStatus(cmd.OutOrStdout(), &s, useColor(cmd.OutOrStdout()))
		},
	}
	cmd.PersistentFlags().StringVar(&socket, "socket", defaultConfig().Socket, "the running agent's `socket`")
	cmd.PersistentFlags().BoolVar(&asJSON, "json", false, "print JSON, one object a line")
	cmd.AddCommand(statusContainersCommand(&socket, &asJSON))
	return cmd
}

// printStatus writes the status for people.
func printStatus(out io.Writer, s *status, color bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "agent\t%s, pid %d, up %s, %.1f s of CPU (%.1f %%), %d MiB\n", event.Escape(s.Agent.Version), s.Agent.PID,
		time.Duration(s.Agent.UptimeSeconds*float64(time.Second)).Round(time.Second), s.Agent.CPUSeconds,
		100*s.Agent.CPUSeconds/max(s.Agent.UptimeSeconds, 0.001), s.Agent.RSSBytes>>20)
	fmt.Fprintf(w, "host\t%s%s\n", event.Escape(s.Host.Hostname), brackets(s.Host.InstanceID))
	fmt.Fprintf(w, "instance\t%s\n", instanceText(s))
	fmt.Fprintf(w, "endpoint\t%s: %s\n", event.Escape(s.Upload.Endpoint), uploadText(s.Upload.Upload, color))
	fmt.Fprintf(w, "containers\t%d known%s\n", s.Containers.Containers, brackets(s.Containers.Reason))
	if c := &s.Containers; c.Bound.Containers > 0 {
		fmt.Fprintf(w, "\tname and task known after p50 %s, p99 %s; %d not described yet\n", seconds(c.Bound.P50),
			seconds(c.Bound.P99), c.Pending)
	}
	fmt.Fprintf(w, "ecs\t%s\n", event.Escape(s.ECS.Reason))
	l := s.Ledger
	fmt.Fprintf(w, "ledger\tobserved %d = acked %d + spooled %d + open %d + lost %d\n", l.Observed, l.Acked, l.Spooled, l.Open,
		sum(l.Lost))
	for _, cause := range sortedKeys(l.Lost) {
		fmt.Fprintf(w, "\tlost %s\t%d\n", event.Escape(cause), l.Lost[cause])
	}
	printHeartbeat(w, s.Heartbeat, color)
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	return s.kindTable.print(out, color)
}

// printHeartbeat writes what the lines of the status do not have yet. An agent of an earlier version has none.
func printHeartbeat(w io.Writer, h *event.Heartbeat, color bool) {
	if h == nil {
		return
	}
	fmt.Fprintf(w, "spool\t%d events in %d batches, %.1f of %d MiB\n", h.SpoolEvents, h.SpoolBatches,
		float64(h.SpoolBytes)/(1<<20), h.SpoolMaxBytes>>20)
	fmt.Fprintf(w, "config\tsha256 %s\n", event.Escape(h.ConfigHash))
	if len(h.Issues) == 0 {
		fmt.Fprintf(w, "issues\t%s\n", paint(color, green, "none"))
	}
	for i, issue := range issueLines(h.Issues) {
		heading := ""
		if i == 0 {
			heading = "issues"
		}
		fmt.Fprintf(w, "%s\t%s\n", heading, paint(color, red, event.Escape(issue)))
	}
}

// issueLines are issues with the unhealthy kinds in one line: the table below has each.
func issueLines(issues []string) (lines []string) {
	unhealthy := 0
	for _, issue := range issues {
		if strings.HasPrefix(issue, event.IssueKindUnhealthy+":") {
			unhealthy++
			continue
		}
		lines = append(lines, issue)
	}
	if unhealthy > 0 {
		lines = append(lines, fmt.Sprintf("%s (%d kinds)", event.IssueKindUnhealthy, unhealthy))
	}
	return lines
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond)
}

// instanceText says what instance this is, or why that is not known.
func instanceText(s *status) string {
	i := &s.Instance
	if s.Host.InstanceID == "" {
		return event.Escape(s.IMDS)
	}
	return event.Escape(strings.Join(slices.DeleteFunc([]string{i.Type, i.ImageID, i.AvailabilityZone, i.OS, i.Kernel},
		func(s string) bool { return s == "" }), ", "))
}

func uploadText(u sender.Upload, color bool) string {
	if u.Problem == "" {
		if u.LastSuccess.IsZero() {
			return "nothing delivered yet"
		}
		return paint(color, green, "delivered") + " " + time.Since(u.LastSuccess).Round(time.Second).String() + " ago"
	}
	text := paint(color, red, event.Escape(u.Problem))
	if u.Remedy != "" {
		text += " (" + event.Escape(u.Remedy) + ")"
	}
	return text
}

func brackets(s string) string {
	if s == "" {
		return ""
	}
	return " (" + event.Escape(s) + ")"
}

func sum(counts map[string]uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
