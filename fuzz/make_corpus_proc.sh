#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Writes seeds for fuzz_proc from the /proc of this machine: make_corpus_proc.sh DIR [PID...]
# Each seed is one byte that selects the parser (the order in fuzz_proc.c) and a file's bytes. Without PIDs it
# takes itself. Files that hold nothing or cannot be read are left out. What is in fuzz/corpus/proc was made by
# hand from such files, so that it names no machine.
set -eu

dir=${1:?usage: make_corpus_proc.sh DIR [PID...]}
shift
[ $# -gt 0 ] || set -- $$
mkdir -p "$dir"

# seed NUMBER FILE
seed() {
	out=$dir/$(printf '%02d-%s' "$1" "$(echo "$2" | tr -c 'A-Za-z0-9\n' _)")
	{ printf "\\$(printf '%03o' "$1")" && head -c 65536 "$2"; } >"$out" 2>/dev/null || true
	[ "$(wc -c <"$out")" -gt 1 ] || rm -f "$out"
}

for pid; do
	p=/proc/$pid
	seed 0 "$p/status"
	seed 1 "$p/stat"
	seed 2 "$p/maps"
	seed 2 "$p/smaps"
	for info in "$p"/fdinfo/*; do
		seed 4 "$info"
	done
	seed 6 "$p/mountinfo"
	seed 7 "$p/auxv"
	seed 9 "$p/limits"
	seed 10 "$p/cgroup"
	for task in "$p"/task/*; do
		seed 0 "$task/status"
		seed 11 "$task/children"
	done
	seed 12 "$p/timers"
	seed 13 "$p/timens_offsets"
	seed 14 "$p/uid_map"
	seed 15 "$p/setgroups"
	seed 16 "$p/timerslack_ns"
	seed 17 "$p/coredump_filter"
	seed 18 "$p/oom_score_adj"
done
seed 5 /proc/locks
echo "$dir: $(ls "$dir" | wc -l) seeds"
