package ebpf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// hook is one program and the place it is attached to.
type hook struct {
	program string
	// function is the kernel function of a program that is loaded for it; empty for other programs.
	function string
	// syscall is what such a function handles; empty for other functions.
	syscall string
	// tracepoint is the typed tracepoint that must be there; empty for other programs.
	tracepoint string
	// exit is the system call of a program that is run at its exit, and slots are where it is found; empty for others.
	exit   string
	slots  []slot
	attach func(*Source, *ebpf.Program) (io.Closer, error)
	need   need
}

// need says what it means when the kernel does not have the place.
type need uint8

const (
	required need = iota // the rung cannot be used
	anyOf                // another one of these is enough
	optional             // nothing
)

// errNoPlace says that this host does not have the place to attach to.
var errNoPlace = errors.New("not on this host")

func oneOf(h hook) hook {
	if h.need == required {
		h.need = anyOf
	}
	return h
}

// whereThere makes a hook one that the rung can do without.
func whereThere(h hook) hook {
	h.need = optional
	return h
}

// tracingCall is a program of the fentry rung for one of the functions that handle a system call.
func tracingCall(name string, p probe) hook {
	h := oneOf(tracing("fexit_", p))
	h.syscall = name
	return h
}

func needOf(p probe) need {
	if p.optional {
		return optional
	}
	return required
}

// rawTracepoint is a program that says itself which tracepoint it is for.
func rawTracepoint(program string) hook {
	return hook{program: program, attach: func(_ *Source, p *ebpf.Program) (io.Closer, error) {
		return link.AttachTracing(link.TracingOptions{Program: p})
	}}
}

// typedTracepoint is the same for a tracepoint that only some kernels have.
func typedTracepoint(p probe) hook {
	h := rawTracepoint(p.handler)
	h.tracepoint, h.need = p.function, needOf(p)
	return h
}

// tracing is a program of the fentry rung.
func tracing(prefix string, p probe) hook {
	h := rawTracepoint(prefix + p.handler)
	h.function, h.need = p.function, needOf(p)
	return h
}

// kernelProbe is a program of the kprobe rung.
func kernelProbe(prefix string, p probe) hook {
	attach := link.Kprobe
	if prefix == "kretprobe_" {
		attach = link.Kretprobe
	}
	return hook{program: prefix + p.handler, need: needOf(p),
		attach: func(_ *Source, program *ebpf.Program) (io.Closer, error) {
			l, err := attach(p.function, program, nil)
			if errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("%s: %w", p.function, errNoPlace)
			}
			return l, err
		}}
}

// enterCall is a handler at the entry of a system call of 64-bit callers, without which its exit tells less.
func enterCall(p probe) hook {
	return hook{program: p.handler, attach: func(s *Source, program *ebpf.Program) (io.Closer, error) {
		return s.tracefs.attach("sys_enter_"+p.function, program)
	}}
}

// cgroup attaches beside others' programs: a link never replaces one.
func cgroup(program string, attach ebpf.AttachType) hook {
	return hook{program: program, attach: func(s *Source, p *ebpf.Program) (io.Closer, error) {
		if s.cfg.CgroupRoot == "" {
			return nil, fmt.Errorf("mount cgroup v2 with `mount -t cgroup2 cgroup2 DIRECTORY`: %w", errNoPlace)
		}
		return link.AttachCgroup(link.CgroupOptions{Path: s.cfg.CgroupRoot, Attach: attach, Program: p})
	}}
}

// forms are the names of a system call's 32-bit forms. The one whose ids have 16 bits has that at its name's end; where
// it has a handler of its own it is not among them.
func (l *ladder) forms(name string) []string {
	if slices.Contains(l.syscalls, name+"16") || slices.Contains(l.traced, name+"16") {
		return []string{name}
	}
	return []string{name, name + "16"}
}

// exitCall is a handler at the exit of a system call, of the tracepoint rung. forms are the names of its 32-bit forms.
func exitCall(name string, forms []string) hook {
	h := hook{program: "exit_" + name, exit: name, need: anyOf}
	if number, ok := nativeNumber(name); ok {
		h.slots = append(h.slots, slot{commonMapNativeCalls, number})
	}
	for _, form := range forms {
		if number, ok := compatNumbers[form]; ok {
			h.slots = append(h.slots, slot{commonMapCompatCalls, number})
		}
	}
	h.attach = func(s *Source, p *ebpf.Program) (io.Closer, error) { return s.calls.add(s, p, h.slots...) }
	return h
}

// syscallFunctions names the functions that handle a system call: that of 64-bit callers first.
func syscallFunctions(name string, forms []string) []string {
	if runtime.GOARCH == "arm64" {
		return []string{"__arm64_sys_" + name, "__arm64_compat_sys_" + name}
	}
	functions := []string{"__x64_sys_" + name, "__ia32_compat_sys_" + name}
	for _, form := range forms {
		functions = append(functions, "__ia32_sys_"+form)
	}
	return functions
}

// there tells whether this kernel has a hook's place, as far as that can be told before it is attached.
func (h *hook) there(kernel *btf.Spec, calls *tracefs) error {
	switch {
	case h.exit != "":
		_, native := nativeNumber(h.exit)
		if len(h.slots) == 0 || native && calls.hasNone([]string{h.exit}) {
			return fmt.Errorf("system call %s: %w", h.exit, errNoPlace)
		}
	case h.function != "":
		var f *btf.Func
		err := kernel.TypeByName(h.function, &f)
		if errors.Is(err, btf.ErrNotFound) {
			return fmt.Errorf("%s: %w", h.function, errNoPlace)
		}
		if err != nil { // it is there, but the kernel describes it twice
			return fmt.Errorf("%s: %w", h.function, err)
		}
	case h.tracepoint != "":
		var t *btf.Typedef
		if err := kernel.TypeByName("btf_trace_"+h.tracepoint, &t); err != nil {
			return fmt.Errorf("tracepoint %s: %w", h.tracepoint, errNoPlace)
		}
	}
	return nil
}
