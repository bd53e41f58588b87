#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The example of libferry-tcp: one client, one connection, twenty lines, sent one by one and then all at once,
# answered in order by processes that each live for four lines.
set -eu

program=$FERRY_BUILD/examples/tcp/tcp_handover
port=7123

"$program" $port 4 &
server=$!
for _ in $(seq 100); do
	if ss -Hltn "sport = :$port" | grep -q .; then break; fi
	sleep 0.05
done
exec 3<>"/dev/tcp/127.0.0.1/$port"
for i in $(seq 1 8); do
	echo "line $i" >&3
	read -r -t 20 pid number rest <&3
	[ "$number $rest" = "$i: line $i" ] || { echo "expected $i, got '$number $rest'"; exit 1; }
	echo "$pid"
done >"$TMPDIR/pids"
# More lines at once than one process answers: they wait in the queues that move.
for i in $(seq 9 20); do echo "line $i"; done >&3
for i in $(seq 9 20); do
	read -r -t 20 pid number rest <&3
	[ "$number $rest" = "$i: line $i" ] || { echo "expected $i, got '$number $rest'"; exit 1; }
	echo "$pid"
done >>"$TMPDIR/pids"
exec 3>&-
wait $server
expected=$(seq 1 20 | awk '{ print int(($1 - 1) / 4) }')
got=$(awk '!($1 in seen) { seen[$1] = n++ } { print seen[$1] }' "$TMPDIR/pids")
[ "$got" = "$expected" ] || { echo "the lines were answered by other processes than expected: $got"; exit 1; }
[ -z "$(nft list tables)" ] || { echo "a table is left"; exit 1; }
