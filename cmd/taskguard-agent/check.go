package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/host"
	"github.com/taskguard/taskguard/sender"
)

func checkCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration and what this host lets the agent do, without starting it",
		Long: "Check reads the configuration, attaches every source for a moment, asks the container engine and the\n" +
			"endpoint, and says for each what works and what to do about what does not. It changes nothing.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			c := checker{out: tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0), color: useColor(cmd.OutOrStdout())}
			c.line("config", nil, flags.file)
			c.all(cmd.Context(), cfg, cmd.ErrOrStderr())
			if err := c.out.Flush(); err != nil {
				return err
			}
			switch c.failed {
			case 0:
				return nil
			case 1:
				return errors.New("one check did not pass")
			}
			return fmt.Errorf("%d checks did not pass", c.failed)
		},
	}
	flags.add(cmd)
	return cmd
}

// checker prints a line for each check.
type checker struct {
	out    *tabwriter.Writer
	color  bool
	failed int
}

func (c *checker) line(what string, err error, detail string) {
	if err != nil {
		c.failed++
		fmt.Fprintf(c.out, "%s\t%s\t%s\n", what, paint(c.color, red, "FAILED"), event.Escape(err.Error()))
		return
	}
	fmt.Fprintf(c.out, "%s\t%s\t%s\n", what, paint(c.color, green, "ok"), event.Escape(detail))
}

// note prints what is no failure, but should be known.
func (c *checker) note(what, detail string) {
	fmt.Fprintf(c.out, "%s\t%s\t%s\n", what, paint(c.color, yellow, "note"), event.Escape(detail))
}

func (c *checker) all(ctx context.Context, cfg config, stderr io.Writer) {
	log := newLogger(stderr, cfg.LogLevel)
	identity, err := host.Identify(ctx, host.Config{IMDS: cfg.IMDS, Logger: log})
	c.line("host", err, identity.Hostname+brackets(identity.InstanceID))
	hierarchy, err := container.FindHierarchy("/proc")
	c.line("cgroups", err, fmt.Sprintf("version %d%s", hierarchy.Version, brackets(hierarchy.Controller)))
	c.sources(cfg, hierarchy, stderr)
	c.engine(ctx, cfg, hierarchy)
	c.endpoint(ctx, cfg, stderr)
}

func (c *checker) sources(cfg config, hierarchy container.Hierarchy, stderr io.Writer) {
	s, err := openSources(cfg, newLogger(stderr, cfg.LogLevel), sourceNeeds{
		hierarchy: hierarchy, wall: func(uint64) time.Time { return time.Time{} }, cgroup: func(uint64, string) {},
	})
	var none noSourceError
	if errors.As(err, &none) {
		c.line("ebpf", none.ebpf, "")
		c.line("audit", none.audit, "")
		return
	}
	if err != nil {
		c.line("sources", err, "")
		return
	}
	for _, state := range s.states() {
		var err error
		if !state.Healthy {
			err = errors.New(state.Reason)
		}
		detail := state.Via
		if state.Reason != "" {
			detail += " (" + state.Reason + ")"
		}
		c.line(state.Kind.String(), err, detail)
	}
	if err := s.close(); err != nil {
		c.line("detach", err, "")
	}
}

// engine asks the container engine once. That there is none is no failure: containers then have no names.
func (c *checker) engine(ctx context.Context, cfg config, hierarchy container.Hierarchy) {
	if cfg.DockerSocket == "" {
		c.note("docker", "off by configuration")
		return
	}
	tracker, err := container.New(container.Config{Docker: dockerURL(cfg.DockerSocket), Hierarchy: hierarchy})
	if err != nil {
		c.line("docker", err, "")
		return
	}
	if reason := engineState(ctx, tracker); reason != "" {
		c.note("docker", "does not answer, containers have no names: "+reason)
		return
	}
	c.line("docker", nil, "answers")
}

// engineState connects to the engine for a moment, and returns why it cannot.
func engineState(ctx context.Context, tracker *container.Tracker) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- tracker.Run(ctx) }()
	for ctx.Err() == nil {
		if connected, _ := tracker.State(); connected {
			return ""
		}
		time.Sleep(10 * time.Millisecond)
	}
	_, reason := tracker.State()
	if err := <-ended; err != nil {
		return err.Error()
	}
	return reason
}

func (c *checker) endpoint(ctx context.Context, cfg config, stderr io.Writer) {
	transport, err := openTransport(cfg, event.ID{}, newLogger(stderr, cfg.LogLevel))
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err = transport.Check(ctx)
	}
	var failure *sender.Failure
	if errors.As(err, &failure) && failure.Remedy != "" {
		err = fmt.Errorf("%w: %s", err, failure.Remedy)
	}
	c.line("endpoint", err, cfg.EndpointURL)
}
