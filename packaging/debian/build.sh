#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Usage: build.sh OUTPUT-DIRECTORY
#
# Builds the Debian packages with meson and dpkg-deb alone. One file in this folder describes each package:
# PACKAGE.control (with @VERSION@, @ARCH@, @SHLIBS@), PACKAGE.files (one glob below the installed tree a line) and,
# if there is one, PACKAGE.postinst. A file that no package takes is an error; a package without a file is left out.
# The libraries that a distribution has stay shared, so that its updates reach ferry.
# Set SOURCE_DATE_EPOCH for packages that are the same byte for byte.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source=$(cd "$here/../.." && pwd)
mkdir -p "${1:?usage: build.sh OUTPUT-DIRECTORY}"
out=$(cd "$1" && pwd)
arch=$(dpkg --print-architecture)
multiarch=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || gcc -print-multiarch)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$source" log -1 --format=%ct 2>/dev/null || date +%s)}

build=$out/build
tree=$out/tree
rm -rf "$tree"
cd "$source"
"$source/scripts/configure.sh" "$build" --prefix=/usr --libdir="lib/$multiarch" --sysconfdir=/etc \
	--localstatedir=/var --buildtype=debugoptimized -Dtests=false -Dcriu_compat=true -Dstatic_libraries=false
ninja -C "$build" -j"${JOBS:-$(nproc)}"
DESTDIR=$tree meson install -C "$build" --no-rebuild --quiet
version=$(meson introspect --projectinfo "$build" |
	python3 -c 'import json, sys; print(json.load(sys.stdin)["version"])')
find "$tree" -path '*/man/man*/*' -type f ! -name '*.gz' -exec gzip -9n {} +
find "$tree" -path '*/man/man*/*' -type l | while read -r page; do
	ln -s "$(readlink "$page").gz" "$page.gz" && rm "$page"
done

# Debug information goes: there is no package for it yet.
find "$tree" -type f \( -path '*/bin/*' -o -path '*/sbin/*' -o -name '*.so.*' \) | while read -r file; do
	case $(head -c 4 "$file" | od -An -c | tr -d ' ') in
	'177ELF') strip --strip-unneeded --remove-section=.comment "$file" ;;
	esac
done

# Libraries that the files of a package need, as the Debian packages that have them.
shared_libraries() {
	local work
	work=$(mktemp -d)
	mkdir "$work/debian"
	printf 'Source: ferry\nPackage: ferry\nArchitecture: any\n' >"$work/debian/control"
	if [ $# -gt 0 ]; then
		(cd "$work" && dpkg-shlibdeps -O --ignore-missing-info -l"$tree/usr/lib/$multiarch" "$@" 2>/dev/null) |
			sed -n 's/^shlibs:Depends=//p'
	fi
	rm -rf "$work"
}

pack() {
	local package=$1 root=$out/$1 pattern file
	local -a elf=()
	rm -rf "$root"
	mkdir -p "$root/DEBIAN" "$root/usr/share/doc/$package"
	while read -r pattern; do
		case $pattern in '' | '#'*) continue ;; esac
		for file in "$tree"/$pattern; do
			[ -e "$file" ] || [ -L "$file" ] || continue
			mkdir -p "$root/$(dirname "${file#"$tree"/}")"
			mv "$file" "$root/${file#"$tree"/}"
		done
	done <"$here/$package.files"
	if [ -z "$(find "$root/usr" \( -type f -o -type l \) -print -quit)" ]; then
		echo "build.sh: nothing in this build belongs into $package, leaving it out" >&2
		rm -rf "$root"
		return
	fi
	cp "$here/copyright" "$root/usr/share/doc/$package/copyright"
	gzip -9nc "$source/NEWS.md" >"$root/usr/share/doc/$package/NEWS.gz"
	while IFS= read -r file; do elf+=("$file"); done < <(
		find "$root/usr" -type f \( -path '*/bin/*' -o -path '*/sbin/*' -o -name '*.so.*' \))
	local needs
	needs=$(shared_libraries "${elf[@]}")
	sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@SHLIBS@/${needs:-libc6}/" \
		"$here/$package.control" >"$root/DEBIAN/control"
	printf 'Installed-Size: %s\n' "$(du -sk --exclude=DEBIAN "$root" | cut -f1)" >>"$root/DEBIAN/control"
	[ ! -e "$here/$package.postinst" ] || install -m 755 "$here/$package.postinst" "$root/DEBIAN/postinst"
	if [ -n "$(find "$root/usr/lib" -name 'lib*.so.*' -print -quit 2>/dev/null)" ]; then
		printf 'activate-noawait ldconfig\n' >"$root/DEBIAN/triggers"
	fi
	(cd "$root" && find . -path ./DEBIAN -prune -o -type f -printf '%P\n' | LC_ALL=C sort | xargs -r md5sum) \
		>"$root/DEBIAN/md5sums"
	find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
	dpkg-deb --root-owner-group --build "$root" "$out/${package}_${version}_${arch}.deb" >/dev/null
	rm -rf "$root"
	echo "$out/${package}_${version}_${arch}.deb"
}

# ferry takes what is left, so it comes last.
for package in ferry-criu libferry-dev ferry; do
	pack "$package"
done
left=$(find "$tree" \( -type f -o -type l \) | sed "s,^$tree/,,")
if [ -n "$left" ]; then
	printf 'build.sh: no package takes these:\n%s\n' "$left" >&2
	exit 1
fi
