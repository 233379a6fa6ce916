package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/store"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
	"github.com/taskguard/taskguard/collector/event"
)

// eventsConfig is what the flags of events say.
type eventsConfig struct {
	data  string
	store string
	kinds []string
	since string
	json  bool
	query query
}

func newEventsCommand() *cobra.Command {
	var c eventsConfig
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Read what was received",
		Long: "Read what was received, from the serve that runs on the folder, or, when none does, from the folder.\n" +
			"It ends at what was stored when it began, unless it is to follow.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.validate(); err != nil {
				return err
			}
			return showEvents(cmd.Context(), c, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.data, "data", "", "folder that serve keeps everything in")
	f.StringVar(&c.store, "store", "", "URL of the bucket that serve stores in, to read its files instead of --data: by class and hour")
	f.BoolVarP(&c.query.follow, "follow", "f", false, "go on with what is received from now on")
	f.BoolVar(&c.json, "json", false, "print one JSON object a line")
	f.BoolVar(&c.query.count, "count", false, "print how many events there are of each kind instead")
	f.StringSliceVar(&c.kinds, "kind", nil, "only these kinds, such as process.exec,net.connect")
	f.StringVar(&c.query.container, "container", "", "only of this container: a prefix of its id, or its name")
	f.StringVar(&c.query.host, "host", "", "only of this host: its instance id, machine id or name")
	f.StringVar(&c.since, "since", "", "only from this time on: RFC 3339, or how long ago, such as 10m")
	return cmd
}

func (c *eventsConfig) validate() (err error) {
	switch {
	case c.data == "" && c.store == "":
		return usagef("--data is required: the folder that serve keeps everything in (or --store)")
	case c.data != "" && c.store != "":
		return usagef("--data excludes --store")
	case c.store != "" && c.query.follow:
		return usagef("--store excludes --follow: files do not change")
	case c.store != "" && !validBucket(c.store):
		return usagef("--store: want s3://BUCKET?region=REGION or file:///FOLDER")
	}
	if c.query.follow && c.query.count {
		return usagef("--follow excludes --count, which has no end to wait for")
	}
	if c.query.kinds, err = parseKinds(c.kinds); err != nil {
		return usagef("--kind: %w", err)
	}
	if c.since != "" {
		if c.query.since, err = parseSince(c.since, time.Now()); err != nil {
			return usagef("--%w", err)
		}
	}
	return nil
}

// showEvents prints events until there are no more or ctx is done.
func showEvents(ctx context.Context, c eventsConfig, stdout, stderr io.Writer) error {
	out := bufio.NewWriterSize(stdout, 64<<10)
	err := c.read(ctx, out, wantColor(stdout), stderr)
	err = firstError(out.Flush(), err)
	if ctx.Err() != nil {
		return nil // stopped by whoever watches
	}
	return err
}

func (c *eventsConfig) read(ctx context.Context, out *bufio.Writer, color bool, stderr io.Writer) error {
	if c.store != "" {
		return c.readBucket(ctx, out, color)
	}
	served, err := dialServe(ctx, c.data)
	if err != nil {
		return err
	}
	if served != nil {
		defer served.close()
		return c.readServed(ctx, served, out, color, stderr)
	}
	return c.readFolder(ctx, out, color)
}

// readFolder reads the log itself.
func (c *eventsConfig) readFolder(ctx context.Context, out *bufio.Writer, color bool) error {
	if c.query.follow {
		return fmt.Errorf("follow events: no serve runs on %s: start it", c.data)
	}
	log, err := stream.Open(ctx, stream.Config{Dir: c.data, ReadOnly: true})
	if errors.Is(err, stream.ErrLocked) {
		return fmt.Errorf("%w, which does not answer on %s: is serve starting or stopping? try again", err, socketFile)
	}
	if err != nil {
		return err
	}
	defer log.Close()
	return c.show(out, color, func(to sink) error {
		gaps, err := readEvents(ctx, log, c.query, to, nil)
		return firstError(err, gapsError(gaps))
	})
}

// readBucket reads the files that the role store has written.
func (c *eventsConfig) readBucket(ctx context.Context, out *bufio.Writer, color bool) error {
	return c.show(out, color, func(to sink) error {
		return store.Events(ctx, c.store, c.query.since, func(e *event.Event) error {
			if !c.query.match(e) {
				return nil
			}
			return to.Print(e)
		})
	})
}

// show has events read, and prints them, or how many there are of each kind.
func (c *eventsConfig) show(out *bufio.Writer, color bool, read func(sink) error) error {
	if c.query.count {
		n := counts{}
		err := read(n)
		return firstError(printCounts(out, n, c.json), err)
	}
	if c.json {
		return read(jsonLines{json.NewEncoder(out)})
	}
	return read(event.NewPrinter(out, color))
}

func printCounts(w io.Writer, n counts, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(n)
	}
	var total uint64
	for _, kind := range slices.Sorted(maps.Keys(n)) {
		if _, err := fmt.Fprintf(w, "%-20s %12d\n", kind, n[kind]); err != nil {
			return err
		}
		total += n[kind]
	}
	_, err := fmt.Fprintf(w, "%-20s %12d\n", "total", total)
	return err
}

// wantColor reports whether w is a terminal whose user has not asked for none (no-color.org).
func wantColor(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && term.IsTerminal(int(f.Fd()))
}
