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
	Host    event.Host              `json:"host"`
	Ledger  sender.Ledger           `json:"ledger"`
	Kinds   map[string]kindStatus   `json:"kinds"`
	Sources map[string]sourceStatus `json:"sources"`
	Upload  struct {
		Endpoint string `json:"endpoint"`
		sender.Upload
	} `json:"upload"`
	Containers struct {
		Connected bool   `json:"connected"` // the container engine answers
		Reason    string `json:"reason,omitempty"`
		container.Stats
	} `json:"containers"`
	Processes process.Stats `json:"processes"`
}

type kindStatus struct {
	Observed uint64 `json:"observed"`
	Lost     uint64 `json:"lost"`
}

type sourceStatus struct {
	Via     string `json:"via"`
	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason"`
}

// status describes this moment.
func (a *agent) status() status {
	var s status
	s.Agent.Version, s.Agent.ID, s.Agent.Epoch = agentVersion(), a.state.Agent, a.state.Epoch
	s.Agent.PID, s.Agent.Started, s.Agent.UptimeSeconds = os.Getpid(), a.started, time.Since(a.started).Seconds()
	s.Agent.CPUSeconds, s.Agent.RSSBytes = usage()
	s.Host = a.host
	s.Ledger = a.sender.Ledger()
	s.Kinds = map[string]kindStatus{}
	for kind, n := range s.Ledger.ObservedByKind {
		s.Kinds[kindName(kind)] = kindStatus{Observed: n, Lost: s.Ledger.LostByKind[kind]}
	}
	s.Sources = map[string]sourceStatus{}
	for _, state := range a.sources.states() {
		s.Sources[state.Kind.String()] = sourceStatus{Via: state.Via, Healthy: state.Healthy, Reason: state.Reason}
	}
	s.Upload.Endpoint, s.Upload.Upload = a.cfg.EndpointURL, a.sender.Upload()
	s.Containers.Connected, s.Containers.Reason = a.tracker.State()
	s.Containers.Stats = a.tracker.Stats()
	s.Processes = a.table.Stats()
	return s
}

// kindName names a kind; what an earlier run left in the spool has none.
func kindName(kind event.Kind) string {
	if kind == 0 {
		return "recovered"
	}
	return kind.String()
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
	addSocketFlag(cmd, &socket)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// printStatus writes the status for people.
func printStatus(out io.Writer, s *status, color bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "agent\t%s, pid %d, up %s, %.1f s of CPU (%.1f %%), %d MiB\n", event.Escape(s.Agent.Version), s.Agent.PID,
		time.Duration(s.Agent.UptimeSeconds*float64(time.Second)).Round(time.Second), s.Agent.CPUSeconds,
		100*s.Agent.CPUSeconds/max(s.Agent.UptimeSeconds, 0.001), s.Agent.RSSBytes>>20)
	fmt.Fprintf(w, "host\t%s%s\n", event.Escape(s.Host.Hostname), brackets(s.Host.InstanceID))
	fmt.Fprintf(w, "endpoint\t%s: %s\n", event.Escape(s.Upload.Endpoint), uploadText(s.Upload.Upload, color))
	fmt.Fprintf(w, "containers\t%d known%s\n", s.Containers.Containers, brackets(s.Containers.Reason))
	l := s.Ledger
	fmt.Fprintf(w, "ledger\tobserved %d = acked %d + spooled %d + open %d + lost %d\n", l.Observed, l.Acked, l.Spooled, l.Open,
		sum(l.Lost))
	for _, cause := range sortedKeys(l.Lost) {
		fmt.Fprintf(w, "\tlost %s\t%d\n", event.Escape(cause), l.Lost[cause])
	}
	fmt.Fprintln(w)
	if err := w.Flush(); err != nil {
		return err
	}
	return printKinds(out, s, color)
}

// printKinds gives a line to every kind that something was observed of. The others share one where the same is to be
// said of them.
func printKinds(out io.Writer, s *status, color bool) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KIND\tVIA\tHEALTH\tOBSERVED\tLOST\tREASON")
	var quiet []string // what is to be said of the others
	kinds := map[string][]string{}
	for _, kind := range kindsOf(s) {
		source, n := s.Sources[kind], s.Kinds[kind]
		health := paint(color, green, "healthy")
		switch {
		case source.Via == "":
			source.Via = "agent"
		case !source.Healthy:
			health = paint(color, red, "unhealthy")
		}
		if n != (kindStatus{}) {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\n", kind, source.Via, health, n.Observed, n.Lost, event.Escape(source.Reason))
			continue
		}
		say := fmt.Sprintf("nothing observed yet via %s, %s%s", source.Via, health, brackets(source.Reason))
		if kinds[say] == nil {
			quiet = append(quiet, say)
		}
		kinds[say] = append(kinds[say], kind)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, say := range quiet {
		if _, err := fmt.Fprintf(out, "\n%s:\n  %s\n", say, strings.Join(kinds[say], ", ")); err != nil {
			return err
		}
	}
	return nil
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

// kindsOf lists the kinds in their order, sources first.
func kindsOf(s *status) []string {
	var kinds []string
	for _, kind := range append(event.Kinds(), 0) {
		name := kindName(kind)
		_, source := s.Sources[name]
		_, counted := s.Kinds[name]
		if source || counted {
			kinds = append(kinds, name)
		}
	}
	return kinds
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
