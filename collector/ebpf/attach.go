package ebpf

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// hook is one program and the place it is attached to.
type hook struct {
	program string
	attach  func(*Source, *tracefs, *ebpf.Program) (io.Closer, error)
	// optional says that a kernel or an architecture may lack the place: then nobody can use it either.
	optional bool
}

// group is the hooks that are needed together.
type group struct {
	kinds []event.Kind // none: the others work without it, less well
	via   string
	lack  string // for a group without kinds: what is lost without it
	hooks []hook
}

func groups() []group {
	return []group{
		{
			lack:  "containers are found by their processes instead of at their creation",
			hooks: []hook{{program: programsProgCgroupMkdir, attach: rawTracepoint}},
		},
		{kinds: []event.Kind{event.ProcessFork}, via: "ebpf/tracepoint",
			hooks: []hook{{program: programsProgProcessFork, attach: rawTracepoint}}},
		{kinds: []event.Kind{event.ProcessExec}, via: "ebpf/tracepoint",
			hooks: []hook{{program: programsProgProcessExec, attach: rawTracepoint}}},
		{kinds: []event.Kind{event.ProcessExit}, via: "ebpf/tracepoint",
			hooks: []hook{{program: programsProgProcessExit, attach: rawTracepoint}}},
		{kinds: []event.Kind{event.FileOpen}, via: "ebpf/tracepoint", hooks: []hook{
			{program: programsProgEnterOpenat, attach: syscallTracepoint("sys_enter_openat")},
			{program: programsProgExitOpenat, attach: syscallTracepoint("sys_exit_openat")},
			{program: programsProgEnterOpenat2, attach: syscallTracepoint("sys_enter_openat2"), optional: true},
			{program: programsProgExitOpenat2, attach: syscallTracepoint("sys_exit_openat2"), optional: true},
			{program: programsProgEnterOpen, attach: syscallTracepoint("sys_enter_open"), optional: true},
			{program: programsProgExitOpen, attach: syscallTracepoint("sys_exit_open"), optional: true},
			{program: programsProgEnterCreat, attach: syscallTracepoint("sys_enter_creat"), optional: true},
			{program: programsProgExitCreat, attach: syscallTracepoint("sys_exit_creat"), optional: true},
		}},
		{kinds: []event.Kind{event.NetConnect}, via: "ebpf/tracepoint", hooks: []hook{
			{program: programsProgEnterConnect, attach: syscallTracepoint("sys_enter_connect")},
			{program: programsProgExitConnect, attach: syscallTracepoint("sys_exit_connect")},
		}},
		{
			lack: "addresses of failed connects are unverified, and dns.* events have no process",
			hooks: []hook{
				{program: programsProgConnect4, attach: cgroup(ebpf.AttachCGroupInet4Connect)},
				{program: programsProgConnect6, attach: cgroup(ebpf.AttachCGroupInet6Connect)},
				{program: programsProgSendmsg4, attach: cgroup(ebpf.AttachCGroupUDP4Sendmsg)},
				{program: programsProgSendmsg6, attach: cgroup(ebpf.AttachCGroupUDP6Sendmsg)},
			},
		},
		{kinds: []event.Kind{event.DNSQuery}, via: "ebpf/cgroup",
			hooks: []hook{{program: programsProgDnsEgress, attach: cgroup(ebpf.AttachCGroupInetEgress)}}},
		{kinds: []event.Kind{event.DNSResponse}, via: "ebpf/cgroup",
			hooks: []hook{{program: programsProgDnsIngress, attach: cgroup(ebpf.AttachCGroupInetIngress)}}},
	}
}

// attachAll loads and attaches every group that this kernel takes, and notes for each kind how it went.
func (s *Source) attachAll(spec *ebpf.CollectionSpec, types *btf.Cache) error {
	fs, err := openTracefs()
	if err != nil {
		return err
	}
	defer fs.Close()
	var refused []error
	observed := 0
	for _, g := range groups() {
		err := s.attachGroup(spec, types, fs, &g)
		var verifier *ebpf.VerifierError
		if errors.As(err, &verifier) {
			s.cfg.Logger.Debug("program refused", "log", fmt.Sprintf("%-20v", verifier))
		}
		reason := ""
		if err != nil {
			err = remedy(err)
			reason = err.Error()
			refused = append(refused, err)
			if g.lack != "" {
				s.cfg.Logger.Warn("kernel hook not attached", "consequence", g.lack, "error", err)
			}
		}
		for _, kind := range g.kinds {
			if err == nil {
				observed++
			}
			s.state = append(s.state, event.SourceState{Kind: kind, Via: g.via, Healthy: err == nil, Reason: reason})
		}
	}
	if observed == 0 {
		return fmt.Errorf("attach programs: %w", refused[0])
	}
	return nil
}

// attachGroup attaches all of a group's hooks, or none.
func (s *Source) attachGroup(spec *ebpf.CollectionSpec, types *btf.Cache, fs *tracefs, g *group) error {
	only := spec.Copy()
	for name := range only.Programs {
		if !g.has(name) {
			delete(only.Programs, name)
		}
	}
	programs, err := ebpf.NewCollectionWithOptions(only, ebpf.CollectionOptions{
		MapReplacements: s.maps.Maps, Cache: types,
	})
	if err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	defer programs.Close() // an attached program stays with its link
	var attached []io.Closer
	for _, h := range g.hooks {
		closer, err := h.attach(s, fs, programs.Programs[h.program])
		if h.optional && errors.Is(err, errNoTracepoint) {
			continue
		}
		if err != nil {
			for _, c := range attached {
				err = errors.Join(err, c.Close())
			}
			return err
		}
		attached = append(attached, closer)
	}
	s.closers = append(s.closers, attached...)
	return nil
}

func (g *group) has(program string) bool {
	for _, h := range g.hooks {
		if h.program == program {
			return true
		}
	}
	return false
}

func rawTracepoint(_ *Source, _ *tracefs, program *ebpf.Program) (io.Closer, error) {
	return link.AttachTracing(link.TracingOptions{Program: program})
}

func syscallTracepoint(name string) func(*Source, *tracefs, *ebpf.Program) (io.Closer, error) {
	return func(_ *Source, fs *tracefs, program *ebpf.Program) (io.Closer, error) {
		return fs.attach("syscalls", name, program)
	}
}

// cgroup attaches beside others' programs: a link never replaces one.
func cgroup(attach ebpf.AttachType) func(*Source, *tracefs, *ebpf.Program) (io.Closer, error) {
	return func(s *Source, _ *tracefs, program *ebpf.Program) (io.Closer, error) {
		if s.cfg.CgroupRoot == "" {
			return nil, errors.New("cgroup v2 is not mounted: mount it with `mount -t cgroup2 cgroup2 DIRECTORY`")
		}
		return link.AttachCgroup(link.CgroupOptions{Path: s.cfg.CgroupRoot, Attach: attach, Program: program})
	}
}

// remedy puts what the operator can do before what the kernel said.
func remedy(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		// The library adds a guess about locked memory, which kernels since 5.11 do not need.
		return fmt.Errorf("not permitted: run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, "+
			"on a kernel that is not locked down: %w", cause(err))
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("no memory: before kernel 5.11, raise the limit of locked memory (LimitMEMLOCK=): %w", err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("not supported: needs a kernel with BPF ring buffers and BTF, 5.8 or later: %w", err)
	}
	return err
}

// cause is the errno an error stands for, which errors.Is has found in it.
func cause(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
