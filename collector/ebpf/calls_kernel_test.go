package ebpf

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// rawCall is a system call that the calls action makes.
type rawCall struct {
	Number uintptr   `json:"number"`
	Compat bool      `json:"compat,omitempty"` // the 32-bit one of that number
	Args   []callArg `json:"args"`
}

// callArg is an integer; or else a string whose address is meant, or what came before.
type callArg struct {
	Value  uint64  `json:"value,omitempty"`
	Text   *string `json:"text,omitempty"`
	Result *int    `json:"result,omitempty"` // what the call of that index returned, plus Value
	Child  bool    `json:"child,omitempty"`  // the child's pid, as the caller sees it
}

// calling is what the calls action is to do.
type calling struct {
	Calls  []rawCall `json:"calls"`
	Thread bool      `json:"thread,omitempty"` // by another thread than the first one
	Child  bool      `json:"child,omitempty"`  // with a child that waits
}

// called is what the action says of its calls.
type called struct {
	Child   int          `json:"child"`
	Results []int64      `json:"results"`
	Errnos  []unix.Errno `json:"errnos"`

	texts []*byte // that the calls were given, so that they stay where they are
}

func native(number uintptr, args ...callArg) rawCall { return rawCall{Number: number, Args: args} }

func compatible32(number uintptr, args ...callArg) rawCall {
	return rawCall{Number: number, Compat: true, Args: args}
}

func nums(values ...int64) (args []callArg) {
	for _, v := range values {
		args = append(args, callArg{Value: uint64(v)})
	}
	return args
}

func str(s string) callArg { return callArg{Text: &s} }

func resultOf(call int) callArg { return callArg{Result: &call} }

// actCalls makes system calls and says what they returned.
func actCalls(args []string) error {
	var what calling
	if err := json.Unmarshal([]byte(args[0]), &what); err != nil {
		return err
	}
	var said called
	if what.Child {
		child, end, err := startWaiting()
		if err != nil {
			return err
		}
		defer end()
		said.Child = child
	}
	if !what.Thread {
		if err := byFirstThread(func() error { return what.make(&said) }); err != nil {
			return err
		}
		return say(said)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with what it has become
		done <- what.make(&said)
	}()
	if err := <-done; err != nil {
		return err
	}
	return say(said)
}

// byFirstThread has the process's first thread do something: of a process whose other threads are traced, nobody but
// the tracer can wait for the end. Each thread that is not the first is held until that one is found.
func byFirstThread(do func() error) error {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		return do()
	}
	done := make(chan error)
	go func() { done <- byFirstThread(do) }()
	return <-done
}

// startWaiting starts a child that waits until end is called.
func startWaiting() (pid int, end func(), err error) {
	child := action("wait")
	out, err := child.StdoutPipe()
	if err != nil {
		return 0, nil, err
	}
	if err := child.Start(); err != nil {
		return 0, nil, err
	}
	_, err = out.Read(make([]byte, 1))
	return child.Process.Pid, func() {
		_ = child.Process.Kill()
		_ = child.Wait() // it was killed
	}, err
}

// actWait says that it is there and waits to be killed.
func actWait([]string) error {
	if _, err := os.Stdout.WriteString("."); err != nil {
		return err
	}
	return unix.Pause()
}

func (what *calling) make(said *called) error {
	var below *compatible
	for _, call := range what.Calls {
		if call.Compat && below == nil {
			var err error
			if below, err = newCompatible(); err != nil {
				return err
			}
		}
		var regs [6]uintptr
		for i, a := range call.Args {
			regs[i] = a.value(said, below)
		}
		var ret uintptr
		var errno unix.Errno
		if call.Compat {
			var r int
			r, errno = below.int80(uint32(call.Number), uint32(regs[0]), uint32(regs[1]), uint32(regs[2]), uint32(regs[3]),
				uint32(regs[4]), uint32(regs[5]))
			ret = uintptr(r)
		} else {
			ret, _, errno = unix.RawSyscall6(call.Number, regs[0], regs[1], regs[2], regs[3], regs[4], regs[5])
		}
		said.Results, said.Errnos = append(said.Results, int64(ret)), append(said.Errnos, errno)
	}
	return nil
}

// value puts what has an address where a 32-bit call finds it too.
func (a *callArg) value(said *called, below *compatible) uintptr {
	switch {
	case a.Result != nil:
		return uintptr(said.Results[*a.Result]) + uintptr(a.Value)
	case a.Child:
		return uintptr(said.Child)
	case a.Text != nil && below != nil:
		return uintptr(below.text(*a.Text))
	case a.Text != nil:
		said.texts = append(said.texts, mustBytes(*a.Text))
		return pointer(said.texts[len(said.texts)-1])
	}
	return uintptr(a.Value)
}

// place is where a test's process runs, and as whom.
type place struct {
	name      string
	contained bool // in a cgroup and a pid namespace of its own, as in a container
	uid, gid  uint32
}

var onHost, inContainer = place{name: "host"}, place{name: "container", contained: true}

// calls makes system calls in a place. It returns what was seen, what they returned, and what every event must say of
// the process.
func (o *observer) calls(t *testing.T, at place, what calling) (traced, called, *event.Process) {
	t.Helper()
	text, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	cmd, cgroup := o.put(t, at, action("calls", string(text)))
	tr := o.trace(t, cmd)
	p := tr.process("exe")
	p.UID, p.EUID, p.GID, p.EGID = at.uid, at.uid, at.gid, at.gid
	if at.contained {
		tr.cgroup = cgroup
		p.Name, p.NSPID, p.Cgroup = selfName(t), 1, cgroup
	}
	return tr, heard[called](t, cmd), p
}

// put has a command run in a place. It returns the cgroup that was made for it.
func (o *observer) put(t *testing.T, at place, cmd *exec.Cmd) (*exec.Cmd, uint64) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if at.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: at.uid, Gid: at.gid, NoSetGroups: true}
	}
	if !at.contained {
		return cmd, 0
	}
	dir, id := o.hierarchy.newCgroup(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := slices.Concat([]string{"-c", `echo $$ > "$0"/cgroup.procs && exec "$@"`, dir, self}, cmd.Args[1:])
	inside := exec.Command("/bin/sh", args...)
	inside.Env, inside.SysProcAttr = cmd.Env, cmd.SysProcAttr
	inside.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	return inside, id
}

// selfName is the name of a process that runs the tests' program by its path.
func selfName(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(self)
	return name[:min(len(name), 15)]
}

// only returns the event of a kind that is picked: there must be no more.
func (tr traced) only(t *testing.T, kind event.Kind, pick func(*event.Event) bool) event.Event {
	t.Helper()
	var found []event.Event
	for _, e := range tr.of(kind) {
		if pick == nil || pick(&e) {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		seen, _ := json.Marshal(tr.events) // to be read by people
		t.Fatalf("%d events of %s, want 1 among %s", len(found), kind, seen)
	}
	return found[0]
}
