package audit

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/elastic/go-libaudit/v2/auparse"

	"github.com/taskguard/taskguard/collector/event"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// logLine splits a line of auditd's log into what a source reads from its socket.
func logLine(t testing.TB, line string) (auparse.AuditMessageType, []byte) {
	t.Helper()
	name, payload, ok := strings.Cut(strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "type="), " msg=")
	typ, err := auparse.GetAuditMessageType(name)
	if !ok || err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
	return typ, []byte(payload)
}

// jsonSink writes what it gets as lines.
type jsonSink struct {
	t   testing.TB
	out bytes.Buffer
}

func (s *jsonSink) Emit(e *event.Event) {
	line, err := json.Marshal(struct {
		PPID uint32 `json:"ppid"`
		*event.Event
	}{e.Process.PPID, e})
	if err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintf(&s.out, "%s\n", line)
}

func (s *jsonSink) Lost(kind event.Kind, stage, cause string, n uint64) {
	fmt.Fprintf(&s.out, "lost %d of %d at %s/%s\n", n, kind, stage, cause)
}

// replayLog feeds a log through a reader, as fast as it can.
func replayLog(t testing.TB, log string) string {
	t.Helper()
	sink := &jsonSink{t: t}
	r := newReader(Config{}.withDefaults(), tableOf(Kinds()), sink, time.Time{})
	for line := range strings.Lines(log) {
		typ, payload := logLine(t, line)
		r.take(time.Unix(1, 0), typ, payload)
	}
	r.flush()
	return sink.out.String()
}

func TestDecodeGolden(t *testing.T) {
	logs, err := filepath.Glob("testdata/*.log")
	if err != nil || len(logs) == 0 {
		t.Fatalf("no logs: %v", err)
	}
	for _, log := range logs {
		t.Run(filepath.Base(log), func(t *testing.T) {
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			got := replayLog(t, string(text))
			golden := strings.TrimSuffix(log, ".log") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
			for i := range max(len(gotLines), len(wantLines)) {
				if i >= len(gotLines) || i >= len(wantLines) || gotLines[i] != wantLines[i] {
					t.Fatalf("line %d of %s differs (run with -update to accept):\n%s", i+1, golden, gotLines[min(i, len(gotLines)-1)])
				}
			}
		})
	}
}

// Numbers of system calls, by architecture, that the tests below use.
const (
	amd64 = "arch=c000003e syscall="
	i386  = "arch=40000003 syscall="
	arm64 = "arch=c00000b7 syscall="
)

// who ends every SYSCALL record of the tests.
const who = ` ppid=1 pid=7 uid=1 gid=2 euid=3 egid=4 comm="c" exe="/bin/c" subj=x (enforce) key="k"`

// decodeRecords decodes one event, given as "TYPE body" lines.
func decodeRecords(t testing.TB, lines ...string) (*event.Event, event.Kind, verdict) {
	t.Helper()
	g := &group{stamp: stamp{milli: 1_700_000_000_123, serial: 1}}
	for _, line := range lines {
		name, body, _ := strings.Cut(line, " ")
		typ, err := auparse.GetAuditMessageType(name)
		if err != nil {
			t.Fatal(err)
		}
		g.add(typ, []byte(body))
		g.syscall = g.syscall || typ == auparse.AUDIT_SYSCALL
	}
	return newDecoder(tableOf(Kinds()), 99).decode(g)
}

func TestDecodeProcess(t *testing.T) {
	e, _, v := decodeRecords(t, "SYSCALL "+amd64+"231 a0=1ff a1=0"+who)
	if v != decoded {
		t.Fatal(v)
	}
	want := event.Process{PID: 7, PPID: 1, Name: "c", Exe: "/bin/c", UID: 1, GID: 2, EUID: 3, EGID: 4,
		Exit: event.Exit{Ended: true, Code: 255}}
	got, err1 := json.Marshal(e.Process)
	text, err2 := json.Marshal(want)
	if string(got) != string(text) || e.Process.PPID != 1 || err1 != nil || err2 != nil {
		t.Errorf("process is %s, want %s", got, text)
	}
	if !e.Time.Equal(time.UnixMilli(1_700_000_000_123)) {
		t.Errorf("time is %v", e.Time)
	}
}

