package settings

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Path returns the Set of an absolute path, or of nothing too.
func Path[C any](field func(*C) *string, empty bool) func(*C, string) bool {
	return func(c *C, v string) bool {
		*field(c) = v
		return filepath.IsAbs(v) || v == "" && empty
	}
}

// Bool returns the Set of true or false.
func Bool[C any](field func(*C) *bool) func(*C, string) bool {
	return func(c *C, v string) bool {
		*field(c) = v == "true"
		return v == "true" || v == "false"
	}
}

// Int returns the Set of a whole number from low to high.
func Int[C any, T int | int64](field func(*C) *T, low, high T) func(*C, string) bool {
	return func(c *C, v string) bool {
		n, err := strconv.ParseInt(v, 10, 64)
		*field(c) = T(n)
		return err == nil && int64(T(n)) == n && T(n) >= low && T(n) <= high
	}
}

// Bytes returns the Set of a size from low to high, as ParseBytes reads it.
func Bytes[C any](field func(*C) *int64, low, high int64) func(*C, string) bool {
	return func(c *C, v string) bool {
		n, err := ParseBytes(v)
		*field(c) = n
		return err == nil && n >= low && n <= high
	}
}

// Duration returns the Set of a time from low to high, or of 0 too.
func Duration[C any](field func(*C) *time.Duration, low, high time.Duration, zero bool) func(*C, string) bool {
	return func(c *C, v string) bool {
		d, err := time.ParseDuration(v)
		*field(c) = d
		return err == nil && (d >= low && d <= high || d == 0 && zero)
	}
}

// WantLevel is what Level allows.
const WantLevel = "debug, info, warn or error"

// Level returns the Set of a log level.
func Level[C any](field func(*C) *slog.Level) func(*C, string) bool {
	return func(c *C, v string) bool {
		return slices.Contains([]string{"debug", "info", "warn", "error"}, v) && field(c).UnmarshalText([]byte(v)) == nil
	}
}

// ParseBytes reads a number of bytes, with or without a binary unit: 1048576, 1024KiB, 1MiB, 2GiB, 1TiB.
func ParseBytes(s string) (int64, error) {
	number, unit := s, int64(1)
	for _, u := range []struct {
		name string
		size int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}} {
		if found, ok := strings.CutSuffix(s, u.name); ok {
			number, unit = strings.TrimSpace(found), u.size
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("parse size %q", s)
	}
	return n * unit, nil
}
