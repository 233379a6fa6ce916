package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// However lines are written, they come whole and each with its own prefix.
func TestPrefixed(t *testing.T) {
	var out strings.Builder
	lines := new(sync.Mutex)
	a, b := &prefixed{out: &out, prefix: "a: ", lines: lines}, &prefixed{out: &out, prefix: "b: ", lines: lines}
	fmt.Fprint(a, "one\ntw")
	fmt.Fprint(b, "\nthree\n")
	fmt.Fprint(a, "o\n")
	if want := "a: one\nb: \nb: three\na: two\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