// What is not ours, not for writing, or no attempt at anything, is no event and no loss; what lacks an essential
// record is a loss.
func TestDecodeVerdict(t *testing.T) {
	const connect, openat, openat2 = amd64 + "42", amd64 + "257", amd64 + "437"
	const yes, no = " success=yes exit=0", " success=no exit=-14"
	for _, c := range []struct {
		name    string
		records []string
		kind    event.Kind
		want    verdict
	}{
		{"another call", []string{"SYSCALL " + amd64 + "0" + yes + who}, 0, ignored},
		{"another architecture", []string{"SYSCALL arch=80000016 syscall=59" + yes + who}, 0, ignored},
		{"our own", []string{"SYSCALL " + amd64 + "59" + yes + " pid=99"}, 0, ignored},
		{"no arguments of socketcall", []string{"SYSCALL " + i386 + "102 a0=3" + yes + who}, 0, incomplete},
		{"another socketcall", []string{"SYSCALL " + i386 + "102 a0=9" + yes + who}, 0, ignored},
		{"another bpf", []string{"SYSCALL " + amd64 + "321 a0=d" + yes + who}, event.BPFLoad, ignored},
		{"mmap of data", []string{"SYSCALL " + amd64 + "9 a2=3" + yes + who}, event.MemoryMap, ignored},
		{"unshare of files", []string{"SYSCALL " + amd64 + "272 a0=400" + yes + who}, event.ProcessNamespace, ignored},
		{"clone with a signal", []string{"SYSCALL " + amd64 + "56 a0=80" + yes + who}, event.ProcessNamespace, ignored},
		{"socket of the host", []string{"SYSCALL " + amd64 + "41 a0=100000001" + yes + who}, event.NetSocket, ignored},
		{"nobody to accept", []string{"SYSCALL " + amd64 + "288 success=no exit=-11" + who}, event.NetAccept, ignored},
		{"send on a connection", []string{"SYSCALL " + amd64 + "44" + yes + who}, event.NetSend, ignored},
		{"send to a path", []string{"SYSCALL " + amd64 + "44" + yes + who, "SOCKADDR saddr=01002F"},
			event.NetSend, ignored},
		{"no SYSCALL of mmap", []string{"MMAP fd=3 flags=0x2"}, event.MemoryMap, incomplete},
		{"no SYSCALL of a module", []string{`KERN_MODULE name="x"`}, event.ModuleLoad, incomplete},
		{"no SYSCALL of a program", []string{"BPF prog-id=3 op=LOAD"}, event.BPFLoad, incomplete},
		{"died in a call", []string{"SYSCALL " + connect + who}, event.NetConnect, incomplete},
		{"connect nowhere", []string{"SYSCALL " + connect + no + who}, event.NetConnect, ignored},
		{"connect without address", []string{"SYSCALL " + connect + yes + who}, event.NetConnect, incomplete},
		{"connect netlink", []string{"SYSCALL " + connect + yes + who, "SOCKADDR saddr=100000000000000000000000"},
			event.NetConnect, ignored},
		{"short address", []string{"SYSCALL " + connect + yes + who, "SOCKADDR saddr=0200"}, event.NetConnect, incomplete},
		{"open for reading", []string{"SYSCALL " + openat + yes + " a2=80000" + who}, event.FileOpen, ignored},
		{"open of null", []string{"SYSCALL " + openat + yes + " a2=1" + who,
			`PATH item=0 name="/dev/null" inode=4 dev=00:05 mode=020666 rdev=01:03 nametype=NORMAL`}, event.FileOpen, ignored},
		{"openat2 of an old kernel", []string{"SYSCALL " + openat2 + yes + who}, event.FileOpen, incomplete},
		{"openat2 for reading", []string{"SYSCALL " + openat2 + yes + who, "OPENAT2 oflag=02000000 mode=00 resolve=0x0"},
			event.FileOpen, ignored},
		{"no SYSCALL", []string{`CWD cwd="/"`}, 0, incomplete},
		{"no SYSCALL of exec", []string{`EXECVE argc=1 a0="x"`}, event.ProcessExec, incomplete},
		{"no SYSCALL of a socket", []string{"SOCKADDR saddr=01002F"}, 0, incomplete},
		{"no SYSCALL of openat2", []string{"OPENAT2 oflag=01 mode=00 resolve=0x0"}, event.FileOpen, incomplete},
	} {
		if e, kind, v := decodeRecords(t, c.records...); v != c.want || kind != c.kind || e != nil {
			t.Errorf("%s: verdict %d of kind %v, want %d of %v", c.name, v, kind, c.want, c.kind)
		}
	}
}

