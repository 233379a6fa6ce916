package audit

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// TestKernelDecodesAsAusearch compares what is decoded of every event of the corpora with what ausearch(8) of the audit
// project says of it.
func TestKernelDecodesAsAusearch(t *testing.T) {
	logs, err := filepath.Glob("testdata/*.log")
	if err != nil || len(logs) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	ausearch, err := exec.LookPath("ausearch")
	if err != nil {
		skip(t, "ausearch is not installed")
	}
	for _, log := range logs {
		t.Run(filepath.Base(log), func(t *testing.T) {
			out, err := exec.Command(ausearch, "-i", "-if", log).Output()
			if err != nil {
				t.Fatalf("ausearch: %v", err)
			}
			c := &comparison{t: t, theirs: parseAusearch(string(out))}
			d := newDecoder(tableOf(Kinds()), 0)
			for _, g := range groupsOf(t, log) {
				d.read(g)
				c.event(d, g)
			}
			if c.events != len(c.theirs) {
				t.Errorf("%d events, ausearch has %d", c.events, len(c.theirs))
			}
			t.Logf("%s: %d events, %d fields are equal", filepath.Base(log), c.events, c.fields)
		})
	}
}

// gatherer is an assembly that keeps everything.
type gatherer struct{ groups []*group }

func (*gatherer) wanted([]byte) bool { return true }
func (*gatherer) skipped(uint64)     {}
func (a *gatherer) finish(g *group, _ ending) {
	c := *g
	c.bytes, c.records = slices.Clone(g.bytes), slices.Clone(g.records)
	c.args.buf = slices.Clone(g.args.buf)
	a.groups = append(a.groups, &c)
}

// groupsOf reassembles the events of a log that are system calls.
func groupsOf(t *testing.T, log string) []*group {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	a := &gatherer{}
	r := newReassembler(a)
	for line := range strings.Lines(string(text)) {
		typ, payload := logLine(t, line)
		s, body, ok := parseHeader(payload)
		if !ok {
			t.Fatalf("line %q", line)
		}
		r.add(time.Unix(1, 0), typ, s, body)
	}
	return slices.DeleteFunc(a.groups, func(g *group) bool { return !g.syscall })
}

// parseAusearch returns the records of events that are system calls, by serial number and in the order of the log.
// What ausearch -i writes is not quoted: a field ends where the next one that is known to follow begins.
func parseAusearch(out string) map[uint32][]string {
	events := map[uint32][]string{}
	for block := range strings.SplitSeq(out, "----\n") {
		if !strings.Contains(block, "type=SYSCALL ") {
			continue
		}
		for line := range strings.Lines(block) {
			head, body, ok := strings.Cut(line, ") : ")
			if !ok {
				continue
			}
			serial, _ := strconv.ParseUint(head[strings.LastIndexByte(head, ':')+1:], 10, 32)
			typ := strings.TrimPrefix(head[:strings.IndexByte(head, ' ')], "type=")
			// It writes the last record first.
			record := typ + " " + strings.TrimSuffix(body, "\n")
			events[uint32(serial)] = append([]string{record}, events[uint32(serial)]...)
		}
	}
	return events
}

// comparison counts the fields that are equal.
type comparison struct {
	t              *testing.T
	theirs         map[uint32][]string
	serial         uint32
	events, fields int
}

// records returns ausearch's records of a type, of the event that is compared.
func (c *comparison) records(typ string) (list []string) {
	for _, r := range c.theirs[c.serial] {
		if body, ok := strings.CutPrefix(r, typ+" "); ok {
			list = append(list, " "+body)
		}
	}
	return list
}

// same compares a field: in theirs it is between " NAME=" and the first of ends.
func (c *comparison) same(record, name, ours string, ends ...string) {
	c.t.Helper()
	_, value, ok := strings.Cut(record, " "+name+"=")
	end := len(value)
	for _, e := range append(ends, " \n") {
		if i := strings.Index(value+"\n", e); i >= 0 {
			end = min(end, i)
		}
	}
	c.equal(name, ours, value[:end], ok)
}

func (c *comparison) equal(name, ours, theirs string, there bool) {
	c.t.Helper()
	if !there || ours != theirs {
		c.t.Errorf("event %d: %s is %q, ausearch has %q (%v)", c.serial, name, ours, theirs, there)
		return
	}
	c.fields++
}

