package ebpf

// oldNumbers are the numbers of system calls that newer architectures do without, as this one does.
var oldNumbers map[string]uint32

// compatNumbers are the numbers of 32-bit system calls: those of Arm are not found.
var compatNumbers map[string]uint32
