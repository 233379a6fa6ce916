package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/hash"
	"github.com/taskguard/taskguard/collector/host"
	"github.com/taskguard/taskguard/collector/process"
	"github.com/taskguard/taskguard/collector/secret"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/https"
	"github.com/taskguard/taskguard/sender/spool"
)

func runCommand() *cobra.Command {
	var flags configFlags
	cmd := &cobra.Command{
		Use: "run", Short: "Observe this host and deliver until stopped (the daemon)", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load()
			if err != nil {
				return err
			}
			limitMemory()
			level := new(slog.LevelVar)
			level.Set(cfg.LogLevel)
			log := newLogger(cmd.ErrOrStderr(), level)
			return runAgent(cmd.Context(), log, &reloader{load: flags.load, level: level, log: log, current: cfg})
		},
	}
	flags.add(cmd)
	return cmd
}

// memoryLimit is what Go's runtime may have before it collects garbage more often than it would. With it, and the
// program's own pages, the agent stays within 96 MB on a host as full as `make memory` makes it.
const memoryLimit = 64 << 20

// limitMemory sets the limit, unless the environment has another.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}

func newLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// agent is one run of the daemon.
type agent struct {
	cfg     config
	log     *slog.Logger
	started time.Time
	host    *host.Host
	idle    bool // nothing is to be observed on this instance
	clock   *host.Clock
	state   *state
	gap     *gap

	tracker  *container.Tracker
	table    *process.Table
	accounts *process.Accounts
	sources  *sources
	spool    *spool.Spool
	sender   *sender.Sender
	recent   *recent
	selfTest *selfTest
	hasher   *hash.Hasher
	skew     func() time.Duration // by which this host's clock is ahead of the endpoint's
	vitals   *vitals
}

// runAgent runs the daemon until ctx is done. On SIGHUP it has the configuration reloaded. On an instance that is tagged
// to be left out it observes nothing, and says so, until the tag changes.
func runAgent(ctx context.Context, log *slog.Logger, reload *reloader) error {
	machine, err := host.Open(ctx, host.Config{IMDS: reload.current.IMDS, Logger: log.With("component", "host")})
	if err != nil {
		return err
	}
	asking, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { machine.Run(asking) })
	defer running.Wait()
	defer stop()
	for ctx.Err() == nil && err == nil {
		err = runUntilChanged(ctx, log, reload, machine)
	}
	return err
}

// runUntilChanged runs the daemon, by the configuration that is in force, until ctx is done, or the instance is to be left
// out, or is not any more.
func runUntilChanged(ctx context.Context, log *slog.Logger, reload *reloader, machine *host.Host) error {
	idle := machine.Excluded()
	ctx, stop := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for machine.Excluded() == idle {
			select {
			case <-machine.Changed():
			case <-ctx.Done():
				return
			}
		}
		log.Info("tag of the instance changed", "tag", host.ManagedTag, "excluded", !idle)
		stop(errTagChanged)
	})
	defer watching.Wait()
	defer stop(nil)
	a := &agent{cfg: reload.current, log: log, started: time.Now(), host: machine, idle: idle, vitals: new(vitals)}
	return a.run(ctx, reload)
}

// errTagChanged is why a run ends that another one follows.
var errTagChanged = errors.New("tag of the instance changed")

// run runs the agent until ctx is done.
func (a *agent) run(ctx context.Context, reload *reloader) (err error) {
	log := a.log
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	defer signal.Stop(hangup)
	defer func() { err = errors.Join(err, a.close()) }()
	if err := a.open(ctx); err != nil {
		return err
	}
	local, err := listenLocal(a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, local.close()) }()

	// The sources end with ctx, and emit what the kernel still holds. Only when they have, those end who look things up,
	// the tracker with its last words on containers, and then the sender, which seals and uploads the rest.
	asking, stopAsking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAsking()
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	var tracking, background, delivery sync.WaitGroup
	var sendErr error
	tracking.Go(func() { a.track(asking) })
	background.Go(func() { a.accounts.Run(asking) })
	background.Go(func() { a.hasher.Run(asking) })
	background.Go(func() { a.beat(ctx) })
	background.Go(func() { a.recent.follow(sending, a.sender) })
	background.Go(func() { a.selfTest.run(ctx) })
	background.Go(func() { reload.run(ctx, hangup, a) })
	delivery.Go(func() { sendErr = a.sender.Run(sending) })
	a.ready()

	err = a.sources.run(ctx, a, a.sender)
	if ctx.Err() == nil && err == nil {
		err = errors.New("every source has ended")
	}
	if ctx.Err() == nil {
		log.Error("nothing observes this host any more", "error", err)
	}
	if !errors.Is(context.Cause(ctx), errTagChanged) { // systemd would wait for the end, and kill what does not
		notify(log, daemon.SdNotifyStopping)
	}
	stop()
	stopAsking()
	tracking.Wait() // it emits too
	stopSending()
	delivery.Wait()
	background.Wait()
	l := a.sender.Ledger()
	log.Info("stopped", "observed", l.Observed, "acked", l.Acked, "spooled", l.Spooled, "lost", l.Lost,
		"files", a.hasher.Stats())
	return errors.Join(err, sendErr, a.state.stop())
}

