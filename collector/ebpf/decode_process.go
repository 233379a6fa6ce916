package ebpf

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/taskguard/taskguard/collector/event"
)

func (d *decoder) exec(record []byte) error {
	r, rest, err := take[commonExecRecord](record)
	if err != nil {
		return err
	}
	flags := commonRecordFlag(r.Header.Flags)
	s := sections{rest: rest}
	args := s.next(r.ArgsLen)
	env := s.next(r.EnvLen)
	exe, cwd, script := s.text(r.Exe), s.text(r.Cwd), s.text(r.Script)
	if s.short {
		return fmt.Errorf("sections exceed %d bytes", len(record))
	}
	p := &d.process
	p.PPID, p.ParentStart = r.Parent.Pid, r.Parent.Start
	p.Args = event.Argv(d.strings.get(args))
	if flags&commonRecordFlagFLAG_ARGS_CUT != 0 {
		p.ArgsLength = r.ArgsTotal
		p.Truncated |= event.FieldArgs
	}
	p.Env = event.Environ(d.strings.get(d.loaderVariables(env)))
	if flags&commonRecordFlagFLAG_ENV_CUT != 0 {
		p.Truncated |= event.FieldEnv
	}
	p.Exe = d.show(exe, event.FieldExe, &p.Truncated, &p.ExeLength)
	p.ExeDevice, p.ExeInode, p.ExeVersion = event.Device(r.File.Device), r.File.Inode, versionOf(r.Version)
	p.ExeDeleted = flags&commonRecordFlagFLAG_DELETED != 0
	p.ExeUpperLayer = flags&commonRecordFlagFLAG_UPPER != 0
	p.Cwd = d.show(cwd, event.FieldCwd, &p.Truncated, &p.CwdLength)
	p.Script = d.script(script.bytes)
	if script.cut() || relative(script.bytes) && cwd.cut() {
		p.Truncated |= event.FieldScript
	}
	return nil
}

func versionOf(v commonFileVersion) event.FileVersion {
	return event.FileVersion{Device: event.Device(v.Device), Inode: v.Inode, Size: v.Size, Changed: v.Changed}
}

func (d *decoder) fork(record []byte) error {
	r, _, err := take[commonForkRecord](record)
	if err != nil {
		return err
	}
	d.process.PPID, d.process.ParentStart = r.Parent.Pid, r.Parent.Start
	return nil
}

func (d *decoder) exit(record []byte) error {
	r, _, err := take[commonExitRecord](record)
	if err != nil {
		return err
	}
	d.process.Exit = event.ExitFromStatus(r.Status)
	return nil
}

// setidCalls are the system calls of process.setid, by header.call: in the order of bpf/setid.h.
var setidCalls = [...]string{
	"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid",
}

func (d *decoder) setID(record []byte) error {
	r, _, err := take[commonSetidRecord](record)
	if err != nil {
		return err
	}
	if int(r.Header.Call) >= len(setidCalls) {
		return fmt.Errorf("unknown call %d", r.Header.Call)
	}
	id := func(i commonIdIndex) event.Optional[uint32] {
		if r.Known>>i&1 == 0 {
			return event.Optional[uint32]{}
		}
		return event.Some(r.Ids[i])
	}
	d.setid = event.SetID{
		Call: setidCalls[r.Header.Call],
		UID:  id(commonIdIndexID_UID), EUID: id(commonIdIndexID_EUID), SUID: id(commonIdIndexID_SUID),
		FSUID: id(commonIdIndexID_FSUID), GID: id(commonIdIndexID_GID), EGID: id(commonIdIndexID_EGID),
		SGID: id(commonIdIndexID_SGID), FSGID: id(commonIdIndexID_FSGID),
	}
	d.event.SetID = &d.setid
	return nil
}

// targeted decodes what one process does to another.
func (d *decoder) targeted(record []byte) error {
	r, _, err := take[commonTargetRecord](record)
	if err != nil {
		return err
	}
	if r.Target.Pid != 0 {
		d.target = d.processOf(&r.Target)
		d.event.Target = &d.target
	}
	if d.event.Kind == event.ProcessPtrace {
		d.ptrace = event.Ptrace{Request: event.PtraceRequest(r.Request), PID: r.Pid}
		d.event.Ptrace = &d.ptrace
		return nil
	}
	d.memory = event.Memory{PID: r.Pid, VMFlags: r.Request}
	d.event.Memory = &d.memory
	return nil
}

// namespaceCalls are those of process.namespace, by header.call: in the order of bpf/namespace.h.
var namespaceCalls = [...]string{"setns", "unshare", "clone"}

func (d *decoder) namespace(record []byte) error {
	r, _, err := take[commonNamespaceRecord](record)
	if err != nil {
		return err
	}
	if int(r.Header.Call) >= len(namespaceCalls) {
		return fmt.Errorf("unknown call %d", r.Header.Call)
	}
	d.ns = event.Namespace{
		Call: namespaceCalls[r.Header.Call], Flags: event.NamespaceFlags(r.Flags), Inode: r.Inode,
	}
	d.event.Namespace = &d.ns
	return nil
}

// loaderVariables picks out of an environment the variables that make the dynamic loader run other code. Nothing else of
// it leaves this function.
func (d *decoder) loaderVariables(env []byte) []byte {
	d.path = d.path[:0]
	for rest := env; len(rest) > 0; {
		end := bytes.IndexByte(rest, 0) + 1
		if end == 0 { // cut
			end = len(rest)
		}
		variable := rest[:end]
		rest = rest[end:]
		if bytes.HasPrefix(variable, []byte("LD_PRELOAD=")) || bytes.HasPrefix(variable, []byte("LD_LIBRARY_PATH=")) {
			d.path = append(d.path, variable...)
		}
	}
	return d.path
}

// script makes execve's file name absolute. A name below /dev/fd is what the kernel gives a script that was run by
// its descriptor; it stays as it is.
func (d *decoder) script(name []byte) string {
	if !relative(name) {
		return d.strings.get(name)
	}
	name = bytes.TrimPrefix(name, []byte("./"))
	d.path = append(d.path[:0], d.process.Cwd...)
	if !strings.HasSuffix(d.process.Cwd, "/") {
		d.path = append(d.path, '/')
	}
	d.path = append(d.path, name...)
	return d.strings.get(d.path)
}

func relative(name []byte) bool { return len(name) > 0 && name[0] != '/' }
