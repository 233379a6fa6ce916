#!/usr/bin/env bash
# Compiles for BPF as clang-19 does, to the same bytes at every run. In one step clang 19 does not: it orders the forward
# declarations of BTF by their addresses in its memory. Read from bitcode, they have the order of the file.
set -euo pipefail

options=()
while [ $# -gt 0 ]; do
	case $1 in
	-o) object=$2 && shift ;;
	-c) source=$2 && shift ;;
	*) options+=("$1") ;;
	esac
	shift
done
bitcode=$(mktemp)
trap 'rm -f "$bitcode"' EXIT
clang-19 "${options[@]}" -emit-llvm -o "$bitcode" -c "$source"
clang-19 "${options[@]}" -Wno-unused-command-line-argument -Xclang -disable-llvm-passes -o "$object" -c -x ir "$bitcode"
