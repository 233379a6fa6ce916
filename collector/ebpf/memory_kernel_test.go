package ebpf

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

const readExec = unix.PROT_READ | unix.PROT_EXEC

// openAt is openat(2), of which the tests use what it returns.
func openAt(path string) rawCall {
	cwd := unix.AT_FDCWD
	return native(unix.SYS_OPENAT, callArg{Value: uint64(cwd)}, str(path), callArg{})
}

// deviceOf is a file's device as events have it.
func deviceOf(st unix.Stat_t) event.Device {
	return event.Device(unix.Major(st.Dev)<<20 | unix.Minor(st.Dev))
}

func TestMap(t *testing.T) {
	file := filepath.Join(openTempDir(t), "library")
	const size = 3 * 4096
	if err := os.WriteFile(file, make([]byte, size), 0o755); err != nil {
		t.Fatal(err)
	}
	anonymous := event.Memory{Length: size, Region: "anonymous", Protection: readExec | unix.PROT_WRITE,
		Flags: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS}
	private := event.Memory{Length: size, Region: "file", Protection: readExec, Flags: unix.MAP_PRIVATE, Path: file}
	unknown := private
	unknown.Region, unknown.Path = "", ""
	mapping := func(m event.Memory, number uintptr, fd callArg) rawCall {
		return native(number, callArg{}, callArg{Value: size}, callArg{Value: uint64(m.Protection)},
			callArg{Value: uint64(m.Flags)}, fd, callArg{})
	}
	compatMapping := func(m event.Memory, fd callArg) rawCall {
		call := mapping(m, 192, fd)
		call.Compat = true
		return call
	}
	change := native(unix.SYS_FCHMOD, resultOf(0), callArg{Value: 0o755}) // as of a file that it knows nothing is told
	readOnly := private
	readOnly.Protection = unix.PROT_READ
	none := nums(-1)[0]
	tests := []struct {
		name  string
		calls []rawCall // the last is the one
		at    place
		errno unix.Errno
		want  *event.Memory
	}{
		{"anonymous", []rawCall{mapping(anonymous, unix.SYS_MMAP, none)}, onHost, 0, &anonymous},
		{"anonymous, in a container", []rawCall{mapping(anonymous, unix.SYS_MMAP, none)}, inContainer, 0, &anonymous},
		{"file", []rawCall{openAt(file), change, mapping(private, unix.SYS_MMAP, resultOf(0))}, onHost, 0, &private},
		{"file, in a container", []rawCall{openAt(file), change, mapping(private, unix.SYS_MMAP, resultOf(0))}, inContainer, 0,
			&private},
		{"for reading", []rawCall{openAt(file), mapping(readOnly, unix.SYS_MMAP, resultOf(0))}, onHost, 0, nil},
		{"no descriptor", []rawCall{mapping(private, unix.SYS_MMAP, none)}, onHost, unix.EBADF, &unknown},
		{"32-bit anonymous", []rawCall{compatMapping(anonymous, none)}, onHost, 0, &anonymous},
		{"32-bit file", []rawCall{openAt(file), change, compatMapping(private, resultOf(0))}, onHost, 0, &private},
	}
	forRungs(t, []event.Kind{event.MemoryMap}, func(t *testing.T, o *observer) {
		for _, test := range tests {
			last := len(test.calls) - 1
			if test.calls[last].Compat && !hasCompatible {
				continue
			}
			t.Run(test.name, func(t *testing.T) {
				tr, did, p := o.callsSeen(t, test.at, calling{Calls: test.calls, Thread: true})
				if did.Errnos[last] != test.errno {
					t.Fatalf("the kernel said %v, want %v", did.Errnos[last], test.errno)
				}
				ours := func(e *event.Event) bool { return e.Memory.Length == size }
				if test.want == nil {
					for _, e := range tr.of(event.MemoryMap) {
						if ours(&e) {
							t.Errorf("%+v", *e.Memory)
						}
					}
					return
				}
				if test.errno == unix.EBADF && o.rung != rungTracepoint {
					return // the kernel did not get as far as to map
				}
				want := *test.want
				if test.errno == 0 {
					want.Address = event.Address(did.Results[last])
				}
				if want.Path != "" {
					st := stat(t, file)
					want.Inode, want.Device = st.Ino, deviceOf(st)
					want.Unverified = o.rung == rungTracepoint && !findsAreas(t)
				}
				tr.equal(t, event.Event{Kind: event.MemoryMap, Result: int32(test.errno), Process: p, Memory: &want},
					tr.only(t, event.MemoryMap, ours))
			})
		}
	})
}

