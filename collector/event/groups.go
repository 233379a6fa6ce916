package event

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// File holds the fields of the file.* kinds, and of an exec that failed.
type File struct {
	// Path is absolute in the process's mount namespace, or as given when the attempt failed before the file was found:
	// of a link the new name, of a rename the old one.
	Path string `json:"path,omitempty"`
	// Target is, of file.rename, the new path; of file.link, the file that got another name; of file.symlink, what the
	// link says, as given.
	Target string `json:"target,omitempty"`
	// Flags are those of open(2); without any it is O_RDONLY. O_LARGEFILE and O_CLOEXEC, which say nothing of the file,
	// are left out.
	Flags       OpenFlags          `json:"flags,omitempty"`
	RenameFlags RenameFlags        `json:"rename_flags,omitempty"`
	Mode        Optional[FileMode] `json:"mode,omitzero"`       // file.chmod: the new mode
	UID         Optional[uint32]   `json:"uid,omitzero"`        // file.chown: the new owner, when it was to change
	GID         Optional[uint32]   `json:"gid,omitzero"`        // file.chown: the new group, when it was to change
	Directory   bool               `json:"directory,omitempty"` // file.unlink: of a directory, as rmdir(2)
	// Device and Inode identify the file; absent when the attempt failed before the file was found, of file.symlink, and
	// of what was not seen to be found, which is Unverified.
	Device Device `json:"device,omitempty"`
	Inode  uint64 `json:"inode,omitempty"`
	// UpperLayer says that the file is in the upper layer of an overlay: it is not from the container's image, or has
	// been changed since.
	UpperLayer bool `json:"upper_layer,omitempty"`
	// Unverified says that Path or Target may not be what the kernel worked on: it was read from the caller's memory,
	// which the caller may have changed meanwhile; or it is a name put behind the directory it is relative to, where
	// links may lead elsewhere; or the file of a descriptor that another thread may have put there meanwhile.
	Unverified   bool   `json:"unverified,omitempty"`
	Truncated    Fields `json:"truncated,omitempty"`
	PathLength   uint32 `json:"path_length,omitempty"`   // bytes, when Path was cut and its length is known
	TargetLength uint32 `json:"target_length,omitempty"` // bytes, when Target was cut and its length is known
}

// Socket holds what an event tells of a socket. Addresses that are IPv4-mapped IPv6 are given as IPv4.
type Socket struct {
	Family     Family     `json:"family"`
	Type       SocketType `json:"type,omitempty"`
	Protocol   uint16     `json:"protocol,omitempty"` // IANA protocol number; AF_PACKET: EtherType
	RemoteIP   netip.Addr `json:"remote_ip,omitzero"`
	RemotePort uint16     `json:"remote_port,omitempty"`
	LocalIP    netip.Addr `json:"local_ip,omitzero"`
	LocalPort  uint16     `json:"local_port,omitempty"`
}

// Net holds the fields of the net.* kinds.
type Net struct {
	Socket
	// Path is an AF_UNIX address: a path, or "@name" in the abstract namespace.
	Path string `json:"path,omitempty"`
	// Unverified says that the address was read from the caller's memory, which the caller may have changed
	// meanwhile.
	Unverified bool   `json:"unverified,omitempty"`
	Truncated  Fields `json:"truncated,omitempty"`
	Backlog    uint32 `json:"backlog,omitempty"` // net.listen, as given
}

// DNS holds the fields of the dns.* kinds. Remote is the server.
type DNS struct {
	Socket
	ID        uint16     `json:"id"`
	Rcode     uint8      `json:"rcode,omitempty"`
	Questions []Question `json:"questions,omitempty"`
	Answers   []Answer   `json:"answers,omitempty"`
	// Payload is the DNS message itself, without the length prefix it has over TCP.
	Payload   []byte `json:"payload,omitempty"`
	Truncated Fields `json:"truncated,omitempty"` // Payload was cut: answers may be missing
	// Malformed says that the payload could be parsed only up to what is given, or not at all.
	Malformed bool `json:"malformed,omitempty"`
}

// Question is a name that was asked for, without the final dot.
type Question struct {
	Name string `json:"name"`
	Type string `json:"type"` // "A", "AAAA", "MX", or "TYPE65" for one without a name
}

// Answer is one record of the answer section.
type Answer struct {
	Name string `json:"name"`
	Type string `json:"type"`
	TTL  uint32 `json:"ttl"`
	Data string `json:"data,omitempty"` // an address or a name; absent for other types
}

// Family is an address family (socket(2)).
type Family uint16

// The address families that events have.
const (
	Unix   Family = 1
	INET   Family = 2
	INET6  Family = 10
	Packet Family = 17
)

// families is from include/linux/socket.h.
var families = map[Family]string{
	0: "AF_UNSPEC", Unix: "AF_UNIX", INET: "AF_INET", INET6: "AF_INET6", 15: "AF_KEY", 16: "AF_NETLINK",
	Packet: "AF_PACKET", 21: "AF_RDS", 29: "AF_CAN", 30: "AF_TIPC", 31: "AF_BLUETOOTH", 38: "AF_ALG", 39: "AF_NFC",
	40: "AF_VSOCK", 41: "AF_KCM", 42: "AF_QIPCRTR", 43: "AF_SMC", 44: "AF_XDP", 45: "AF_MCTP",
}

