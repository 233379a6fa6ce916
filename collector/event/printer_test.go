package event_test

import (
	"bytes"
	"errors"
	"flag"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/event/eventtest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// hostile is what a process may be called to lead a reader astray.
const hostile = "a\nb\r\t\x1b[2J\x07\x00\xff\u202e\u200b\x9b31m"

// shown is a host's hour: every kind, every branch, and names that want to be more than names.
func shown() []event.Event {
	web := &event.Container{ID: strings.Repeat("c0ffee", 10), Name: "ecs-web-7-app"}
	shell := &event.Process{
		PID: 100, Name: "sh", Exe: "/bin/sh", Args: "sh\x00-c\x00exit \"$1\"\x00",
		Ancestors: []event.Ancestor{{PID: 1, Name: "init"}},
	}
	bad := &event.Process{
		PID: 1<<32 - 1, Name: hostile, Exe: "/" + hostile, Args: event.NewArgv([]string{hostile, "", `\n`}),
	}
	wide := &event.Process{PID: 7, Name: "日本語日本語日本語日本語", Exe: "/ü", Args: "日本\x00🙂\x00"}
	ended := func(exit event.Exit) *event.Process {
		return &event.Process{PID: 101, Exe: "/usr/bin/true", Exit: exit}
	}
	tcp := event.Socket{
		Family: event.INET, Type: event.Stream, Protocol: 6, RemoteIP: netip.MustParseAddr("192.0.2.7"), RemotePort: 443,
	}
	udp := event.Socket{
		Family: event.INET6, Type: event.Datagram, Protocol: 17,
		RemoteIP: netip.MustParseAddr("2001:db8::53"), RemotePort: 53,
	}
	both := tcp
	both.LocalIP, both.LocalPort = netip.MustParseAddr("10.0.0.5"), 8080
	plain := event.Socket{Family: event.INET, RemoteIP: tcp.RemoteIP} // as audit tells
	unix := event.Socket{Family: event.Unix}
	other := tcp
	other.Protocol, other.RemoteIP = 132, netip.Addr{}
	zone := udp
	zone.Protocol, zone.RemoteIP = 58, netip.MustParseAddr("fe80::1%\x1b[31m")
	host := &event.Host{Hostname: "ip-10-0-1-23"}
	when := time.Date(2026, 11, 23, 1, 2, 3, 4_000_000, time.UTC)
	return []event.Event{
		{Kind: event.ProcessFork, Process: shell, Container: web},
		{Kind: event.ProcessFork, Process: &event.Process{PID: 102}},
		{Kind: event.ProcessExec, Process: shell, Container: &event.Container{ID: strings.Repeat("c0ffee", 10)}},
		{Kind: event.ProcessExec, Process: bad, Container: &event.Container{ID: "x", Name: hostile}, Result: 2},
		{Kind: event.ProcessExec, Process: wide, Container: &event.Container{ID: "x", Name: "コンテナ"}},
		{Kind: event.ProcessExec, Process: &event.Process{PID: 8, Name: "long", Exe: "/" + strings.Repeat("x", 300)}},
		{Kind: event.ProcessExec, Process: &event.Process{PID: 8, Name: "long", Exe: "/" + strings.Repeat("漢", 300)}},
		{Kind: event.ProcessExit, Process: ended(event.Exit{Ended: true, Code: 3}), Host: host},
		{Kind: event.ProcessExit, Process: ended(event.Exit{Ended: true, Signal: 9})},
		{Kind: event.ProcessExit, Process: ended(event.Exit{Ended: true, Signal: 11, CoreDumped: true})},
		{Kind: event.FileOpen, Process: shell, File: &event.File{Path: "/etc/" + hostile, Flags: 0o1101}, Host: host},
		{Kind: event.FileOpen, Process: shell, File: &event.File{Path: "/etc/shadow", Flags: 2}, Result: 13},
		{Kind: event.NetConnect, Process: shell, Net: &event.Net{Socket: tcp}, Result: 111},
		{Kind: event.NetConnect, Process: shell, Net: &event.Net{Socket: plain}},
		{Kind: event.NetConnect, Process: shell, Net: &event.Net{Socket: other}},
		{Kind: event.NetConnect, Process: shell, Net: &event.Net{Socket: zone}},
		{Kind: event.NetConnect, Process: shell, Net: &event.Net{Socket: unix, Path: "@" + hostile}},
		{Kind: event.NetConnect, Process: shell, Net: &event.Net{Socket: tcp}, Result: 4000},
		{Kind: event.NetConnect, Process: shell, Net: &event.Net{Socket: tcp}, Result: -1},
		{Kind: event.DNSQuery, Process: shell, DNS: &event.DNS{Socket: udp, Questions: []event.Question{
			{Name: "example.com", Type: "AAAA"}, {Name: hostile, Type: hostile},
		}}},
		{Kind: event.DNSResponse, DNS: &event.DNS{Socket: udp, Answers: []event.Answer{
			{Name: "example.com", Type: "A", Data: "192.0.2.1"}, {Name: "x", Type: "MX"},
			{Name: "y", Type: "CNAME", Data: hostile},
		}}},
		{Kind: event.DNSResponse, DNS: &event.DNS{Socket: udp, Rcode: 3}},
		{Kind: event.DNSResponse, DNS: &event.DNS{Socket: udp, Rcode: 23}},
		{
			Kind: event.AgentStart, Agent: &event.Agent{Version: "1.0" + hostile},
			Host: &event.Host{InstanceID: "i-0123", Hostname: "h"},
		},
		{Kind: event.AgentHeartbeat, Agent: &event.Agent{Version: "1.0", Sources: []event.SourceState{{Healthy: true}, {}}}},
		{Kind: event.AgentLoss, Agent: &event.Agent{Stage: "kernel", Cause: "ring_full", Lost: event.FileOpen, Count: 7}},
		{Kind: event.AgentLoss, Agent: &event.Agent{Stage: hostile, Cause: hostile, From: when, To: when.Add(time.Minute)}},
		{Kind: 200, Result: 1},
		{},
		{Kind: event.ProcessExec, Process: shell, File: &event.File{Path: "/" + hostile}, Result: 2},
		{Kind: event.ProcessExec, Process: &event.Process{PID: 9, Exe: "/tmp/x", Args: "x\x00", ExeUpperLayer: true}},
		{Kind: event.ProcessSetID, Process: shell, SetID: &event.SetID{
			Call: "setresuid", UID: event.Some[uint32](0), EUID: event.Some[uint32](1<<32 - 2)}},
		{Kind: event.ProcessPtrace, Process: shell, Target: bad, Ptrace: &event.Ptrace{Request: 16, PID: 7}},
		{Kind: event.ProcessPtrace, Process: shell, Ptrace: &event.Ptrace{Request: 99, PID: 7}, Result: 3},
		{Kind: event.ProcessDup, Process: shell, Dup: &event.Dup{Call: "dup2", OldFD: 3, Socket: tcp}},
		{Kind: event.ProcessDup, Process: shell, Dup: &event.Dup{
			Call: "fcntl", OldFD: 3, NewFD: 2, Socket: unix, Path: hostile}},
		{Kind: event.ProcessNamespace, Process: shell, Namespace: &event.Namespace{Call: "unshare", Flags: 0x10020000}},
		{Kind: event.ProcessNamespace, Process: shell, Namespace: &event.Namespace{Call: "setns", Inode: 4026531840}},
		{Kind: event.FileRename, Process: shell, File: &event.File{Path: "/a", Target: hostile, RenameFlags: 2}},
		{Kind: event.FileLink, Process: shell, File: &event.File{Path: "/new", Target: "/old"}},
		{Kind: event.FileSymlink, Process: shell, File: &event.File{Path: "/new", Target: "../old"}, Result: 17},
		{Kind: event.FileUnlink, Process: shell, File: &event.File{Path: hostile}},
		{Kind: event.FileUnlink, Process: shell, File: &event.File{Path: "/d", Directory: true}},
		{Kind: event.FileChmod, Process: shell, File: &event.File{Path: "/a", Mode: event.Some[event.FileMode](0o4755)}},
		{Kind: event.FileChown, Process: shell, File: &event.File{Path: "/a", GID: event.Some[uint32](0)}},
		{Kind: event.FSMount, Process: shell, FS: &event.Mount{
			Call: "mount", Source: "/dev/" + hostile, Target: "/mnt", Type: "ext4", Flags: 0x1001}},
		{Kind: event.FSUmount, Process: shell, FS: &event.Mount{Call: "umount", Target: "/mnt", UmountFlags: 2}, Result: 16},
		{Kind: event.MemoryMap, Process: shell, Memory: &event.Memory{
			Address: 0x7f0000001000, Length: 4096, Protection: 5, Flags: 2, Region: "file", Path: "/" + hostile,
			UpperLayer: true}},
		{Kind: event.MemoryProtect, Process: shell, Memory: &event.Memory{
			Address: 0x1000, Length: 8192, Protection: 7, Region: "stack"}},
		{Kind: event.MemoryVMRead, Process: shell, Target: wide, Memory: &event.Memory{PID: 7, Length: 64}},
		{Kind: event.MemoryVMWrite, Process: shell, Memory: &event.Memory{PID: 7, Length: 64}, Result: 1},
		{Kind: event.MemoryMemfd, Process: shell, Memory: &event.Memory{Name: hostile, MemfdFlags: 1}},
		{Kind: event.MemoryUserfaultfd, Process: shell, Memory: &event.Memory{UserfaultfdFlags: 1 | 1<<19}},
		{Kind: event.ModuleLoad, Process: shell, Module: &event.Module{
			Call: "finit_module", Name: hostile, Path: "/lib/x.ko", Flags: 2,
			Digest: event.Digest{SHA256: strings.Repeat("0f", 32)}}},
		{Kind: event.ModuleLoad, Process: shell, Module: &event.Module{
			Call: "finit_module", Digest: event.Digest{HashState: event.HashError}}, Result: 1},
		{Kind: event.BPFLoad, Process: shell, BPF: &event.BPF{Type: 2, Name: hostile, Instructions: 12, ProgramID: 3}},
		{Kind: event.IOUringSetup, Process: shell, IOUring: &event.IOUring{Entries: 8, Flags: 3}},
		{Kind: event.NetSocket, Process: shell, Net: &event.Net{
			Socket: event.Socket{Family: event.Packet, Type: event.Raw, Protocol: 3}}},
		{Kind: event.NetAccept, Process: shell, Net: &event.Net{Socket: both}},
		{Kind: event.NetAccept, Process: shell, Net: &event.Net{Socket: unix, Path: "/run/s"}},
		{Kind: event.FSMount, Process: shell, FS: &event.Mount{Call: "fsopen", Type: "tmpfs"}},
		{Kind: event.NetBind, Process: shell, Net: &event.Net{Socket: both}, Result: 98},
		{Kind: event.NetBind, Process: shell, Net: &event.Net{Socket: unix, Path: "@" + hostile}},
		{Kind: event.NetBind, Process: shell, Net: &event.Net{Socket: event.Socket{Family: event.Packet}}},
		{Kind: event.NetListen, Process: shell, Net: &event.Net{Socket: both, Backlog: 128}},
		{Kind: event.NetSend, Process: shell, Net: &event.Net{Socket: udp}},
		{Kind: event.ContainerCreate, Container: &event.Container{ID: "x", Name: "web-1", Image: "shop:1" + hostile}},
		{Kind: event.ContainerStart, Container: web},
		{Kind: event.ContainerExec, Container: web, Exec: &event.Exec{
			ExecID: "0f", Command: event.NewArgv([]string{"sh", "-c", hostile}), User: hostile, Privileged: true}},
		{Kind: event.ContainerExec, Container: web, Exec: &event.Exec{Command: "id\x00"}},
		{Kind: event.ContainerStop, Container: web, Stop: &event.Stop{
			ExitCode: event.Some[uint32](137), Signal: 9, OOMKilled: true}},
		{Kind: event.ContainerStop, Container: web, Stop: &event.Stop{ExitCode: event.Some[uint32](0)}},
		{Kind: event.ContainerStop, Container: web, Stop: &event.Stop{}},
		{Kind: event.AgentLoss, Agent: &event.Agent{
			Stage: "docker", Cause: "disconnected", Lost: event.ContainerStop, From: when, To: when.Add(time.Minute)}},
		{Kind: event.AgentThrottle, Container: web, Agent: &event.Agent{Phase: "start", Cgroup: "/docker/" + hostile}},
		{Kind: event.AgentThrottle, Agent: &event.Agent{Phase: "stop", Cgroup: "/", Dropped: []event.Dropped{
			{Kind: event.FileOpen, Count: 1200}, {Kind: event.MemoryMap, Count: 1}}}},
		{Kind: event.AgentHeartbeat, Agent: &event.Agent{Version: "1.0", Heartbeat: &event.Heartbeat{}}},
		{Kind: event.AgentHeartbeat, Agent: &event.Agent{Version: "1.0", Heartbeat: &event.Heartbeat{
			Issues: []string{"events_lost", hostile}}}},
	}
}

// utc has the printer show UTC, wherever the test runs.
func utc(t *testing.T) {
	zone := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = zone })
}