func TestDecodeExec(t *testing.T) {
	const call = "SYSCALL " + amd64 + "59 success=yes exit=0 ppid=1 pid=7 uid=0 gid=0 euid=0 egid=0"
	for _, c := range []struct {
		name    string
		records []string
		want    event.Process
	}{
		{"arguments in pieces", []string{call + ` comm="x" exe="/x"`,
			`EXECVE argc=4 a0="x" a1_len=6 a1[0]=612062`, `EXECVE a1[1]="cd" a2=""`, `EXECVE a3=00FF`, `CWD cwd="/"`},
			event.Process{Name: "x", Exe: "/x", Args: "x\x00a bcd\x00\x00\x00\xff\x00", Cwd: "/"}},
		{"a piece is missing", []string{call + ` comm="x" exe="/x"`,
			`EXECVE argc=2 a0="x" a1_len=6 a1[0]="ab"`, `EXECVE a1[2]="ef"`, `CWD cwd="/"`},
			event.Process{Name: "x", Exe: "/x", Args: "x\x00ab\x00", Cwd: "/", Truncated: event.FieldArgs}},
		{"an argument is missing", []string{call + ` comm="x" exe="/x"`, `EXECVE argc=2 a0="x"`, `CWD cwd="/"`},
			event.Process{Name: "x", Exe: "/x", Args: "x\x00", Cwd: "/", Truncated: event.FieldArgs}},
		{"a record twice", []string{call + ` comm="x" exe="/x"`, `EXECVE argc=2 a0="x" a1="y"`,
			`EXECVE argc=2 a0="x" a1="y"`, `CWD cwd="/"`},
			event.Process{Name: "x", Exe: "/x", Args: "x\x00y\x00", Cwd: "/"}},
		{"only SYSCALL", []string{call + ` comm="x" exe="<too_long>"`},
			event.Process{Name: "x", Truncated: event.FieldArgs | event.FieldCwd | event.FieldExe}},
		{"hexadecimal names", []string{call + ` comm=612062 exe=2F612062`, `EXECVE argc=1 a0="x"`, `CWD cwd=2F20`},
			event.Process{Name: "a b", Exe: "/a b", Args: "x\x00", Cwd: "/ "}},
		{"no name any more", []string{call + ` comm="x" exe=2F6D656D66643A78202864656C6574656429`,
			`EXECVE argc=1 a0="x"`, `CWD cwd="/"`},
			event.Process{Name: "x", Exe: "/memfd:x", ExeDeleted: true, Args: "x\x00", Cwd: "/"}},
		{"a name that looks deleted", []string{call + ` comm="x" exe=2F78202864656C6574656429`,
			`EXECVE argc=1 a0="x"`, `CWD cwd="/"`, `PATH item=0 name=78202864656C6574656429 nametype=NORMAL`},
			event.Process{Name: "x", Exe: "/x (deleted)", Args: "x\x00", Cwd: "/"}},
		{"script with an option", []string{call + ` comm="s" exe="/usr/bin/dash"`,
			`EXECVE argc=4 a0="/bin/sh" a1="-e" a2="./s" a3="y"`, `CWD cwd="/d"`,
			`PATH item=0 name="./s" nametype=NORMAL`, `PATH item=1 name="/bin/sh" nametype=NORMAL`,
			`PATH item=2 name="/lib/ld.so" nametype=NORMAL`},
			event.Process{Name: "s", Exe: "/usr/bin/dash", Args: "/bin/sh\x00-e\x00./s\x00y\x00", Cwd: "/d", Script: "/d/s"}},
		{"interpreter with a script as argument", []string{call + ` comm="sh" exe="/usr/bin/dash"`,
			`EXECVE argc=2 a0="sh" a1="./s"`, `CWD cwd="/d"`,
			`PATH item=0 name="/bin/sh" nametype=NORMAL`, `PATH item=1 name="/lib/ld.so" nametype=NORMAL`},
			event.Process{Name: "sh", Exe: "/usr/bin/dash", Args: "sh\x00./s\x00", Cwd: "/d"}},
		{"a program that poses as a script", []string{call + ` comm="x" exe="/x"`,
			`EXECVE argc=2 a0="/lib/ld.so" a1="/x"`, `CWD cwd="/d"`,
			`PATH item=0 name="/x" nametype=NORMAL`, `PATH item=1 name="/lib/ld.so" nametype=NORMAL`},
			event.Process{Name: "x", Exe: "/x", Args: "/lib/ld.so\x00/x\x00", Cwd: "/d"}},
	} {
		e, _, v := decodeRecords(t, c.records...)
		if v != decoded {
			t.Errorf("%s: verdict %d", c.name, v)
			continue
		}
		c.want.PID = 7
		got, err1 := json.Marshal(e.Process)
		want, err2 := json.Marshal(c.want)
		if !bytes.Equal(got, want) || err1 != nil || err2 != nil {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, want)
		}
	}
}

