// Package tiny makes the smallest programs that Linux runs: static executables of some 150 bytes. What starts many of
// them measures the kernel and whoever observes, and not the program.
package tiny

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
	"time"
)

// Program returns an executable for this architecture that sleeps for a while and exits with 0. It takes any arguments.
func Program(sleep time.Duration) []byte {
	machine, code := machineCode(sleep)
	return executable(machine, code)
}

// Waiter returns an executable that waits for a signal, any that can be blocked, and then executes itself again: argv[0] must be
// its path.
func Waiter() []byte {
	amd64, arm64 := []byte{
		0x49, 0x89, 0xe4, // mov r12, rsp: argc, argv
		0x6a, 0xff, // push -1: all signals
		0xbf, 0x02, 0x00, 0x00, 0x00, // mov edi, 2 (SIG_SETMASK)
		0x48, 0x89, 0xe6, // mov rsi, rsp
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov r10d, 8
		0xb8, 0x0e, 0x00, 0x00, 0x00, // mov eax, 14 (rt_sigprocmask)
		0x0f, 0x05, // syscall
		0x48, 0x89, 0xe7, // mov rdi, rsp
		0x31, 0xf6, // xor esi, esi
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov r10d, 8
		0xb8, 0x80, 0x00, 0x00, 0x00, // mov eax, 128 (rt_sigtimedwait)
		0x0f, 0x05, // syscall
		0x49, 0x8b, 0x7c, 0x24, 0x08, // mov rdi, [r12+8]: argv[0]
		0x49, 0x8d, 0x74, 0x24, 0x08, // lea rsi, [r12+8]: argv
		0x31, 0xd2, // xor edx, edx: no environment
		0xb8, 0x3b, 0x00, 0x00, 0x00, // mov eax, 59 (execve)
		0x0f, 0x05, // syscall
		0xbf, 0x01, 0x00, 0x00, 0x00, // mov edi, 1
		0xb8, 0xe7, 0x00, 0x00, 0x00, // mov eax, 231 (exit_group)
		0x0f, 0x05, // syscall
	}, []byte{
		0xf3, 0x03, 0x00, 0x91, // mov x19, sp: argc, argv
		0x00, 0x00, 0x80, 0x92, // mov x0, #-1
		0xe0, 0x0f, 0x1f, 0xf8, // str x0, [sp, #-16]!: all signals
		0x40, 0x00, 0x80, 0xd2, // mov x0, #2 (SIG_SETMASK)
		0xe1, 0x03, 0x00, 0x91, // mov x1, sp
		0x02, 0x00, 0x80, 0xd2, // mov x2, #0
		0x03, 0x01, 0x80, 0xd2, // mov x3, #8
		0xe8, 0x10, 0x80, 0xd2, // mov x8, #135 (rt_sigprocmask)
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0xe0, 0x03, 0x00, 0x91, // mov x0, sp
		0x01, 0x00, 0x80, 0xd2, // mov x1, #0
		0x02, 0x00, 0x80, 0xd2, // mov x2, #0
		0x03, 0x01, 0x80, 0xd2, // mov x3, #8
		0x28, 0x11, 0x80, 0xd2, // mov x8, #137 (rt_sigtimedwait)
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0x60, 0x06, 0x40, 0xf9, // ldr x0, [x19, #8]: argv[0]
		0x61, 0x22, 0x00, 0x91, // add x1, x19, #8: argv
		0x02, 0x00, 0x80, 0xd2, // mov x2, #0: no environment
		0xa8, 0x1b, 0x80, 0xd2, // mov x8, #221 (execve)
		0x01, 0x00, 0x00, 0xd4, // svc #0
		0x20, 0x00, 0x80, 0xd2, // mov x0, #1
		0xc8, 0x0b, 0x80, 0xd2, // mov x8, #94 (exit_group)
		0x01, 0x00, 0x00, 0xd4, // svc #0
	}
	if runtime.GOARCH == "arm64" {
		return executable(elf.EM_AARCH64, arm64)
	}
	return executable(elf.EM_X86_64, amd64)
}

// executable is a file of one segment: its headers and the code.
func executable(machine elf.Machine, code []byte) []byte {
	const (
		base       = 0x400000
		headerSize = 64
		entrySize  = 56
	)
	size := uint64(headerSize + entrySize + len(code))
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{
			0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT),
		},
		Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + headerSize + entrySize, Phoff: headerSize, Ehsize: headerSize, Phentsize: entrySize, Phnum: 1,
	}
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base,
		Filesz: size, Memsz: size, Align: 0x10000,
	}
	var program bytes.Buffer
	// A bytes.Buffer takes all that fixed-size values give it.
	_ = binary.Write(&program, binary.LittleEndian, header)
	_ = binary.Write(&program, binary.LittleEndian, segment)
	program.Write(code)
	return program.Bytes()
}

// machineCode is "nanosleep(&time, NULL); exit_group(0)", with the time behind it, or without the sleep.
func machineCode(sleep time.Duration) (elf.Machine, []byte) {
	machine, sleeping, exiting := instructions()
	if sleep <= 0 {
		return machine, exiting
	}
	code := append(sleeping, exiting...)
	code = binary.LittleEndian.AppendUint64(code, uint64(sleep/time.Second))
	return machine, binary.LittleEndian.AppendUint64(code, uint64(sleep%time.Second))
}

// instructions has the time to sleep directly behind those that exit.
func instructions() (machine elf.Machine, sleeping, exiting []byte) {
	if runtime.GOARCH == "arm64" {
		return elf.EM_AARCH64, []byte{
				0xe0, 0x00, 0x00, 0x10, // adr x0, #28
				0x01, 0x00, 0x80, 0xd2, // mov x1, #0
				0xa8, 0x0c, 0x80, 0xd2, // mov x8, #101
				0x01, 0x00, 0x00, 0xd4, // svc #0
			}, []byte{
				0x00, 0x00, 0x80, 0xd2, // mov x0, #0
				0xc8, 0x0b, 0x80, 0xd2, // mov x8, #94
				0x01, 0x00, 0x00, 0xd4, // svc #0
			}
	}
	return elf.EM_X86_64, []byte{
			0x48, 0x8d, 0x3d, 0x12, 0x00, 0x00, 0x00, // lea rdi, [rip+18]
			0x31, 0xf6, // xor esi, esi
			0xb8, 0x23, 0x00, 0x00, 0x00, // mov eax, 35
			0x0f, 0x05, // syscall
		}, []byte{
			0x31, 0xff, // xor edi, edi
			0xb8, 0xe7, 0x00, 0x00, 0x00, // mov eax, 231
			0x0f, 0x05, // syscall
		}
}
