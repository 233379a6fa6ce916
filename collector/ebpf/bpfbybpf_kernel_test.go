package ebpf

import (
	"encoding/binary"
	"errors"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// actLoadBPFByBPF runs a program that has another one loaded.
func actLoadBPFByBPF([]string) error {
	const request, code, license, result, size = 0, 64, 80, 88, 96
	memory := make([]byte, size)
	binary.LittleEndian.PutUint32(memory[request:], 1)
	binary.LittleEndian.PutUint32(memory[request+4:], 2)
	copy(memory[request+48:], "tg_inner")
	for i, instruction := range returnZero() {
		binary.LittleEndian.PutUint64(memory[code+8*i:], instruction)
	}
	copy(memory[license:], "GPL")
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: 1})
	if err != nil {
		return err
	}
	if err := m.Put(uint32(0), memory); err != nil {
		return err
	}
	const callBPF = 166 // bpf_sys_bpf: include/uapi/linux/bpf.h
	outer, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Syscall, Flags: unix.BPF_F_SLEEPABLE, License: "GPL", Instructions: asm.Instructions{
			asm.LoadMapValue(asm.R6, m.FD(), 0),
			asm.Mov.Reg(asm.R1, asm.R6), asm.Add.Imm(asm.R1, code), asm.StoreMem(asm.R6, request+8, asm.R1, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.R6), asm.Add.Imm(asm.R1, license), asm.StoreMem(asm.R6, request+16, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R1, 5), asm.Mov.Reg(asm.R2, asm.R6), asm.Mov.Imm(asm.R3, 64), asm.BuiltinFunc(callBPF).Call(),
			asm.StoreMem(asm.R6, result, asm.R0, asm.DWord),
			asm.Mov.Imm(asm.R0, 0), asm.Return(),
		},
	})
	if err != nil {
		if errors.Is(err, unix.EINVAL) {
			return say(loaded{Errno: unix.EINVAL})
		}
		return err
	}
	if _, err := outer.Run(&ebpf.RunOptions{}); err != nil {
		return err
	}
	if err := m.Lookup(uint32(0), memory); err != nil {
		return err
	}
	fd := int(int64(binary.LittleEndian.Uint64(memory[result:])))
	if fd < 0 {
		return unix.Errno(-fd)
	}
	id, err := new(caller).programID(fd)
	if err != nil {
		return err
	}
	return say(loaded{ID: id})
}
