#!/usr/bin/env bash
# Installs what `make test-vm` needs, when something is missing: QEMU for both architectures. As root, on Debian, whose
# apt also gets the kernels. They run in emulation; /dev/kvm is not used.
set -euo pipefail

missing=()
command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
command -v qemu-system-aarch64 >/dev/null || missing+=(qemu-system-arm)
command -v xz >/dev/null || missing+=(xz-utils)

if ! command -v apt-get >/dev/null || { [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" != 0 ]; }; then
	echo "test-vm: install these first, as root on Debian: ${missing[*]:-a Debian system}" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# The harness asks apt where Debian's archives are, which apt knows once it has read their lists.
if [ ${#missing[@]} -gt 0 ] || [ -z "$(apt-get indextargets --format '$(LABEL)' | grep -x Debian)" ]; then
	[ "$(id -u)" = 0 ] || { echo "test-vm: run apt-get update as root first" >&2; exit 1; }
	apt-get -q update >/dev/null
fi
[ ${#missing[@]} -gt 0 ] || exit 0
echo "test-vm: installing ${missing[*]}"
apt-get -q install -y --no-install-recommends "${missing[@]}" >/dev/null
