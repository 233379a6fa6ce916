package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration and what this host lets the agent do, without starting it",
		Long: "Check reads the configuration, attaches every source for a moment, does what makes an event of every\n" +
			"kind they observe and looks for it in a batch that nobody gets, asks the container engine, and goes the way\n" +
			"to the endpoint: name, connection, TLS, clocks, credentials, a request that changes nothing. It says for\n" +
			"each what works and what to do about what does not. It changes nothing.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			var c checker
			c.line("config", nil, flags.file)
			c.all(cmd.Context(), cfg, cmd.ErrOrStderr())
			if err := c.print(cmd.OutOrStdout(), asJSON, useColor(cmd.OutOrStdout())); err != nil {
				return err
			}
			switch failed := c.failed(); failed {
			case 0:
				return nil
			case 1:
				return errors.New("one check did not pass")
			default:
				return fmt.Errorf("%d checks did not pass", failed)
			}
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

// checker collects what checks come to: the object that `check --json` prints.
type checker struct {
	Checks []checkResult `json:"checks"`
	kindTable
}

// checkResult is one line.
type checkResult struct {
	Check  string `json:"check"`
	Result string `json:"result"` // "ok", "note", "failed" or, as one before it failed, "not_tried"
	Detail string `json:"detail,omitempty"`
}

func (c *checker) line(what string, err error, detail string) {
	result := checkResult{what, "ok", detail}
	if err != nil {
		result = checkResult{what, "failed", err.Error()}
	}
	c.Checks = append(c.Checks, result)
}

// note adds what is no failure, but should be known.
func (c *checker) note(what, detail string) {
	c.Checks = append(c.Checks, checkResult{what, "note", detail})
}

func (c *checker) failed() (n int) {
	for _, r := range c.Checks {
		if r.Result == "failed" {
			n++
		}
	}
	for _, s := range c.Sources {
		if !s.Healthy && s.Via != viaDocker { // that there is no engine is a note
			n++
		}
	}
	return n
}

func (c *checker) print(out io.Writer, asJSON, color bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(c)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range c.Checks {
		result := map[string]string{
			"ok": paint(color, green, "ok"), "note": paint(color, yellow, "note"), "failed": paint(color, red, "FAILED"),
			"not_tried": paint(color, yellow, "not tried"),
		}[r.Result]
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.Check, result, event.Escape(r.Detail))
	}
	if err := w.Flush(); err != nil || c.Sources == nil {
		return err
	}
	fmt.Fprintln(out)
	return c.kindTable.print(out, color)
}

func (c *checker) all(ctx context.Context, cfg config, stderr io.Writer) {
	log := newLogger(stderr, cfg.LogLevel)
	c.host(ctx, cfg, log)
	hierarchy, err := container.FindHierarchy("/proc")
	c.line("cgroups", err, fmt.Sprintf("version %d%s", hierarchy.Version, brackets(hierarchy.Controller)))
	if note := untestedKernel(kernelRelease()); note != "" {
		c.note("kernel", note)
	}
	c.sources(ctx, cfg, hierarchy, c.engine(ctx, cfg, hierarchy), log)
	c.endpoint(ctx, cfg, stderr)
}

// host asks which machine this is. One that is no instance is fine.
func (c *checker) host(ctx context.Context, cfg config, log *slog.Logger) {
	h, err := host.Open(ctx, host.Config{IMDS: cfg.IMDS, Logger: log})
	if err != nil {
		c.line("host", err, "")
		return
	}
	identity := h.Identity()
	c.line("host", nil, identity.Hostname+brackets(identity.InstanceID))
	if cfg.IMDS && identity.InstanceID == "" {
		c.note("instance", h.Reason())
	}
	if h.Excluded() {
		c.note("instance", offByTag)
	}
}

// sources opens the sources for a moment and has the self-test prove them.
func (c *checker) sources(ctx context.Context, cfg config, hierarchy container.Hierarchy, engine engineState, log *slog.Logger) {
	p, err := openProbe(cfg, hierarchy, engine, log)
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
	states, err := p.run(ctx)
	c.line("self-test", err, "done once, in namespaces of its own")
	c.kindTable = newKindTable(states, p.selfTest)
	ledger := p.sender.Ledger()
	for kind, n := range ledger.ObservedByKind {
		c.Kinds[kindName(kind)] = kindStatus{Observed: n, Lost: ledger.LostByKind[kind]}
	}
	c.line("detach", p.close(), "")
}

// engine asks the container engine once. That there is none is no failure: containers then have no names, and nobody
// tells of their lives. It returns what the engine was found to be like; nil if it is off.
func (c *checker) engine(ctx context.Context, cfg config, hierarchy container.Hierarchy) engineState {
	if cfg.DockerSocket == "" {
		c.note("docker", "off by configuration")
		return nil
	}
	tracker, err := container.New(container.Config{Docker: dockerURL(cfg.DockerSocket), Hierarchy: hierarchy})
	if err != nil {
		c.line("docker", err, "")
		return func() (bool, string) { return false, err.Error() }
	}
	reason := askEngine(ctx, tracker)
	if reason == "" {
		c.line("docker", nil, "answers")
	} else {
		c.note("docker", "does not answer, containers have no names and no container.* events: "+reason)
	}
	return func() (bool, string) { return reason == "", reason }
}

// askEngine connects to the engine for a moment, and returns why it cannot.
func askEngine(ctx context.Context, tracker *container.Tracker) string {
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

// endpoint goes the way to the endpoint, step by step.
func (c *checker) endpoint(ctx context.Context, cfg config, stderr io.Writer) {
	transport, err := openTransport(cfg, event.ID{}, newLogger(stderr, cfg.LogLevel))
	if err != nil {
		c.line("endpoint", err, "")
		return
	}
	defer transport.Close()
	for _, s := range transport.Walk(ctx) {
		if s.Tried {
			c.step(s.Name, s.Detail, s.Note, s.Err)
		} else {
			c.Checks = append(c.Checks, checkResult{Check: "endpoint " + s.Name, Result: "not_tried"})
		}
	}
}

// step adds what was found at a step that was tried.
func (c *checker) step(name, detail, note string, err error) {
	var failure *sender.Failure
	if errors.As(err, &failure) && failure.Remedy != "" {
		err = fmt.Errorf("%w: %s", failure.Err, failure.Remedy)
	}
	if err != nil || note == "" {
		c.line("endpoint "+name, err, detail)
		return
	}
	if detail != "" {
		note = detail + ": " + note
	}
	c.note("endpoint "+name, note)
}
