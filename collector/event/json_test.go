package event_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/event/eventtest"
)

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// lawJSON checks that an event comes back from its JSON form, which is one line.
func lawJSON(t *testing.T, e event.Event) {
	t.Helper()
	text, err := json.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.ContainsAny(text, "\n\x1b") {
		t.Errorf("not one plain line: %q", text)
	}
	var back event.Event
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if diff := cmp.Diff(e, back, sameAddr); diff != "" {
		t.Errorf("(-marshalled +unmarshalled) %s:\n%s", text, diff)
	}
}

// Law: Unmarshal(Marshal(e)) == e.
func FuzzJSON(f *testing.F) {
	f.Add([]byte{})
	random := rand.NewChaCha8([32]byte{})
	for range 50 {
		seed := make([]byte, 2000)
		random.Read(seed)
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var e event.Event
		eventtest.Fuzzed(&e, data, true)
		lawJSON(t, e)
	})
}

func TestJSONOfEveryKind(t *testing.T) {
	for _, kind := range event.Kinds() {
		for _, group := range eventtest.Groups() {
			var e event.Event
			eventtest.Full(&e)
			e.Kind = kind
			eventtest.KeepGroup(&e, group)
			lawJSON(t, e)
		}
		lawJSON(t, event.Event{Kind: kind})
		text, err := json.Marshal(&event.Event{Kind: kind, Result: 13})
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`"kind":%q,"result":13`, kind); !strings.Contains(string(text), want) {
			t.Errorf("%s: want %s in it", text, want)
		}
	}
}

// A known number is not an unknown one, also when it is 0.
func TestJSONOfOptional(t *testing.T) {
	for _, n := range []uint32{0, 1, 1<<32 - 1} {
		lawJSON(t, event.Event{SetID: &event.SetID{UID: event.Some(n), FSGID: event.Some(n)}})
	}
	for _, mode := range []event.FileMode{0, 0o755, 0o6755, 1<<16 - 1} {
		lawJSON(t, event.Event{File: &event.File{Mode: event.Some(mode)}})
	}
	for _, address := range []event.Address{0, 1, 0x7fff_0000_1000, 1<<64 - 1} {
		lawJSON(t, event.Event{Memory: &event.Memory{Address: address}})
	}
	text, err := json.Marshal(&event.File{Mode: event.Some[event.FileMode](0o4755), UID: event.Some[uint32](0)})
	if want := `{"mode":"4755","uid":0}`; err != nil || string(text) != want {
		t.Errorf("%s (%v), want %s", text, err, want)
	}
}

