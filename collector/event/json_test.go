package event_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
)

// draw makes an event out of fuzzed bytes: each decision takes the next ones.
type draw struct{ rest []byte }

func (d *draw) byte() byte {
	if len(d.rest) == 0 {
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *draw) bool() bool { return d.byte()&1 != 0 }

func (d *draw) uint() uint64 {
	var b [8]byte
	n := copy(b[:d.byte()%9], d.rest)
	d.rest = d.rest[n:]
	return binary.LittleEndian.Uint64(b[:])
}

func (d *draw) id() (id event.ID) {
	for i := range id {
		id[i] = d.byte()
	}
	return id
}

func (d *draw) string() string {
	n := min(int(d.byte()%40), len(d.rest))
	s := strings.ToValidUTF8(string(d.rest[:n]), "é")
	d.rest = d.rest[n:]
	return s
}

// word is a string as C has it.
func (d *draw) word() string { return strings.ReplaceAll(d.string(), "\x00", "") }

// time is one that RFC 3339 has, or none.
func (d *draw) time() time.Time {
	if d.bool() {
		return time.Time{}
	}
	return time.Unix(int64(d.uint()%253402300800), int64(d.uint()%1e9)).UTC()
}

func (d *draw) addr() netip.Addr {
	switch d.byte() % 4 {
	case 1:
		return netip.AddrFrom4([4]byte{d.byte(), d.byte(), d.byte(), d.byte()})
	case 2:
		return netip.AddrFrom16(d.id())
	case 3:
		return netip.AddrFrom16([16]byte{10: 0xff, 0xff, d.byte(), d.byte(), d.byte(), d.byte()})
	}
	return netip.Addr{}
}

func list[T any](d *draw, element func() T) (l []T) {
	for range d.byte() % 4 {
		l = append(l, element())
	}
	return l
}

func (d *draw) env() event.Environ {
	vars := list(d, func() string { return strings.ReplaceAll(d.word(), "=", "") })
	slices.Sort(vars)
	vars = slices.Compact(vars)
	for i := range vars {
		vars[i] += "=" + d.word()
	}
	slices.Sort(vars) // "a" sorts before "a!", "a=" behind it
	return event.Environ(event.NewArgv(vars))
}

func (d *draw) exit() event.Exit {
	if !d.bool() {
		return event.Exit{}
	}
	return event.Exit{Ended: true, Code: d.byte(), Signal: d.byte(), CoreDumped: d.bool()}
}

func (d *draw) ancestor() event.Ancestor {
	return event.Ancestor{ID: d.id(), PID: uint32(d.uint()), Name: d.string(), Exe: d.string()}
}

func (d *draw) process() *event.Process {
	if d.bool() {
		return nil
	}
	return &event.Process{
		ID: d.id(), PID: uint32(d.uint()), NSPID: uint32(d.uint()), Name: d.string(), Exe: d.string(), ExeDeleted: d.bool(),
		Args: event.NewArgv(list(d, d.word)), ArgsLength: uint32(d.uint()), Cwd: d.string(),
		UID: uint32(d.uint()), EUID: uint32(d.uint()), GID: uint32(d.uint()), EGID: uint32(d.uint()),
		StartTime: d.time(), Script: d.string(), Env: d.env(), Truncated: event.Fields(d.byte()), Partial: d.bool(),
		ParentID: d.id(), Ancestors: list(d, d.ancestor), Exit: d.exit(),
	}
}

func (d *draw) container() *event.Container {
	if d.bool() {
		return nil
	}
	c := &event.Container{
		ID: d.string(), Name: d.string(), Image: d.string(), ImageID: d.string(), Runtime: d.string(), Pending: d.bool(),
	}
	if d.bool() {
		c.ECS = &event.ECS{
			Cluster: d.string(), TaskARN: d.string(), TaskID: d.string(), Family: d.string(), Revision: d.string(),
			Container: d.string(),
		}
	}
	return c
}

func (d *draw) host() *event.Host {
	if d.bool() {
		return nil
	}
	return &event.Host{
		InstanceID: d.string(), AccountID: d.string(), Region: d.string(), MachineID: d.string(), Hostname: d.string(),
		BootID: d.id(),
	}
}

func (d *draw) socket() event.Socket {
	return event.Socket{
		Family: event.Family(d.uint()), Type: event.SocketType(d.uint()), Protocol: uint16(d.uint()),
		RemoteIP: d.addr(), RemotePort: uint16(d.uint()), LocalIP: d.addr(), LocalPort: uint16(d.uint()),
	}
}

func (d *draw) dns() *event.DNS {
	return &event.DNS{
		Socket: d.socket(), ID: uint16(d.uint()), Rcode: d.byte(),
		Questions: list(d, func() event.Question { return event.Question{Name: d.string(), Type: d.string()} }),
		Answers: list(d, func() event.Answer {
			return event.Answer{Name: d.string(), Type: d.string(), TTL: uint32(d.uint()), Data: d.string()}
		}),
		Payload: list(d, d.byte), Truncated: event.Fields(d.byte()), Malformed: d.bool(),
	}
}

func (d *draw) agent() *event.Agent {
	return &event.Agent{
		Version: d.string(), Stage: d.string(), Cause: d.string(), Lost: event.Kind(d.byte()), Count: d.uint(),
		From: d.time(), To: d.time(),
		Sources: list(d, func() event.SourceState {
			return event.SourceState{Kind: event.Kind(d.byte()), Via: d.string(), Healthy: d.bool(), Reason: d.string()}
		}),
	}
}

func (d *draw) event() event.Event {
	e := event.Event{
		Kind: event.Kind(d.byte()), Result: int32(d.uint()), Time: d.time(),
		Process: d.process(), Container: d.container(), Host: d.host(),
	}
	switch d.byte() % 5 {
	case 1:
		e.File = &event.File{
			Path: d.string(), Flags: event.OpenFlags(d.uint()), Device: event.Device(d.uint()), Inode: d.uint(),
			Unverified: d.bool(), Truncated: event.Fields(d.byte()),
		}
	case 2:
		e.Net = &event.Net{Socket: d.socket(), Path: d.string(), Unverified: d.bool(), Truncated: event.Fields(d.byte())}
	case 3:
		e.DNS = d.dns()
	case 4:
		e.Agent = d.agent()
	}
	return e
}

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
	for _, kind := range event.Kinds() {
		var seed []byte
		for i := range 200 {
			seed = append(seed, byte(i*int(kind)*37>>2), byte(i))
		}
		f.Add(append([]byte{byte(kind)}, seed...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := draw{rest: data}
		lawJSON(t, d.event())
	})
}

// filled is an event in which every field that the JSON form has differs from its zero value.
func filled(t *testing.T, kind event.Kind) event.Event {
	t.Helper()
	when := time.Date(2026, 11, 23, 1, 2, 3, 4, time.UTC)
	socket := event.Socket{
		Family: event.INET6, Type: event.Stream, Protocol: 6, RemoteIP: netip.MustParseAddr("2001:db8::1"), RemotePort: 53,
		LocalIP: netip.MustParseAddr("10.0.0.1"), LocalPort: 40000,
	}
	e := event.Event{
		Time: when, Kind: kind, Result: 13,
		Process: &event.Process{
			ID: event.ID{1}, PID: 2, NSPID: 3, Name: "n", Exe: "/e", ExeDeleted: true, Args: "a\x00", ArgsLength: 4, Cwd: "/c",
			UID: 5, EUID: 6, GID: 7, EGID: 8, StartTime: when, Script: "/s", Env: "LD_PRELOAD=/x\x00",
			Truncated: event.FieldArgs | event.FieldPayload, Partial: true, ParentID: event.ID{9},
			Ancestors: []event.Ancestor{{ID: event.ID{10}, PID: 11, Name: "p", Exe: "/p"}},
			Exit:      event.Exit{Ended: true, Code: 1, Signal: 2, CoreDumped: true},
		},
		Container: &event.Container{
			ID: "c", Name: "n", Image: "i", ImageID: "ii", Runtime: "docker", Pending: true,
			ECS: &event.ECS{Cluster: "c", TaskARN: "a", TaskID: "t", Family: "f", Revision: "1", Container: "app"},
		},
		Host: &event.Host{
			InstanceID: "i-1", AccountID: "1", Region: "r", MachineID: "m", Hostname: "h", BootID: event.ID{12},
		},
		File: &event.File{
			Path: "/f", Flags: 0o101, Device: 8<<20 | 1, Inode: 9, Unverified: true, Truncated: event.FieldPath,
		},
		Net: &event.Net{Socket: socket, Path: "/run/s", Unverified: true, Truncated: event.FieldPath},
		DNS: &event.DNS{
			Socket: socket, ID: 1, Rcode: 3, Questions: []event.Question{{Name: "q", Type: "A"}},
			Answers: []event.Answer{{Name: "q", Type: "A", TTL: 60, Data: "192.0.2.1"}}, Payload: []byte{0, 1},
			Truncated: event.FieldPayload, Malformed: true,
		},
		Agent: &event.Agent{
			Version: "v", Stage: "kernel", Cause: "ring_full", Lost: event.FileOpen, Count: 7, From: when, To: when.Add(1),
			Sources: []event.SourceState{{Kind: event.ProcessExec, Via: "off", Healthy: true, Reason: "r"}},
		},
	}
	needFilled(t, "event", reflect.ValueOf(e))
	return e
}

// needFilled fails for a field that was added to the type and not to filled.
func needFilled(t *testing.T, name string, v reflect.Value) {
	t.Helper()
	switch {
	case v.IsZero():
		t.Errorf("%s is not filled in", name)
	case v.Type() == reflect.TypeFor[time.Time]() || v.Type() == reflect.TypeFor[netip.Addr]():
	case v.Kind() == reflect.Pointer:
		needFilled(t, name, v.Elem())
	case v.Kind() == reflect.Slice:
		needFilled(t, name, v.Index(v.Len()-1))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.Tag.Get("json") != "-" {
				needFilled(t, name+"."+field.Name, v.Field(i))
			}
		}
	}
}

