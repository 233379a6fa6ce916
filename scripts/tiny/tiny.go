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
	const (
		base       = 0x400000
		headerSize = 64
		entrySize  = 56
	)
	machine, code := machineCode(sleep)
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
