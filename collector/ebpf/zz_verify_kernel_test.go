package ebpf

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

func TestZZVerify(t *testing.T) {
	h := findHierarchy(t)
	o, err := openObjects(configFor(t, h))
	if err != nil {
		t.Fatal(err)
	}
	done := map[string]bool{}
	for _, l := range ladders() {
		oo, err := o.open(l.object)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range l.rungs() {
			for _, h := range r.hooks {
				if done[h.program+h.function] || h.there(o.kernel) != nil || !strings.Contains(h.program, os.Getenv("PROG")) {
					continue
				}
				done[h.program+h.function] = true
				p, err := oo.program(&h)
				var v *ebpf.VerifierError
				switch {
				case errors.Is(err, unix.EPERM):
				case errors.As(err, &v):
					t.Errorf("%s %s: %-60v\n", h.program, h.function, v)
				case err != nil:
					t.Errorf("%s %s: %v", h.program, h.function, err)
				default:
					p.Close()
				}
			}
		}
	}
	t.Log(len(done), "programs")
}
