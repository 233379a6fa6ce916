package ebpf

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"
)

func TestZZVerify(t *testing.T) {
	h := findHierarchy(t)
	o, err := openObjects(configFor(t, h))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []object{{"common", loadCommon}, processObject, fileObject, netObject, dnsObject, memoryObject} {
		oo, err := o.open(f)
		if err != nil {
			t.Fatal(err)
		}
		for name := range oo.spec.Programs {
			if os.Getenv("PROG") != "" && os.Getenv("PROG") != name {
				continue
			}
			h := hook{program: name}
			sp := oo.spec.Programs[name]
			if sp.Type == ebpf.Tracing && sp.AttachType != ebpf.AttachTraceRawTp {
				h.function = "do_filp_open"
			}
			if h.function != "" && os.Getenv("ALL") == "" {
				continue
			}
			p, err := oo.program(&h)
			var v *ebpf.VerifierError
			if errors.As(err, &v) {
				fmt.Printf("%s: %-25v\n", name, v)
			} else if err != nil {
				fmt.Println(name, err)
			} else {
				p.Close()
				fmt.Println(name, "ok")
			}
		}
	}
}
