package ebpf

// oldNumbers are the numbers of system calls that newer architectures do without, as this one does.
var oldNumbers map[string]uint32
