// Command taskguard-agent observes a host and delivers what it saw; it is the daemon and the operator's tool.
//
// It promises the host: bounded memory, disk and CPU, no system call held up, nothing changed that is not its own.
// It promises the operator: every event is delivered, waiting on disk, or counted as lost with a stage and a cause;
// and a source, container engine or endpoint that fails is named, with the remedy, while the rest goes on.
//
// Exit status: 0 done, 1 not done, 2 the command line or the configuration is wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build.
var version string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintf(os.Stderr, "taskguard-agent: %v\n", err)
		var usage usageError
		if errors.As(err, &usage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// run executes one command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := &cobra.Command{
		Use:           "taskguard-agent",
		Short:         "Observe this host's processes and network, and deliver it with proof",
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,
		Args:                       noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{errors.New("no command given: see taskguard-agent --help")}
		},
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(runCommand(), checkCommand(), statusCommand(), eventsCommand(), replayCommand(), versionCommand(),
		selfTestActionCommand())
	return root.ExecuteContext(ctx)
}

func noArgs(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasParent() && !cmd.HasAvailableSubCommands():
		return usageError{fmt.Errorf("%s takes no argument, got %q", cmd.CommandPath(), args[0])}
	}
	did := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		did = ": did you mean " + near[0] + "?"
	}
	return usageError{fmt.Errorf("unknown command %q%s", args[0], did)}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "taskguard-agent %s\n", agentVersion())
			return err
		},
	}
}

// agentVersion is what the build says, or else what the module's build information says.
func agentVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

// configFlags are what commands that read the configuration have in common.
type configFlags struct {
	file string
	set  []string
}

func (f *configFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "config", "/etc/taskguard/agent.yaml", "configuration `file`")
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "override one key: `key=value`, such as endpoint.url=https://host")
}

func (f *configFlags) load() (config, error) {
	c, err := loadConfig(f.file, f.set)
	if err != nil {
		return c, err
	}
	return c, c.validate()
}