func table(t *testing.T, color bool) string {
	t.Helper()
	utc(t)
	var out bytes.Buffer
	p := event.NewPrinter(&out, color)
	for i, e := range shown() {
		e.Time = time.Date(2026, 11, 23, 10, 0, i, i*1_000_000, time.UTC)
		if err := p.Print(&e); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-golden +got), -update accepts it:\n%s", file, diff)
	}
}

func TestPrinter(t *testing.T) {
	golden(t, "testdata/printer.golden", table(t, false))
}

var ansi = regexp.MustCompile(`\x1b\[[0-9;]*m`)

func TestPrinterShowsEveryKind(t *testing.T) {
	seen := map[event.Kind]bool{}
	for _, e := range shown() {
		seen[e.Kind] = true
	}
	for _, kind := range event.Kinds() {
		if !seen[kind] {
			t.Errorf("no %v is shown", kind)
		}
	}
}

// Of what fills a group something is shown, and nothing that could do harm.
func TestWhatOfEveryGroup(t *testing.T) {
	for _, kind := range event.Kinds() {
		for _, group := range eventtest.Groups() {
			var e event.Event
			eventtest.Full(&e)
			eventtest.KeepGroup(&e, group)
			e.Kind, e.Result = kind, 0
			if what := event.What(&e); what == "" || what != event.Escape(what) {
				t.Errorf("%v with %s is shown as %q", kind, group, what)
			}
		}
	}
}

