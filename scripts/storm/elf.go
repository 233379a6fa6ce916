package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
)

// exitCode is "exit_group(0)" as machine code.
func exitCode() (elf.Machine, []byte) {
	if runtime.GOARCH == "arm64" {
		return elf.EM_AARCH64, []byte{
			0x00, 0x00, 0x80, 0xd2, // mov x0, #0
			0xc8, 0x0b, 0x80, 0xd2, // mov x8, #94
			0x01, 0x00, 0x00, 0xd4, // svc #0
		}
	}
	return elf.EM_X86_64, []byte{
		0x31, 0xff, // xor edi, edi
		0xb8, 0xe7, 0x00, 0x00, 0x00, // mov eax, 231
		0x0f, 0x05, // syscall
	}
}

// tinyProgram returns an executable of one segment: its headers and exitCode.
func tinyProgram() []byte {
	const (
		base       = 0x400000
		headerSize = 64
		entrySize  = 56
	)
	machine, code := exitCode()
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
