package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskguard/taskguard/collector"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/replay"
	"github.com/taskguard/taskguard/sender"
)

func replayCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "replay FILE",
		Short: "Send recorded events (one JSON object a line) to the endpoint, with the times they had",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("replay: want one FILE of recorded events")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			l, err := replayFile(cmd.Context(), cfg, args[0], newLogger(cmd.ErrOrStderr(), cfg.LogLevel))
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "replayed %d events: %d acknowledged\n", l.Observed, l.Acked)
			return err
		},
	}
	flags.add(cmd)
	return cmd
}

// replayFile sends a recording as an agent of its own would, with a spool of its own that does not outlive it, and
// returns the ledger. That not all was acknowledged is an error.
func replayFile(ctx context.Context, cfg config, file string, log *slog.Logger) (l sender.Ledger, err error) {
	recording, err := replay.Open(file)
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, recording.Close()) }()
	if cfg.StateDir, err = os.MkdirTemp("", "taskguard-replay-"); err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(cfg.StateDir)) }()

	var agent event.ID
	if _, err := rand.Read(agent[:]); err != nil {
		return l, err
	}
	s, err := replaySender(cfg, agent, recording.Host(), log)
	if err != nil {
		return l, err
	}
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	sent := make(chan error, 1)
	go func() { sent <- s.Run(sending) }()
	err = collector.Run(ctx, []collector.Source{paced{recording, s}}, asRecorded{}, s)
	await(ctx, s)
	stop()
	err = errors.Join(err, <-sent)
	if l = s.Ledger(); err == nil && l.Acked != l.Observed {
		err = fmt.Errorf("replay: %d of %d events acknowledged: %s", l.Acked, l.Observed, s.Upload().Problem)
	}
	return l, err
}

// await returns when nothing is left to deliver, or when delivering it does not work.
func await(ctx context.Context, s *sender.Sender) {
	for ctx.Err() == nil {
		if l := s.Ledger(); l.Open+l.Spooled == 0 || s.Upload().Problem != "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func replaySender(cfg config, agent event.ID, host event.Host, log *slog.Logger) (*sender.Sender, error) {
	transport, err := openTransport(cfg, agent, log)
	if err != nil {
		return nil, err
	}
	queue, err := openSpool(cfg, log)
	if err != nil {
		return nil, err
	}
	return sender.New(sender.Config{
		Agent: agent, Epoch: uint64(time.Now().UnixNano()), Host: func() event.Host { return host },
		Spool: queue, Transport: transport, Logger: log,
	})
}

// asRecorded leaves events as they were recorded.
type asRecorded struct{}

// Enrich does nothing.
func (asRecorded) Enrich(*event.Event) {}

// paced is a source that a sender keeps up with: unlike the kernel, a file can wait.
type paced struct {
	*replay.Source
	sender *sender.Sender
}

// maxAhead is how many events may wait to be spooled. It is less than the sender's queue has room for.
const maxAhead = 2 * sender.DefaultMaxEvents

// Run emits the recording no faster than it can be spooled.
func (p paced) Run(ctx context.Context, sink collector.Sink) error {
	return p.Source.Run(ctx, pacedSink{sink, ctx, p.sender})
}

type pacedSink struct {
	collector.Sink
	ctx    context.Context
	sender *sender.Sender
}

// Emit waits for room.
func (p pacedSink) Emit(e *event.Event) {
	for p.sender.Ledger().Open >= maxAhead && p.ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	p.Sink.Emit(e)
}