func TestDecodeOpen(t *testing.T) {
	const found = ` inode=5 dev=fe:01 mode=0100644 rdev=00:00 nametype=NORMAL`
	file := event.File{Device: 0xfe<<20 | 1, Inode: 5, Flags: 1}
	with := func(path string, cut event.Fields) event.File {
		f := file
		f.Path, f.Truncated = path, cut
		return f
	}
	flags := func(path string, flags event.OpenFlags) event.File {
		f := with(path, 0)
		f.Flags = flags
		return f
	}
	const ok = " success=yes exit=3"
	for _, c := range []struct {
		name    string
		records []string
		want    event.File
	}{
		{"absolute", []string{"SYSCALL " + amd64 + "257" + ok + " a0=9 a2=1", `CWD cwd="/d"`,
			`PATH item=0 name="/a//b/./c"` + found}, with("/a/b/c", 0)},
		{"from the working directory", []string{"SYSCALL " + amd64 + "257" + ok + " a0=ffffff9c a2=1", `CWD cwd="/d/e"`,
			`PATH item=0 name="../f"` + found}, with("/d/f", 0)},
		{"as 64 bits", []string{"SYSCALL " + amd64 + "257" + ok + " a0=ffffffffffffff9c a2=1", `CWD cwd="/d"`,
			`PATH item=0 name="f"` + found}, with("/d/f", 0)},
		{"links stay", []string{"SYSCALL " + amd64 + "2" + ok + " a1=1", `CWD cwd="/d"`,
			`PATH item=0 name="link/../f"` + found}, with("/d/link/../f", 0)},
		{"from a descriptor", []string{"SYSCALL " + amd64 + "257" + ok + " a0=9 a2=1", `CWD cwd="/d"`,
			`PATH item=0 name="/d" inode=1 dev=fe:01 mode=040755 rdev=00:00 nametype=PARENT`, `PATH item=1 name="f"` + found},
			with("f", event.FieldPath)},
		{"lost working directory", []string{"SYSCALL " + amd64 + "2" + ok + " a1=1", `PATH item=0 name="f"` + found},
			with("f", event.FieldPath)},
		{"lost path", []string{"SYSCALL " + amd64 + "2" + ok + " a1=1", `CWD cwd="/d"`},
			event.File{Flags: 1, Truncated: event.FieldPath}},
		{"not created from a descriptor", []string{"SYSCALL " + amd64 + "257 success=no exit=-13 a0=9 a2=41", `CWD cwd="/d"`,
			`PATH item=0 name="/d" inode=1 dev=fe:01 mode=040755 rdev=00:00 nametype=PARENT`},
			event.File{Flags: 0x41, Truncated: event.FieldPath}},
		{"lost file", []string{"SYSCALL " + amd64 + "2" + ok + " a1=41", `CWD cwd="/d"`,
			`PATH item=0 name="/d/" inode=1 dev=fe:01 mode=040755 rdev=00:00 nametype=PARENT`},
			event.File{Path: "/d", Flags: 0x41, Truncated: event.FieldPath}},
		{"creat", []string{"SYSCALL " + amd64 + "85" + ok, `CWD cwd="/"`, `PATH item=0 name="f"` + found},
			flags("/f", 0x241)},
		{"truncate", []string{"SYSCALL " + amd64 + "76" + ok, `CWD cwd="/"`, `PATH item=0 name="f"` + found},
			flags("/f", 0x201)},
		{"truncate64 of i386", []string{"SYSCALL " + i386 + "193" + ok, `CWD cwd="/"`, `PATH item=0 name="f"` + found},
			flags("/f", 0x201)},
		{"openat2", []string{"SYSCALL " + amd64 + "437" + ok + " a0=ffffff9c", "OPENAT2 oflag=02000102 mode=00 resolve=0x0",
			`CWD cwd="/"`, `PATH item=0 name="f"` + found}, flags("/f", 0x42)},
		{"flags of arm64", []string{"SYSCALL " + arm64 + "56" + ok + " a0=ffffff9c a2=3c001", `CWD cwd="/"`,
			`PATH item=0 name="f"` + found}, flags("/f", 0x34001)},
		{"O_DIRECT of arm64", []string{"SYSCALL " + arm64 + "56" + ok + " a0=ffffff9c a2=10002", `CWD cwd="/"`,
			`PATH item=0 name="f"` + found}, flags("/f", 0x4002)},
	} {
		c.records[0] += who
		e, _, v := decodeRecords(t, c.records...)
		if v != decoded {
			t.Errorf("%s: verdict %d", c.name, v)
		} else if *e.File != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, *e.File, c.want)
		}
	}
}

