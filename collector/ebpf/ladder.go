package ebpf

import (
	"github.com/cilium/ebpf"

	"github.com/taskguard/taskguard/collector/event"
)

// object is one of the compiled files of programs.
type object struct {
	name string
	load func() (*ebpf.CollectionSpec, error)
}

var (
	processObject = object{"process", loadProcess}
	fileObject    = object{"file", loadFile}
	netObject     = object{"net", loadNet}
	dnsObject     = object{"dns", loadDns}
	memoryObject  = object{"memory", loadMemory}
)

// Rungs of the ladder, best first, as SourceState.Via names them.
const (
	rungFentry     = "ebpf/fentry"
	rungKprobe     = "ebpf/kprobe"
	rungTracepoint = "ebpf/tracepoint"
	rungCgroup     = "ebpf/cgroup"
)

// probe is a handler and the kernel function it is for.
type probe struct {
	handler  string
	function string
	// optional says that without it something is missed that most hosts do not use, such as what io_uring does: it is
	// attached where it can be.
	optional bool
}

// ladder is how kinds that are observed together can be observed.
type ladder struct {
	kinds []event.Kind // none: the others work without it, less well
	lack  string       // for a ladder without kinds: what is lost without it
	object

	// For the fentry and the kprobe rungs: handlers at the entry (PROBE), at the exit (EXIT), and at the exit with the
	// arguments (CALL) of kernel functions.
	entries, exits, calls []probe
	// For all rungs: handlers at the exit of system calls (SYSCALL). A system call that the architecture or the kernel
	// does not have is left out, but one there must be.
	syscalls []string
	// The same for the tracepoint rung alone (TRACED).
	traced []string
	// For the tracepoint rung: handlers at the entry of system calls, for what their exit does not tell any more.
	enters []probe
	// For the tracepoint rung: kernel tracepoints with types (tp_btf), for what no system call tells.
	tracepoints []probe
	// hooks are attached on every rung: cgroup hooks, tracepoints. When via is set they are a rung by themselves too, the
	// last one, of that name.
	hooks []hook
	via   string
}

// rung is one way to observe the kinds of a ladder.
type rung struct {
	via   string
	hooks []hook
}

// ladders is everything that is observed.
func ladders() []ladder {
	return []ladder{
		{
			object: processObject,
			lack:   "containers are found by their processes instead of at their creation",
			via:    rungTracepoint, hooks: []hook{rawTracepoint(processProgCgroupMkdir)},
		},
		{kinds: []event.Kind{event.ProcessFork}, object: processObject,
			via: rungTracepoint, hooks: []hook{rawTracepoint(processProgProcessFork)}},
		{kinds: []event.Kind{event.ProcessExec}, object: processObject,
			calls:    []probe{{handler: "exec_open", function: "do_filp_open"}},
			syscalls: []string{"execve", "execveat"},
			via:      rungTracepoint, hooks: []hook{rawTracepoint(processProgProcessExec)}},
		{kinds: []event.Kind{event.ProcessExit}, object: processObject,
			via: rungTracepoint, hooks: []hook{rawTracepoint(processProgProcessExit)}},
		{kinds: []event.Kind{event.ProcessSetID}, object: processObject,
			entries: []probe{
				{handler: "fix_setid", function: "security_task_fix_setuid"},
				{handler: "fix_setid", function: "security_task_fix_setgid"},
			},
			syscalls: setidCalls[:], enters: enters("enter_setid", setidCalls[:])},
		{kinds: []event.Kind{event.ProcessPtrace}, object: processObject, syscalls: []string{"ptrace"}},
		{kinds: []event.Kind{event.ProcessNamespace}, object: processObject,
			syscalls: []string{"setns", "unshare"}, hooks: []hook{rawTracepoint(processProgNamespaceFork)}},
		{kinds: []event.Kind{event.MemoryMap}, object: memoryObject,
			calls: []probe{{handler: "mmap", function: "vm_mmap_pgoff"}}, traced: []string{"mmap", "mmap2"}},
		{kinds: []event.Kind{event.MemoryProtect}, object: memoryObject,
			entries:  []probe{{handler: "file_mprotect", function: "security_file_mprotect"}},
			syscalls: []string{"mprotect", "pkey_mprotect"}},
		{kinds: []event.Kind{event.MemoryVMRead}, object: memoryObject, syscalls: []string{"process_vm_readv"}},
		{kinds: []event.Kind{event.MemoryVMWrite}, object: memoryObject, syscalls: []string{"process_vm_writev"}},
		{kinds: []event.Kind{event.MemoryMemfd}, object: memoryObject, syscalls: []string{"memfd_create"}},
		{kinds: []event.Kind{event.MemoryUserfaultfd}, object: memoryObject, syscalls: []string{"userfaultfd"}},
		{kinds: []event.Kind{event.FileOpen}, object: fileObject,
			calls:  []probe{{handler: "filp_open", function: "do_filp_open"}},
			traced: []string{"open", "creat", "openat", "openat2"}},
		{kinds: []event.Kind{event.DNSQuery}, object: dnsObject,
			via: rungCgroup, hooks: []hook{cgroup(dnsProgDnsEgress, ebpf.AttachCGroupInetEgress)}},
		{kinds: []event.Kind{event.DNSResponse}, object: dnsObject,
			via: rungCgroup, hooks: []hook{cgroup(dnsProgDnsIngress, ebpf.AttachCGroupInetIngress)}},
	}
}

