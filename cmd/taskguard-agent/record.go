package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// maxRecordedLine is the longest line that `replay` reads.
const maxRecordedLine = 1 << 20

// recording writes a stream of events to a file that `replay` reads.
type recording struct {
	file     *os.File
	out      *bufio.Writer
	maxBytes int64
	progress io.Writer // where to show how far it is; nil for nowhere

	bytes   int64
	events  uint64
	dropped uint64 // by the local stream: the recording has a gap
	lost    uint64 // by the agent, before the stream
	shown   time.Time
}

// newRecording creates the file, which must not exist yet, for its owner only. The caller must close it.
func newRecording(path string, maxBytes int64, progress io.Writer) (*recording, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("record to %s: it exists: give the name of a new file", path)
	}
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return &recording{file: file, out: bufio.NewWriterSize(file, 64<<10), maxBytes: maxBytes, progress: progress}, nil
}

// Why a recording ends as it should.
var (
	errEnd         = errors.New("the agent ended the stream")
	errInterrupted = errors.New("interrupted")
	errFull        = errors.New("stopped at --max-bytes")
)

// copy records whole lines until ctx is done, the stream ends, or the next line would exceed the bound: it returns
// which. A last line that is cut off is left out.
func (r *recording) copy(ctx context.Context, in io.Reader) error {
	lines := bufio.NewReaderSize(in, maxRecordedLine)
	for {
		line, err := lines.ReadSlice('\n')
		switch {
		case ctx.Err() != nil:
			return errInterrupted
		case errors.Is(err, io.EOF):
			return errEnd
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		}
		if err := r.add(line); err != nil {
			return err
		}
		if lines.Buffered() == 0 { // what was seen should be there if we are killed
			if err := r.out.Flush(); err != nil {
				return fmt.Errorf("record: %w", err)
			}
			r.show()
		}
	}
}

func (r *recording) add(line []byte) error {
	if r.bytes+int64(len(line)) > r.maxBytes {
		return errFull
	}
	if bytes.Contains(line, []byte(`"kind":"agent.loss"`)) {
		r.account(line)
	}
	r.bytes += int64(len(line))
	r.events++
	if _, err := r.out.Write(line); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

// account counts what an agent.loss event tells of. The text may be another event's, such as an argument.
func (r *recording) account(line []byte) {
	var e event.Event
	if json.Unmarshal(line, &e) != nil || e.Kind != event.AgentLoss || e.Agent == nil {
		return
	}
	if e.Agent.Stage == stageLive {
		r.dropped += e.Agent.Count
	} else {
		r.lost += e.Agent.Count
	}
}

// showInterval is how often the progress changes at most.
const showInterval = 200 * time.Millisecond

func (r *recording) show() {
	if r.progress != nil && time.Since(r.shown) >= showInterval {
		r.shown = time.Now()
		fmt.Fprintf(r.progress, "\rrecording: %d events, %d KiB, %d dropped", r.events, r.bytes>>10, r.dropped)
	}
}

// close puts everything on the disk.
func (r *recording) close() error {
	err := errors.Join(r.out.Flush(), r.file.Sync(), r.file.Close())
	if r.progress != nil && !r.shown.IsZero() {
		fmt.Fprintln(r.progress)
	}
	if err != nil {
		return fmt.Errorf("close recording: %w", err)
	}
	return nil
}

// summary says what the file is worth.
func (r *recording) summary(why string) string {
	s := fmt.Sprintf("recorded %d events, %d bytes, to %s: %s; the local stream dropped %d", r.events, r.bytes,
		r.file.Name(), why, r.dropped)
	if r.dropped > 0 {
		s += ": the recording has gaps, where agent.loss events at the stage live stand"
	}
	if r.lost > 0 {
		s += fmt.Sprintf("; the agent itself lost %d", r.lost)
	}
	return s
}

// record records what comes from the agent until ctx is done, the agent ends or the file is full, and says so.
func record(ctx context.Context, in io.Reader, r *recording, out io.Writer) error {
	err := r.copy(ctx, in)
	why := err.Error()
	if errors.Is(err, errEnd) || errors.Is(err, errInterrupted) || errors.Is(err, errFull) {
		err = nil
	}
	err = errors.Join(err, r.close())
	_, printed := fmt.Fprintln(out, r.summary(why))
	return errors.Join(err, printed)
}
