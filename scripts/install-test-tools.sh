#!/usr/bin/env bash
# Installs what the tests of the kernel and container tiers need, from the distribution's packages, and from Go's module
# proxy. Run as root. It starts no service: tests start, and end, engines and daemons of their own.
set -euo pipefail

# AWS's mock of the instance metadata service, at an exact version. A tool in go.mod would share our modules' versions,
# and bring its own to whoever builds the agent.
mock=github.com/aws/amazon-ec2-metadata-mock version=v1.13.0 tools=$(cd "$(dirname "$0")/.." && pwd)/bin/tools
if ! go version -m "$tools/ec2-metadata-mock" 2>/dev/null | grep "$mock[[:space:]]$version" >/dev/null; then
	echo "test: installing ec2-metadata-mock $version"
	CGO_ENABLED=0 GOBIN=$tools go install "$mock/cmd/ec2-metadata-mock@$version"
fi

missing=()
# need COMMAND DEBIAN-PACKAGE AMAZON-LINUX-PACKAGE
need() {
	! command -v "$1" >/dev/null || return 0
	if command -v apt-get >/dev/null; then missing+=("$2"); else missing+=("$3"); fi
}
PATH=$PATH:/usr/sbin:/sbin
need dockerd docker.io docker
need auditd auditd audit
need busybox busybox-static busybox
need ip iproute2 iproute
need iptables iptables iptables-nft
need uuidgen uuid-runtime util-linux
need redis-server redis-server redis6 # make bench
need stress-ng stress-ng stress-ng
need gcc gcc gcc # for the race detector
[ ${#missing[@]} -gt 0 ] || exit 0

echo "test: installing ${missing[*]}"
if command -v apt-get >/dev/null; then
	# A package that starts its service on installation would audit this host, or run an engine beside ours.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
		trap 'rm -f "$policy"' EXIT
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get -q update >/dev/null
	apt-get -q install -y --no-install-recommends "${missing[@]}" libc6-dev >/dev/null
elif command -v dnf >/dev/null; then
	dnf -q -y install "${missing[@]}"
else
	echo "test: neither apt-get nor dnf here: install ${missing[*]} by hand" >&2
	exit 1
fi