func (c *comparison) event(d *decoder, g *group) {
	c.t.Helper()
	c.serial = g.stamp.serial
	c.events++
	sys := c.records("SYSCALL")
	if len(sys) != 1 {
		c.t.Errorf("event %d: ausearch has %d SYSCALL records", c.serial, len(sys))
		return
	}
	c.syscall(sys[0], &d.sys, d)
	c.paths(d)
	if cwd := c.records("CWD"); d.cwd != nil {
		c.equal("cwd", " cwd="+escaped(d.textOf(d.cwd)), strings.TrimSuffix(strings.Join(cwd, ""), " "), true)
	}
	if g.args.any {
		c.arguments(g)
	}
	for _, r := range c.records("SOCKADDR") {
		c.address(r, d)
	}
	for _, r := range c.records("OBJ_PID") {
		c.same(r, "opid", fmt.Sprint(d.target.PID), " ")
		c.same(r, "ouid", userName(d.target.UID), " ")
		c.same(r, "ocomm", d.target.Name)
	}
	for _, r := range c.records("KERN_MODULE") {
		c.same(r, "name", d.module.Name)
	}
	for _, r := range c.records("BPF") {
		c.same(r, "prog-id", fmt.Sprint(d.bpf.ProgramID), " ")
	}
	for _, r := range c.records("SOCKETCALL") {
		for i, a := range d.multiplexed {
			if !strings.Contains(r, fmt.Sprintf(" a%d=", i)) {
				break
			}
			c.same(r, fmt.Sprintf("a%d", i), fmt.Sprintf("%#x", a), " ")
		}
	}
}

func (c *comparison) syscall(theirs string, sys *syscallRecord, d *decoder) {
	c.t.Helper()
	arch := architectures()[auparse.AuditArch(sys.key.arch)]
	name := auparse.AuditSyscalls[arch][int(sys.key.number)]
	c.same(theirs, "arch", arch, " ")
	for sub, number := range socketcalls() {
		if name == "socketcall" && number == uint32(sys.args[0]) {
			name = "socketcall(" + sub + ")"
		}
	}
	c.same(theirs, "syscall", name, " ")
	if sys.returned {
		c.same(theirs, "success", map[bool]string{true: "yes", false: "no"}[sys.succeeded], " ")
		exit := fmt.Sprint(sys.exit)
		if sys.exit < 0 {
			exit = unix.ErrnoName(syscall.Errno(-sys.exit))
			if exit == "ENOTSUP" { // two names of one number
				exit = "EOPNOTSUPP"
			}
		}
		c.same(theirs, "exit", exit, "(", " ")
	}
	for _, f := range []struct {
		name string
		ours uint64
	}{{"items", sys.items}, {"ppid", uint64(sys.ppid)}, {"pid", uint64(sys.pid)}} {
		c.same(theirs, f.name, fmt.Sprint(f.ours), " ")
	}
	c.same(theirs, "uid", userName(sys.uid), " ")
	c.same(theirs, "euid", userName(sys.euid), " ")
	c.same(theirs, "gid", groupName(sys.gid), " ")
	c.same(theirs, "egid", groupName(sys.egid), " ")
	c.same(theirs, "comm", escaped(d.textOf(sys.comm)), " exe=")
	c.same(theirs, "exe", escaped(d.textOf(sys.exe)), " subj=", " key=")
}

func (c *comparison) paths(d *decoder) {
	c.t.Helper()
	theirs := c.records("PATH")
	if len(theirs) != len(d.paths) {
		c.t.Errorf("event %d: %d paths, ausearch has %d", c.serial, len(d.paths), len(theirs))
		return
	}
	for i, p := range d.paths {
		r := theirs[slices.IndexFunc(theirs, func(r string) bool {
			return strings.HasPrefix(r, fmt.Sprintf(" item=%d ", p.item))
		})]
		name := "(null)"
		if p.named() {
			name = escaped(d.textOf(p.name))
		}
		c.same(r, "name", name, " inode=", " nametype=")
		c.same(r, "nametype", nameTypes()[d.paths[i].rank], " ")
		if !strings.Contains(r, " inode=") {
			continue
		}
		c.same(r, "inode", fmt.Sprint(p.inode), " ")
		c.same(r, "dev", deviceText(p.device), " ")
		c.same(r, "rdev", deviceText(p.rdev), " ")
		c.same(r, "mode", modeText(p.mode), " ")
	}
}

