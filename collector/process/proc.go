package process

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/shirou/gopsutil/v3/common"
	"github.com/shirou/gopsutil/v3/process"

	"github.com/taskguard/taskguard/collector/event"
)

// proc reads processes from /proc.
type proc struct {
	root       string
	controller string
}

// Bootstrap fills the table with the processes that run already, parents first. To miss none, it is called when the
// sources are attached and before their events are read: what started meanwhile is then reported by both.
func (t *Table) Bootstrap(ctx context.Context) error {
	pids, err := process.PidsWithContext(t.proc.context(ctx))
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	type running struct {
		process event.Process
		cgroup  string
	}
	var all []running
	for _, pid := range pids {
		if p, cgroup, ok := t.proc.read(uint32(pid)); ok {
			all = append(all, running{p, cgroup})
		}
	}
	slices.SortStableFunc(all, func(a, b running) int {
		switch {
		case a.process.Start != b.process.Start:
			return int(a.process.Start/tick) - int(b.process.Start/tick)
		default:
			return int(a.process.PID) - int(b.process.PID)
		}
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range all {
		t.settle()
		t.found(r.process, r.cgroup)
	}
	t.stats.Processes = len(t.live)
	return nil
}

// context tells gopsutil where /proc is.
func (p *proc) context(ctx context.Context) context.Context {
	return context.WithValue(ctx, common.EnvKey, common.EnvMap{common.HostProcEnvKey: p.root})
}

// read tells what /proc knows of a process, and the path of its cgroup; false when it is gone.
func (p *proc) read(pid uint32) (out event.Process, cgroup string, ok bool) {
	ctx := p.context(context.Background())
	start := p.start(pid)
	if start == 0 {
		return out, "", false
	}
	running := &process.Process{Pid: int32(pid)}
	out = event.Process{PID: pid, Start: start}
	ppid, err := running.PpidWithContext(ctx)
	if err != nil {
		return out, "", false
	}
	out.PPID = uint32(ppid)
	out.Name = p.text(pid, "comm")
	out.Args = event.Argv(p.cmdline(pid))
	if uids, err := running.UidsWithContext(ctx); err == nil && len(uids) > 1 {
		out.UID, out.EUID = uint32(uids[0]), uint32(uids[1])
	}
	if gids, err := running.GidsWithContext(ctx); err == nil && len(gids) > 1 {
		out.GID, out.EGID = uint32(gids[0]), uint32(gids[1])
	}
	if exe, err := running.ExeWithContext(ctx); err == nil { // a kernel thread has none
		out.Exe, out.ExeDeleted = strings.CutSuffix(exe, " (deleted)")
	}
	if cwd, err := running.CwdWithContext(ctx); err == nil {
		out.Cwd = cwd
	}
	out.NSPID = p.nsPID(pid)
	return out, p.cgroup(pid), true
}

// start returns when a process started, in nanoseconds since boot; 0 when it is gone. gopsutil gives whole seconds
// only, which does not tell processes apart.
func (p *proc) start(pid uint32) uint64 {
	stat, err := os.ReadFile(p.path(pid, "stat"))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold anything; field 3 follows its last parenthesis (proc_pid_stat(5)).
	_, rest, found := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	fields := bytes.Fields(rest)
	if !found || len(fields) < 20 {
		return 0
	}
	ticks, err := strconv.ParseUint(string(fields[22-3]), 10, 64)
	if err != nil {
		return 0
	}
	// A process of the first tick after boot: 0 would mean unknown.
	return max(1, ticks*tick)
}

// maxCmdline is as long as the kernel reports a command line at exec.
const maxCmdline = 20480

func (p *proc) cmdline(pid uint32) string {
	b, err := os.ReadFile(p.path(pid, "cmdline"))
	if err != nil {
		return ""
	}
	return string(b[:min(len(b), maxCmdline)])
}

// nsPID returns a process's pid in its own namespace, 0 where that is the host's.
func (p *proc) nsPID(pid uint32) uint32 {
	status, err := os.ReadFile(p.path(pid, "status"))
	if err != nil {
		return 0
	}
	_, line, _ := strings.Cut(string(status), "\nNSpid:")
	line, _, _ = strings.Cut(line, "\n")
	pids := strings.Fields(line)
	if len(pids) < 2 {
		return 0
	}
	inner, err := strconv.ParseUint(pids[len(pids)-1], 10, 32)
	if err != nil {
		return 0
	}
	return uint32(inner)
}

// cgroup returns the path of a process's cgroup in the hierarchy that tells containers apart; "" when it is gone.
func (p *proc) cgroup(pid uint32) string {
	text := p.text(pid, "cgroup")
	for line := range strings.Lines(text) {
		// hierarchy-ID:controller-list:cgroup-path (cgroups(7))
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) < 3 {
			continue
		}
		if p.controller == "" && parts[0] == "0" || p.controller != "" &&
			slices.Contains(strings.Split(parts[1], ","), p.controller) {
			return parts[2]
		}
	}
	return ""
}

func (p *proc) text(pid uint32, file string) string {
	b, err := os.ReadFile(p.path(pid, file))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSuffix(b, []byte("\n")))
}

func (p *proc) path(pid uint32, file string) string {
	return filepath.Join(p.root, strconv.FormatUint(uint64(pid), 10), file)
}