// Colour changes nothing but the colour, and what is coloured ends in the kind's column.
func TestPrinterColor(t *testing.T) {
	plain, colored := strings.Split(table(t, false), "\n"), strings.Split(table(t, true), "\n")
	if diff := cmp.Diff(plain, strings.Split(ansi.ReplaceAllString(strings.Join(colored, "\n"), ""), "\n")); diff != "" {
		t.Errorf("(-plain +coloured without its colours):\n%s", diff)
	}
	colors := map[string]string{}
	for i, line := range colored[1 : len(colored)-1] {
		codes := ansi.FindAllString(line, -1)
		if len(codes) != 2 || codes[1] != "\x1b[0m" || !strings.HasPrefix(line, codes[0]) {
			t.Errorf("%q: want one colour, from the line's beginning to the kind's end", line)
			continue
		}
		colors[shown()[i].Kind.String()+" "+strings.Fields(plain[i+1])[0]] = codes[0]
	}
	if ansi.MatchString(colored[0]) {
		t.Errorf("the heading is coloured: %q", colored[0])
	}
	for line, want := range map[string]string{
		"agent.loss 10:00:25.025":   "\x1b[1;31m", // loss
		"memory.map 10:00:47.047":   "\x1b[1m",
		"kind(0) 10:00:28.028":      "\x1b[2m",
		"file.open 10:00:11.011":    "\x1b[33m", // a failure, whatever the kind
		"process.exec 10:00:02.002": "\x1b[32m",
	} {
		if colors[line] != want {
			t.Errorf("%s has colour %q, want %q", line, colors[line], want)
		}
	}
}

