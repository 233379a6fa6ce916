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
	systemObject  = object{"system", loadSystem}
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
	// For the tracepoint rung: handlers of what io_uring submits.
	operations []operation
	// For the tracepoint rung: kernel tracepoints with types (tp_btf), for what no system call tells.
	tracepoints []probe
	// For the tracepoint rung: cgroup hooks that see the kernel's copies of addresses.
	copies []hook
	// For the tracepoint rung: handlers at the entry of system calls, for what their exit does not tell any more.
	enters []probe
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

// ladders is everything that is observed. New cgroups come first, see Config.Watching.
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
		{kinds: []event.Kind{event.NetSocket, event.NetConnect, event.NetAccept, event.NetBind, event.NetListen},
			object: netObject,
			entries: []probe{
				{handler: "socket_connect", function: "security_socket_connect"},
				{handler: "socket_bind", function: "security_socket_bind"},
			},
			exits: []probe{
				{handler: "connect_file", function: "__sys_connect_file", optional: true},
				{handler: "bind_socket", function: "__sys_bind_socket", optional: true},
			},
			calls: []probe{
				{handler: "called_socket", function: "__sys_socket"},
				{handler: "called_connect", function: "__sys_connect"},
				{handler: "called_accept", function: "__sys_accept4"},
				{handler: "called_bind", function: "__sys_bind"},
				{handler: "called_listen", function: "__sys_listen"},
				{handler: "iouring_socket", function: "__sys_socket_file", optional: true},
				{handler: "iouring_accept", function: "do_accept", optional: true},
				{handler: "iouring_listen", function: "__sys_listen_socket", optional: true},
			},
			traced: []string{"socket", "connect", "accept", "accept4", "bind", "listen", "socketcall"},
			copies: []hook{
				whereThere(cgroup(netProgCopyConnect4, ebpf.AttachCGroupInet4Connect)),
				whereThere(cgroup(netProgCopyConnect6, ebpf.AttachCGroupInet6Connect)),
			}},
		{kinds: []event.Kind{event.NetSend}, object: netObject,
			calls: []probe{
				{handler: "sendmsg", function: "udp_sendmsg"},
				{handler: "sendmsg", function: "raw_sendmsg", optional: true},
				{handler: "sendmsg", function: "ping_v4_sendmsg", optional: true},
				{handler: "sendmsg6", function: "udpv6_sendmsg", optional: true},
				{handler: "sendmsg6", function: "rawv6_sendmsg", optional: true},
				{handler: "sendmsg6", function: "ping_v6_sendmsg", optional: true},
				{handler: "fastopen", function: "__inet_stream_connect", optional: true},
			},
			traced: []string{"sendto", "sendmsg", "sendmmsg"},
			copies: []hook{
				cgroup(netProgCopySendmsg4, ebpf.AttachCGroupUDP4Sendmsg),
				whereThere(cgroup(netProgCopySendmsg6, ebpf.AttachCGroupUDP6Sendmsg)),
			}},
		{kinds: []event.Kind{event.ProcessDup}, object: netObject,
			calls:    []probe{{handler: "dupfd", function: "f_dupfd"}},
			syscalls: []string{"dup", "dup2", "dup3"},
			traced:   []string{"fcntl", "fcntl64"}},
		{
			object: netObject, lack: "dns.* events do not tell the process",
			via: rungCgroup, hooks: []hook{
				cgroup(netProgOwnConnect4, ebpf.AttachCGroupInet4Connect),
				cgroup(netProgOwnConnect6, ebpf.AttachCGroupInet6Connect),
				cgroup(netProgOwnSendmsg4, ebpf.AttachCGroupUDP4Sendmsg),
				cgroup(netProgOwnSendmsg6, ebpf.AttachCGroupUDP6Sendmsg),
			},
		},
		{kinds: []event.Kind{event.FSMount}, object: systemObject,
			entries: []probe{
				{handler: "sb_mount", function: "security_sb_mount"},
				{handler: "sb_move", function: "security_move_mount"},
			},
			syscalls: []string{"mount", "fsopen", "fsmount", "open_tree", "open_tree_attr", "move_mount", "mount_setattr"}},
		{kinds: []event.Kind{event.FSUmount}, object: systemObject,
			entries:  []probe{{handler: "sb_umount", function: "security_sb_umount"}},
			syscalls: []string{"umount", "oldumount"}},
		{kinds: []event.Kind{event.ModuleLoad}, object: systemObject,
			entries:  []probe{{handler: "read_file", function: "security_kernel_read_file"}},
			syscalls: []string{"init_module", "finit_module"},
			hooks:    []hook{typedTracepoint(probe{handler: systemProgModuleNamed, function: "module_load"})}},
		{kinds: []event.Kind{event.BPFLoad}, object: systemObject,
			entries: []probe{
				{handler: "bpf_requested", function: "security_bpf"},
				{handler: "bpf_loaded", function: "bpf_prog_kallsyms_add", optional: true},
			},
			syscalls: []string{"bpf"}},
		{kinds: []event.Kind{event.IOUringSetup}, object: systemObject,
			syscalls: []string{"io_uring_setup"},
			hooks:    []hook{typedTracepoint(probe{handler: systemProgRingCreated, function: "io_uring_create"})}},
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
		for i, function := range syscallFunctions(name, l.forms(name)) {
			p := probe{handler: name, function: function, optional: i > 0}
			fentry.hooks = append(fentry.hooks, tracingCall(name, p))
			kprobe.hooks = append(kprobe.hooks, oneOf(kernelProbe("kretprobe_", p)))
		}
	}
	for _, name := range append(l.syscalls, l.traced...) {
		tracepoint.hooks = append(tracepoint.hooks, exitCall(name, l.forms(name)))
	}
	for _, op := range l.operations {
		tracepoint.hooks = append(tracepoint.hooks, uringOperation(op))
	}
	for _, p := range l.enters {
		tracepoint.hooks = append(tracepoint.hooks, enterCall(p))
	}
	for _, p := range l.tracepoints {
		tracepoint.hooks = append(tracepoint.hooks, typedTracepoint(p))
	}
	tracepoint.hooks = append(tracepoint.hooks, l.copies...)
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
