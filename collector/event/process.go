package event

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
	"time"
)

// MaxAncestors is how many ancestors an event names at most, parent first.
const MaxAncestors = 16

// Process is a process as it was at one moment between two changes of its image or credentials (a snapshot).
type Process struct {
	// ID is the process's stable id, see ProcessID. Inside the agent it may be zero: whoever decodes a batch
	// derives it from the boot id, PID and Start.
	ID    ID     `json:"id,omitzero"`
	PID   uint32 `json:"pid"`
	NSPID uint32 `json:"ns_pid,omitempty"` // pid in the process's own pid namespace, when that is not the host's
	Name  string `json:"name,omitempty"`   // comm: 15 bytes at most
	Exe   string `json:"exe,omitempty"`    // absolute path in the process's mount namespace
	// ExeDeleted says that the executable had no name any more when it was run (unlinked, or a memfd).
	ExeDeleted bool `json:"exe_deleted,omitempty"`
	// ExeUpperLayer says that the executable is in the upper layer of an overlay: it is not from the container's image.
	ExeUpperLayer bool   `json:"exe_upper_layer,omitempty"`
	ExeLength     uint32 `json:"exe_length,omitempty"` // bytes, when Exe was cut and its length is known
	// ExeDevice and ExeInode identify the executable, as File's do. Digest is of it.
	ExeDevice Device `json:"exe_device,omitempty"`
	ExeInode  uint64 `json:"exe_inode,omitempty"`
	Digest
	Args       Argv   `json:"args,omitzero"`
	ArgsLength uint32 `json:"args_length,omitempty"` // bytes, when Args was cut
	ArgsMasked bool   `json:"args_masked,omitempty"` // secrets in Args were replaced by "***"
	Cwd        string `json:"cwd,omitempty"`         // at exec, or at bootstrap
	CwdLength  uint32 `json:"cwd_length,omitempty"`  // bytes, when Cwd was cut and its length is known
	UID        uint32 `json:"uid"`
	User       string `json:"user,omitempty"` // what UID and GID are called where the process runs
	Group      string `json:"group,omitempty"`
	EUID       uint32 `json:"euid"`
	GID        uint32 `json:"gid"`
	EGID       uint32 `json:"egid"`
	// StartTime is Start on the wall clock.
	StartTime time.Time `json:"start_time,omitzero"`
	Script    string    `json:"script,omitempty"` // the script the executable interprets ("#!")
	Env       Environ   `json:"env,omitzero"`     // LD_PRELOAD and LD_LIBRARY_PATH only
	// Truncated names the fields above that were cut: "args", "cwd", "env", "exe", "script".
	Truncated Fields `json:"truncated,omitempty"`
	// Partial says that the kernel did not report this process's creation to the agent: its facts were read
	// from /proc, or inherited from its parent.
	Partial   bool       `json:"partial,omitempty"`
	ParentID  ID         `json:"parent_id,omitzero"`
	Ancestors []Ancestor `json:"ancestors,omitempty"` // parent first, at most MaxAncestors
	Exit      Exit       `json:"exit,omitzero"`       // process.exit only

	// Start is nanoseconds between boot and the start of the process (CLOCK_BOOTTIME); 0 is unknown.
	Start uint64 `json:"-"`
	// Snapshot identifies this snapshot in one run of the agent; no two share it. 0 is none.
	Snapshot uint64 `json:"-"`
	// ExeVersion is what Digest is of.
	ExeVersion FileVersion `json:"-"`
	// PPID and ParentStart name the parent as the kernel reported it; the process table turns them into Parent.
	PPID        uint32 `json:"-"`
	ParentStart uint64 `json:"-"`
	// Parent is the parent as it was when this process was created.
	Parent *Process `json:"-"`
	// Cgroup is the id of the process's cgroup in the hierarchy that containers are told apart by; 0 is unknown.
	Cgroup uint64 `json:"-"`
	// Container is where the process runs, nil for the host. It is immutable.
	Container *Container `json:"-"`
}