// open makes everything, in the order in which it is needed.
func (a *agent) open(ctx context.Context) error {
	a.clock = host.NewClock()
	if err := a.openDelivery(); err != nil {
		return err
	}
	if a.idle {
		return a.openIdle()
	}
	hierarchy, err := container.FindHierarchy("/proc")
	if err != nil {
		a.log.Warn("containers are told apart by the path of their processes' cgroups", "error", err)
	}
	a.tracker, err = container.New(container.Config{
		Docker: dockerURL(a.cfg.DockerSocket), ECS: a.cfg.ECSAgent, ECSTags: a.cfg.ECSTags, Hierarchy: hierarchy,
		Credential: secret.Kind, Mask: secret.Mask, Sink: lives{a}, Logger: a.log.With("component", "container"),
	})
	if err != nil {
		return err
	}
	a.accounts = process.NewAccounts(process.AccountsConfig{})
	a.table = process.NewTable(process.Config{
		CgroupController: hierarchy.Controller, Locator: a.tracker, Mask: secret.Mask, Note: a.note,
	})
	a.hasher = hash.New(hash.Config{Layers: a.tracker.Layers})
	if err := a.openSender(); err != nil {
		return err
	}
	needs := sourceNeeds{
		hierarchy: hierarchy, wall: a.clock.Wall, cgroup: a.tracker.AddCgroup, watching: a.learnCgroups,
		place: placeIn(a.tracker, hierarchy),
	}
	if a.cfg.DockerSocket != "" {
		needs.engine = a.tracker.State
	}
	if a.sources, err = openSources(a.cfg, a.log, needs); err != nil {
		return err
	}
	if a.selfTest, err = openSelfTest(a.sources, a.sender, a.log); err != nil {
		return err
	}
	// The sources are attached: what starts from now on is in their buffers.
	if a.sources.ebpf == nil {
		a.learnCgroups()
	}
	return a.table.Bootstrap(ctx)
}

// learnCgroups has the containers known that run already.
func (a *agent) learnCgroups() {
	if err := a.tracker.Bootstrap(); err != nil {
		a.log.Warn("containers that run already are found by their processes", "error", err)
	}
}

// openIdle makes what delivers, and nothing that observes.
func (a *agent) openIdle() (err error) {
	if a.tracker, err = container.New(container.Config{}); err != nil {
		return err
	}
	a.accounts = process.NewAccounts(process.AccountsConfig{})
	a.hasher = hash.New(hash.Config{})
	a.table = process.NewTable(process.Config{Locator: a.tracker})
	a.sources = idle(a.cfg)
	if err := a.openSender(); err != nil {
		return err
	}
	a.selfTest, err = openSelfTest(a.sources, a.sender, a.log)
	return err
}

// note has what belongs to a process's new image looked up in the background.
func (a *agent) note(p *event.Process) {
	container := ""
	if p.Container != nil {
		container = p.Container.ID
	}
	a.accounts.Note(container, p.PID, p.Start)
	a.hasher.Note(p)
}

// Enrich completes an event, and has its files read.
func (a *agent) Enrich(e *event.Event) {
	a.table.Enrich(e)
	a.hasher.Enrich(e)
}

// updates are what became known after it had been told as pending.
func (a *agent) updates() batch.Updates {
	return batch.Updates{Containers: a.tracker.Updates(), Digests: a.hasher.Updates()}
}

// placeIn names cgroups.
func placeIn(tracker *container.Tracker, hierarchy container.Hierarchy) func(uint64) (string, *event.Container) {
	return func(id uint64) (string, *event.Container) {
		path, _ := hierarchy.Path(id) // of one that is gone nobody knows it any more
		return path, tracker.Locate(id, path)
	}
}

// openDelivery opens what outlives a run.
func (a *agent) openDelivery() (err error) {
	if a.state, a.gap, err = openState(a.cfg.StateDir, a.host.Identity().BootID, time.Now()); err != nil {
		return err
	}
	a.spool, err = openSpool(a.cfg, a.log)
	return err
}

func openSpool(cfg config, log *slog.Logger) (*spool.Spool, error) {
	return spool.Open(spool.Config{
		Dir: cfg.StateDir + "/spool", MaxBytes: cfg.SpoolMaxBytes, MaxFiles: int(cfg.SpoolMaxFiles),
		MaxMemory: cfg.SpoolMaxMemory, NoSync: cfg.SpoolNoSync,
		Logger: log.With("component", "spool"),
	})
}

