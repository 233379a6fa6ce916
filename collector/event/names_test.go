package event_test

import (
	"encoding"
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
)

func TestKinds(t *testing.T) {
	kinds := event.Kinds()
	if len(kinds) != event.KindCount-1 {
		t.Fatalf("%d kinds, want %d", len(kinds), event.KindCount-1)
	}
	form := regexp.MustCompile(`^(process|file|fs|memory|module|bpf|iouring|net|dns|container|agent)\.[a-z_]+$`)
	seen := map[string]bool{}
	for i, kind := range kinds {
		if int(kind) != i+1 {
			t.Errorf("kind %d at place %d", kind, i)
		}
		name := kind.String()
		if !form.MatchString(name) || seen[name] {
			t.Errorf("kind %d is called %q", kind, name)
		}
		seen[name] = true
		if back, err := event.ParseKind(name); err != nil || back != kind {
			t.Errorf("%q is parsed as %v (%v)", name, back, err)
		}
	}
	for _, name := range []string{"", "kind(0)", "kind(42)", "Process.Exec", "process.exec ", "process"} {
		if k, err := event.ParseKind(name); err == nil {
			t.Errorf("%q is parsed as %v", name, k)
		}
	}
	_, err := event.ParseKind("process.dance")
	if err == nil || !strings.Contains(err.Error(), `"process.dance"`) || !strings.Contains(err.Error(), "process.exec") {
		t.Errorf("error %v: want what is wrong, and what is allowed", err)
	}
}

