package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/replay"
)

// patterns are where recorded events are, from the repository's root.
var patterns = []string{
	"testdata/corpus/*.jsonl", "collector/audit/testdata/*.golden", "collector/ebpf/testdata/*.golden",
}

// maxLine bounds a line of a recording.
const maxLine = 1 << 20

// corpus is a recording, with its processes linked as the agent has them.
type corpus struct {
	name   string
	host   event.Host
	events []event.Event
}

// corpora reads all recordings.
func corpora(root string) ([]corpus, error) {
	var all []corpus
	for _, pattern := range patterns {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(files) == 0 {
			return nil, errors.Join(fmt.Errorf("find %s: %d files, want some", pattern, len(files)), err)
		}
		for _, file := range files {
			c, err := read(file)
			if err != nil {
				return nil, err
			}
			c.name = strings.TrimPrefix(strings.ReplaceAll(strings.TrimPrefix(file, root), "/testdata", ""), "/")
			all = append(all, c)
		}
	}
	return all, nil
}

// read reads a file of events, or of what a source's tests have around each: then they stand at "event".
func read(file string) (c corpus, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return c, fmt.Errorf("read corpus: %w", err)
	}
	plain, err := os.CreateTemp("", "taskguard-wire-*.jsonl")
	if err != nil {
		return c, fmt.Errorf("read corpus: %w", err)
	}
	defer os.Remove(plain.Name())
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := lines.Bytes()
		var around struct{ Event json.RawMessage }
		if err := json.Unmarshal(line, &around); err == nil && around.Event != nil {
			line = around.Event
		}
		if bytes.HasPrefix(line, []byte("{")) {
			fmt.Fprintf(plain, "%s\n", line)
		}
	}
	if err := errors.Join(lines.Err(), plain.Close()); err != nil {
		return c, fmt.Errorf("read corpus %s: %w", file, err)
	}
	recording, err := replay.Open(plain.Name())
	if err != nil {
		return c, fmt.Errorf("read corpus %s: %w", file, err)
	}
	defer func() { err = errors.Join(err, recording.Close()) }()
	c.host = recording.Host()
	return c, recording.Run(context.Background(), &c)
}

// Emit keeps an event.
func (c *corpus) Emit(e *event.Event) { c.events = append(c.events, *e) }

// Lost is not called: a file loses nothing.
func (c *corpus) Lost(event.Kind, string, string, uint64) {}
