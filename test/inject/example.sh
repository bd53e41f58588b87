#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The example tells the truth about a process, and the process lives on: example.sh INJECT_FACTS BLOB
set -u
facts=$1 blob=$2
python3 -c '
import threading, time
for _ in range(3):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print("ready", flush=True)
time.sleep(60)' >/dev/null &
pid=$!
trap 'kill $pid' EXIT
until [ "$(ls /proc/$pid/task | wc -l)" = 4 ]; do sleep 0.05; done
before=$(wc -l < /proc/$pid/maps)
output=$("$facts" $pid "$blob") || { echo "the example failed"; exit 1; }
echo "$output"
for tid in /proc/$pid/task/*; do
	grep -q "^thread ${tid##*/} ($pid inside): " <<< "$output" || { echo "nothing is said of ${tid##*/}"; exit 1; }
done
grep -q "^getpid() gives $pid\$" <<< "$output" || { echo "getpid is wrong"; exit 1; }
grep -q "error" <<< "$output" && { echo "a call in the blob failed"; exit 1; }
sleep 0.2
[ "$(awk '/^State:/ {print $2}' /proc/$pid/status)" = S ] || { echo "the process does not sleep any more"; exit 1; }
[ "$(awk '/^TracerPid:/ {print $2}' /proc/$pid/status)" = 0 ] || { echo "the process is traced"; exit 1; }
[ "$(wc -l < /proc/$pid/maps)" = "$before" ] || { echo "a mapping was left behind"; exit 1; }
