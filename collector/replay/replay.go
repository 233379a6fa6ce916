// Package replay emits recorded events: for a demonstration without privileges, for tests, and to send an incident
// through the pipeline again.
//
// A recording is what every --json output is: one event a line. It promises: events are emitted in the order of
// the file with the times, ids, containers and host they had when they were recorded; a line that is no event ends
// the replay with its number.
package replay

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/taskguard/taskguard/collector"
	"github.com/taskguard/taskguard/collector/event"
)

// maxLine bounds one event: a command line of 20 KiB, escaped, and its ancestors fit.
const maxLine = 1 << 20

// maxProcesses bounds the snapshots that are told apart; beyond, a process may be sent again.
const maxProcesses = 8192

// Source is a recording. It implements collector.Source. Make one with Open.
type Source struct {
	file    *os.File
	host    event.Host
	numbers map[string]*event.Process // by JSON form
	last    uint64
}

// Open opens a recording and reads which host it is of. The caller must Close it.
func Open(path string) (*Source, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open recording: %w", err)
	}
	s := &Source{file: f, numbers: make(map[string]*event.Process)}
	first, err := s.first()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open recording %s: %w", path, err), f.Close())
	}
	if first.Host != nil {
		s.host = *first.Host
	}
	return s, nil
}

func (s *Source) first() (event.Event, error) {
	var e event.Event
	lines := scanner(s.file)
	if !lines.Scan() {
		return e, errors.Join(errors.New("no event in it"), lines.Err())
	}
	if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
		return e, fmt.Errorf("line 1: %w", err)
	}
	_, err := s.file.Seek(0, io.SeekStart)
	return e, err
}

func scanner(r io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	return lines
}

// Host returns the host that the events are of.
func (s *Source) Host() event.Host { return s.host }

// Close closes the recording.
func (s *Source) Close() error { return s.file.Close() }

// Run emits the recording, once.
func (s *Source) Run(ctx context.Context, sink collector.Sink) error {
	lines := scanner(s.file)
	n := 1
	for ; ctx.Err() == nil && lines.Scan(); n++ {
		var e event.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("replay line %d: %w", n, err)
		}
		if e.Host != nil && *e.Host != s.host {
			return fmt.Errorf("replay line %d: a second host, %s: split the recording by host", n, e.Host.Hostname)
		}
		if err := s.restore(&e); err != nil {
			return fmt.Errorf("replay line %d: %w", n, err)
		}
		sink.Emit(&e)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read recording: line %d: %w", n, err)
	}
	return nil
}

// restore gives the event's processes what their JSON form does not have.
func (s *Source) restore(e *event.Event) error {
	if e.Process != nil {
		e.Process.Container = e.Container
		if err := s.link(e.Process); err != nil {
			return err
		}
	}
	if e.Target != nil {
		return s.link(e.Target)
	}
	return nil
}

// link gives a process its parents, and says which snapshot it is.
func (s *Source) link(p *event.Process) error {
	for i := len(p.Ancestors) - 1; i >= 0; i-- {
		a := p.Ancestors[i]
		known, err := s.known(event.Process{ID: a.ID, PID: a.PID, Name: a.Name, Exe: a.Exe, Parent: p.Parent})
		if err != nil {
			return err
		}
		p.Parent = known
	}
	living := *p
	living.Exit = event.Exit{}
	known, err := s.known(living)
	if err != nil {
		return err
	}
	p.Snapshot = known.Snapshot
	return nil
}

// known returns the process that was met before in the same form, or p with a number of its own.
func (s *Source) known(p event.Process) (*event.Process, error) {
	form, err := json.Marshal(&p)
	if err != nil {
		return nil, err
	}
	key := string(form)
	if p.Parent != nil {
		key += strconv.FormatUint(p.Parent.Snapshot, 10)
	}
	if p.Container != nil {
		key += "," + p.Container.ID
	}
	if known, ok := s.numbers[key]; ok {
		return known, nil
	}
	if len(s.numbers) >= maxProcesses {
		clear(s.numbers)
	}
	s.last++
	p.Snapshot = s.last
	s.numbers[key] = &p
	return &p, nil
}