func TestDecodeConnectOfI386(t *testing.T) {
	e, _, v := decodeRecords(t, "SYSCALL "+i386+"102 success=no exit=-115 a0=3"+who, "SOCKETCALL nargs=3 a0=3 a1=1 a2=10",
		"SOCKADDR saddr=020000507F000001")
	if v != decoded || e.Result != 115 || e.Net.RemotePort != 80 || e.Net.RemoteIP.String() != "127.0.0.1" {
		t.Errorf("verdict %d: %+v", v, e)
	}
}

// eventJSON decodes one event and returns its JSON form from the kind's own group on.
func eventJSON(t *testing.T, records ...string) string {
	t.Helper()
	records[0] += who
	e, _, v := decodeRecords(t, records...)
	if v != decoded {
		return fmt.Sprintf("verdict %d", v)
	}
	e.Process = nil
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	_, own, _ := strings.Cut(string(text), `"result":`)
	return own
}

// pathOf is a PATH record.
func pathOf(item int, name, nametype string, inode int) string {
	const form = "PATH item=%d name=%s inode=%d dev=fe:01 mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype=%s cap_fp=0"
	return fmt.Sprintf(form, item, kernelText(name), inode, nametype)
}

// The records of a rename, in any order, with as many as a stack of file systems makes, and with some missing.
func TestDecodeRename(t *testing.T) {
	const call = "SYSCALL " + amd64 + "82 success=yes exit=0 a0=1 a1=2 a2=0 a3=0 items="
	const cwd = `CWD cwd="/d"`
	names := []string{pathOf(0, "/d", "PARENT", 1), pathOf(1, "/d", "PARENT", 1), pathOf(2, "a", "DELETE", 5),
		pathOf(3, "b", "DELETE", 6), pathOf(4, "b", "CREATE", 5)}
	const want = `0,"file":{"path":"/d/a","target":"/d/b","device":"254:1","inode":5}`
	if got := eventJSON(t, slices.Concat([]string{call + "5", cwd}, names)...); got != want+"}" {
		t.Errorf("in order: %s", got)
	}
	reversed := slices.Clone(names)
	slices.Reverse(reversed)
	if got := eventJSON(t, slices.Concat([]string{call + "5"}, reversed, []string{cwd})...); got != want+"}" {
		t.Errorf("in reverse: %s", got)
	}
	stacked := slices.Clone(names)
	for i := 5; i < 64; i++ {
		const form = "PATH item=%d name=(null) inode=%d dev=00:2a mode=0100644 rdev=00:00 nametype=%s"
		stacked = append(stacked, fmt.Sprintf(form, i, 100+i, []string{"PARENT", "DELETE", "CREATE", "NORMAL"}[i%4]))
	}
	if got := eventJSON(t, slices.Concat([]string{call + "64", cwd}, stacked)...); got != want+"}" {
		t.Errorf("with 64 paths: %s", got)
	}
	for missing, want := range []string{
		`0,"file":{"path":"/d/a","target":"/d/b","device":"254:1","inode":5,"truncated":["path","target"]}}`,
		`0,"file":{"path":"/d/a","target":"/d/b","device":"254:1","inode":5,"truncated":["path","target"]}}`,
		`0,"file":{"target":"/d/b","device":"254:1","inode":5,"truncated":["path","target"]}}`,
		`0,"file":{"path":"/d/a","target":"/d/b","device":"254:1","inode":5,"truncated":["path","target"]}}`,
		`0,"file":{"path":"/d/a","device":"254:1","inode":5,"truncated":["path","target"]}}`,
	} {
		rest := slices.Delete(slices.Clone(names), missing, missing+1)
		if got := eventJSON(t, slices.Concat([]string{call + "5", cwd}, rest)...); got != want {
			t.Errorf("without item %d: %s", missing, got)
		}
	}
}