// No event can steer a terminal, add a line or reach into another column.
func TestPrinterIsSafe(t *testing.T) {
	lines := strings.Split(strings.TrimSuffix(table(t, false), "\n"), "\n")
	if len(lines) != 1+len(shown()) {
		t.Errorf("%d lines, want a heading and %d events", len(lines), len(shown()))
	}
	for _, line := range lines {
		for _, r := range line {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e' || r == '\u200b' {
				t.Errorf("%q shows %U", line, r)
			}
		}
		if !utf8.ValidString(line) || utf8.RuneCountInString(line) > 12+19+24+22+200+4*2 {
			t.Errorf("%q is no UTF-8, or too long", line)
		}
	}
}

// Law: what is escaped is printable, and what is printable is left as it is.
func FuzzEscape(f *testing.F) {
	f.Add(hostile)
	f.Add(`"quoted" \ back`)
	f.Add("\"\xff\\\"")
	f.Fuzz(func(t *testing.T, s string) {
		got := event.Escape(s)
		if again := event.Escape(got); again != got {
			t.Errorf("%q is escaped again: %q", got, again)
		}
		if strings.ContainsAny(got, "\x00\n\r\t\x1b\u009b\u202e") || !utf8.ValidString(got) {
			t.Errorf("%q is escaped to %q", s, got)
		}
		if len(got) < len(s) {
			t.Errorf("%q lost something: %q", s, got)
		}
	})
}

