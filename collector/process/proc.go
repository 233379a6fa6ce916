package process

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/shirou/gopsutil/v3/common"
	"github.com/shirou/gopsutil/v3/process"
	"golang.org/x/sys/unix"

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
	slices.SortFunc(all, func(a, b running) int {
		return cmp.Or(cmp.Compare(a.process.Start, b.process.Start), cmp.Compare(a.process.PID, b.process.PID))
	})
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range all {
		t.settle()
		t.found(r.process, r.cgroup, event.MaxAncestors)
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
	start, ppid := p.stat(pid)
	out = event.Process{PID: pid, PPID: ppid, Start: start}
	if start == 0 || !p.status(pid, &out) {
		return out, "", false
	}
	out.Name = p.text(pid, "comm")
	p.cmdline(pid, &out)
	running := &process.Process{Pid: int32(pid)}
	if exe, err := running.ExeWithContext(ctx); err == nil { // a kernel thread has none
		out.Exe, out.ExeDeleted = strings.CutSuffix(exe, " (deleted)")
		p.version(&out)
	}
	if cwd, err := running.CwdWithContext(ctx); err == nil {
		out.Cwd = cwd
	}
	cgroup = p.cgroup(pid)
	// The pid may have been used again while this was read.
	return out, cgroup, p.start(pid) == start
}

// version sets which version of its executable a process runs, if it still runs that one.
func (p *proc) version(out *event.Process) {
	link := p.path(out.PID, "exe")
	var st unix.Stat_t
	if unix.Stat(link, &st) != nil {
		return
	}
	if exe, err := os.Readlink(link); err != nil || strings.TrimSuffix(exe, " (deleted)") != out.Exe {
		return
	}
	out.ExeDevice, out.ExeInode = event.Device(unix.Major(st.Dev)<<20|unix.Minor(st.Dev)), st.Ino
	out.ExeVersion = event.FileVersion{
		Device: out.ExeDevice, Inode: st.Ino, Size: uint64(st.Size), Changed: uint64(unix.TimespecToNsec(st.Ctim)),
	}
}

// start returns when a process started, in nanoseconds since boot; 0 when it is gone.
func (p *proc) start(pid uint32) uint64 {
	start, _ := p.stat(pid)
	return start
}

// stat returns when a process started and its parent's pid. gopsutil gives starts in whole seconds only, which does not
// tell processes apart.
func (p *proc) stat(pid uint32) (start uint64, ppid uint32) {
	stat, err := os.ReadFile(p.path(pid, "stat"))
	if err != nil {
		return 0, 0
	}
	// The name, in parentheses, may hold anything; field 3 follows its last parenthesis (proc_pid_stat(5)).
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, 0
	}
	parent, err1 := strconv.ParseUint(string(fields[4-3]), 10, 32)
	ticks, err2 := strconv.ParseUint(string(fields[22-3]), 10, 64)
	if err1 != nil || err2 != nil {
		return 0, 0
	}
	// A process of the first tick after boot: 0 would mean unknown.
	return max(1, ticks*tick), uint32(parent)
}

// exiting is the kernel's flag of a task that has begun to end (PF_EXITING, include/linux/sched.h).
const exiting = 4

// runs reports whether a process is there and has not begun to end.
func (p *proc) runs(pid uint32) bool {
	stat := p.text(pid, "stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) == 0 || fields[0] == "Z" || fields[0] == "X" {
		return false
	}
	if len(fields) <= 9-3 { // proc_pid_stat(5) counts from 1, and the first two are cut off
		return true
	}
	flags, err := strconv.ParseUint(fields[9-3], 10, 32)
	return err == nil && flags&exiting == 0
}

// status sets a process's ids, and its pid in its own namespace where that is not the host's; false when it is gone.
// gopsutil knows no ids beyond 31 bits, and user namespaces have them.
func (p *proc) status(pid uint32, out *event.Process) bool {
	found := 0
	for line := range strings.Lines(p.text(pid, "status")) {
		name, value, _ := strings.Cut(line, ":")
		values := strings.Fields(value)
		switch {
		case name == "Uid" && len(values) > 1:
			out.UID, out.EUID = number(values[0]), number(values[1])
			found++
		case name == "Gid" && len(values) > 1:
			out.GID, out.EGID = number(values[0]), number(values[1])
			found++
		case name == "NSpid" && len(values) > 1:
			out.NSPID = number(values[len(values)-1])
		}
	}
	return found == 2
}

func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// maxCmdline is as long as the kernel reports a command line at exec.
const maxCmdline = 20480

func (p *proc) cmdline(pid uint32, out *event.Process) {
	b, err := os.ReadFile(p.path(pid, "cmdline"))
	if err != nil {
		return
	}
	if len(b) > maxCmdline {
		out.ArgsLength = uint32(len(b))
		out.Truncated |= event.FieldArgs
		b = b[:maxCmdline]
	}
	out.Args = event.Argv(b)
}

// nsPID returns a process's pid in its own namespace, 0 where that is the host's.
func (p *proc) nsPID(pid uint32) uint32 {
	var out event.Process
	p.status(pid, &out)
	return out.NSPID
}

// cgroup returns the path of a process's cgroup in the hierarchy that tells containers apart; "" when it is gone, or
// is about to end: from then on, until it is waited for, cgroup v1 says that it is in the root.
func (p *proc) cgroup(pid uint32) string {
	text := p.text(pid, "cgroup")
	if !p.runs(pid) {
		return ""
	}
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
