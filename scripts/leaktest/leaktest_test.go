package leaktest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// failing is a test that may fail.
type failing struct {
	testing.TB
	failure string
}

func (f *failing) Errorf(format string, args ...any) { f.failure = fmt.Sprintf(format, args...) }

func TestCheck(t *testing.T) {
	f := &failing{TB: t}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	for _, test := range []struct {
		name string
		do   func()
		want string
	}{
		{"nothing", func() {}, ""},
		{"a goroutine that ends in time", func() { go time.Sleep(50 * time.Millisecond) }, ""},
		{"a goroutine", func() { go func() { <-end }() }, "TestCheck"},
		{"a file less", func() { file.Close() }, "open files"},
		{"a file", func() { file, err = os.Open(os.DevNull) }, "-> " + os.DevNull},
	} {
		f.failure = ""
		bound := patience
		if test.want != "" {
			bound = 10 * time.Millisecond
		}
		after := check(f, bound)
		test.do()
		after()
		if (f.failure == "") != (test.want == "") || !strings.Contains(f.failure, test.want) {
			t.Errorf("%s: %.2000q, want %q in it", test.name, f.failure, test.want)
		}
	}
	close(end)
	file.Close()
}
