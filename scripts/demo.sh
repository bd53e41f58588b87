#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Usage: demo.sh BUILD
# Runs demo/demo.py in namespaces of its own: its network, its processes and its mounts touch nothing of this machine,
# and vanish with it.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "$1" && pwd)

if [ "$(id -u)" != 0 ]; then
	echo 'the demo makes namespaces and moves processes: run it as root' >&2
	exit 1
fi
python=python3
[ -x /usr/bin/python3 ] && python=/usr/bin/python3
exec unshare --net --pid --fork --kill-child --mount --mount-proc "$python" -B "$here/demo/demo.py" "$build"