// Ancestor is what an event tells of a process's ancestors.
type Ancestor struct {
	ID   ID     `json:"id,omitzero"`
	PID  uint32 `json:"pid"`
	Name string `json:"name,omitempty"`
	Exe  string `json:"exe,omitempty"`
}

// Exit is how a process ended: by exit(2) with Code, or by Signal. The zero Exit means it has not ended.
type Exit struct {
	Ended      bool
	Code       uint8
	Signal     uint8
	CoreDumped bool
}

type exitJSON struct {
	Code       uint8 `json:"code"`
	Signal     uint8 `json:"signal,omitempty"`
	CoreDumped bool  `json:"core_dumped,omitempty"`
}

// ExitFromStatus decodes a wait(2) status.
func ExitFromStatus(status uint32) Exit {
	return Exit{Ended: true, Code: uint8(status >> 8), Signal: uint8(status & 0x7f), CoreDumped: status&0x80 != 0}
}

// Status returns the wait(2) status, the inverse of ExitFromStatus.
func (x Exit) Status() uint32 {
	status := uint32(x.Code)<<8 | uint32(x.Signal)
	if x.CoreDumped {
		status |= 0x80
	}
	return status
}

// IsZero reports whether the process has not ended.
func (x Exit) IsZero() bool { return !x.Ended }

// MarshalJSON implements json.Marshaler.
func (x Exit) MarshalJSON() ([]byte, error) {
	return json.Marshal(exitJSON{x.Code, x.Signal, x.CoreDumped})
}

// UnmarshalJSON implements json.Unmarshaler.
func (x *Exit) UnmarshalJSON(data []byte) error {
	if string(data) == "null" { // absent, by the convention of encoding/json
		return nil
	}
	var j exitJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*x = Exit{Ended: true, Code: j.Code, Signal: j.Signal, CoreDumped: j.CoreDumped}
	return nil
}

// ID is a UUID: of a boot, an agent or a process.
type ID [16]byte

