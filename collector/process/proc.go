package process

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/shirou/gopsutil/v3/common"
	"github.com/shirou/gopsutil/v3/process"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// proc reads processes from /proc. It is used by one goroutine at a time.
type proc struct {
	root       string
	controller string
	buf        []byte // what was read last
}

// Bootstrap fills the table with the processes that run already, parents first, as far as there is room. To miss none, it
// is called when the sources are attached and before their events are read: what started meanwhile is then reported by
// both.
func (t *Table) Bootstrap(ctx context.Context) error {
	pids, err := process.PidsWithContext(t.proc.context(ctx))
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	type running struct {
		pid   uint32
		start uint64
	}
	all := make([]running, 0, len(pids))
	for _, pid := range pids {
		if start := t.proc.start(uint32(pid)); start != 0 {
			all = append(all, running{uint32(pid), start})
		}
	}
	slices.SortFunc(all, func(a, b running) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.pid, b.pid)) })
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, r := range all {
		if len(t.live) >= t.cfg.MaxProcesses {
			t.stats.Untracked += uint64(len(all) - i)
			break
		}
		t.settle()
		if p, cgroup, ok := t.proc.read(r.pid); ok && p.Start == r.start {
			t.found(p, cgroup, event.MaxAncestors)
		}
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
	before := p.stat(pid)
	out = event.Process{PID: pid, PPID: before.ppid, Start: before.start, Name: string(before.name)}
	if before.start == 0 || !p.status(pid, &out) {
		return out, "", false
	}
	p.cmdline(pid, &out)
	running := &process.Process{Pid: int32(pid)}
	if exe, err := running.ExeWithContext(ctx); err == nil { // a kernel thread has none
		out.Exe, out.ExeDeleted = strings.CutSuffix(exe, " (deleted)")
		p.version(&out)
	}
	if cwd, err := running.CwdWithContext(ctx); err == nil {
		out.Cwd = cwd
	}
	cgroup, after := p.cgroupOf(pid)
	// The pid may have been used again while this was read.
	return out, cgroup, after.start == before.start
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
func (p *proc) start(pid uint32) uint64 { return p.stat(pid).start }

// stat is what /proc/PID/stat says of a process, as far as it is used; the zero stat is of one that is gone.
type stat struct {
	name  []byte // valid until the next file is read
	state byte
	ppid  uint32
	flags uint64
	start uint64 // in nanoseconds since boot
}

// stat reads what gopsutil gives less of: starts in whole seconds only, which does not tell processes apart.
func (p *proc) stat(pid uint32) (s stat) {
	text, _ := p.file(pid, "stat")
	// The name, in parentheses, may hold anything; field 3 follows its last parenthesis (proc_pid_stat(5)).
	first, last := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if first < 0 || last < first {
		return stat{}
	}
	number := 3
	for field := range bytes.FieldsSeq(text[last+1:]) {
		var err error
		switch number {
		case 3:
			s.state = field[0]
		case 4:
			var ppid uint64
			ppid, err = strconv.ParseUint(string(field), 10, 32)
			s.ppid = uint32(ppid)
		case 9:
			s.flags, err = strconv.ParseUint(string(field), 10, 64)
		case 22:
			var ticks uint64
			ticks, err = strconv.ParseUint(string(field), 10, 64)
			// A process of the first tick after boot: 0 would mean unknown.
			s.start = max(1, ticks*tick)
		}
		if err != nil {
			return stat{}
		}
		number++
	}
	if s.start == 0 {
		return stat{}
	}
	s.name = text[first+1 : last]
	return s
}

// exiting is the kernel's flag of a task that has begun to end (PF_EXITING, include/linux/sched.h).
const exiting = 4

// runs reports whether the process is there and has not begun to end.
func (s *stat) runs() bool {
	return s.start != 0 && s.state != 'Z' && s.state != 'X' && s.flags&exiting == 0
}

// status sets a process's ids, and its pid in its own namespace where that is not the host's; false when it is gone.
// gopsutil knows no ids beyond 31 bits, and user namespaces have them.
func (p *proc) status(pid uint32, out *event.Process) bool {
	text, _ := p.file(pid, "status")
	found := 0
	for line := range bytes.Lines(text) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch string(name) {
		case "Uid":
			out.UID, out.EUID = pair(value)
			found++
		case "Gid":
			out.GID, out.EGID = pair(value)
			found++
		case "NSpid":
			if pids := strings.Fields(string(value)); len(pids) > 1 {
				out.NSPID = number(pids[len(pids)-1])
			}
		}
	}
	return found == 2
}

// pair returns the first two numbers.
func pair(value []byte) (first, second uint32) {
	numbers := strings.Fields(string(value))
	if len(numbers) < 2 {
		return 0, 0
	}
	return number(numbers[0]), number(numbers[1])
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
	text, length := p.file(pid, "cmdline")
	if length > maxCmdline {
		out.ArgsLength = uint32(length)
		out.Truncated |= event.FieldArgs
		text = text[:maxCmdline]
	}
	out.Args = event.Argv(text)
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
	path, _ := p.cgroupOf(pid)
	return path
}

// cgroupOf is cgroup, with what the process is after the path was read.
func (p *proc) cgroupOf(pid uint32) (path string, after stat) {
	text, _ := p.file(pid, "cgroup")
	for line := range bytes.Lines(text) {
		// hierarchy-ID:controller-list:cgroup-path (cgroups(7))
		id, rest, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(":"))
		controllers, name, ok := bytes.Cut(rest, []byte(":"))
		if ok && (p.controller == "" && string(id) == "0" || p.controller != "" && has(controllers, p.controller)) {
			path = string(name)
			break
		}
	}
	if after = p.stat(pid); !after.runs() {
		path = ""
	}
	return path, after
}

// has reports whether a name is in a list with commas between.
func has(list []byte, name string) bool {
	for item := range bytes.SplitSeq(list, []byte(",")) {
		if string(item) == name {
			return true
		}
	}
	return false
}

// maxFile is as much as is kept of a file: the line of a cgroup on a host with cgroup v1 can be that far.
const maxFile = 64 << 10

// file reads a file of a process. The text is valid until the next one is read, and at most maxFile long; length is how
// long the file is. Of a process that is gone it is empty.
func (p *proc) file(pid uint32, name string) (text []byte, length int) {
	fd, err := unix.Open(p.path(pid, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0
	}
	defer unix.Close(fd)
	if p.buf == nil {
		p.buf = make([]byte, 4<<10)
	}
	var rest [512]byte
	for {
		if length == len(p.buf) && len(p.buf) < maxFile {
			p.buf = append(p.buf, make([]byte, len(p.buf))...)
		}
		into := p.buf[min(length, len(p.buf)):]
		if len(into) == 0 { // only the length counts any more
			into = rest[:]
		}
		n, err := unix.Read(fd, into)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || n <= 0:
			return p.buf[:min(length, len(p.buf))], length
		}
		length += n
	}
}

func (p *proc) path(pid uint32, file string) string {
	return p.root + "/" + strconv.FormatUint(uint64(pid), 10) + "/" + file
}
