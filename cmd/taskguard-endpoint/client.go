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
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/taskguard/taskguard/collector/event"
)

// served is a serve that answers on its socket.
type served struct {
	http *http.Client
}

// dialServe looks for a serve that runs on a data folder; nil when none does.
func dialServe(ctx context.Context, data string) (*served, error) {
	path := filepath.Join(data, socketFile)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	conn, err := dial(ctx, "", "")
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("connect to serve: %w", err)
	}
	conn.Close()
	return &served{&http.Client{Transport: &http.Transport{DialContext: dial, DisableCompression: true}}}, nil
}

func (s *served) close() { s.http.CloseIdleConnections() }

// readServed prints what serve answers.
func (c *eventsConfig) readServed(
	ctx context.Context, from *served, out *bufio.Writer, color bool, stderr io.Writer,
) error {
	url := "http://endpoint/v1/events?" + c.query.values().Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := from.http.Do(r)
	if err != nil {
		return fmt.Errorf("ask serve: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
		return fmt.Errorf("ask serve: %s", strings.TrimSpace(string(reason)))
	}
	if err := c.print(answer.Body, out, color, stderr); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	if reason := answer.Trailer.Get(errorTrailer); reason != "" {
		return fmt.Errorf("read events: %s", reason)
	}
	return nil
}

func (c *eventsConfig) print(body io.Reader, out *bufio.Writer, color bool, stderr io.Writer) error {
	switch {
	case c.query.count:
		n := counts{}
		// An answer that failed before the counts were known has none.
		if err := json.NewDecoder(body).Decode(&n); err != nil && !errors.Is(err, io.EOF) {
			return err
		} else if err != nil {
			return nil
		}
		_, _ = io.Copy(io.Discard, body) // up to the trailer
		return printCounts(out, n, c.json)
	case c.json:
		return copyLines(out, body)
	}
	return printTable(out, body, color, stderr)
}

// copyLines copies, and writes out what has been read before it waits for more.
func copyLines(out *bufio.Writer, body io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := body.Read(buf)
		if _, err := out.Write(buf[:n]); err != nil {
			return err
		}
		if err := firstError(out.Flush(), err); err != nil {
			return ignoreEOF(err)
		}
	}
}

// printTable prints events for people. What this version cannot show is counted.
func printTable(out *bufio.Writer, body io.Reader, color bool, stderr io.Writer) error {
	printer := event.NewPrinter(out, color)
	decoder := json.NewDecoder(&flushBefore{body, out})
	unknown := 0
	for {
		var line json.RawMessage
		if err := decoder.Decode(&line); err != nil {
			if unknown > 0 {
				fmt.Fprintf(stderr, "taskguard-endpoint: %d events of kinds unknown to this version: see them with --json\n",
					unknown)
			}
			return ignoreEOF(err)
		}
		var e event.Event
		if json.Unmarshal(line, &e) != nil {
			unknown++
			continue
		}
		if err := printer.Print(&e); err != nil {
			return err
		}
	}
}

// flushBefore is a reader that first writes out what was printed, as it may have to wait.
type flushBefore struct {
	io.Reader
	out *bufio.Writer
}

func (f *flushBefore) Read(p []byte) (int, error) {
	if err := f.out.Flush(); err != nil {
		return 0, err
	}
	return f.Reader.Read(p)
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
