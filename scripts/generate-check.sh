#!/usr/bin/env bash
# Regenerates what is generated and fails if a file changed, appeared or vanished. It compares with the tree as it is,
# not with a commit: what is there after it failed is right, and has to be committed.
set -euo pipefail
cd "$(dirname "$0")/.."

sums() {
	find collector/ebpf/*_bpfel.* sender/batch/batchpb -type f | LC_ALL=C sort | xargs sha256sum
}

before=$(sums)
make generate
if ! changes=$(diff <(echo "$before") <(sums)); then
	echo "generate-check: the tree was not what its sources give; commit what is there now:" >&2
	echo "$changes" >&2
	exit 1
fi
echo "generate-check: $(wc -l <<<"$before") generated files are what their sources give"
