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

	"github.com/taskguard/taskguard/cmd/internal/settings"
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

// eventsConfig is what the flags of events say.
type eventsConfig struct {
	socket       string
	json, follow bool
	kinds        []string
	record       string
	maxBytes     string
}

func eventsCommand() *cobra.Command {
	var c eventsConfig
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what the running agent observed last, follow it live, or record it",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	addSocketFlag(cmd, &c.socket)
	f := cmd.Flags()
	f.BoolVarP(&c.follow, "follow", "f", false, "show events as they are sealed, until interrupted")
	f.BoolVar(&c.json, "json", false, "print one JSON object a line")
	f.StringSliceVar(&c.kinds, "kind", nil, "only events of this `kind` (repeatable)")
	f.StringVar(&c.record, "record", "", "write events as they are sealed to a new `file`, for replay, until interrupted")
	f.StringVar(&c.maxBytes, "max-bytes", "1GiB", "end the recording at this `size`")
	return cmd
}

func (c *eventsConfig) run(cmd *cobra.Command) error {
	if _, err := parseKinds(c.kinds); err != nil {
		return usageError{err}
	}
	maxBytes, err := settings.ParseBytes(c.maxBytes)
	if err != nil || maxBytes <= 0 {
		return usageError{fmt.Errorf("--max-bytes %q: want a size, such as 64MiB", c.maxBytes)}
	}
	if c.record != "" && c.json {
		return usageError{errors.New("--record excludes --json: what is recorded is JSON, in the file")}
	}
	query := url.Values{"kind": c.kinds}
	if c.follow || c.record != "" {
		query.Set("follow", "1")
	}
	body, err := getLocal(cmd.Context(), c.socket, "/v1/events?"+query.Encode())
	if err != nil {
		return err
	}
	defer body.Close()
	if c.record != "" {
		r, err := newRecording(c.record, maxBytes, terminal(cmd.ErrOrStderr()))
		if err != nil {
			return err
		}
		return record(cmd.Context(), body, r, cmd.OutOrStdout())
	}
	err = printEvents(cmd.OutOrStdout(), body, c.json)
	if cmd.Context().Err() != nil { // the operator has seen enough
		return nil
	}
	return err
}

// terminal returns w if it is one, else nil.
func terminal(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return w
	}
	return nil
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
	return terminal(out) != nil && os.Getenv("NO_COLOR") == ""
}
