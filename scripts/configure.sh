#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Usage: configure.sh BUILD-DIRECTORY MESON-ARGUMENT...
# Sets up a build directory once, and again only when the arguments differ from the last time.
set -eu

build=$1
shift
stamp=$build/.configured-with
arguments="CC=${CC:-} $*"

if [ -f "$build/build.ninja" ]; then
	[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$arguments" ] && exit 0
	# A compiler cannot be changed in place.
	case $(cat "$stamp" 2>/dev/null) in
	"CC=${CC:-} "*) meson setup --reconfigure "$build" "$@" >/dev/null ;;
	*) meson setup --wipe "$build" "$@" >/dev/null ;;
	esac
else
	mkdir -p "$build"
	if ! meson setup "$build" "$@" >"$build/configure.log" 2>&1; then
		cat "$build/configure.log" >&2
		exit 1
	fi
fi
printf '%s' "$arguments" >"$stamp"
