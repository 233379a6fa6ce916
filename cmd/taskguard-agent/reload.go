package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// reloader reads the configuration again while the agent runs.
type reloader struct {
	load    func() (config, error)
	level   *slog.LevelVar
	log     *slog.Logger
	current config // what is in force
}

// run does so whenever it is told to, until ctx is done.
func (r *reloader) run(ctx context.Context, hangup <-chan os.Signal, a *agent) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			notify(r.log, reloading())
			if r.reload(a.sources.coverage) {
				a.selfTest.soon()
			}
			a.vitals.inForce(r.current)
			notify(r.log, daemon.SdNotifyReady)
		}
	}
}

// reloading is what a unit of Type=notify-reload is to say before it reads its configuration again (sd_notify(3)).
func reloading() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return daemon.SdNotifyReloading
	}
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000)
}

// reload puts in force what can be changed while the agent runs, and names the rest. A configuration with a mistake
// changes nothing. It reports whether what is observed was changed.
func (r *reloader) reload(c *coverage) (changed bool) {
	next, err := r.load()
	if err != nil {
		r.log.Error("configuration not reloaded, nothing is changed")
		for mistake := range strings.SplitSeq(err.Error(), "\n") {
			r.log.Error("mistake in the configuration", "mistake", mistake)
		}
		return false
	}
	if keys := restartKeys(&r.current, &next); len(keys) > 0 {
		r.log.Warn("not changed: needs a restart", "keys", strings.Join(keys, " "))
	}
	if changed = !reflect.DeepEqual(r.current.Events, next.Events); changed {
		if err := c.apply(next.Events); err != nil {
			r.log.Error("settings of events not applied in full", "error", err)
		}
		r.current.Events = next.Events
	}
	r.level.Set(next.LogLevel)
	r.current.LogLevel = next.LogLevel
	r.log.Info("configuration reloaded", "events_changed", changed)
	return changed
}

// restartKeys are those of the keys that differ which can be changed by a restart only.
func restartKeys(current, next *config) (keys []string) {
	a, b := reflect.ValueOf(*current), reflect.ValueOf(*next)
	for i := range a.NumField() {
		if key := a.Type().Field(i).Tag.Get("key"); key != "" && !a.Field(i).Equal(b.Field(i)) {
			keys = append(keys, key)
		}
	}
	return keys
}