// Names are what the process chose, byte by byte.
func TestDecodeHostileNames(t *testing.T) {
	for _, name := range []string{"a\nb", "\x1b[31m", "\xff\xfe", "\"quoted\"", "name=x", "a b",
		strings.Repeat("n", 255), "(null)", "?"} {
		e, _, v := decodeRecords(t, "SYSCALL "+amd64+"87 success=yes exit=0 items=2"+who, `CWD cwd="/"`,
			pathOf(0, "/", "PARENT", 2), pathOf(1, name, "DELETE", 5))
		if v != decoded || e.File.Path != "/"+name || e.File.Truncated != 0 || e.File.Inode != 5 {
			t.Errorf("%q: verdict %d: %+v", name, v, e)
		}
	}
	// A name in the abstract namespace may hold NUL bytes; a record of the kernel's may end with one.
	e, _, v := decodeRecords(t, "SYSCALL "+amd64+"49 success=yes exit=0"+who, "SOCKADDR saddr=010000610062")
	if v != decoded || e.Net.Path != "@a\x00b" {
		t.Errorf("verdict %d: %+v", v, e)
	}
	e, _, v = decodeRecords(t, "SYSCALL "+amd64+"231 a0=0 comm=610A62 exe=2F00612F0A", "EOE ")
	if v != decoded || e.Process.Name != "a\nb" || e.Process.Exe != "/\x00a/\n" {
		t.Errorf("verdict %d: %+v", v, e)
	}
}

