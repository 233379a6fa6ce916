//go:build amd64

package audit

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
)

// i386Program is a static 32-bit program that makes system calls one after the other, and ends.
type i386Program struct{ code, data []byte }

// The program is loaded in one piece: headers, code, and at dataAt its data.
const (
	loadAt  = 0x08048000
	headers = 52 + 32
	dataAt  = loadAt + 0x800
)

// put adds data and returns its address.
func (p *i386Program) put(b []byte) uint32 {
	at := dataAt + uint32(len(p.data))
	p.data = append(p.data, b...)
	return at
}

// words is put for the arguments of socketcall(2).
func (p *i386Program) words(words ...uint32) uint32 {
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return p.put(b)
}

// call adds a system call: its number goes to eax, its arguments to ebx, ecx, edx, esi, edi.
func (p *i386Program) call(number uint32, args ...uint32) {
	for i, value := range append([]uint32{number}, args...) {
		p.code = append(p.code, [...]byte{0xb8, 0xbb, 0xb9, 0xba, 0xbe, 0xbf}[i]) // mov register, value
		p.code = binary.LittleEndian.AppendUint32(p.code, value)
	}
	p.code = append(p.code, 0xcd, 0x80) // int 0x80
}

// write makes the program's file (elf(5)).
func (p *i386Program) write(t *testing.T, path string) {
	t.Helper()
	const size = 0x1000
	b := []byte{0x7f, 'E', 'L', 'F', 1, 1, 1, 15: 0}
	half := func(v ...uint16) {
		for _, v := range v {
			b = binary.LittleEndian.AppendUint16(b, v)
		}
	}
	word := func(v ...uint32) {
		for _, v := range v {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
	}
	half(2, 3) // executable, of the 80386
	word(1, loadAt+headers, 52, 0, 0)
	half(52, 32, 1, 0, 0, 0)
	word(1, 0, loadAt, loadAt, size, size, 7, size) // PT_LOAD, for everything
	b = append(b, p.code...)
	if len(b) > dataAt-loadAt || len(p.data) > size-(dataAt-loadAt) {
		t.Fatal("the program is too long")
	}
	b = append(b, make([]byte, dataAt-loadAt-len(b))...)
	b = append(append(b, p.data...), make([]byte, size-(dataAt-loadAt)-len(p.data))...)
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

// 32-bit programs have other numbers, ids of 16 bits, and a call that hides others behind a pointer.
func TestKernelTellsOf32BitPrograms(t *testing.T) {
	control(t)
	_, sink, _ := start(t, Config{})
	dir := t.TempDir()
	var p i386Program
	name, renamed := p.put([]byte("f\x00")), p.put([]byte("g\x00"))
	address := p.put([]byte{2, 0, 0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	const keep16, keep32, socketcall = 0xffff, 0xffffffff, 102
	p.call(8, name, 0o644)                                         // creat
	p.call(15, name, 0o600)                                        // chmod
	p.call(182, name, keep16, 2)                                   // chown
	p.call(212, name, 70000, keep32)                               // chown32
	p.call(38, name, renamed)                                      // rename
	p.call(192, 0, 4096, 5, 0x22, keep32)                          // mmap2
	p.call(125, loadAt, 4096, 7)                                   // mprotect
	p.call(359, 2, 3, 1)                                           // socket: raw
	p.call(socketcall, 1, p.words(2, 2, 0))                        // socket: descriptor 5
	p.call(socketcall, 2, p.words(5, address, 16))                 // bind
	p.call(socketcall, 3, p.words(5, address, 16))                 // connect
	p.call(socketcall, 4, p.words(5, 7))                           // listen
	p.call(socketcall, 11, p.words(5, address, 4, 0, address, 16)) // sendto
	p.call(socketcall, 9, p.words(5, address, 4, 0))               // send: tells nothing
	p.call(70, keep16, 7)                                          // setreuid
	p.call(208, keep32, keep32, 7)                                 // setresuid32
	p.call(252, 3)                                                 // exit_group
	program := filepath.Join(t.TempDir(), "program")
	p.write(t, program)
	cmd := exec.Command(program)
	cmd.Dir = dir
	if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 3 {
		t.Fatalf("32-bit program: %v", err)
	}

	pid := cmd.ProcessState.Pid()
	sink.awaitKind(t, event.ProcessExit, pid)
	var got []string
	for _, e := range sink.of(pid) {
		if e.Memory != nil && e.Kind == event.MemoryMap {
			e.Memory.Address = 0
		}
		if e.File != nil {
			e.File.Device, e.File.Inode = 0, 0
		}
		e.Process = nil
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(text))
	}
	local := netip.MustParseAddr("127.0.0.1")
	inet := event.Socket{Family: event.INET}
	bound, remote := inet, inet
	bound.LocalIP, bound.LocalPort = local, 9
	remote.RemoteIP, remote.RemotePort = local, 9
	file := func(f event.File) *event.File { f.Path = dir + "/f"; return &f }
	var want []string
	for _, e := range []event.Event{
		{Kind: event.ProcessExec},
		{Kind: event.FileOpen, File: file(event.File{Flags: 0x241})},
		{Kind: event.FileChmod, File: file(event.File{Mode: event.Some(event.FileMode(0o600))})},
		{Kind: event.FileChown, File: file(event.File{GID: event.Some(uint32(2))})},
		{Kind: event.FileChown, File: file(event.File{UID: event.Some(uint32(70000))})},
		{Kind: event.FileRename, File: file(event.File{Target: dir + "/g"})},
		{Kind: event.MemoryMap, Memory: &event.Memory{Length: 4096, Protection: 5, Flags: 0x22, Region: "anonymous"}},
		{Kind: event.MemoryProtect, Memory: &event.Memory{Address: loadAt, Length: 4096, Protection: 7}},
		{Kind: event.NetSocket, Net: &event.Net{Socket: event.Socket{Family: event.INET, Type: event.Raw, Protocol: 1}}},
		{Kind: event.NetSocket, Net: &event.Net{Socket: event.Socket{Family: event.INET, Type: event.Datagram}}},
		{Kind: event.NetBind, Net: &event.Net{Socket: bound}},
		{Kind: event.NetConnect, Net: &event.Net{Socket: remote}},
		{Kind: event.NetListen, Result: 95, Net: &event.Net{Backlog: 7}},
		{Kind: event.NetSend, Net: &event.Net{Socket: remote}},
		{Kind: event.ProcessSetID, SetID: &event.SetID{Call: "setreuid", EUID: event.Some(uint32(7))}},
		{Kind: event.ProcessSetID, SetID: &event.SetID{Call: "setresuid", SUID: event.Some(uint32(7))}},
		{Kind: event.ProcessExit},
	} {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, string(text))
	}
	if !slices.Equal(got, want) {
		for _, line := range got {
			t.Logf("got  %s", line)
		}
		for _, line := range want {
			t.Errorf("want %s", line)
		}
	}
}