func TestJSONOfEveryKind(t *testing.T) {
	for _, kind := range event.Kinds() {
		e := filled(t, kind)
		lawJSON(t, e)
		lawJSON(t, event.Event{Kind: kind})
		text, err := json.Marshal(&e)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf(`"kind":%q,"result":13`, kind); !strings.Contains(string(text), want) {
			t.Errorf("%s: want %s in it", text, want)
		}
	}
}

// The names of the JSON form are what users' queries are written in.
func TestJSONNames(t *testing.T) {
	e := filled(t, event.ProcessExec)
	text, err := json.Marshal(&e)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"time":"2026-11-23T01:02:03.000000004Z","kind":"process.exec","result":13,` +
		`"process":{"id":"01000000-0000-0000-0000-000000000000","pid":2,"ns_pid":3,"name":"n","exe":"/e",` +
		`"exe_deleted":true,"args":["a"],"args_length":4,"cwd":"/c","uid":5,"euid":6,"gid":7,"egid":8,` +
		`"start_time":"2026-11-23T01:02:03.000000004Z","script":"/s","env":{"LD_PRELOAD":"/x"},` +
		`"truncated":["args","payload"],"partial":true,"parent_id":"09000000-0000-0000-0000-000000000000",` +
		`"ancestors":[{"id":"0a000000-0000-0000-0000-000000000000","pid":11,"name":"p","exe":"/p"}],` +
		`"exit":{"code":1,"signal":2,"core_dumped":true}},` +
		`"container":{"id":"c","name":"n","image":"i","image_id":"ii","runtime":"docker","ecs":{"cluster":"c",` +
		`"task_arn":"a","task_id":"t","family":"f","revision":"1","container":"app"},"pending":true},` +
		`"host":{"instance_id":"i-1","account_id":"1","region":"r","machine_id":"m","hostname":"h",` +
		`"boot_id":"0c000000-0000-0000-0000-000000000000"},` +
		`"file":{"path":"/f","flags":["O_WRONLY","O_CREAT"],"device":"8:1","inode":9,"unverified":true,` +
		`"truncated":["path"]},` +
		`"net":{"family":"AF_INET6","type":"SOCK_STREAM","protocol":6,"remote_ip":"2001:db8::1","remote_port":53,` +
		`"local_ip":"10.0.0.1","local_port":40000,"path":"/run/s","unverified":true,"truncated":["path"]},` +
		`"dns":{"family":"AF_INET6","type":"SOCK_STREAM","protocol":6,"remote_ip":"2001:db8::1","remote_port":53,` +
		`"local_ip":"10.0.0.1","local_port":40000,"id":1,"rcode":3,"questions":[{"name":"q","type":"A"}],` +
		`"answers":[{"name":"q","type":"A","ttl":60,"data":"192.0.2.1"}],"payload":"AAE=","truncated":["payload"],` +
		`"malformed":true},` +
		`"agent":{"version":"v","stage":"kernel","cause":"ring_full","lost":"file.open","count":7,` +
		`"from":"2026-11-23T01:02:03.000000004Z","to":"2026-11-23T01:02:03.000000005Z",` +
		`"sources":[{"kind":"process.exec","via":"off","healthy":true,"reason":"r"}]}}`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
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
		{&event.File{}, `{"flags":["O_RDONLY"]}`},
		{&event.Net{}, `{"family":"0"}`},
		{&event.DNS{}, `{"family":"0","id":0}`},
		{&event.Agent{}, `{}`},
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
		`{"process":{"truncated":["nothing"]}}`, `{"process":{"truncated":["0x100"]}}`, `{"process":{"truncated":["0xzz"]}}`,
		`{"file":{"flags":["O_NOTHING"]}}`, `{"file":{"flags":["O_CREAT","O_RDWR"]}}`, `{"file":{"flags":"O_RDWR"}}`,
		`{"file":{"flags":["0x100000000"]}}`, `{"file":{"flags":["100"]}}`,
		`{"file":{"device":"8"}}`, `{"file":{"device":"4096:0"}}`, `{"file":{"device":"0:1048576"}}`,
		`{"file":{"device":":"}}`,
		`{"net":{"family":"AF_NOTHING"}}`, `{"net":{"family":"65536"}}`, `{"net":{"family":"-1"}}`,
		`{"net":{"type":"SOCK_"}}`, `{"net":{"remote_ip":"1.2.3"}}`, `{"net":{"remote_port":65536}}`,
		`{"dns":{"payload":"?"}}`, `{"time":"yesterday"}`,
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
