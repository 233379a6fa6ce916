package event

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// Optional is a number of which zero is a value like any other, and which may be unknown. The zero Optional is unknown;
// in JSON it is absent.
type Optional[T ~uint16 | ~uint32] struct {
	Value T
	Known bool
}

// Some returns a known number.
func Some[T ~uint16 | ~uint32](v T) Optional[T] { return Optional[T]{Value: v, Known: true} }

// IsZero reports whether the number is unknown.
func (o Optional[T]) IsZero() bool { return !o.Known }

// MarshalJSON implements json.Marshaler.
func (o Optional[T]) MarshalJSON() ([]byte, error) { return json.Marshal(o.Value) }

// UnmarshalJSON implements json.Unmarshaler.
func (o *Optional[T]) UnmarshalJSON(data []byte) error {
	if string(data) == "null" { // absent, by the convention of encoding/json
		return nil
	}
	o.Known = true
	return json.Unmarshal(data, &o.Value)
}

// FileMode is the permission bits of a file with set-user-id, set-group-id and sticky bit (chmod(2)). Its JSON form is
// a string of octal digits, such as "0755".
type FileMode uint16

// String returns the octal form.
func (m FileMode) String() string { return fmt.Sprintf("%04o", uint16(m)) }

// MarshalText implements encoding.TextMarshaler.
func (m FileMode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *FileMode) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 8, 16)
	if err != nil {
		return fmt.Errorf("file mode %q: want octal digits", text)
	}
	*m = FileMode(n)
	return nil
}

// Address is an address in a process's memory. Its JSON form is a string in hexadecimal, as many readers of JSON keep
// only 53 bits of a number.
type Address uint64

// String returns the hexadecimal form.
func (a Address) String() string { return "0x" + strconv.FormatUint(uint64(a), 16) }

// MarshalText implements encoding.TextMarshaler.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *Address) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 0, 64)
	if err != nil {
		return fmt.Errorf("address %q: want 0x and hexadecimal digits", text)
	}
	*a = Address(n)
	return nil
}
