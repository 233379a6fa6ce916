package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/taskguard/taskguard/collector/event"
)

func addSocketFlag(cmd *cobra.Command, socket *string) {
	cmd.Flags().StringVar(socket, "socket", defaultConfig().Socket, "the running agent's `socket`")
}

// getLocal asks the running agent. The caller must close the body.
func getLocal(ctx context.Context, socket, path string) (io.ReadCloser, error) {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the agent at %s: %w%s", socket, errors.Unwrap(err), hint(err))
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return nil, errors.Join(fmt.Errorf("ask the agent: %s: %s", response.Status, event.Escape(strings.TrimSpace(string(text)))),
			response.Body.Close())
	}
	return response.Body, nil
}

func hint(err error) string {
	switch {
	case errors.Is(err, os.ErrPermission):
		return ": run it as root"
	case errors.Is(err, os.ErrNotExist), strings.Contains(err.Error(), "refused"):
		return ": is it running? See systemctl status taskguard-agent"
	}
	return ""
}

func eventsCommand() *cobra.Command {
	var socket string
	var asJSON, follow bool
	var kinds []string
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what the running agent observed last, or follow it live",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := parseKinds(kinds); err != nil {
				return usageError{err}
			}
			query := url.Values{"kind": kinds}
			if follow {
				query.Set("follow", "1")
			}
			body, err := getLocal(cmd.Context(), socket, "/v1/events?"+query.Encode())
			if err != nil {
				return err
			}
			defer body.Close()
			err = printEvents(cmd.OutOrStdout(), body, asJSON)
			if cmd.Context().Err() != nil { // the operator has seen enough
				return nil
			}
			return err
		},
	}
	addSocketFlag(cmd, &socket)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "show events as they are sealed, until interrupted")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "only events of this `kind` (repeatable)")
	return cmd
}

// printEvents copies a stream of JSON lines, or shows it as a table.
func printEvents(out io.Writer, in io.Reader, asJSON bool) error {
	if asJSON {
		_, err := io.Copy(out, in)
		return err
	}
	printer := event.NewPrinter(out, useColor(out))
	decoder := json.NewDecoder(bufio.NewReader(in))
	for {
		var e event.Event
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if err := printer.Print(&e); err != nil {
			return err
		}
	}
}

const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	plain  = "\x1b[39m" // as long as the others
)

func paint(on bool, color, text string) string {
	if !on {
		return text
	}
	return color + text + "\x1b[0m"
}

// useColor says whether out is a terminal whose user wants colours (no-color.org).
func useColor(out io.Writer) bool {
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == ""
}