// What the kernel tests of this machine cannot make.
func TestDecodeRareRecords(t *testing.T) {
	const ok = " success=yes exit=0"
	for _, c := range []struct {
		name    string
		records []string
		want    string
	}{
		{"module", []string{"SYSCALL " + amd64 + "175" + ok, `KERN_MODULE name="nf_tables"`},
			`0,"module":{"call":"init_module","name":"nf_tables"}}`},
		{"module of a file", []string{"SYSCALL " + amd64 + "313 a0=3 a1=7 a2=4" + ok, `KERN_MODULE name=610A`},
			`0,"module":{"call":"finit_module","name":"a\n","flags":["MODULE_INIT_COMPRESSED_FILE"],"truncated":["path"]}}`},
		{"mount with the old mark", []string{"SYSCALL " + amd64 + "165 a3=c0ed0001 items=1" + ok, `CWD cwd="/"`,
			pathOf(0, "mnt", "NORMAL", 5)},
			`0,"fs":{"call":"mount","target":"/mnt","flags":["MS_RDONLY"],"truncated":["source"]}}`},
		{"move_mount from an empty name, in the order of old kernels", []string{
			"SYSCALL " + amd64 + "429 a0=5 a2=ffffff9c items=2" + ok, `CWD cwd="/"`,
			`PATH item=0 name="" inode=1 dev=00:2a mode=040755 rdev=00:00 nametype=NORMAL`, pathOf(1, "m", "NORMAL", 5)},
			`0,"fs":{"call":"move_mount","target":"/m"}}`},
		{"symlink in no folder", []string{"SYSCALL " + amd64 + "88 success=no exit=-2 items=2", `CWD cwd="/"`,
			`PATH item=0 name="none/l" nametype=UNKNOWN`, `PATH item=1 name="t" nametype=UNKNOWN`},
			`2,"file":{"truncated":["path","target"]}}`},
		{"rename between folders that failed", []string{"SYSCALL " + amd64 + "82 success=no exit=-2 items=2", `CWD cwd="/"`,
			pathOf(0, "a/", "PARENT", 5), pathOf(1, "b/", "PARENT", 6)}, `2,"file":{"truncated":["path","target"]}}`},
		{"ids of 16 bits", []string{"SYSCALL " + i386 + "164 a0=ffff a1=10007 a2=8" + ok},
			`0,"setid":{"call":"setresuid","euid":7,"suid":8}}`},
		{"ids of 32 bits", []string{"SYSCALL " + i386 + "208 a0=ffff a1=ffffffff a2=8" + ok},
			`0,"setid":{"call":"setresuid","uid":65535,"suid":8}}`},
		{"new time namespace", []string{"SYSCALL " + amd64 + "272 a0=80" + ok},
			`0,"namespace":{"call":"unshare","flags":["CLONE_NEWTIME"]}}`},
		{"accept of whoever", []string{"SYSCALL " + amd64 + "43 success=yes exit=4"}, `0,"net":{"family":"AF_UNSPEC"}}`},
		{"mmap2 high up", []string{"SYSCALL " + i386 + "192 success=yes exit=-134725632 a0=0 a1=1000 a2=5 a3=2"},
			`0,"memory":{"address":"0xf7f84000","length":4096,"protection":["PROT_READ","PROT_EXEC"],` +
				`"flags":["MAP_PRIVATE"],"region":"file","truncated":["path"]}}`},
	} {
		if got := eventJSON(t, c.records...); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// Whatever a record holds, decoding neither panics nor exceeds its limits.
func FuzzDecode(f *testing.F) {
	logs, _ := filepath.Glob("testdata/*.log")
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			f.Fatal(err)
		}
		var records []string
		for line := range strings.Lines(string(text)) {
			typ, payload := logLine(f, line)
			_, body, _ := parseHeader(payload)
			records = append(records, fmt.Sprintf("%d %s", typ, body))
			if typ == auparse.AUDIT_EOE {
				f.Add(strings.Join(records, "\n"))
				records = nil
			}
		}
	}
	d := newDecoder(tableOf(Kinds()), 0)
	f.Fuzz(func(t *testing.T, records string) {
		g := &group{}
		for line := range strings.Lines(records) {
			var typ auparse.AuditMessageType
			number, body, _ := strings.Cut(line, " ")
			if _, err := fmt.Sscan(number, &typ); err != nil {
				continue
			}
			g.add(typ, []byte(body))
			g.syscall = g.syscall || typ == auparse.AUDIT_SYSCALL
		}
		e, _, v := d.decode(g)
		if (v == decoded) != (e != nil) {
			t.Fatalf("verdict %d with event %v", v, e)
		}
		if e != nil && (len(e.Process.Args) > maxArgs || len(d.names) > maxInterned) {
			t.Fatalf("kept %d bytes of arguments, %d names", len(e.Process.Args), len(d.names))
		}
		if e != nil {
			if _, err := json.Marshal(e); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What the kernel encodes comes back: in quotes where it may, in hexadecimal where it must.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "plain", "two words", "\"", "\x00\xff", "?", "(null)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		encoded := kernelText(s)
		if encoded == "" {
			return // the kernel quotes the empty string
		}
		body := "x=1 v=" + encoded + " y=2"
		value := fieldOf([]byte(body), "v")
		if got, ok := appendText(nil, value); string(got) != s || !ok {
			t.Errorf("%q was read back from %q as %q", s, encoded, got)
		}
	})
}

// kernelText encodes as audit_log_n_untrustedstring does.
func kernelText(s string) string {
	for _, c := range []byte(s) {
		if c == '"' || c < 0x21 || c > 0x7e {
			return fmt.Sprintf("%X", s)
		}
	}
	return `"` + s + `"`
}

func TestInternerIsBounded(t *testing.T) {
	in := interner{}
	for i := range 3 * maxInterned {
		in.intern(fmt.Append(nil, i))
		if len(in) > maxInterned {
			t.Fatalf("%d strings are kept, want at most %d", len(in), maxInterned)
		}
	}
	in.intern(bytes.Repeat([]byte("x"), 1000))
	for s := range in {
		if len(s) > 256 {
			t.Errorf("a string of %d bytes is kept", len(s))
		}
	}
}

func BenchmarkExec(b *testing.B) {
	text, err := os.ReadFile("testdata/debian-12-linux-6.18.log")
	if err != nil {
		b.Fatal(err)
	}
	var types []auparse.AuditMessageType
	var payloads [][]byte
	for line := range strings.Lines(string(text)) {
		if len(line) > 2000 {
			continue // the long arguments
		}
		typ, payload := logLine(b, line)
		types, payloads = append(types, typ), append(payloads, payload)
	}
	r := newReader(Config{}.withDefaults(), tableOf(Kinds()), nullSink{}, time.Time{})
	now := time.Unix(1, 0)
	b.ReportAllocs()
	for b.Loop() {
		for i, payload := range payloads {
			r.take(now, types[i], payload)
		}
		r.reassembler.serials = serials{}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(payloads)), "ns/record")
}

type nullSink struct{}

func (nullSink) Emit(*event.Event)                       {}
func (nullSink) Lost(event.Kind, string, string, uint64) {}
