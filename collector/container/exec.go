package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/taskguard/taskguard/collector/event"
)

const (
	// maxExecs bounds the execs that wait for their answer; of more, the engine is not asked.
	maxExecs = 256
	// execTimeout is how long after its message an exec is told of at the latest.
	execTimeout = 5 * time.Second
)

// startedExec is an exec whose message came. Its command's arguments run together in there: the engine is asked what
// they are, by the exec's id.
type startedExec struct {
	at       time.Time
	received time.Time
	in       *event.Container
	id       string
	line     string // the command as the message has it
}

// execStarted takes an exec, which the engine was told to start: what was created only has not run.
func (t *Tracker) execStarted(m *events.Message, at time.Time, line string) {
	if !t.wants(event.ContainerExec) {
		return
	}
	c := t.about(m)
	t.mu.Lock()
	x := &startedExec{at: at, received: time.Now(), in: c.known, line: strings.TrimRight(line, " ")}
	if id := m.Actor.Attributes["execID"]; isHex(id, 64) && !c.disguised {
		x.id = id
	}
	ask := x.id != "" && len(t.execs) < maxExecs
	if ask {
		t.execs[x] = struct{}{}
	}
	t.mu.Unlock()
	if ask {
		t.execQueue <- x // has room for all that are in t.execs
		return
	}
	t.tellExec(x, nil)
}

// askExecs asks about execs, one after the other, until ctx is done.
func (t *Tracker) askExecs(ctx context.Context, engine *engine) {
	for {
		select {
		case x := <-t.execQueue:
			process, err := t.askExec(ctx, engine, x)
			if err != nil && ctx.Err() == nil {
				t.log.Debug("exec not described", "error", err)
			}
			t.tellExec(x, process)
		case <-ctx.Done():
			return
		}
	}
}

// endExecs tells of the execs that still wait when nobody asks any more.
func (t *Tracker) endExecs() {
	for {
		select {
		case x := <-t.execQueue:
			t.tellExec(x, nil)
		default:
			return
		}
	}
}

func (t *Tracker) askExec(ctx context.Context, engine *engine, x *startedExec) (*container.ExecProcessConfig, error) {
	ctx, cancel := context.WithDeadline(ctx, x.received.Add(execTimeout))
	defer cancel()
	answer, err := engine.inspectExec(ctx, x.id)
	if err != nil {
		return nil, err
	}
	p := answer.ProcessConfig
	if answer.ContainerID != x.in.ID || p == nil ||
		strings.TrimRight(p.Entrypoint+" "+strings.Join(p.Arguments, " "), " ") != x.line {
		return nil, errors.New("inspect exec: the answer is about something else")
	}
	return p, nil
}

// inspectExec asks the engine about an exec. The client's own method leaves the command out.
func (e *engine) inspectExec(ctx context.Context, id string) (answer container.ExecInspectResponse, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://docker/v"+e.ClientVersion()+"/exec/"+id+"/json", nil)
	if err != nil {
		return answer, fmt.Errorf("inspect exec: %w", err)
	}
	response, err := e.http.Do(request)
	if err != nil {
		return answer, fmt.Errorf("inspect exec: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return answer, fmt.Errorf("inspect exec: %s", response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return answer, fmt.Errorf("inspect exec: %w", err)
	}
	return answer, nil
}

// tellExec tells of an exec: as the engine says, or without an answer, as far as its message tells.
func (t *Tracker) tellExec(x *startedExec, process *container.ExecProcessConfig) {
	i := inspection{mask: t.config.Mask}
	told := event.Exec{ExecID: x.id}
	if process != nil {
		told.Command, told.User = i.command(process.Entrypoint, process.Arguments), i.text(process.User)
		told.Privileged = process.Privileged != nil && *process.Privileged
	} else {
		told.Command, told.Unverified = i.line(x.line), true
	}
	told.Truncated = i.cut
	t.emitEvent(&event.Event{Time: x.at, Kind: event.ContainerExec, Container: x.in, Exec: &told})
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.execs, x)
	if process == nil {
		t.stats.ExecsUnverified++
	}
}

// line splits a command line, whose arguments nobody can tell apart any more, at spaces. Where there is a secret in it
// nobody knows where that ends: all behind it is left out. It is looked for in the words, and in the line as a whole.
func (i *inspection) line(line string) event.Argv {
	if len(line) > maxCommand {
		i.cut = true
		line = line[:maxCommand]
	}
	if line == "" {
		return ""
	}
	const script = "sh\x00-c\x00"
	words := strings.ReplaceAll(line, " ", "\x00") + "\x00"
	maskedWords, inWords := i.mask(words)
	maskedLine, inLine := i.mask(script + line + "\x00")
	if !inWords && !inLine {
		return event.Argv(words)
	}
	i.cut = true
	end := min(same(words, maskedWords), same(script+line, maskedLine)-len(script))
	return event.Argv(words[:max(end, 0)] + "***\x00")
}

// same returns how many bytes two strings have in common at their beginning.
func same(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// Covered returns the time, until at the latest, before which all that the engine has told of has been emitted.
func (t *Tracker) Covered(until time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	for x := range t.execs {
		if x.at.Before(until) {
			until = x.at
		}
	}
	for _, h := range t.stops {
		if h.event.Time.Before(until) {
			until = h.event.Time
		}
	}
	return until
}