func TestEscape(t *testing.T) {
	for s, want := range map[string]string{
		"":                   "",
		"plain é 日本 🙂 \"q\"": "plain é 日本 🙂 \"q\"",
		`back\slash`:         `back\slash`,
		"\x1b[31m":           `\x1b[31m`,
		"say \"a\nb\"":       `say "a\nb"`,
		"\xff\x80":           `\xff\x80`,
		"\ufffd":             "\ufffd",
		"\u202egnp.exe":      `\u202egnp.exe`,
		"a\u00a0b":           `a\u00a0b`,
	} {
		if got := event.Escape(s); got != want {
			t.Errorf("%q is shown as %s, want %s", s, got, want)
		}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errBroken }

var errBroken = errors.New("broken pipe")

func TestPrinterTellsOfAWriteThatFails(t *testing.T) {
	if err := event.NewPrinter(brokenPipe{}, false).Print(&event.Event{}); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

// A line is one write, so that lines of several writers do not mix.
func TestPrinterWritesWholeLines(t *testing.T) {
	var writes []string
	p := event.NewPrinter(writer(func(b []byte) { writes = append(writes, string(b)) }), true)
	for range 3 {
		if err := p.Print(&event.Event{Kind: event.ProcessExec}); err != nil {
			t.Fatal(err)
		}
	}
	if len(writes) != 3 || strings.Count(writes[0], "\n") != 2 || strings.Count(writes[1], "\n") != 1 {
		t.Errorf("%d writes: %q", len(writes), writes)
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}
