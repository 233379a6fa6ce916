package ebpf

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

var record = flag.Bool("record", false, "write what TestRecord records to testdata, named by kernel and architecture")

// sample is one record of the kernel, as it is stored.
type sample struct {
	Kind   string `json:"kind"`
	Record []byte `json:"record"`
}

// Every kind is on some rung, and the corpus of the decoder's tests can be made anew, on any kernel that has what the kind
// is about.
func TestRecord(t *testing.T) {
	needKernel(t)
	h := findHierarchy(t)
	s := openSource(t, configFor(t, h))
	defer s.Close()

	dir := t.TempDir()
	t.Chdir(dir)
	shell := exec.Command("/bin/sh", "-c", `
		printf '#!/bin/sh\n' > script; chmod +x script; ./script 'a b'
		LD_PRELOAD= LD_LIBRARY_PATH=/opt/lib /bin/true '' "$1"
		echo x 2>/dev/null > /none/there
		ln script link; ln -s ../none symlink; mv script "re
named"; chmod 4711 link; chown 1:2 link; rm link; mkdir dir; rmdir dir; rm none 2>/dev/null
		exit 3`, "sh", strings.Repeat("long ", 5000))
	members := map[uint32]bool{runOf(t, shell): true}
	for _, call := range []rawCall{
		native(unix.SYS_SETUID, nums(4001)...), native(unix.SYS_SETRESGID, nums(-1, 4002, 4003)...),
		native(unix.SYS_PTRACE, nums(unix.PTRACE_PEEKTEXT, 1)...), native(unix.SYS_UNSHARE, nums(unix.CLONE_NEWUTS)...),
		native(unix.SYS_MMAP, callArg{}, callArg{Value: 4096}, callArg{Value: readExec},
			callArg{Value: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS}, nums(-1)[0], callArg{}),
		native(unix.SYS_MPROTECT, nums(0x1000, 4096, readExec)...),
		native(unix.SYS_PROCESS_VM_READV, nums(1, 0, 0, 0, 0, 0)...),
		native(unix.SYS_PROCESS_VM_WRITEV, nums(1, 0, 0, 0, 0, 7)...),
		native(unix.SYS_MEMFD_CREATE, str("corpus"), callArg{}), native(unix.SYS_USERFAULTFD, nums(unix.O_CLOEXEC)...),
		native(unix.SYS_EXECVE, str("/none/there"), callArg{}, callArg{}),
	} {
		what, err := json.Marshal(calling{Calls: []rawCall{call}, Thread: true})
		if err != nil {
			t.Fatal(err)
		}
		members[runOf(t, action("calls", string(what)))] = true
	}
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:127.0.0.1")
	l := listen(t, "unix", "@corpus")
	defer l.Close()
	for _, d := range []dial{
		{Family: unix.AF_INET, Type: unix.SOCK_DGRAM, IP: v4, Port: 443},
		{Family: unix.AF_INET6, Type: unix.SOCK_STREAM, IP: v6, Port: 9},
		{Family: unix.AF_UNIX, Type: unix.SOCK_STREAM, Path: "@corpus"},
		{Family: unix.AF_UNIX, Type: unix.SOCK_STREAM, Path: "/none/there"},
	} {
		what, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		members[runOf(t, action("connect", string(what)))] = true
	}
	for _, test := range netTests(dir) {
		members[runOf(t, netAction(t, "native", test.steps))] = true
	}
	for _, test := range dupTests()[:4] {
		steps := append(dupSocket(unix.AF_INET, "127.0.0.1:7000"), test.steps...)
		members[runOf(t, netAction(t, "native", steps))] = true
	}
	for _, cmd := range systemActions(t) {
		members[runOf(t, cmd)] = true
	}
	cgroup, _ := h.newCgroup(t)
	what, err := json.Marshal(exchange{"tcp", "[::1]:53", true, [][]byte{
		asked(7, "www.example.com.", dnsmessage.TypeA), asked(8, "x.example.", dnsmessage.TypeAAAA),
	}})
	if err != nil {
		t.Fatal(err)
	}
	dns := action("dns", cgroup, string(what))
	dns.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	members[runOf(t, dns)] = true

	corpus := s.read(t, members)
	seen := map[string]bool{}
	for _, r := range corpus {
		seen[r.Kind] = true
	}
	for kind := commonKindPROCESS_EXEC; kind < commonKindEVENT_KINDS; kind++ {
		own := kind >= commonKind(event.AgentStart) && kind <= commonKind(event.AgentLoss)
		if !own && !seen[event.Kind(kind).String()] && lack([]event.Kind{event.Kind(kind)}) == "" {
			t.Errorf("no record of %s", event.Kind(kind))
		}
	}
	if *record {
		writeCorpus(t, corpus)
	}
}

func runOf(t *testing.T, cmd *exec.Cmd) uint32 {
	t.Helper()
	_ = cmd.Run() // some are to fail
	if cmd.ProcessState == nil {
		t.Fatalf("%v did not start", cmd.Args)
	}
	return uint32(cmd.Process.Pid)
}

// read takes what the ring buffer holds of processes and their descendants. Executions of the test itself are left
// out: they say where it was built.
func (s *Source) read(t *testing.T, members map[uint32]bool) (corpus []sample) {
	t.Helper()
	var r ringbuf.Record
	s.reader.SetDeadline(time.Now())
	for {
		err := s.reader.ReadInto(&r)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return corpus
		}
		if err != nil {
			t.Fatal(err)
		}
		h, _, err := take[commonHeader](r.RawSample)
		if err != nil {
			t.Fatal(err)
		}
		if fork, _, err := take[commonForkRecord](r.RawSample); err == nil &&
			commonKind(h.Kind) == commonKindPROCESS_FORK && members[fork.Parent.Pid] {
			members[h.Task.Pid] = true
		}
		ofTest := commonKind(h.Kind) == commonKindPROCESS_EXEC && string(comm(&h.Task.Comm)) == "exe"
		if members[h.Task.Pid] && !ofTest && commonKind(h.Kind) < commonKindCGROUP_MKDIR {
			corpus = append(corpus, sample{event.Kind(h.Kind).String(), append([]byte(nil), r.RawSample...)})
		}
	}
}

func writeCorpus(t *testing.T, corpus []sample) {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	version := strings.SplitN(unix.ByteSliceToString(name.Release[:]), ".", 3)
	_, here, _, _ := runtime.Caller(0)
	file := fmt.Sprintf("%s-linux-%s.%s-%s.jsonl", distribution(t), version[0], version[1], runtime.GOARCH)
	path := filepath.Join(filepath.Dir(here), "testdata", file)
	var text strings.Builder
	lines := json.NewEncoder(&text)
	for _, r := range corpus {
		if err := lines.Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// distribution names the host's, such as "debian-12".
func distribution(t *testing.T) string {
	t.Helper()
	facts := make(map[string]string)
	for _, line := range lines(t, "/etc/os-release") {
		name, value, _ := strings.Cut(line, "=")
		facts[name] = strings.Trim(value, `"`)
	}
	return facts["ID"] + "-" + facts["VERSION_ID"]
}
