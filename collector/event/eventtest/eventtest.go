// Package eventtest makes events for tests, by reflection: a field that is added to an event is at once part of every
// law that is tested with them.
//
// It leaves out the fields marked `json:"-"`, which the agent keeps to itself. It must not be linked into a program.
package eventtest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// Groups returns the names of the fields of event.Event that hold what the kinds have of their own.
func Groups() []string {
	var names []string
	all := reflect.TypeFor[event.Event]()
	for i := range all.NumField() {
		switch name := all.Field(i).Name; name {
		case "Process", "Target", "Container", "Host":
		default:
			if all.Field(i).Type.Kind() == reflect.Pointer {
				names = append(names, name)
			}
		}
	}
	return names
}

// KeepGroup clears every group of an event but the one named.
func KeepGroup(e *event.Event, group string) {
	for _, name := range Groups() {
		if name != group {
			reflect.ValueOf(e).Elem().FieldByName(name).SetZero()
		}
	}
}

// Full fills what v points to: no field has its zero value, numbers have their highest bit set, and no two fields of
// one struct and type have the same value.
func Full(v any) {
	m := maker{full: true}
	m.fill(reflect.ValueOf(v).Elem())
}

// Fuzzed fills what v points to, deciding by the bytes of data, and returns what is left of them. Where there are none
// any more, zero values are left. All strings are UTF-8 if text is true.
func Fuzzed(v any, data []byte, text bool) (rest []byte) {
	m := maker{rest: data, text: text}
	m.fill(reflect.ValueOf(v).Elem())
	return m.rest
}

// maker decides what values are: one after the other when they are to be full, by the bytes of rest else.
type maker struct {
	full bool
	n    uint64 // of values made so far for the struct
	rest []byte
	text bool
}

// fill sets a value of any type that events are made of; one of another type panics.
func (m *maker) fill(v reflect.Value) {
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		*p = m.time()
		return
	case *netip.Addr:
		*p = m.addr()
		return
	case *event.Argv:
		*p = event.NewArgv(m.words())
		return
	case *event.Environ:
		*p = m.environ()
		return
	case *event.Digest:
		*p = event.Digest{SHA256: m.sha256(), HashState: event.HashState(m.string()), FSVerity: m.string()}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		m.fields(v)
	case reflect.Pointer:
		if m.present() {
			v.Set(reflect.New(v.Type().Elem()))
			m.fill(v.Elem())
		}
	case reflect.Slice:
		if n := m.length(); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			m.elements(v)
		}
	case reflect.Array:
		m.elements(v)
	case reflect.String:
		v.SetString(m.string())
	case reflect.Bool:
		v.SetBool(m.present())
	case reflect.Int32:
		v.SetInt(int64(int32(m.uint(32))))
	case reflect.Int64:
		v.SetInt(int64(m.uint(64)))
	case reflect.Float64:
		v.SetFloat(float64(m.uint(32)) / 4)
	default: // package reflect panics for what is no unsigned number
		v.SetUint(m.uint(v.Type().Bits()))
	}
}

// fields fills a struct; one that says of itself that it is zero is, with all its fields.
func (m *maker) fields(v reflect.Value) {
	defer func(n uint64) { m.n = n }(m.n)
	m.n = 0
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("json") != "-" {
			m.fill(v.Field(i))
		}
	}
	if zero, ok := v.Interface().(interface{ IsZero() bool }); ok && zero.IsZero() {
		v.SetZero()
	}
}

func (m *maker) elements(v reflect.Value) {
	for i := range v.Len() {
		m.fill(v.Index(i))
	}
}

func (m *maker) byte() byte {
	if len(m.rest) == 0 {
		return 0
	}
	b := m.rest[0]
	m.rest = m.rest[1:]
	return b
}

func (m *maker) take(n int) []byte {
	taken := m.rest[:min(n, len(m.rest))]
	m.rest = m.rest[len(taken):]
	return taken
}

func (m *maker) present() bool { return m.full || m.byte()&1 != 0 }

func (m *maker) length() int {
	if m.full {
		return 2
	}
	return int(m.byte() % 4)
}

func (m *maker) uint(bits int) uint64 {
	if m.full {
		m.n++
		return 1<<(bits-1) | m.n&(1<<(bits-1)-1)
	}
	var b [8]byte
	copy(b[:bits/8], m.take(int(m.byte()%9)))
	return binary.LittleEndian.Uint64(b[:])
}

func (m *maker) string() string {
	if m.full {
		m.n++
		return fmt.Sprintf("s%d", m.n)
	}
	s := string(m.take(int(m.byte() % 40)))
	if m.text {
		s = strings.ToValidUTF8(s, "é")
	}
	return s
}

// sha256 is 64 digits, or none.
func (m *maker) sha256() string {
	if !m.present() {
		return ""
	}
	return fmt.Sprintf("%064x", m.uint(64))
}

// time is one that both RFC 3339 and a count of nanoseconds since 1970 have, or none.
func (m *maker) time() time.Time {
	if !m.present() {
		return time.Time{}
	}
	if m.full {
		m.n++
		return time.Date(2026, 11, 23, 1, 2, 3, int(m.n), time.UTC)
	}
	return time.Unix(0, int64(m.uint(64)>>1|1)).UTC()
}

func (m *maker) addr() netip.Addr {
	if m.full {
		m.n++
		return netip.AddrFrom16([16]byte{0x20, 0x01, 15: byte(m.n)})
	}
	switch m.byte() % 4 {
	case 1:
		return netip.AddrFrom4([4]byte{m.byte(), m.byte(), m.byte(), m.byte()})
	case 2:
		return netip.AddrFrom16([16]byte{0: m.byte(), 1: m.byte(), 10: m.byte(), 15: m.byte()})
	case 3:
		return netip.AddrFrom16([16]byte{10: 0xff, 0xff, m.byte(), m.byte(), m.byte(), m.byte()})
	}
	return netip.Addr{}
}

// words are strings as C has them.
func (m *maker) words() []string {
	list := make([]string, m.length())
	for i := range list {
		list[i] = strings.ReplaceAll(m.string(), "\x00", "")
	}
	return list
}

// environ is sorted by name, and each name is there once, as JSON gives it back.
func (m *maker) environ() event.Environ {
	names := m.words()
	for i, name := range names {
		names[i] = strings.ReplaceAll(name, "=", "")
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for i := range names {
		names[i] += "=" + strings.ReplaceAll(m.string(), "\x00", "")
	}
	slices.Sort(names) // "a" sorts before "a!", "a=" behind it
	return event.Environ(event.NewArgv(names))
}