// The kinds' numbers are the wire format's. The contract is read as text, so that neither side follows the other.
func TestKindsAreTheContracts(t *testing.T) {
	proto, err := os.ReadFile("../../sender/batch/batch.proto")
	if err != nil {
		t.Fatal(err)
	}
	_, enum, ok := strings.Cut(string(proto), "enum Kind {")
	enum, _, closed := strings.Cut(enum, "}")
	if !ok || !closed {
		t.Fatal("batch.proto has no enum Kind")
	}
	want := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\s*([A-Z_]+) = (\d+);`).FindAllStringSubmatch(enum, -1) {
		want[m[2]] = m[1]
	}
	got := map[string]string{"0": "KIND_UNSPECIFIED"}
	for _, kind := range event.Kinds() {
		got[strconv.Itoa(int(kind))] = strings.ToUpper(strings.Replace(kind.String(), ".", "_", 1))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-batch.proto +kinds):\n%s", diff)
	}
}

type text interface {
	encoding.TextUnmarshaler
	String() string
}

// Law: a number comes back from its text, with a name or without one.
func TestTextOfEveryNumber(t *testing.T) {
	law := func(v, back text) {
		t.Helper()
		if err := back.UnmarshalText([]byte(v.String())); err != nil || back.String() != v.String() {
			t.Fatalf("%q comes back as %q (%v)", v, back, err)
		}
	}
	for n := range 1 << 16 {
		family, socketType, mode := event.Family(n), event.SocketType(n), event.FileMode(n)
		var f event.Family
		var s event.SocketType
		var m event.FileMode
		law(&family, &f)
		law(&socketType, &s)
		law(&mode, &m)
		if f != family || s != socketType || m != mode {
			t.Fatalf("%d comes back as %d, %d and %d", n, f, s, m)
		}
		lawSet(t, event.Fields(n))
	}
	for n := range 1 << 8 {
		kind := event.Kind(n)
		var k event.Kind
		law(&kind, &k)
		if k != kind {
			t.Fatalf("kind %d comes back as %d", n, k)
		}
	}
	for n := range 32 {
		for _, device := range []event.Device{1 << n, 1<<n - 1} {
			var d event.Device
			law(&device, &d)
			if d != device {
				t.Fatalf("device %d comes back as %d", device, d)
			}
		}
	}
	for _, n := range []uint32{0, 1, 2, 3, 1 << 2, 1 << 5, 1 << 23, 1 << 31, 1<<32 - 1, 0x12345678} {
		lawSet(t, event.OpenFlags(n))
		lawSet(t, event.RenameFlags(n))
		lawSet(t, event.MountFlags(n))
		lawSet(t, event.UmountFlags(n))
		lawSet(t, event.NamespaceFlags(n))
		lawSet(t, event.Protection(n))
		lawSet(t, event.MapFlags(n))
		lawSet(t, event.MemfdFlags(n))
		lawSet(t, event.UserfaultfdFlags(n))
		lawSet(t, event.ModuleFlags(n))
		lawSet(t, event.IOUringFlags(n))
		request, program := event.PtraceRequest(n), event.ProgramType(n)
		law(&request, new(event.PtraceRequest))
		law(&program, new(event.ProgramType))
	}
}

// lawSet checks that a set of bits comes back from its JSON form, and each bit from its own.
func lawSet[T ~uint16 | ~uint32](t *testing.T, set T) {
	t.Helper()
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	var back T
	if err := json.Unmarshal(text, &back); err != nil || back != set {
		t.Errorf("%T %s comes back as %#x (%v), want %#x", set, text, uint32(back), err, uint32(set))
	}
}

func TestNames(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{event.Kind(0).String(), "kind(0)"},
		{event.Kind(event.KindCount).String(), "kind(42)"},
		{event.Kind(255).String(), "kind(255)"},
		{event.Unix.String(), "AF_UNIX"},
		{event.INET.String(), "AF_INET"},
		{event.INET6.String(), "AF_INET6"},
		{event.Family(16).String(), "AF_NETLINK"},
		{event.Packet.String(), "AF_PACKET"},
		{event.Family(46).String(), "46"},
		{event.Stream.String(), "SOCK_STREAM"},
		{event.Datagram.String(), "SOCK_DGRAM"},
		{event.SocketType(3).String(), "SOCK_RAW"},
		{event.SocketType(5).String(), "SOCK_SEQPACKET"},
		{event.SocketType(10).String(), "SOCK_PACKET"},
		{event.SocketType(7).String(), "7"},
		{event.PtraceRequest(0).String(), "PTRACE_TRACEME"},
		{event.PtraceRequest(16).String(), "PTRACE_ATTACH"},
		{event.PtraceRequest(0x4206).String(), "PTRACE_SEIZE"},
		{event.PtraceRequest(1<<32 - 1).String(), "4294967295"},
		{event.ProgramType(2).String(), "BPF_PROG_TYPE_KPROBE"},
		{event.ProgramType(29).String(), "BPF_PROG_TYPE_LSM"},
		{event.ProgramType(33).String(), "33"},
		{event.FileMode(0).String(), "0000"},
		{event.FileMode(0o4755).String(), "4755"},
		{event.Address(0).String(), "0x0"},
		{event.Address(1<<64 - 1).String(), "0xffffffffffffffff"},
		{event.Device(0).String(), "0:0"},
		{event.Device(253<<20 | 1).String(), "253:1"},
		{event.Device(1<<32 - 1).String(), "4095:1048575"},
	} {
		if test.got != test.want {
			t.Errorf("%q, want %q", test.got, test.want)
		}
	}
}

// The values are those of x86-64 (octal, as in include/uapi/asm-generic/fcntl.h).
func TestOpenFlagNames(t *testing.T) {
	for flags, want := range map[event.OpenFlags]string{
		0:                "O_RDONLY",
		1:                "O_WRONLY",
		2:                "O_RDWR",
		3:                "O_ACCMODE",
		0o1101:           "O_WRONLY O_CREAT O_TRUNC",
		0o2000302:        "O_RDWR O_CREAT O_EXCL O_CLOEXEC",
		0o2001:           "O_WRONLY O_APPEND",
		0o4010001:        "O_WRONLY O_DSYNC O_SYNC", // O_SYNC
		0o20200002:       "O_RDWR O_DIRECTORY O_TMPFILE",
		0o10400000:       "O_RDONLY O_NOFOLLOW O_PATH",
		0o1164400:        "O_RDONLY O_NOCTTY O_NONBLOCK FASYNC O_DIRECT O_LARGEFILE O_NOATIME",
		1<<31 | 1<<5 | 1: "O_WRONLY 0x20 0x80000000",
	} {
		if got := strings.Join(flags.Names(), " "); got != want {
			t.Errorf("%#o: %s, want %s", uint32(flags), got, want)
		}
	}
}

// Each name stands at the place of its bit: the values here are written as the kernel's headers have them.
func TestFlagNames(t *testing.T) {
	for _, test := range []struct {
		flags interface{ Names() []string }
		want  string
	}{
		{event.RenameFlags(1<<0 | 1<<1 | 1<<2), "RENAME_NOREPLACE RENAME_EXCHANGE RENAME_WHITEOUT"},
		{event.MountFlags(1 | 32 | 256 | 1024), "MS_RDONLY MS_REMOUNT MS_NOSYMFOLLOW MS_NOATIME"},
		{event.MountFlags(4096 | 8192 | 16384), "MS_BIND MS_MOVE MS_REC"},
		{event.MountFlags(1<<17 | 1<<18 | 1<<21 | 1<<25), "MS_UNBINDABLE MS_PRIVATE MS_RELATIME MS_LAZYTIME"},
		{event.UmountFlags(1 | 2 | 4 | 8), "MNT_FORCE MNT_DETACH MNT_EXPIRE UMOUNT_NOFOLLOW"},
		{event.NamespaceFlags(0x80 | 0x20000), "CLONE_NEWTIME CLONE_NEWNS"},
		{event.NamespaceFlags(0x02000000 | 0x10000000 | 0x40000000), "CLONE_NEWCGROUP CLONE_NEWUSER CLONE_NEWNET"},
		{event.Protection(0x1 | 0x2 | 0x4), "PROT_READ PROT_WRITE PROT_EXEC"},
		{event.Protection(0x01000000 | 0x02000000), "PROT_GROWSDOWN PROT_GROWSUP"},
		{event.MapFlags(0x02 | 0x10 | 0x20), "MAP_PRIVATE MAP_FIXED MAP_ANONYMOUS"},
		{event.MapFlags(0x1000 | 0x040000 | 0x100000), "MAP_EXECUTABLE MAP_HUGETLB MAP_FIXED_NOREPLACE"},
		{event.MemfdFlags(1 | 2 | 8 | 16), "MFD_CLOEXEC MFD_ALLOW_SEALING MFD_NOEXEC_SEAL MFD_EXEC"},
		{event.UserfaultfdFlags(1 | 0o4000 | 0o2000000), "UFFD_USER_MODE_ONLY O_NONBLOCK O_CLOEXEC"},
		{event.ModuleFlags(1 | 4), "MODULE_INIT_IGNORE_MODVERSIONS MODULE_INIT_COMPRESSED_FILE"},
		{event.IOUringFlags(1<<1 | 1<<6 | 1<<12), "IORING_SETUP_SQPOLL IORING_SETUP_R_DISABLED IORING_SETUP_SINGLE_ISSUER"},
	} {
		if got := strings.Join(test.flags.Names(), " "); got != test.want {
			t.Errorf("%T %#x: %s, want %s", test.flags, test.flags, got, test.want)
		}
	}
}

func TestFieldNames(t *testing.T) {
	for fields, want := range map[event.Fields]string{
		0:                                    `[]`,
		event.FieldArgs:                      `["args"]`,
		event.FieldCwd | event.FieldEnv:      `["cwd","env"]`,
		event.FieldExe | event.FieldScript:   `["exe","script"]`,
		event.FieldPath | event.FieldPayload: `["path","payload"]`,
		event.FieldTarget | event.FieldName:  `["target","name"]`,
		1<<15 | event.FieldSource:            `["source","0x8000"]`,
	} {
		if got, err := json.Marshal(fields); err != nil || string(got) != want {
			t.Errorf("%#x: %s (%v), want %s", uint16(fields), got, err, want)
		}
	}
}
