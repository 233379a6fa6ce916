package ebpf

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target amd64,arm64 -cflags "-O2 -g -Wall -Werror -mcpu=v3" -no-global-types -type header -type exec_record -type fork_record -type exit_record -type open_record -type connect_record -type dns_record -type cgroup_record -type kind_counters -type kind -type record_flag programs bpf/taskguard.bpf.c