func (a *agent) openSender() error {
	transport, err := openTransport(a.cfg, a.state.Agent, a.log)
	if err != nil {
		return err
	}
	a.skew = transport.Skew
	a.recent = newRecent()
	a.sender, err = sender.New(sender.Config{
		Agent: a.state.Agent, Epoch: a.state.Epoch, Host: a.host.Identity,
		Spool: a.spool, Transport: transport, LedgerFile: a.cfg.StateDir + "/ledger",
		UploadRate: a.cfg.UploadRate,
		Late: batch.Late{
			Describe: a.tracker.Describe, User: a.accounts.User, Group: a.accounts.Group, Digest: a.hasher.Digest,
		},
		Updates: a.updates,
		OnSeal: func(until time.Time) {
			a.clock.Refresh()
			if err := a.state.sealed(a.tracker.Covered(a.sources.covered(until))); err != nil {
				a.log.Debug("time of last batch not noted", "error", err)
			}
		},
		Logger: a.log.With("component", "sender"),
	})
	if err != nil {
		return err
	}
	ledger, upload := a.sender.Ledger(), a.sender.Upload()
	a.vitals.begin(marksOf(&ledger, &upload))
	a.vitals.inForce(a.cfg)
	return nil
}

func openTransport(cfg config, agent event.ID, log *slog.Logger) (*https.Transport, error) {
	c := https.Config{
		URL: cfg.EndpointURL, CAFile: cfg.EndpointCAFile, ServerName: cfg.EndpointServerName, Proxy: cfg.EndpointProxy,
		CertFile: cfg.IdentityCertFile, KeyFile: cfg.IdentityKeyFile, Agent: agent,
		UserAgent: "taskguard-agent/" + agentVersion(), Logger: log.With("component", "https"),
	}
	if cfg.IdentityMode == https.IdentitySTS || cfg.IdentityMode == https.IdentitySigV4 {
		c.Identity, c.Service, c.STSEndpoint = cfg.IdentityMode, cfg.IdentityService, cfg.IdentitySTS
		c.Credentials = &awsCredentials{region: cfg.IdentityRegion, log: log.With("component", "credentials")}
	}
	return https.New(c)
}

func dockerURL(socket string) string {
	if socket == "" {
		return ""
	}
	return "unix://" + socket
}

// ready tells of the start: to the endpoint, to the log, to systemd.
func (a *agent) ready() {
	states := a.states()
	if a.gap != nil {
		a.sender.Emit(&event.Event{Time: time.Now(), Kind: event.AgentLoss, Agent: &event.Agent{
			Stage: "agent", Cause: a.gap.cause, From: a.gap.from, To: time.Now(),
		}})
		a.log.Warn("nothing was observed for a while", "cause", a.gap.cause, "from", a.gap.from, "to", a.gap.to)
	}
	a.tell(event.AgentStart, states, nil)
	for _, g := range groupStates(states) {
		a.log.Info("source", "kinds", kindList(g.kinds), "via", g.Via, "healthy", g.Healthy, "reason", g.Reason)
	}
	if note := untestedKernel(kernelRelease()); note != "" {
		a.log.Info(note)
	}
	doing := "observing"
	if a.idle {
		doing = "observing nothing"
	}
	a.log.Info(doing, "agent", a.state.Agent, "version", agentVersion(), "endpoint", a.cfg.EndpointURL)
	notify(a.log, daemon.SdNotifyReady)
}

// states says of every kind how it is observed, and whether that works.
func (a *agent) states() []event.SourceState { return a.selfTest.apply(a.sources.states()) }

// instance returns what is known of the machine.
func (a *agent) instance() event.Instance {
	i := a.host.Instance()
	task := a.tracker.Instance()
	i.ECSCluster, i.ContainerInstanceARN = task.Cluster, task.ContainerInstanceARN
	i.Tags = withoutSecrets(i.Tags)
	return i
}

// withoutSecrets returns tags without what looks like a secret in their values.
func withoutSecrets(tags []event.Tag) []event.Tag {
	list := slices.Clone(tags)
	for i, tag := range list {
		const program = "\x00"
		text, _ := secret.Mask(program + tag.Key + "=" + tag.Value)
		list[i].Value = strings.TrimPrefix(text, program+tag.Key+"=")
	}
	return list
}

func (a *agent) tell(kind event.Kind, states []event.SourceState, heartbeat *event.Heartbeat) {
	instance := a.instance()
	a.sender.Emit(&event.Event{Time: time.Now(), Kind: kind,
		Agent: &event.Agent{Version: agentVersion(), Sources: states, Instance: &instance, Heartbeat: heartbeat}})
}

// lives is what the tracker tells of the lives of containers to.
type lives struct{ *agent }

// Wants tells whether events of a kind are to be recorded.
func (l lives) Wants(kind event.Kind) bool { return l.sources.wants(kind) }

// Emit hands the event on. There is no process to be completed in it.
func (l lives) Emit(e *event.Event) { l.sender.Emit(e) }

// track keeps the containers' descriptions current.
func (a *agent) track(ctx context.Context) {
	if err := a.tracker.Run(ctx); err != nil && ctx.Err() == nil {
		a.log.Error("containers are not described any more", "error", err)
	}
}

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Debug("systemd not notified", "error", err)
	}
}

func (a *agent) close() error {
	var errs []error
	if a.sources != nil {
		errs = append(errs, a.sources.close())
	}
	if a.state != nil {
		errs = append(errs, a.state.close())
	}
	return errors.Join(errs...)
}
