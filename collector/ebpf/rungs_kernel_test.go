package ebpf

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
)

// forRungs runs a test on each rung of the ladder that this kernel lets kinds be on. What each rung came to is logged
// in lines that make the table of kinds and kernels. There must be one rung at least.
func forRungs(t *testing.T, kinds []event.Kind, f func(t *testing.T, o *observer)) {
	t.Helper()
	needKernel(t)
	won := 0
	var refused []string
	for _, via := range []string{rungFentry, rungKprobe, rungTracepoint} {
		rung := strings.TrimPrefix(via, "ebpf/")
		t.Run(rung, func(t *testing.T) {
			r := shared.on(t, via)
			o, kind, reason := r.observe(t, kinds)
			if o == nil {
				t.Logf("TASKGUARD-RUNG %s %s %s", kind, rung, reason)
				refused = append(refused, reason)
				return
			}
			won++
			f(t, o)
			for _, kind := range kinds {
				if !t.Failed() {
					t.Logf("TASKGUARD-RUNG %s %s ok", kind, rung)
				}
			}
		})
	}
	if won > 0 {
		return
	}
	if reasons := strings.Join(refused, "; "); lack(kinds) == "" || !strings.Contains(reasons, "the kernel has no ") {
		t.Errorf("no rung for %v: %s", kinds, reasons)
	}
}

// lack names the feature that a kernel must have for kinds, and this one has not.
func lack(kinds []event.Kind) string {
	if _, err := os.Stat("/proc/modules"); err != nil && slices.Contains(kinds, event.ModuleLoad) {
		return "loadable modules (CONFIG_MODULES)"
	}
	return ""
}

// except returns the kinds that the kernel's programs can tell of but for some.
func except(wanted []event.Kind) []event.Kind {
	return slices.DeleteFunc(event.Kinds(), func(k event.Kind) bool { return slices.Contains(wanted, k) })
}

// off returns the first of kinds that is not observed, and why.
func off(s *Source, kinds []event.Kind) (event.Kind, string) {
	for _, state := range s.State() {
		if slices.Contains(kinds, state.Kind) && state.Via == "off" {
			return state.Kind, state.Reason
		}
	}
	return 0, ""
}