// arguments compares an argument list as far as it is kept. ausearch has a field for every piece of a long argument.
func (c *comparison) arguments(g *group) {
	c.t.Helper()
	all := strings.Join(c.records("EXECVE"), "")
	_, all, _ = strings.Cut(all, " a0")
	all = " a0" + all
	var theirs []string
	for i := range int(g.args.seen) {
		next := strings.Index(all+" ", fmt.Sprintf(" a%d", i+1))
		if i+1 == int(g.args.seen) || next < 0 {
			next = len(all)
		}
		theirs = append(theirs, pieces(all[:next], i))
		all = all[next:]
	}
	args := event.Argv(g.args.bytes()).Split()
	if !g.args.whole() {
		theirs = theirs[:len(args)]
		last := len(args) - 1
		theirs[last] = theirs[last][:min(len(args[last]), len(theirs[last]))]
	}
	for i, a := range args {
		c.equal(fmt.Sprintf("a%d", i), escaped(a), theirs[i], true)
	}
}

// pieces joins the pieces of one argument: " a1=x", or " a1_len=4 a1[0]=x a1[1]=y".
func pieces(text string, i int) (joined string) {
	for piece := range strings.SplitSeq(text, fmt.Sprintf(" a%d", i)) {
		name, value, _ := strings.Cut(piece, "=")
		if name == "_len" || name == "" && value == "" {
			continue
		}
		joined += strings.TrimSuffix(value, " ")
	}
	return joined
}

func (c *comparison) address(theirs string, d *decoder) {
	c.t.Helper()
	families := map[event.Family]string{event.Unix: "local", event.INET: "inet", event.INET6: "inet6",
		event.Packet: "packet", 16: "netlink"}
	c.same(theirs, "saddr_fam", families[d.net.Family], " ")
	switch d.net.Family {
	case event.Unix:
		if !strings.Contains(theirs, "too short") {
			c.same(theirs, "path", escaped(strings.TrimPrefix(d.net.Path, "@")), " }")
		}
	case event.INET, event.INET6:
		_, address, _ := strings.Cut(theirs, " laddr=")
		ip, err := netip.ParseAddr(strings.Fields(address + " ?")[0])
		if err != nil {
			c.t.Errorf("event %d: %v", c.serial, err)
		}
		c.equal("laddr", d.net.RemoteIP.String(), ip.Unmap().String(), true)
		c.same(theirs, "lport", fmt.Sprint(d.net.RemotePort), " ")
	}
}

// escaped is how ausearch writes control characters.
func escaped(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < 32 {
			fmt.Fprintf(&b, "\\%03o", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func nameTypes() map[rank]string {
	return map[rank]string{rankCreate: "CREATE", rankDelete: "DELETE", rankNormal: "NORMAL", rankUnknown: "UNKNOWN",
		rankParent: "PARENT"}
}

func deviceText(d event.Device) string {
	return fmt.Sprintf("%02x:%02x", uint32(d)>>20, uint32(d)&0xfffff)
}

func modeText(mode uint64) string {
	kinds := map[uint64]string{0o1: "fifo", 0o2: "character", 0o4: "dir", 0o6: "block", 0o10: "file", 0o12: "link",
		0o14: "socket"}
	text := kinds[mode>>12]
	for _, f := range []struct {
		bit  uint64
		name string
	}{{0o4000, ",suid"}, {0o2000, ",sgid"}, {0o1000, ",sticky"}} {
		if mode&f.bit != 0 {
			text += f.name
		}
	}
	return fmt.Sprintf("%s,%03o", text, mode&0o777)
}

func userName(id uint32) string {
	if u, err := user.LookupId(fmt.Sprint(id)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("unknown(%d)", id)
}

func groupName(id uint32) string {
	if g, err := user.LookupGroupId(fmt.Sprint(id)); err == nil {
		return g.Name
	}
	return fmt.Sprintf("unknown(%d)", id)
}
