package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
)

// containers answers GET /v1/containers: the containers that are remembered, one JSON object a line.
func (l *local) containers(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := json.NewEncoder(w)
	for _, c := range l.agent.tracker.List() {
		if out.Encode(c) != nil { // the client is gone
			return
		}
	}
}

func statusContainersCommand(socket *string, asJSON *bool) *cobra.Command {
	return &cobra.Command{
		Use: "containers", Short: "List the containers of this host: task, image, exposure, events", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body, err := getLocal(cmd.Context(), *socket, "/v1/containers")
			if err != nil {
				return err
			}
			defer body.Close()
			if *asJSON {
				_, err := io.Copy(cmd.OutOrStdout(), body)
				return err
			}
			return printContainers(cmd.OutOrStdout(), body)
		},
	}
}

// printContainers writes the containers as a table for people.
func printContainers(out io.Writer, in io.Reader) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tTASK\tIMAGE\tEVENTS\tEXPOSURE")
	decoder := json.NewDecoder(in)
	for {
		var c container.Known
		if err := decoder.Decode(&c); errors.Is(err, io.EOF) {
			return w.Flush()
		} else if err != nil {
			return fmt.Errorf("read containers: %w", err)
		}
		fmt.Fprintf(w, "%.12s\t%s\t%s\t%s\t%d\t%s\n", event.Escape(c.ID), orDash(event.Escape(c.Name)), taskText(c.ECS),
			orDash(event.Escape(c.Image)), c.Events, exposureText(&c))
	}
}

// taskText says which task a container belongs to: FAMILY:REVISION/CONTAINER CLUSTER/ID, as far as it is known.
func taskText(task *event.ECS) string {
	if task == nil {
		return "-"
	}
	name := task.Family
	if task.Revision != "" {
		name += ":" + task.Revision
	}
	if task.Container != "" {
		name += "/" + task.Container
	}
	id := task.TaskID
	if task.Cluster != "" {
		id = task.Cluster + "/" + id
	}
	return orDash(event.Escape(strings.TrimSpace(name + " " + id)))
}

// exposureText says what exposes the host, or why that is not known.
func exposureText(c *container.Known) string {
	var words []string
	switch {
	case !c.EndedAt.IsZero():
		words = append(words, "(removed)")
	case c.Pending:
		words = append(words, "(not described yet)")
	}
	if c.Posture != nil {
		words = append(words, c.Posture.Traits.Names()...)
	}
	return orDash(strings.Join(words, " "))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
