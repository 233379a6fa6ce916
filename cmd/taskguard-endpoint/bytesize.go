package main

import (
	"fmt"
	"strconv"
	"strings"
)

// byteSize is a flag's value: a number of bytes, with or without a binary unit.
type byteSize int64

// minMaxBytes leaves room for a few of the largest batches.
const minMaxBytes byteSize = 16 << 20

var byteUnits = []struct {
	name string
	size byteSize
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

func (b byteSize) String() string {
	for _, u := range byteUnits {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// Set implements pflag.Value.
func (b *byteSize) Set(s string) error {
	unit := byteSize(1)
	for _, u := range byteUnits {
		if number, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = number, u.size
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > int64(1<<62/unit) {
		return fmt.Errorf("want a number of bytes, such as 10737418240 or 10GiB")
	}
	*b = byteSize(n) * unit
	return nil
}

// Type implements pflag.Value.
func (b *byteSize) Type() string { return "bytes" }
