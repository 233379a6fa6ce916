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
	// For the tracepoint rung: handlers of what io_uring submits.
	operations []operation
	// For the tracepoint rung: kernel tracepoints with types (tp_btf), for what no system call tells.
	tracepoints []probe
	// hooks are attached on every rung: cgroup hooks, tracepoints. When there is nothing else, via names their rung.
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
			via: rungTracepoint, hooks: []hook{rawTracepoint(processProgProcessExec)}},
		{kinds: []event.Kind{event.ProcessExit}, object: processObject,
			via: rungTracepoint, hooks: []hook{rawTracepoint(processProgProcessExit)}},
		{kinds: []event.Kind{event.FileOpen}, object: fileObject,
			calls: []probe{{"filp_open", "do_filp_open", false}},
			// What these open goes past do_filp_open.
			syscalls:   []string{"open_by_handle_at"},
			traced:     []string{"open", "creat", "openat", "openat2"},
			operations: []operation{{"uring_openat", opOpenat}, {"uring_openat", opOpenat2}}},
		{kinds: []event.Kind{event.FileRename}, object: fileObject,
			entries:    []probe{{"rename_begin", "do_renameat2", true}, {"path_rename", "security_path_rename", false}},
			exits:      []probe{{"rename_end", "do_renameat2", true}},
			syscalls:   []string{"rename", "renameat", "renameat2"},
			operations: []operation{{"uring_renameat", opRenameat}}},
		{kinds: []event.Kind{event.FileLink}, object: fileObject,
			entries:    []probe{{"link_begin", "do_linkat", true}, {"path_link", "security_path_link", false}},
			exits:      []probe{{"link_end", "do_linkat", true}},
			syscalls:   []string{"link", "linkat"},
			operations: []operation{{"uring_linkat", opLinkat}}},
		{kinds: []event.Kind{event.FileSymlink}, object: fileObject,
			entries:    []probe{{"symlink_begin", "do_symlinkat", true}, {"path_symlink", "security_path_symlink", false}},
			exits:      []probe{{"symlink_end", "do_symlinkat", true}},
			syscalls:   []string{"symlink", "symlinkat"},
			operations: []operation{{"uring_symlinkat", opSymlinkat}}},
		{kinds: []event.Kind{event.FileUnlink}, object: fileObject,
			entries: []probe{
				{"unlink_begin", "do_unlinkat", true}, {"path_unlink", "security_path_unlink", false},
				{"rmdir_begin", "do_rmdir", true}, {"path_rmdir", "security_path_rmdir", false},
			},
			exits:      []probe{{"unlink_end", "do_unlinkat", true}, {"unlink_end", "do_rmdir", true}},
			syscalls:   []string{"unlink", "unlinkat", "rmdir"},
			operations: []operation{{"uring_unlinkat", opUnlinkat}}},
		{kinds: []event.Kind{event.FileChmod}, object: fileObject,
			entries:  []probe{{"chmod_common", "chmod_common", false}},
			syscalls: []string{"chmod", "fchmod", "fchmodat", "fchmodat2"}},
		{kinds: []event.Kind{event.FileChown}, object: fileObject,
			entries:  []probe{{"chown_common", "chown_common", false}},
			exits:    []probe{{"chown16_end", "do_fchownat", true}, {"fchown16_end", "ksys_fchown", true}},
			syscalls: []string{"chown", "lchown", "fchown", "fchownat"},
			traced:   []string{"chown16", "lchown16", "fchown16"}},
		{kinds: []event.Kind{event.DNSQuery}, object: dnsObject,
			via: rungCgroup, hooks: []hook{cgroup(dnsProgDnsEgress, ebpf.AttachCGroupInetEgress)}},
		{kinds: []event.Kind{event.DNSResponse}, object: dnsObject,
			via: rungCgroup, hooks: []hook{cgroup(dnsProgDnsIngress, ebpf.AttachCGroupInetIngress)}},
	}
}

// rungs expands a ladder, best rung first.
func (l *ladder) rungs() []rung {
	if l.via != "" {
		return []rung{{l.via, l.hooks}}
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
	for _, op := range l.operations {
		tracepoint.hooks = append(tracepoint.hooks, uringOperation(op))
	}
	for _, p := range l.tracepoints {
		tracepoint.hooks = append(tracepoint.hooks, typedTracepoint(p))
	}
	rungs := []rung{fentry, kprobe, tracepoint}
	for i := range rungs {
		rungs[i].hooks = append(rungs[i].hooks, l.hooks...)
	}
	return rungs
}