// String returns the kernel's name of the family, or its number.
func (f Family) String() string { return nameOf(families, f) }

// MarshalText implements encoding.TextMarshaler.
func (f Family) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Family) UnmarshalText(text []byte) (err error) {
	*f, err = valueOf(families, string(text))
	return err
}

// SocketType is a socket's type (socket(2)).
type SocketType uint16

var socketTypes = map[SocketType]string{
	Stream: "SOCK_STREAM", Datagram: "SOCK_DGRAM", Raw: "SOCK_RAW", 4: "SOCK_RDM", 5: "SOCK_SEQPACKET",
	6: "SOCK_DCCP", 10: "SOCK_PACKET",
}

// The socket types that most events have.
const (
	Stream   SocketType = 1
	Datagram SocketType = 2
	Raw      SocketType = 3
)

// String returns the kernel's name of the type, or its number.
func (t SocketType) String() string { return nameOf(socketTypes, t) }

// MarshalText implements encoding.TextMarshaler.
func (t SocketType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *SocketType) UnmarshalText(text []byte) (err error) {
	*t, err = valueOf(socketTypes, string(text))
	return err
}

func nameOf[T ~uint16 | ~uint32](names map[T]string, v T) string {
	if name, ok := names[v]; ok {
		return name
	}
	return strconv.FormatUint(uint64(v), 10)
}

func valueOf[T ~uint16 | ~uint32](names map[T]string, s string) (T, error) {
	for v, name := range names {
		if name == s {
			return v, nil
		}
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || uint64(T(n)) != n {
		return 0, fmt.Errorf("unknown name %q", s)
	}
	return T(n), nil
}

// Device is a device number as the kernel encodes it internally: major << 20 | minor. Its JSON form is
// "major:minor".
type Device uint32

// String returns "major:minor".
func (d Device) String() string { return fmt.Sprintf("%d:%d", uint32(d)>>20, uint32(d)&0xfffff) }

// MarshalText implements encoding.TextMarshaler.
func (d Device) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Device) UnmarshalText(text []byte) error {
	major, minor, _ := strings.Cut(string(text), ":")
	ma, err1 := strconv.ParseUint(major, 10, 12)
	mi, err2 := strconv.ParseUint(minor, 10, 20)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("device %q: want major:minor", text)
	}
	*d = Device(ma<<20 | mi)
	return nil
}

// OpenFlags are the flags of open(2), with the values of x86-64 and the names of the manual. Their JSON form is
// an array of names; the access mode comes first.
type OpenFlags uint32

var (
	accessModes = [4]string{"O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"}
	// openFlagNames is indexed by bit (include/uapi/asm-generic/fcntl.h). O_SYNC and O_TMPFILE are two bits
	// each; their second bits are O_DSYNC and O_DIRECTORY.
	openFlagNames = []string{
		6: "O_CREAT", 7: "O_EXCL", 8: "O_NOCTTY", 9: "O_TRUNC", 10: "O_APPEND", 11: "O_NONBLOCK", 12: "O_DSYNC",
		13: "FASYNC", 14: "O_DIRECT", 15: "O_LARGEFILE", 16: "O_DIRECTORY", 17: "O_NOFOLLOW", 18: "O_NOATIME",
		19: "O_CLOEXEC", 20: "O_SYNC", 21: "O_PATH", 22: "O_TMPFILE",
	}
)

// OpenFlagsFromArm gives the flags of 32-bit and 64-bit Arm the values of x86-64: four have values of their own
// (arch/arm64/include/uapi/asm/fcntl.h).
func OpenFlagsFromArm(flags uint32) OpenFlags {
	const directory, nofollow, direct, largefile = 0o40000, 0o100000, 0o200000, 0o400000
	common := flags &^ (directory | nofollow | direct | largefile)
	for _, f := range [...]struct{ arm, x86 uint32 }{
		{directory, 0o200000}, {nofollow, 0o400000}, {direct, 0o40000}, {largefile, 0o100000},
	} {
		if flags&f.arm != 0 {
			common |= f.x86
		}
	}
	return OpenFlags(common)
}

// Names returns the flags' names, access mode first.
func (f OpenFlags) Names() []string {
	return append([]string{accessModes[f&3]}, bitNames(uint32(f)&^3, openFlagNames)...)
}

// MarshalJSON implements json.Marshaler.
func (f OpenFlags) MarshalJSON() ([]byte, error) { return json.Marshal(f.Names()) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *OpenFlags) UnmarshalJSON(data []byte) error {
	var names []string
	if err := json.Unmarshal(data, &names); err != nil {
		return err
	}
	var mode OpenFlags
	if len(names) > 0 {
		for i, name := range accessModes {
			if names[0] == name {
				mode = OpenFlags(i)
				names = names[1:]
				break
			}
		}
	}
	rest, err := json.Marshal(names)
	if err != nil {
		return err
	}
	bits, err := parseBitNames(rest, openFlagNames)
	*f = mode | OpenFlags(bits)
	return err
}