// rungs expands a ladder, best rung first.
func (l *ladder) rungs() []rung {
	last := rung{l.via, l.hooks}
	if l.via != "" && len(l.syscalls) == 0 {
		return []rung{last}
	}
	fentry, kprobe, tracepoint := rung{via: rungFentry}, rung{via: rungKprobe}, rung{via: rungTracepoint}
	for _, p := range l.entries {
		fentry.hooks = append(fentry.hooks, tracing("fentry_", p))
		kprobe.hooks = append(kprobe.hooks, kernelProbe("kprobe_", p))
	}
	for _, p := range l.calls {
		fentry.hooks = append(fentry.hooks, tracing("fexit_", p))
		kprobe.hooks = append(kprobe.hooks, kernelProbe("kprobe_", p), kernelProbe("kretprobe_", p))
	}
	for _, p := range l.exits {
		fentry.hooks = append(fentry.hooks, tracing("fexit_", p))
		kprobe.hooks = append(kprobe.hooks, kernelProbe("kretprobe_", p))
	}
	for _, name := range l.syscalls {
		for i, function := range syscallFunctions(name) {
			p := probe{handler: name, function: function, optional: i > 0}
			fentry.hooks = append(fentry.hooks, oneOf(tracing("fexit_", p)))
			kprobe.hooks = append(kprobe.hooks, oneOf(kernelProbe("kretprobe_", p)))
		}
	}
	for _, name := range append(l.syscalls, l.traced...) {
		tracepoint.hooks = append(tracepoint.hooks, oneOf(syscallTracepoint("tracepoint_"+name, "sys_exit_"+name)))
		tracepoint.hooks = append(tracepoint.hooks, compatCall("compat_"+name, name)...)
	}
	for _, p := range l.enters {
		tracepoint.hooks = append(tracepoint.hooks, oneOf(syscallTracepoint(p.handler, "sys_enter_"+p.function)))
	}
	for _, p := range l.tracepoints {
		tracepoint.hooks = append(tracepoint.hooks, typedTracepoint(p))
	}
	rungs := []rung{fentry, kprobe, tracepoint}
	for i := range rungs {
		rungs[i].hooks = append(rungs[i].hooks, l.hooks...)
	}
	if l.via != "" {
		rungs = append(rungs, last)
	}
	return rungs
}

// enters has one handler at the entries of several system calls.
func enters(handler string, calls []string) (probes []probe) {
	for _, call := range calls {
		probes = append(probes, probe{handler: handler, function: call})
	}
	return probes
}
