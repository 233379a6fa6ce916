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
	form := regexp.MustCompile(`^(process|file|net|dns|agent)\.[a-z]+$`)
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
	for _, name := range []string{"", "kind(0)", "kind(11)", "Process.Exec", "process.exec ", "process"} {
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
		family, socketType := event.Family(n), event.SocketType(n)
		var f event.Family
		var s event.SocketType
		law(&family, &f)
		law(&socketType, &s)
		if f != family || s != socketType {
			t.Fatalf("%d comes back as %d and %d", n, f, s)
		}
	}
	for n := range 1 << 8 {
		kind, fields := event.Kind(n), event.Fields(n)
		var k event.Kind
		law(&kind, &k)
		if k != kind {
			t.Fatalf("kind %d comes back as %d", n, k)
		}
		text, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		var back event.Fields
		if err := json.Unmarshal(text, &back); err != nil || back != fields {
			t.Fatalf("fields %s come back as %d (%v), want %d", text, back, err, n)
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
		flags := event.OpenFlags(n)
		text, err := json.Marshal(flags)
		if err != nil {
			t.Fatal(err)
		}
		var back event.OpenFlags
		if err := json.Unmarshal(text, &back); err != nil || back != flags {
			t.Errorf("flags %s come back as %#x (%v), want %#x", text, uint32(back), err, n)
		}
	}
}

func TestNames(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{event.Kind(0).String(), "kind(0)"},
		{event.Kind(event.KindCount).String(), "kind(11)"},
		{event.Kind(255).String(), "kind(255)"},
		{event.Unix.String(), "AF_UNIX"},
		{event.INET.String(), "AF_INET"},
		{event.INET6.String(), "AF_INET6"},
		{event.Family(16).String(), "16"},
		{event.Stream.String(), "SOCK_STREAM"},
		{event.Datagram.String(), "SOCK_DGRAM"},
		{event.SocketType(3).String(), "SOCK_RAW"},
		{event.SocketType(5).String(), "SOCK_SEQPACKET"},
		{event.SocketType(10).String(), "10"},
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

func TestFieldNames(t *testing.T) {
	for fields, want := range map[event.Fields]string{
		0:                                    `[]`,
		event.FieldArgs:                      `["args"]`,
		event.FieldCwd | event.FieldEnv:      `["cwd","env"]`,
		event.FieldExe | event.FieldScript:   `["exe","script"]`,
		event.FieldPath | event.FieldPayload: `["path","payload"]`,
		1<<7 | event.FieldArgs:               `["args","0x80"]`,
	} {
		if got, err := json.Marshal(fields); err != nil || string(got) != want {
			t.Errorf("%#x: %s (%v), want %s", uint8(fields), got, err, want)
		}
	}
}
