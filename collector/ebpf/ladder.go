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
	// For the tracepoint rung: kernel tracepoints with types (tp_btf), for what no system call tells.
	tracepoints []probe
	// For the tracepoint rung: cgroup hooks that see the kernel's copies of addresses.
	copies []hook
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
			calls:  []probe{{handler: "filp_open", function: "do_filp_open"}},
			traced: []string{"open", "creat", "openat", "openat2"}},
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
	for _, p := range l.tracepoints {
		tracepoint.hooks = append(tracepoint.hooks, typedTracepoint(p))
	}
	tracepoint.hooks = append(tracepoint.hooks, l.copies...)
	rungs := []rung{fentry, kprobe, tracepoint}
	for i := range rungs {
		rungs[i].hooks = append(rungs[i].hooks, l.hooks...)
	}
	return rungs
}
