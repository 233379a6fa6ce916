// Package settings reads a program's configuration: a YAML file of sections and keys, and overrides of single keys.
//
// It promises: what a program does not know, or a key given twice, is a mistake and never passed over; and an error
// names every mistake, those of the file with their lines, and says what is wanted instead.
package settings

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// maxFile bounds what is read of a file, in bytes.
const maxFile = 1 << 20

// Setting is one key of a configuration C, of a single value or of a list.
type Setting[C any] struct {
	// Key is the path of the key, with a dot between a section and what is in it.
	Key string
	// Want is what is allowed, of a list for each of its values.
	Want string
	// Set sets the value, of a list adds it, and reports whether it is allowed. Nothing is "".
	Set func(c *C, value string) bool
	// Max is how many values a list may have; 0 says that the setting is no list.
	Max int
	// Empty empties the list.
	Empty func(c *C)
}

// List returns a setting of a list, none of whose values may be in it twice.
func List[C any, T comparable](key, want string, limit int, field func(*C) *[]T, parse func(string) (T, bool)) Setting[C] {
	return Setting[C]{
		Key: key, Want: want, Max: limit, Empty: func(c *C) { *field(c) = nil },
		Set: func(c *C, v string) bool {
			value, ok := parse(v)
			again := slices.Contains(*field(c), value)
			*field(c) = append(*field(c), value)
			return ok && !again
		},
	}
}

// Load applies a file, unless its name is "", and then overrides, each "key=value", to c, which holds the defaults.
// The value of a list has commas between its values.
func Load[C any](c *C, table []Setting[C], file string, overrides []string) error {
	var mistakes []error
	if file != "" {
		text, err := read(file)
		if err != nil {
			return fmt.Errorf("read config: %w", err)
		}
		mistakes = decode(c, table, file, text)
	}
	for _, o := range overrides {
		key, value, found := strings.Cut(o, "=")
		if !found {
			mistakes = append(mistakes, fmt.Errorf("--set %s: want key=value", o))
		} else if err := Override(c, table, key, value); err != nil {
			mistakes = append(mistakes, fmt.Errorf("--set %w", err))
		}
	}
	return errors.Join(mistakes...)
}

func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", file, maxFile)
	}
	return text, err
}

// Override sets one key.
func Override[C any](c *C, table []Setting[C], key, value string) error {
	s, err := find(table, key)
	if err != nil {
		return err
	}
	if s.Max == 0 {
		return s.apply(c, value)
	}
	s.Empty(c)
	if value == "" {
		return nil
	}
	values := strings.Split(value, ",")
	if len(values) > s.Max {
		return fmt.Errorf("%s: %d values: want at most %d", key, len(values), s.Max)
	}
	for _, v := range values {
		if err := s.apply(c, v); err != nil {
			return err
		}
	}
	return nil
}

func (s *Setting[C]) apply(c *C, value string) error {
	if !s.Set(c, value) {
		return fmt.Errorf("%s: %q: want %s", s.Key, value, s.Want)
	}
	return nil
}

// find returns the setting of a key.
func find[C any](table []Setting[C], key string) (*Setting[C], error) {
	for i := range table {
		if table[i].Key == key {
			return &table[i], nil
		}
	}
	return nil, fmt.Errorf("%s: unknown key: want one of %s", key, strings.Join(siblings(table, key), ", "))
}

// siblings lists the keys that could have been meant: those of the same section, or all.
func siblings[C any](table []Setting[C], key string) []string {
	section := key[:strings.LastIndex(key, ".")+1]
	var near, all []string
	for _, s := range table {
		all = append(all, s.Key)
		if section != "" && strings.HasPrefix(s.Key, section) {
			near = append(near, s.Key)
		}
	}
	if len(near) > 0 {
		return near
	}
	return all
}
