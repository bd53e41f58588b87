#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Usage: criu-sid.sh DIR
#
# Makes DIR a small Debian unstable with criu, its library, crit (python3-pycriu) and crun, to compare with and to
# exchange images with; the stable release has none of them, or too old. Does nothing when it is there already. The
# programs are run from outside with DIR's own loader and libraries; nothing is installed into the machine.
# The mirror is the one that the machine's apt uses; CRIU_SID_MIRROR overrides it.
set -eu

dir=${1:?usage: criu-sid.sh DIR}
loader=$dir/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2

criu_version() {
	"$loader" --library-path "$dir/usr/lib/x86_64-linux-gnu" "$dir/usr/sbin/criu" --version 2>/dev/null |
		sed -n 's/^Version: //p'
}

# The first archive of apt's sources that is Debian's main one, in either of the two formats.
apt_mirror() {
	cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
		sed -e '/^#/d' -e 's/\[[^]]*\]//' |
		awk '$1 == "deb" { print $2 } $1 == "URIs:" { for (i = 2; i <= NF; i++) print $i }' |
		grep -E '^(https?|file|mirror\+https?)://?.*/debian/?$' | head -n 1
}

if [ -x "$dir/usr/sbin/criu" ] && [ -e "$dir/usr/lib/x86_64-linux-gnu/libcriu.so.2" ] && [ -n "$(criu_version)" ]; then
	exit 0
fi

mirror=${CRIU_SID_MIRROR:-$(apt_mirror)}
[ -n "$mirror" ] || { echo "criu-sid: apt's sources name no Debian archive; set CRIU_SID_MIRROR" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "criu-sid: debootstrap needs root" >&2; exit 1; }
if command -v apt-config >/dev/null 2>&1; then
	eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
	[ -z "${http_proxy:-}" ] || export http_proxy
	[ -z "${https_proxy:-}" ] || export https_proxy
fi

echo "criu-sid: about 100 MB into $dir" >&2
mkdir -p "$(dirname "$dir")"
rm -rf "$dir.partial"
trap 'rm -rf "$dir.partial"' EXIT
trap 'exit 130' HUP INT TERM
log=$(mktemp)
packages=criu,libcriu2,python3-pycriu,crun
if ! debootstrap --variant=minbase --include="$packages" sid "$dir.partial" "$mirror" >"$log" 2>&1; then
	tail -n 30 "$log" "$dir.partial/debootstrap/debootstrap.log" >&2 2>/dev/null || true
	rm -f "$log"
	exit 1
fi
rm -f "$log"
rm -rf "$dir" "$dir.partial/var/cache/apt"
mv "$dir.partial" "$dir"
echo "criu-sid: CRIU $(criu_version)" >&2
