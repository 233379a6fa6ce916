package main

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/ebpf"
	"github.com/taskguard/taskguard/collector/event"
)

// Each key is either one that a reload puts in force, or one that it names.
func TestEveryKeyIsReloadedOrNamed(t *testing.T) {
	live := []string{
		"events.off", "events.open_all", "events.watched_paths", "events.ignored_executables", "events.connect_window",
		"throttle.events_per_second", "log.level",
	}
	var fixed []string
	for _, field := range reflect.VisibleFields(reflect.TypeFor[config]()) {
		if key := field.Tag.Get("key"); key != "" {
			fixed = append(fixed, key)
		}
	}
	for _, s := range allSettings() {
		if slices.Contains(live, s.Key) == slices.Contains(fixed, s.Key) {
			t.Errorf("%s: want it either reloaded or named", s.Key)
		}
	}
	if n := len(allSettings()); n != len(live)+len(fixed) {
		t.Errorf("%d keys, %d of them known here", n, len(live)+len(fixed))
	}
}

func TestReload(t *testing.T) {
	kernel := &fakeKernel{}
	c := newCoverage(ebpf.Settings{})
	c.ebpf = kernel
	var log bytes.Buffer
	r := &reloader{
		level: new(slog.LevelVar), log: slog.New(slog.NewTextHandler(&log, nil)), current: defaultConfig(),
	}
	load := func(overrides ...string) {
		log.Reset()
		r.load = func() (config, error) { return loadConfig("../../packaging/agent.yaml", overrides) }
	}

	load("events.off=file.open", "log.level=debug", "state_dir=/elsewhere", "host.imds=off")
	if !r.reload(c) {
		t.Error("a change of the events is none")
	}
	if !slices.Equal(kernel.set.Off, []event.Kind{event.FileOpen}) || r.level.Level() != slog.LevelDebug {
		t.Errorf("kernel has %+v, level is %v", kernel.set, r.level)
	}
	if !strings.Contains(log.String(), `msg="not changed: needs a restart" keys="state_dir host.imds"`) {
		t.Errorf("log %q, want the keys that need a restart", log.String())
	}

	before, current := kernel.set, r.current
	load("events.off=file.opne", "throttle.events_per_second=1", "log.level=loud")
	if r.reload(c) || !reflect.DeepEqual(kernel.set, before) || !reflect.DeepEqual(r.current, current) ||
		r.level.Level() != slog.LevelDebug {
		t.Errorf("a configuration with mistakes changed something: %+v, %v", kernel.set, r.level)
	}
	if n := strings.Count(log.String(), "level=ERROR msg=\"mistake in the configuration\""); n != 3 {
		t.Errorf("%d mistakes in the log, want 3:\n%s", n, log.String())
	}

	load("events.off=file.open", "log.level=warn")
	if r.reload(c) || r.level.Level() != slog.LevelWarn || strings.Contains(log.String(), "restart") {
		t.Errorf("level %v, log %q: want the level changed and nothing else", r.level, log.String())
	}
	kernel.refuse = errors.New("no room")
	load()
	if r.reload(c); !strings.Contains(log.String(), "no room") {
		t.Errorf("log %q, want what the kernel said", log.String())
	}
}

// systemd is told before and after, as sd_notify(3) has it for Type=notify-reload.
func TestReloadNotifies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	log := slog.New(slog.DiscardHandler)
	c := newCoverage(ebpf.Settings{})
	a := &agent{sources: &sources{coverage: c}, selfTest: newSelfTest(c, nil, log), vitals: new(vitals)}
	r := &reloader{
		level: new(slog.LevelVar), log: log, current: defaultConfig(),
		load: func() (config, error) {
			return loadConfig("../../packaging/agent.yaml", []string{"events.open_all=true"})
		},
	}
	hangup := make(chan os.Signal, 1)
	hangup <- unix.SIGHUP
	done := make(chan struct{})
	go func() { defer close(done); r.run(t.Context(), hangup, a) }()
	text := make([]byte, 1024)
	for _, want := range []string{`^RELOADING=1\nMONOTONIC_USEC=\d+$`, `^READY=1$`} {
		n, err := socket.Read(text)
		if err != nil || !regexp.MustCompile(want).Match(text[:n]) {
			t.Errorf("%q, %v, want %s", text[:n], err, want)
		}
	}
	<-a.selfTest.again // what is observed now is tested
}