// ParseID reads the 8-4-4-4-12 form.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ID{}, fmt.Errorf("parse uuid %q: want 8-4-4-4-12 hex digits", s)
	}
	if _, err := hex.Decode(id[:], []byte(s[0:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil {
		return ID{}, fmt.Errorf("parse uuid %q: %w", s, err)
	}
	return id, nil
}

// String returns the 8-4-4-4-12 form.
func (id ID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], id[0:4])
	hex.Encode(b[9:13], id[4:6])
	hex.Encode(b[14:18], id[6:8])
	hex.Encode(b[19:23], id[8:10])
	hex.Encode(b[24:36], id[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// tick is the unit of field 22 of /proc/PID/stat: USER_HZ is 100 on every architecture TaskGuard runs on.
const tick = uint64(10 * time.Millisecond)

// ProcessID returns the stable id of a process: the version 5 UUID (RFC 9562) of "PID:TICKS" in the namespace of
// the host's boot id, where TICKS is the process's start time as field 22 of /proc/PID/stat tells it. start is
// in nanoseconds since boot. Anyone can derive it:
//
//	uuidgen --sha1 --namespace $(cat /proc/sys/kernel/random/boot_id) --name PID:TICKS
func ProcessID(boot ID, pid uint32, start uint64) ID {
	buf := make([]byte, 0, 64)
	buf = append(buf, boot[:]...)
	buf = strconv.AppendUint(buf, uint64(pid), 10)
	buf = append(buf, ':')
	buf = strconv.AppendUint(buf, start/tick, 10)
	return NameID(buf)
}

// NameID returns the version 5 UUID of a namespace's 16 bytes followed by a name.
func NameID(namespaceAndName []byte) ID {
	sum := sha1.Sum(namespaceAndName)
	id := ID(sum[:16])
	id[6] = id[6]&0x0f | 0x50
	id[8] = id[8]&0x3f | 0x80
	return id
}

// Argv is a list of arguments as the kernel keeps it: each one ended by a NUL byte. The last one may lack it when
// the list was cut. Its JSON form is an array of strings, which does not tell whether the last one was ended: it comes
// back as if it was.
type Argv string

// NewArgv joins arguments. An argument with a NUL byte becomes two, as no process could have had it.
func NewArgv(args []string) Argv {
	if len(args) == 0 {
		return ""
	}
	return Argv(strings.Join(args, "\x00") + "\x00")
}

// Split returns the arguments; nil for the empty list.
func (a Argv) Split() []string {
	if a == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(a), "\x00"), "\x00")
}

// MarshalJSON implements json.Marshaler.
func (a Argv) MarshalJSON() ([]byte, error) { return json.Marshal(a.Split()) }

// UnmarshalJSON implements json.Unmarshaler.
func (a *Argv) UnmarshalJSON(data []byte) error {
	var args []string
	if err := json.Unmarshal(data, &args); err != nil {
		return err
	}
	*a = NewArgv(args)
	return nil
}

// Environ is a list of "NAME=value", each ended by a NUL byte. Its JSON form is an object, which comes back sorted by
// name.
type Environ string

// MarshalJSON implements json.Marshaler. Of two values of one name the first counts, as for getenv(3).
func (e Environ) MarshalJSON() ([]byte, error) {
	vars := map[string]string{}
	for _, v := range Argv(e).Split() {
		name, value, _ := strings.Cut(v, "=")
		if _, again := vars[name]; !again {
			vars[name] = value
		}
	}
	return json.Marshal(vars)
}

// UnmarshalJSON implements json.Unmarshaler.
func (e *Environ) UnmarshalJSON(data []byte) error {
	var vars map[string]string
	if err := json.Unmarshal(data, &vars); err != nil {
		return err
	}
	list := make([]string, 0, len(vars))
	for name, value := range vars {
		list = append(list, name+"="+value)
	}
	sort.Strings(list)
	*e = Environ(NewArgv(list))
	return nil
}

// Fields is a set of names of cut fields. Its JSON form is an array of names.
type Fields uint16

// The fields that can be cut.
const (
	FieldArgs Fields = 1 << iota
	FieldCwd
	FieldEnv
	FieldExe
	FieldScript
	FieldPath
	FieldPayload
	FieldTarget
	FieldSource
	FieldName
	FieldType
)

var fieldNames = []string{
	"args", "cwd", "env", "exe", "script", "path", "payload", "target", "source", "name", "type",
}

// MarshalJSON implements json.Marshaler.
func (f Fields) MarshalJSON() ([]byte, error) { return json.Marshal(bitNames(uint32(f), fieldNames)) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *Fields) UnmarshalJSON(data []byte) error {
	bits, err := parseBitNames(data, fieldNames)
	if err == nil && bits > math.MaxUint16 {
		err = fmt.Errorf("field 0x%x: want at most 0x%x", bits, math.MaxUint16)
	}
	*f = Fields(bits)
	return err
}

// bitNames returns the names of the bits that are set; a bit without a name is given in hexadecimal.
func bitNames(bits uint32, names []string) []string {
	list := []string{}
	for i := 0; i < 32; i++ {
		if bits&(1<<i) == 0 {
			continue
		}
		if i < len(names) && names[i] != "" {
			list = append(list, names[i])
		} else {
			list = append(list, fmt.Sprintf("0x%x", 1<<i))
		}
	}
	return list
}

func parseBitNames(data []byte, names []string) (uint32, error) {
	var list []string
	if err := json.Unmarshal(bytes.TrimSpace(data), &list); err != nil {
		return 0, err
	}
	var bits uint32
next:
	for _, s := range list {
		for i, name := range names {
			if name == s && name != "" {
				bits |= 1 << i
				continue next
			}
		}
		bit, err := strconv.ParseUint(strings.TrimPrefix(s, "0x"), 16, 32)
		if err != nil || !strings.HasPrefix(s, "0x") {
			return 0, fmt.Errorf("unknown flag %q", s)
		}
		bits |= uint32(bit)
	}
	return bits, nil
}