// callsSeen has calls made until the kernel can tell what their memory is: on the tracepoint rung it cannot while another
// thread is about to change the process's memory.
func (o *observer) callsSeen(t *testing.T, at place, what calling) (traced, called, *event.Process) {
	t.Helper()
	for range 20 {
		tr, did, p := o.calls(t, at, what)
		busy := slices.ContainsFunc(tr.events, func(e event.Event) bool {
			return e.Kind == event.MemoryMap && e.Memory.Unverified ||
				e.Kind == event.MemoryProtect && e.Memory.Region == "" && e.Result == 0
		})
		if !busy || o.rung != rungTracepoint || !findsAreas(t) {
			return tr, did, p
		}
	}
	t.Fatal("the kernel never tells")
	return traced{}, called{}, nil
}

// findsAreas tells whether programs may ask this kernel what is at an address.
func findsAreas(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 5 || major == 5 && minor >= 17
}

// A library is told of once for each container that it is loaded in, and again when it has changed.
func TestMapOfLibraryIsToldOnce(t *testing.T) {
	const size = 5 * 4096
	forRungs(t, []event.Kind{event.MemoryMap}, func(t *testing.T, o *observer) {
		file := filepath.Join(openTempDir(t), "library")
		write := func() {
			t.Helper()
			if err := os.WriteFile(file, make([]byte, size), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		load := native(unix.SYS_MMAP, callArg{}, callArg{Value: size}, callArg{Value: readExec},
			callArg{Value: unix.MAP_PRIVATE}, resultOf(0), callArg{})
		loads := func(at place) (n int) {
			t.Helper()
			tr, _, _ := o.calls(t, at, calling{Calls: []rawCall{openAt(file), load, load}})
			for _, e := range tr.of(event.MemoryMap) {
				if e.Memory.Path == file {
					n++
				}
			}
			return n
		}
		write()
		for i, step := range []struct {
			do   func()
			at   place
			want int
		}{
			{func() {}, onHost, 1}, {func() {}, onHost, 0}, {func() {}, inContainer, 1}, {func() {}, inContainer, 1},
			{write, onHost, 1}, {func() {}, onHost, 0},
		} {
			step.do()
			if got := loads(step.at); got != step.want {
				t.Errorf("step %d, %s: told %d times, want %d", i, step.at.name, got, step.want)
			}
		}
	})
}

func TestProtect(t *testing.T) {
	file := filepath.Join(openTempDir(t), "library")
	if err := os.WriteFile(file, make([]byte, 4096), 0o755); err != nil {
		t.Fatal(err)
	}
	const size = 4096
	area := func(flags, fd callArg) rawCall {
		return native(unix.SYS_MMAP, callArg{}, callArg{Value: size}, callArg{Value: unix.PROT_READ}, flags, fd, callArg{})
	}
	anonymous := area(callArg{Value: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS}, nums(-1)[0])
	low := area(callArg{Value: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | 0x40}, nums(-1)[0])
	stack := area(callArg{Value: unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_GROWSDOWN}, nums(-1)[0])
	protect := func(number uintptr, of int, prot int64) rawCall {
		return native(number, resultOf(of), callArg{Value: size}, nums(prot)[0], nums(-1)[0])
	}
	compatProtect := func(number uintptr, of int) rawCall {
		call := protect(number, of, readExec)
		call.Compat = true
		return call
	}
	brk, grown := native(unix.SYS_BRK, callArg{}), native(unix.SYS_BRK, callArg{Result: new(int), Value: 4 * size})
	tests := []struct {
		name   string
		calls  []rawCall // the last is the one, of what the one before returned
		at     place
		errno  unix.Errno
		region string
		prot   event.Protection
		told   bool
	}{
		{"anonymous", []rawCall{anonymous, protect(unix.SYS_MPROTECT, 0, readExec)}, onHost, 0, "anonymous", readExec, true},
		{"anonymous, in a container", []rawCall{anonymous, protect(unix.SYS_MPROTECT, 0, readExec)}, inContainer, 0,
			"anonymous", readExec, true},
		{"by key", []rawCall{anonymous, protect(unix.SYS_PKEY_MPROTECT, 0, readExec)}, onHost, 0, "anonymous", readExec,
			true},
		{"stack", []rawCall{stack, protect(unix.SYS_MPROTECT, 0, readExec|unix.PROT_WRITE)}, onHost, 0, "stack",
			readExec | unix.PROT_WRITE, true},
		{"heap", []rawCall{brk, grown, protect(unix.SYS_MPROTECT, 0, readExec)}, onHost, 0, "heap", readExec, true},
		{"file", []rawCall{openAt(file), area(callArg{Value: unix.MAP_PRIVATE}, resultOf(0)),
			protect(unix.SYS_MPROTECT, 1, readExec)}, onHost, 0, "file", readExec, true},
		{"for reading", []rawCall{anonymous, protect(unix.SYS_MPROTECT, 0, unix.PROT_READ)}, onHost, 0, "", 0, false},
		{"no memory", []rawCall{native(unix.SYS_MPROTECT, nums(0x1000, size, readExec)...)}, onHost, unix.ENOMEM, "",
			readExec, true},
		{"not aligned", []rawCall{native(unix.SYS_MPROTECT, nums(1, size, readExec)...)}, onHost, unix.EINVAL, "",
			readExec, true},
		{"32-bit", []rawCall{low, compatProtect(125, 0)}, onHost, 0, "anonymous", readExec, true},
		{"32-bit by key", []rawCall{low, compatProtect(380, 0)}, onHost, 0, "anonymous", readExec, true},
	}
	forRungs(t, []event.Kind{event.MemoryProtect}, func(t *testing.T, o *observer) {
		for _, test := range tests {
			last := len(test.calls) - 1
			if test.calls[last].Compat && !hasCompatible {
				continue
			}
			t.Run(test.name, func(t *testing.T) {
				tr, did, p := o.callsSeen(t, test.at, calling{Calls: test.calls, Thread: true})
				if strings.HasSuffix(test.name, "by key") && did.Errnos[last] == unix.ENOSYS {
					return // a kernel without protection keys
				}
				if did.Errnos[last] != test.errno {
					t.Fatalf("the kernel said %v, want %v", did.Errnos[last], test.errno)
				}
				args := test.calls[last].Args
				address := event.Address(args[0].Value)
				if args[0].Result != nil {
					address = event.Address(did.Results[*args[0].Result])
				}
				ours := func(e *event.Event) bool { return e.Memory.Address == address }
				if !test.told {
					for _, e := range tr.of(event.MemoryProtect) {
						if ours(&e) {
							t.Errorf("%+v", *e.Memory)
						}
					}
					return
				}
				want := event.Memory{Address: address, Length: size, Protection: test.prot, Region: test.region}
				if o.rung == rungTracepoint && !findsAreas(t) {
					want.Region = ""
				}
				if want.Region == "file" {
					st := stat(t, file)
					want.Path, want.Inode, want.Device = file, st.Ino, deviceOf(st)
				}
				tr.equal(t, event.Event{Kind: event.MemoryProtect, Result: int32(test.errno), Process: p, Memory: &want},
					tr.only(t, event.MemoryProtect, ours))
			})
		}
	})
}

func TestVM(t *testing.T) {
	child := callArg{Child: true}
	for _, kind := range []struct {
		kind           event.Kind
		native, compat uintptr
	}{
		{event.MemoryVMRead, unix.SYS_PROCESS_VM_READV, 347},
		{event.MemoryVMWrite, unix.SYS_PROCESS_VM_WRITEV, 348},
	} {
		tests := []struct {
			name   string
			args   []callArg
			errno  unix.Errno
			target bool
			want   event.Memory
		}{
			{"nothing", []callArg{child, {}, {}, {}, {}, {}}, 0, true, event.Memory{}},
			{"flags", []callArg{child, {}, {}, {}, {}, {Value: 5}}, unix.EINVAL, true, event.Memory{VMFlags: 5}},
			{"no process", nums(0x3ffffff, 0, 0, 0, 0, 0), unix.ESRCH, false, event.Memory{PID: 0x3ffffff}},
		}
		forRungs(t, []event.Kind{kind.kind}, func(t *testing.T, o *observer) {
			for _, test := range tests {
				for _, at := range []place{onHost, inContainer} {
					for _, call := range []rawCall{native(kind.native, test.args...), compatible32(kind.compat, test.args...)} {
						if call.Compat && !hasCompatible || test.name == "no process" && call.Compat {
							continue
						}
						t.Run(fmt.Sprintf("%s, %s, compat %v", test.name, at.name, call.Compat), func(t *testing.T) {
							tr, did, p := o.calls(t, at, calling{Calls: []rawCall{call}, Child: true})
							// Of nothing to be copied, some kernels look for no process.
							if did.Errnos[0] != test.errno && test.name != "no process" {
								t.Fatalf("the kernel said %v, want %v", did.Errnos[0], test.errno)
							}
							want := test.want
							e := event.Event{Kind: kind.kind, Result: int32(did.Errnos[0]), Process: p, Memory: &want}
							if test.target {
								want.PID, e.Target = uint32(did.Child), targetOf(t, tr, did, at)
							}
							tr.equal(t, e, tr.only(t, kind.kind, nil))
						})
					}
				}
			}
		})
	}
}

func TestMemfd(t *testing.T) {
	long := strings.Repeat("n", 249)
	tests := []struct {
		name  string
		call  rawCall
		at    place
		errno unix.Errno
		want  event.Memory
	}{
		{"named", native(unix.SYS_MEMFD_CREATE, str("memfd: x\n"),
			callArg{Value: unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING}), onHost, 0, event.Memory{Name: "memfd: x\n", MemfdFlags: unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING}},
		{"without a name, in a container", native(unix.SYS_MEMFD_CREATE, str(""), callArg{}), inContainer, 0, event.Memory{}},
		{"longest name", native(unix.SYS_MEMFD_CREATE, str(long), callArg{}), onHost, 0, event.Memory{Name: long}},
		{"too long a name", native(unix.SYS_MEMFD_CREATE, str(long+"n"), callArg{}), onHost, unix.EINVAL,
			event.Memory{Name: long + "n", Unverified: true}},
		{"flags", native(unix.SYS_MEMFD_CREATE, str("x"), callArg{Value: 0x800}), onHost, unix.EINVAL,
			event.Memory{Name: "x", MemfdFlags: 0x800, Unverified: true}},
		{"32-bit", compatible32(356, str("small"), callArg{Value: unix.MFD_CLOEXEC}), onHost, 0,
			event.Memory{Name: "small", MemfdFlags: unix.MFD_CLOEXEC}},
		{"32-bit refused", compatible32(356, str("small"), callArg{Value: 0x800}), onHost, unix.EINVAL,
			event.Memory{Name: "small", MemfdFlags: 0x800, Unverified: true}},
	}
	forRungs(t, []event.Kind{event.MemoryMemfd}, func(t *testing.T, o *observer) {
		for _, test := range tests {
			if test.call.Compat && !hasCompatible {
				continue
			}
			t.Run(test.name, func(t *testing.T) {
				tr, did, p := o.calls(t, test.at, calling{Calls: []rawCall{test.call}, Thread: true})
				if did.Errnos[0] != test.errno {
					t.Fatalf("the kernel said %v, want %v", did.Errnos[0], test.errno)
				}
				got, want := tr.only(t, event.MemoryMemfd, nil), test.want
				if test.errno == 0 {
					if got.Memory.Inode == 0 {
						t.Error("no inode")
					}
					want.Inode, want.Device = got.Memory.Inode, got.Memory.Device // it is gone
				}
				tr.equal(t, event.Event{Kind: event.MemoryMemfd, Result: int32(test.errno), Process: p, Memory: &want}, got)
			})
		}
	})
}

func TestUserfaultfd(t *testing.T) {
	const flags = unix.O_CLOEXEC | unix.O_NONBLOCK
	tests := []struct {
		name  string
		call  rawCall
		at    place
		errno unix.Errno
		flags event.UserfaultfdFlags
	}{
		{"made", native(unix.SYS_USERFAULTFD, nums(flags)...), onHost, 0, flags},
		{"made in a container", native(unix.SYS_USERFAULTFD, nums(flags)...), inContainer, 0, flags},
		{"refused", native(unix.SYS_USERFAULTFD, nums(0x4000)...), onHost, unix.EINVAL, 0x4000},
		{"32-bit", compatible32(374, nums(flags)...), onHost, 0, flags},
	}
	forRungs(t, []event.Kind{event.MemoryUserfaultfd}, func(t *testing.T, o *observer) {
		for _, test := range tests {
			if test.call.Compat && !hasCompatible {
				continue
			}
			t.Run(test.name, func(t *testing.T) {
				tr, did, p := o.calls(t, test.at, calling{Calls: []rawCall{test.call}, Thread: true})
				if did.Errnos[0] != test.errno {
					t.Fatalf("the kernel said %v, want %v", did.Errnos[0], test.errno)
				}
				tr.equal(t, event.Event{
					Kind: event.MemoryUserfaultfd, Result: int32(test.errno), Process: p,
					Memory: &event.Memory{UserfaultfdFlags: test.flags},
				}, tr.only(t, event.MemoryUserfaultfd, nil))
			})
		}
	})
}
