#!/usr/bin/env bash
# Installs what `make generate` needs, when something is missing and we are root on Debian. The eBPF objects are
# committed, so nothing else needs these; versions are pinned, so that everybody generates the same bytes.
set -euo pipefail

missing=()
command -v clang-19 >/dev/null || missing+=(clang-19)
command -v llvm-strip-19 >/dev/null || missing+=(llvm-19)
command -v protoc >/dev/null || missing+=(protobuf-compiler)
[ -e /usr/include/bpf/bpf_helpers.h ] || missing+=(libbpf-dev)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "generate: install these first (Debian 12 package names): ${missing[*]}" >&2
	exit 1
fi
echo "generate: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -q update >/dev/null
apt-get -q install -y --no-install-recommends "${missing[@]}" >/dev/null