// The names of the JSON form are what users' queries are written in: a change here breaks them.
func TestJSONNames(t *testing.T) {
	var e event.Event
	eventtest.Full(&e)
	text, err := json.MarshalIndent(&e, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/names.golden", string(text)+"\n")
}

// What is absent is unknown, and what can be 0 is never absent: root's ids, a success, an exit code.
func TestAbsentMeansUnknown(t *testing.T) {
	for _, test := range []struct {
		of   any
		want string
	}{
		{&event.Event{Kind: event.ProcessFork}, `{"time":"0001-01-01T00:00:00Z","kind":"process.fork","result":0}`},
		{&event.Process{}, `{"pid":0,"uid":0,"euid":0,"gid":0,"egid":0}`},
		{&event.Process{Exit: event.Exit{Ended: true}}, `{"pid":0,"uid":0,"euid":0,"gid":0,"egid":0,"exit":{"code":0}}`},
		{&event.Ancestor{}, `{"pid":0}`},
		{&event.Container{}, `{"id":""}`},
		{&event.Host{BootTime: time.Unix(1, 0)}, `{}`},
		{&event.File{}, `{}`},
		{&event.Net{}, `{"family":"AF_UNSPEC"}`},
		{&event.DNS{}, `{"family":"AF_UNSPEC","id":0}`},
		{&event.Agent{}, `{}`},
		{&event.Heartbeat{}, `{"uptime_seconds":0,"cpu_seconds":0,"memory_bytes":0,"spool_batches":0,"spool_events":0,` +
			`"spool_bytes":0,"spool_max_bytes":0,"observed":0,"acked":0,"lost":0}`},
		{&event.SetID{}, `{"call":""}`},
		{&event.Ptrace{}, `{"request":"PTRACE_TRACEME"}`},
		{&event.Dup{}, `{"call":"","old_fd":0,"new_fd":0,"family":"AF_UNSPEC"}`},
		{&event.Namespace{}, `{"call":""}`},
		{&event.Mount{}, `{"call":""}`},
		{&event.Memory{}, `{}`},
		{&event.Module{}, `{"call":""}`},
		{&event.BPF{}, `{"type":"BPF_PROG_TYPE_UNSPEC"}`},
		{&event.IOUring{}, `{"entries":0}`},
		{&event.Exec{}, `{}`},
		{&event.Stop{}, `{}`},
		{&event.Stop{ExitCode: event.Some[uint32](0)}, `{"exit_code":0}`},
		{&event.Dropped{}, `{"kind":"kind(0)","count":0}`},
		{&event.SourceState{}, `{"kind":"kind(0)","via":"","healthy":false}`},
		{&event.Process{
			Start: 1, Snapshot: 2, PPID: 3, ParentStart: 4, Parent: &event.Process{}, Cgroup: 5,
			Container: &event.Container{},
		}, `{"pid":0,"uid":0,"euid":0,"gid":0,"egid":0}`},
	} {
		got, err := json.Marshal(test.of)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != test.want {
			t.Errorf("%T: %s, want %s", test.of, got, test.want)
		}
	}
}

// null is another way to be absent.
func TestNullIsAbsent(t *testing.T) {
	var got event.Event
	err := json.Unmarshal([]byte(`{"kind":"process.exit","container":null,"file":{"flags":null,"truncated":null},
		"process":{"id":null,"args":null,"env":null,"exit":null,"start_time":null,"truncated":null}}`), &got)
	if err != nil {
		t.Fatal(err)
	}
	want := event.Event{Kind: event.ProcessExit, Process: &event.Process{}, File: &event.File{}}
	if diff := cmp.Diff(want, got, sameAddr); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Bytes that are no UTF-8 are replaced, and all around them stays.
func TestJSONOfBytesThatAreNoText(t *testing.T) {
	e := event.Event{Kind: event.FileOpen, File: &event.File{Path: "/a\xff\xfeb\x00<&>\u2028\x1b[31m"}}
	text, err := json.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	var back event.Event
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if want := "/a\ufffd\ufffdb\x00<&>\u2028\x1b[31m"; back.File.Path != want {
		t.Errorf("path %q, want %q", back.File.Path, want)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	for _, text := range []string{
		`{"kind":"no.kind"}`, `{"kind":""}`, `{"kind":"kind(256)"}`, `{"kind":"kind(-1)"}`, `{"kind":"kind(3)x"}`,
		`{"kind":"kind(4)"}`, `{"kind":"kind(03)"}`, `{"kind":3}`,
		`{"process":{"id":"8d8f401d1be942e6a1334228e7a468b4"}}`, `{"process":{"id":"8d8f401d-1be9-42e6-a133-4228e7a468bx"}}`,
		`{"process":{"id":""}}`, `{"process":{"pid":-1}}`, `{"process":{"pid":4294967296}}`, `{"process":{"uid":"root"}}`,
		`{"process":{"exit":{"code":256}}}`, `{"process":{"args":"a"}}`, `{"process":{"env":["A=b"]}}`,
		`{"process":{"truncated":["nothing"]}}`, `{"process":{"truncated":["0x10000"]}}`,
		`{"process":{"truncated":["0xzz"]}}`,
		`{"file":{"flags":["O_NOTHING"]}}`, `{"file":{"flags":["O_CREAT","O_RDWR"]}}`, `{"file":{"flags":"O_RDWR"}}`,
		`{"file":{"flags":["0x100000000"]}}`, `{"file":{"flags":["100"]}}`,
		`{"file":{"device":"8"}}`, `{"file":{"device":"4096:0"}}`, `{"file":{"device":"0:1048576"}}`,
		`{"file":{"device":":"}}`,
		`{"net":{"family":"AF_NOTHING"}}`, `{"net":{"family":"65536"}}`, `{"net":{"family":"-1"}}`,
		`{"net":{"type":"SOCK_"}}`, `{"net":{"remote_ip":"1.2.3"}}`, `{"net":{"remote_port":65536}}`,
		`{"file":{"mode":"9"}}`, `{"file":{"mode":755}}`, `{"file":{"mode":"200000"}}`, `{"file":{"uid":-1}}`,
		`{"file":{"rename_flags":["RENAME_"]}}`, `{"fs":{"flags":["MNT_DETACH"]}}`, `{"fs":{"umount_flags":["MS_BIND"]}}`,
		`{"memory":{"address":"7fff"}}`, `{"memory":{"address":"0x10000000000000000"}}`, `{"memory":{"address":4096}}`,
		`{"memory":{"protection":["PROT_ALL"]}}`, `{"ptrace":{"request":"PTRACE_"}}`, `{"ptrace":{"request":"4294967296"}}`,
		`{"bpf":{"type":"BPF_PROG_TYPE_"}}`, `{"setid":{"uid":"root"}}`, `{"setid":{"uid":4294967296}}`,
		`{"dup":{"new_fd":2147483648}}`, `{"dns":{"payload":"?"}}`, `{"time":"yesterday"}`,
	} {
		var e event.Event
		if err := json.Unmarshal([]byte(text), &e); err == nil {
			t.Errorf("%s is read as %+v", text, e)
		}
	}
}

func TestArgv(t *testing.T) {
	for _, test := range []struct {
		argv event.Argv
		args []string
		json string
	}{
		{"", nil, `null`},
		{"\x00", []string{""}, `[""]`},
		{"a\x00", []string{"a"}, `["a"]`},
		{"a\x00\x00", []string{"a", ""}, `["a",""]`},
		{"\x00\x00b c\x00", []string{"", "", "b c"}, `["","","b c"]`},
	} {
		if diff := cmp.Diff(test.args, test.argv.Split()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.argv, diff)
		}
		if got := event.NewArgv(test.args); got != test.argv {
			t.Errorf("joined %q, want %q", got, test.argv)
		}
		text, err := json.Marshal(test.argv)
		if err != nil || string(text) != test.json {
			t.Errorf("%q: %s (%v), want %s", test.argv, text, err, test.json)
		}
	}
	// Cut in the middle of an argument.
	if diff := cmp.Diff([]string{"a", "b"}, event.Argv("a\x00b").Split()); diff != "" {
		t.Errorf("cut (-want +got):\n%s", diff)
	}
	if got := event.NewArgv([]string{"a\x00b"}); got != "a\x00b\x00" {
		t.Errorf("an argument with a NUL byte is %q, want two arguments", got)
	}
	if got := event.NewArgv([]string{}); got != "" {
		t.Errorf("no arguments are %q", got)
	}
}

func TestEnviron(t *testing.T) {
	for _, test := range []struct {
		env  event.Environ
		json string
		back event.Environ
	}{
		{"", `{}`, ""},
		{"LD_PRELOAD=/a\x00LD_LIBRARY_PATH=/b\x00", `{"LD_LIBRARY_PATH":"/b","LD_PRELOAD":"/a"}`,
			"LD_LIBRARY_PATH=/b\x00LD_PRELOAD=/a\x00"},
		{"A=1\x00A=2\x00", `{"A":"1"}`, "A=1\x00"},
		{"A==b=\x00", `{"A":"=b="}`, "A==b=\x00"},
		{"A=\x00", `{"A":""}`, "A=\x00"},
		{"A\x00", `{"A":""}`, "A=\x00"},
		{"A=cut", `{"A":"cut"}`, "A=cut\x00"},
	} {
		text, err := json.Marshal(test.env)
		if err != nil || string(text) != test.json {
			t.Errorf("%q: %s (%v), want %s", test.env, text, err, test.json)
		}
		var back event.Environ
		if err := json.Unmarshal(text, &back); err != nil || back != test.back {
			t.Errorf("%s: %q (%v), want %q", text, back, err, test.back)
		}
	}
}

// Law: a wait status comes back, from the shell's point of view and from the kernel's.
func TestExitStatus(t *testing.T) {
	for _, test := range []struct {
		status uint32
		want   event.Exit
		json   string
	}{
		{0, event.Exit{Ended: true}, `{"code":0}`},
		{42 << 8, event.Exit{Ended: true, Code: 42}, `{"code":42}`},
		{255 << 8, event.Exit{Ended: true, Code: 255}, `{"code":255}`},
		{15, event.Exit{Ended: true, Signal: 15}, `{"code":0,"signal":15}`},
		{0x80 | 11, event.Exit{Ended: true, Signal: 11, CoreDumped: true}, `{"code":0,"signal":11,"core_dumped":true}`},
		{64, event.Exit{Ended: true, Signal: 64}, `{"code":0,"signal":64}`},
	} {
		got := event.ExitFromStatus(test.status)
		if got != test.want {
			t.Errorf("status %#x: %+v, want %+v", test.status, got, test.want)
		}
		if text, err := json.Marshal(got); err != nil || string(text) != test.json {
			t.Errorf("status %#x: %s (%v), want %s", test.status, text, err, test.json)
		}
	}
	for status := range uint32(1 << 16) {
		if got := event.ExitFromStatus(status).Status(); got != status {
			t.Fatalf("status %#x comes back as %#x", status, got)
		}
	}
	if !(event.Exit{Code: 3}).IsZero() || event.ExitFromStatus(0).IsZero() {
		t.Error("a process that ended with 0 is not one that has not ended")
	}
}

// Unmarshalling into an event that held another one leaves nothing behind but what JSON leaves alone.
func TestUnmarshalReplaces(t *testing.T) {
	env, args := event.Environ("A=b\x00"), event.Argv("a\x00")
	flags, truncated := event.OpenFlags(0o101), event.FieldArgs
	for _, v := range []any{&env, &args} {
		if err := json.Unmarshal([]byte(`null`), v); err != nil {
			t.Error(err)
		}
	}
	for _, v := range []any{&flags, &truncated} {
		if err := json.Unmarshal([]byte(`[]`), v); err != nil {
			t.Error(err)
		}
	}
	if env != "" || args != "" || flags != 0 || truncated != 0 {
		t.Errorf("left behind: %q %q %v %v", env, args, flags.Names(), truncated)
	}
}
