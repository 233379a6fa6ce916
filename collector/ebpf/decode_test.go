package ebpf

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
)

var update = flag.Bool("update", false, "write the golden files")

func testDecoder() *decoder {
	return &decoder{
		wall:   func(boot uint64) time.Time { return time.Unix(0, int64(boot)).UTC() },
		cgroup: func(uint64, string) {},
	}
}

// decodeAll returns copies of a record's events.
func decodeAll(t testing.TB, d *decoder, record []byte) []event.Event {
	t.Helper()
	var events []event.Event
	if err := d.decode(record, func(e *event.Event) { events = append(events, clone(e)) }); err != nil {
		t.Fatal(err)
	}
	return events
}

// golden is an event with what its JSON form leaves out.
type golden struct {
	Start       uint64      `json:"start,omitempty"`
	PPID        uint32      `json:"ppid,omitempty"`
	ParentStart uint64      `json:"parent_start,omitempty"`
	Cgroup      uint64      `json:"cgroup,omitempty"`
	Event       event.Event `json:"event"`
}

// Real kernels' records, recorded by TestRecord with -record.
func TestDecodeGolden(t *testing.T) {
	corpora, err := filepath.Glob("testdata/*linux-*.jsonl")
	if err != nil || len(corpora) == 0 {
		t.Fatalf("no corpus in testdata: %v", err)
	}
	for _, corpus := range corpora {
		t.Run(filepath.Base(corpus), func(t *testing.T) {
			d := testDecoder()
			var got bytes.Buffer
			lines := json.NewEncoder(&got)
			for _, record := range records(t, corpus) {
				for _, e := range decodeAll(t, d, record) {
					g := golden{Event: e}
					if p := e.Process; p != nil {
						g.Start, g.PPID, g.ParentStart, g.Cgroup = p.Start, p.PPID, p.ParentStart, p.Cgroup
					}
					if err := lines.Encode(g); err != nil {
						t.Fatal(err)
					}
				}
			}
			file := strings.TrimSuffix(corpus, ".jsonl") + ".golden"
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// records reads a corpus.
func records(t testing.TB, file string) (list [][]byte) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r struct {
			Record []byte `json:"record"`
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		list = append(list, r.Record)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

// encode makes a record of a struct and the sections behind it.
func encode[T any](r T, sections ...string) []byte {
	b := bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r)))
	return append(b, strings.Join(sections, "")...)
}

func header(kind commonKind, flags commonRecordFlag) (h commonHeader) {
	h.Kind, h.Flags, h.Task.Pid = uint16(kind), uint16(flags), 7
	return h
}

// components and chars describe the sections that are paths and strings.
func components(s string, flags commonTextFlag) commonText {
	return commonText{Len: uint16(len(s)), Flags: uint16(flags | commonTextFlagTEXT_PATH), Total: 99}
}

func chars(s string, flags commonTextFlag) commonText {
	return commonText{Len: uint16(len(s)), Flags: uint16(flags)}
}

// execTexts says how the texts of an exec are cut.
type execTexts struct{ exe, cwd, script commonTextFlag }

func execRecord(flags commonRecordFlag, cut execTexts, args, env, exe, cwd, script string) []byte {
	return encode(commonExecRecord{
		Header: header(commonKindPROCESS_EXEC, flags), ArgsTotal: 99, ArgsLen: uint32(len(args)), EnvLen: uint32(len(env)),
		Exe: components(exe, cut.exe), Cwd: components(cwd, cut.cwd), Script: chars(script, cut.script),
	}, args, env, exe, cwd, script)
}

const isCut = commonTextFlagTEXT_CUT

func TestDecodeExec(t *testing.T) {
	for _, test := range []struct {
		name   string
		record []byte
		want   event.Process
	}{
		{"path", execRecord(0, execTexts{}, "a\x00b c\x00", "LD_PRELOAD=x\x00", "true\x00bin\x00usr\x00", "tmp\x00", ""),
			event.Process{Args: "a\x00b c\x00", Env: "LD_PRELOAD=x\x00", Exe: "/usr/bin/true", Cwd: "/tmp"}},
		{"root", execRecord(0, execTexts{}, "", "", "init\x00", "", ""), event.Process{Exe: "/init", Cwd: "/"}},
		{"memfd", execRecord(commonRecordFlagFLAG_DELETED, execTexts{}, "", "", "memfd:x\x00", "", ""),
			event.Process{Exe: "/memfd:x", ExeDeleted: true, Cwd: "/"}},
		{"cut", execRecord(commonRecordFlagFLAG_ARGS_CUT|commonRecordFlagFLAG_ENV_CUT,
			execTexts{exe: isCut, cwd: isCut}, "ab", "", "c\x00b\x00", "", ""), event.Process{
			Args: "ab", ArgsLength: 99, Exe: "b/c", ExeLength: 99, CwdLength: 99,
			Truncated: event.FieldExe | event.FieldCwd | event.FieldArgs | event.FieldEnv,
		}},
		{"script", execRecord(0, execTexts{}, "", "", "sh\x00", "tmp\x00", "/opt/x.sh"),
			event.Process{Exe: "/sh", Cwd: "/tmp", Script: "/opt/x.sh"}},
		{"relative script", execRecord(0, execTexts{}, "", "", "sh\x00", "b\x00a\x00", "./x.sh"),
			event.Process{Exe: "/sh", Cwd: "/a/b", Script: "/a/b/x.sh"}},
		{"relative script in the root", execRecord(0, execTexts{}, "", "", "sh\x00", "", "x.sh"),
			event.Process{Exe: "/sh", Cwd: "/", Script: "/x.sh"}},
		{"relative script, directory cut", execRecord(0, execTexts{cwd: isCut}, "", "", "sh\x00", "b\x00", "x.sh"),
			event.Process{Exe: "/sh", Cwd: "b", CwdLength: 99, Script: "b/x.sh", Truncated: event.FieldCwd | event.FieldScript}},
		{"cut script", execRecord(0, execTexts{script: isCut}, "", "", "sh\x00", "", "/x"),
			event.Process{Exe: "/sh", Cwd: "/", Script: "/x", Truncated: event.FieldScript}},
		{"script by its descriptor", execRecord(0, execTexts{}, "", "", "sh\x00", "b\x00", "/dev/fd/3"),
			event.Process{Exe: "/sh", Cwd: "/b", Script: "/dev/fd/3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.want.PID = 7
			events := decodeAll(t, testDecoder(), test.record)
			if diff := cmp.Diff(&test.want, events[0].Process); len(events) != 1 || diff != "" {
				t.Errorf("process (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeConnect(t *testing.T) {
	record := func(family uint16, ip string, path string, flags commonRecordFlag) []byte {
		r := commonNetRecord{
			Header: header(commonKindNET_CONNECT, flags), Path: chars(path, 0),
			Socket: commonSocketInfo{Family: family, Type: 1, Protocol: 6, RemotePort: 443},
		}
		if ip != "" {
			copy(r.Socket.Remote[:], netip.MustParseAddr(ip).AsSlice())
		}
		return encode(r, path)
	}
	tcp := func(family event.Family, ip string) event.Net {
		return event.Net{Socket: event.Socket{
			Family: family, Type: 1, Protocol: 6, RemotePort: 443, RemoteIP: netip.MustParseAddr(ip),
		}}
	}
	local := func(path string, unverified bool) event.Net {
		return event.Net{Socket: event.Socket{Family: event.Unix, Type: 1, Protocol: 6, RemotePort: 443}, Path: path,
			Unverified: unverified}
	}
	for name, test := range map[string]struct {
		record []byte
		want   event.Net
	}{
		"v4":            {record(2, "192.0.2.1", "", 0), tcp(event.INET, "192.0.2.1")},
		"v6":            {record(10, "2001:db8::1", "", 0), tcp(event.INET6, "2001:db8::1")},
		"v4-mapped":     {record(10, "::ffff:192.0.2.1", "", 0), tcp(event.INET6, "192.0.2.1")},
		"path":          {record(1, "", "/run/x\x00rest", 0), local("/run/x", false)},
		"abstract":      {record(1, "", "\x00x\x00y", 0), local("@x\x00y", false)},
		"unnamed":       {record(1, "", "", commonRecordFlagFLAG_UNVERIFIED), local("", true)},
		"nameless name": {record(1, "", "\x00", 0), local("@", false)},
	} {
		t.Run(name, func(t *testing.T) {
			events := decodeAll(t, testDecoder(), test.record)
			if diff := cmp.Diff(&test.want, events[0].Net, compareAddresses); len(events) != 1 || diff != "" {
				t.Errorf("net (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeOpen(t *testing.T) {
	record := func(text commonText, path string) []byte {
		return encode(commonFileRecord{
			Header: header(commonKindFILE_OPEN, 0), File: commonFileId{Inode: 5, Device: 8<<20 | 1}, Path: text,
		}, path)
	}
	for name, test := range map[string]struct {
		record []byte
		want   event.File
	}{
		"path": {record(components("b\x00a\x00", 0), "b\x00a\x00"), event.File{Path: "/a/b"}},
		"cut": {record(components("b\x00a\x00", isCut), "b\x00a\x00"),
			event.File{Path: "a/b", PathLength: 99, Truncated: event.FieldPath}},
		"pipe":       {record(components("\x00", 0), "\x00"), event.File{}},
		"unverified": {record(chars("../x", commonTextFlagTEXT_UNVERIFIED), "../x"), event.File{Path: "../x", Unverified: true}},
	} {
		t.Run(name, func(t *testing.T) {
			test.want.Inode, test.want.Device = 5, 8<<20|1
			events := decodeAll(t, testDecoder(), test.record)
			if diff := cmp.Diff(&test.want, events[0].File); len(events) != 1 || diff != "" {
				t.Errorf("file (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeChange(t *testing.T) {
	const at = commonTextFlagTEXT_AT
	record := func(kind commonKind, errno int32, r commonFileRecord, path, target string) []byte {
		r.Header = header(kind, 0)
		r.Header.Result = errno
		return encode(r, path+target)
	}
	relative, absolute := "x/y\x00b\x00a\x00", "/y\x00b\x00a\x00"
	inRoot := "y\x00"
	for name, test := range map[string]struct {
		record []byte
		want   event.File
	}{
		"rename": {record(commonKindFILE_RENAME, 0, commonFileRecord{
			File: commonFileId{Inode: 5, Device: 6}, RenameFlags: 2,
			Path: components("b\x00a\x00", 0), Target: components("c\x00a\x00", 0),
		}, "b\x00a\x00", "c\x00a\x00"), event.File{Path: "/a/b", Target: "/a/c", Inode: 5, Device: 6, RenameFlags: 2}},
		"relative": {record(commonKindFILE_UNLINK, 0, commonFileRecord{Path: chars(relative, at), Directory: 1}, relative, ""),
			event.File{Path: "/a/b/x/y", Unverified: true, Directory: true}},
		"other root": {record(commonKindFILE_UNLINK, 0, commonFileRecord{Path: chars(absolute, at)}, absolute, ""),
			event.File{Path: "/a/b/y", Unverified: true}},
		"in the root": {record(commonKindFILE_UNLINK, 0, commonFileRecord{Path: chars(inRoot, at)}, inRoot, ""),
			event.File{Path: "/y", Unverified: true}},
		"under way": {record(commonKindFILE_UNLINK, 115, commonFileRecord{Path: chars(relative, at)}, relative, ""),
			event.File{Path: "/a/b/x/y", Unverified: true}},
		"failed": {record(commonKindFILE_UNLINK, 2, commonFileRecord{Path: chars(relative, at)}, relative, ""),
			event.File{Path: "x/y"}},
		"failed, unverified": {record(commonKindFILE_LINK, 2, commonFileRecord{
			Path: chars("x", 0), Target: chars(relative, at|commonTextFlagTEXT_UNVERIFIED),
		}, "x", relative), event.File{Path: "x", Target: "x/y", Unverified: true}},
		"chmod": {record(commonKindFILE_CHMOD, 0, commonFileRecord{Mode: 0o104755, Path: chars("x", 0)}, "x", ""),
			event.File{Path: "x", Mode: event.Some[event.FileMode](0o4755)}},
		"chown": {record(commonKindFILE_CHOWN, 0, commonFileRecord{Uid: ^uint32(0), Path: chars("x", 0)}, "x", ""),
			event.File{Path: "x", GID: event.Some[uint32](0)}},
	} {
		t.Run(name, func(t *testing.T) {
			events := decodeAll(t, testDecoder(), test.record)
			if diff := cmp.Diff(&test.want, events[0].File); len(events) != 1 || diff != "" {
				t.Errorf("file (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeMemory(t *testing.T) {
	record := func(kind commonKind, flags commonRecordFlag, region uint32, text commonText, path string) []byte {
		return encode(commonMemoryRecord{
			Header: header(kind, flags), Address: 0x1000, Length: 2, Region: region, Flags: 1, Path: text,
		}, path)
	}
	memfd := "memfd:memfd:x"
	for name, test := range map[string]struct {
		record []byte
		want   event.Memory
	}{
		"file": {record(commonKindMEMORY_MAP, commonRecordFlagFLAG_UPPER, uint32(commonRegionREGION_FILE),
			components("b\x00a\x00", isCut), "b\x00a\x00"),
			event.Memory{Region: "file", Path: "a/b", PathLength: 99, Truncated: event.FieldPath, UpperLayer: true,
				Flags: event.MapFlags(1)}},
		"by descriptor": {record(commonKindMEMORY_MAP, commonRecordFlagFLAG_UNVERIFIED, uint32(commonRegionREGION_UNKNOWN),
			components("b\x00a\x00", 0), "b\x00a\x00"), event.Memory{Path: "/a/b", Unverified: true, Flags: event.MapFlags(1)}},
		"memfd": {record(commonKindMEMORY_MEMFD, 0, 0, chars(memfd, 0), memfd),
			event.Memory{Name: "memfd:x", MemfdFlags: event.MemfdFlags(1)}},
		"memfd that was not made": {record(commonKindMEMORY_MEMFD, 0, 0, chars(memfd, commonTextFlagTEXT_UNVERIFIED), memfd),
			event.Memory{Name: memfd, Unverified: true, MemfdFlags: event.MemfdFlags(1)}},
	} {
		t.Run(name, func(t *testing.T) {
			test.want.Address, test.want.Length = 0x1000, 2
			events := decodeAll(t, testDecoder(), test.record)
			if diff := cmp.Diff(&test.want, events[0].Memory); len(events) != 1 || diff != "" {
				t.Errorf("memory (-want +got):\n%s", diff)
			}
		})
	}
}

// arm64 numbers four flags in its own way; events have one.
func TestOpenFlagsOfArm64(t *testing.T) {
	for _, test := range []struct {
		arm64 uint32
		names string
	}{
		{0o1 | 0o100 | 0o1000, "O_WRONLY O_CREAT O_TRUNC"},
		{0o40000, "O_RDONLY O_DIRECTORY"},
		{0o2 | 0o100000, "O_RDWR O_NOFOLLOW"},
		{0o200000, "O_RDONLY O_DIRECT"},
		{0o400000, "O_RDONLY O_LARGEFILE"},
		{0o2 | 0o20040000, "O_RDWR O_DIRECTORY O_TMPFILE"},
	} {
		if got := strings.Join(openFlags(test.arm64, "arm64").Names(), " "); got != test.names {
			t.Errorf("%#o: %s, want %s", test.arm64, got, test.names)
		}
		if got := openFlags(test.arm64, "amd64"); uint32(got) != test.arm64 {
			t.Errorf("%#o became %#o on amd64", test.arm64, uint32(got))
		}
	}
}

func TestDecodeCgroup(t *testing.T) {
	d := testDecoder()
	var id uint64
	var path string
	d.cgroup = func(i uint64, p string) { id, path = i, p }
	r := commonCgroupRecord{Header: header(commonKindCGROUP_MKDIR, 0), Path: chars("/a/b", 0)}
	r.Header.Task.Cgroup = 42
	if events := decodeAll(t, d, encode(r, "/a/b", "x")); len(events) != 0 || id != 42 || path != "/a/b" {
		t.Errorf("%d events, cgroup %d %q", len(events), id, path)
	}
}

// What no program makes is an error that says what is wrong, and no event.
func TestDecodeMalformed(t *testing.T) {
	short := execRecord(0, execTexts{}, "", "", "x\x00", "", "")
	for want, record := range map[string][]byte{
		"decode record: 3 bytes":                      {1, 2, 3},
		"unknown kind 99":                             encode(commonForkRecord{Header: header(99, 0)}),
		"decode process.exec record: sections exceed": short[:len(short)-1],
		"decode process.fork record":                  encode(header(commonKindPROCESS_FORK, 0)),
		"decode file.open record: sections exceed": encode(
			commonFileRecord{Header: header(commonKindFILE_OPEN, 0), Path: commonText{Len: 3}}, "x"),
		"decode net.connect record: path of 3 bytes in 0": encode(
			commonNetRecord{Header: header(commonKindNET_CONNECT, 0), Path: commonText{Len: 3}}),
		"decode dns record: payload of 3 bytes in 2": encode(
			commonDnsRecord{Header: header(commonKindDNS_QUERY, 0), PayloadLen: 3}, "xx"),
		"decode process.setid record: unknown call 8": encode(
			commonSetidRecord{Header: commonHeader{Kind: uint16(commonKindPROCESS_SETID), Call: 8}}),
		"decode process.namespace record: unknown call 3": encode(
			commonNamespaceRecord{Header: commonHeader{Kind: uint16(commonKindPROCESS_NAMESPACE), Call: 3}}),
		"decode memory.map record: path of 3 bytes in 0": encode(
			commonMemoryRecord{Header: header(commonKindMEMORY_MAP, 0), Path: commonText{Len: 3}}),
		"decode memory.protect record: unknown region 5": encode(
			commonMemoryRecord{Header: header(commonKindMEMORY_PROTECT, 0), Region: 5}),
		"decode memory.vm_read record: 96 bytes": encode(header(commonKindMEMORY_VM_READ, 0)),
		"decode cgroup record: path of 3 bytes in 0": encode(
			commonCgroupRecord{Header: header(commonKindCGROUP_MKDIR, 0), Path: commonText{Len: 3}}),
	} {
		err := testDecoder().decode(record, func(e *event.Event) { t.Errorf("%s: emitted %s", want, e.Kind) })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

// A process that has its host's pid in its own namespace is in the host's.
func TestDecodeProcessOfEvent(t *testing.T) {
	r := commonExitRecord{Header: header(commonKindPROCESS_EXIT, 0), Status: 0x8b}
	r.Header.Task.NsPid = 7
	e := decodeAll(t, testDecoder(), encode(r))[0]
	want := event.Process{PID: 7, Exit: event.Exit{Ended: true, Signal: 11, CoreDumped: true}}
	if diff := cmp.Diff(&want, e.Process); diff != "" {
		t.Errorf("process (-want +got):\n%s", diff)
	}
	r.Header.Task.Pid = 0
	if e := decodeAll(t, testDecoder(), encode(r))[0]; e.Process != nil {
		t.Errorf("process %+v of pid 0", e.Process)
	}
}

// What an event tells must not change when the record's memory is used again, but for the payload, which is on loan.
func TestDecodeKeepsNothing(t *testing.T) {
	for _, record := range corpus(t) {
		d := testDecoder()
		mine := bytes.Clone(record)
		got := decodeAll(t, d, mine)
		clear(mine)
		if diff := cmp.Diff(decodeAll(t, testDecoder(), record), got, compareAddresses); diff != "" {
			t.Errorf("events changed (-want +got):\n%s", diff)
		}
	}
}

func corpus(t testing.TB) (list [][]byte) {
	t.Helper()
	files, err := filepath.Glob("testdata/*linux-*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus in testdata: %v", err)
	}
	for _, file := range files {
		list = append(list, records(t, file)...)
	}
	return list
}

// Law: no panic; either an error or events, and none holds more than the record did.
func FuzzDecode(f *testing.F) {
	for _, record := range corpus(f) {
		f.Add(record)
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		d := testDecoder()
		emitted := 0
		err := d.decode(record, func(e *event.Event) {
			emitted++
			if size := sizeOf(e); size > 4*len(record)+64 { // a relative script has its directory put before it
				t.Errorf("%d bytes of text in a record of %d", size, len(record))
			}
			if _, err := json.Marshal(e); err != nil && !strings.Contains(err.Error(), "year outside of range") {
				t.Errorf("marshal: %v", err)
			}
		})
		if err != nil && emitted > 0 {
			t.Errorf("%d events and an error: %v", emitted, err)
		}
		if emitted > 1+len(record)/(2+dnsHeader) {
			t.Errorf("%d events from %d bytes", emitted, len(record))
		}
	})
}

// sizeOf is how much of a record an event can hold.
func sizeOf(e *event.Event) (n int) {
	if p := e.Process; p != nil {
		n += len(p.Name) + len(p.Args) + len(p.Env) + len(p.Exe) + len(p.Cwd) + len(p.Script)
	}
	if e.File != nil {
		n += len(e.File.Path)
	}
	if e.Net != nil {
		n += len(e.Net.Path)
	}
	if e.DNS != nil {
		n += len(e.DNS.Payload)
	}
	if e.FS != nil {
		n += len(e.FS.Source) + len(e.FS.Target) + len(e.FS.Type)
	}
	if e.Module != nil {
		n += len(e.Module.Path) + len(e.Module.Name)
	}
	if e.BPF != nil {
		n += len(e.BPF.Name)
	}
	return n
}

func TestInternerIsBounded(t *testing.T) {
	var in interner
	var b [8]byte
	for i := range uint64(3 * maxInterned) {
		binary.LittleEndian.PutUint64(b[:], i)
		if in.get(b[:]) != string(b[:]) {
			t.Fatalf("%d came back as another string", i)
		}
		if len(in.strings) > maxInterned {
			t.Fatalf("%d strings", len(in.strings))
		}
	}
	in.get(bytes.Repeat([]byte("x"), maxInternedLen+1))
	if _, kept := in.strings[strings.Repeat("x", maxInternedLen+1)]; kept {
		t.Error("a long string was kept")
	}
}

// typical returns a record of each kind, of a length that is common.
func typical(t testing.TB) map[event.Kind][]byte {
	t.Helper()
	byKind := map[event.Kind][]byte{}
	for _, record := range corpus(t) {
		if len(record) < 2048 {
			byKind[event.Kind(kindOf(record))] = record
		}
	}
	return byKind
}

// In the steady state a record costs no allocation.
func TestDecodeAllocatesNothing(t *testing.T) {
	byKind := typical(t)
	s := Source{decoder: *testDecoder()}
	var sink nullSink
	for _, kind := range []event.Kind{event.ProcessExec, event.ProcessFork, event.ProcessExit, event.NetConnect,
		event.FileOpen, event.DNSQuery, event.DNSResponse} {
		record := byKind[kind]
		if record == nil {
			t.Errorf("no record of %s", kind)
			continue
		}
		if n := testing.AllocsPerRun(100, func() { s.handle(record, sink) }); n != 0 {
			t.Errorf("%s: %v allocations", kind, n)
		}
	}
}

type nullSink struct{}

func (nullSink) Emit(*event.Event)                       {}
func (nullSink) Lost(event.Kind, string, string, uint64) {}

func BenchmarkDecode(b *testing.B) {
	byKind := typical(b)
	for _, kind := range event.Kinds() {
		if record := byKind[kind]; record != nil {
			b.Run(kind.String(), func(b *testing.B) {
				s := Source{decoder: *testDecoder()}
				b.ReportAllocs()
				b.SetBytes(int64(len(record)))
				for b.Loop() {
					s.handle(record, nullSink{})
				}
			})
		}
	}
}
