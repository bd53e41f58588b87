#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Usage: bootstrap.sh PURPOSE...      (build, check, demo, bench, lint, deb)
#
# Sees to it that the packages for these purposes are there. Does nothing when they are; with NO_INSTALL=1 it
# only says what is missing. Nothing that apt installs starts on its own: a policy-rc.d forbids it while apt runs
# and is removed afterwards, also on failure, and the units of packages that we asked for are left disabled.
# A service that runs already is never stopped or restarted.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
table=$here/packaging/packages.tsv
policy=/usr/sbin/policy-rc.d
policy_mark='# written by ferry bootstrap; safe to remove'
policy_saved=$policy.before-ferry

say() { printf '%s\n' "$*" >&2; }

distribution() {
	if command -v apt-get >/dev/null 2>&1; then
		echo debian
	elif command -v dnf >/dev/null 2>&1; then
		echo fedora
	elif command -v pacman >/dev/null 2>&1; then
		echo arch
	else
		echo unknown
	fi
}

# Names of the packages whose probe fails, one a line, in the words of the distribution $1.
missing_packages() {
	family=$1
	shift
	tab=$(printf '\t')
	while IFS=$tab read -r purpose debian fedora arch probe; do
		case $purpose in '#'* | '') continue ;; esac
		case " $wanted " in *" $purpose "*) ;; *) continue ;; esac
		sh -c "$probe" </dev/null >/dev/null 2>&1 && continue
		case $family in
		fedora) echo "$fedora" ;;
		arch) echo "$arch" ;;
		*) echo "$debian" ;;
		esac
	done <"$table" | sort -u
}

# A policy-rc.d of our own that a killed run left behind goes first; one of the administrator's comes back.
policy_restore() {
	if [ -f "$policy" ] && grep -qF "$policy_mark" "$policy"; then
		rm -f "$policy"
	fi
	if [ -e "$policy_saved" ]; then
		mv -f "$policy_saved" "$policy"
	fi
}

policy_forbid() {
	if [ -e "$policy" ]; then
		mv "$policy" "$policy_saved"
	fi
	printf '#!/bin/sh\n%s\nexit 101\n' "$policy_mark" >"$policy.new"
	chmod 755 "$policy.new"
	mv "$policy.new" "$policy"
}

# Units that came with the packages named by us would start at the next boot.
disable_new_units() {
	if command -v systemctl >/dev/null 2>&1; then
		disabler=systemctl
	elif command -v deb-systemd-helper >/dev/null 2>&1; then
		# No systemd here yet; its links are made all the same.
		disabler=deb-systemd-helper
	else
		return 0
	fi
	for package in "$@"; do
		dpkg -L "$package" 2>/dev/null |
			sed -n 's#^\(/usr\)\{0,1\}/lib/systemd/system/\([^@/]*\.\(service\|socket\|timer\)\)$#\2#p' |
			while read -r unit; do
				# The helper only works for a package's own scripts, or what says so.
				DPKG_MAINTSCRIPT_PACKAGE=$package "$disabler" disable "$unit" >/dev/null 2>&1 || true
			done
	done
}

# Prints what apt is about to do; fails when it cannot find a package.
announce() {
	plan=$(LC_ALL=C apt-get install --assume-no --no-install-recommends "$@" 2>&1) || true
	size=$(printf '%s\n' "$plan" | sed -n 's/^Need to get \(.*\) of archives\..*/\1/p')
	disk=$(printf '%s\n' "$plan" | sed -n 's/^After this operation, \(.*\) of additional disk space.*/\1/p')
	count=$(printf '%s\n' "$plan" | sed -n 's/.* \([0-9][0-9]*\) newly installed.*/\1/p')
	[ -n "$count" ] || { printf '%s\n' "$plan" >&2; return 1; }
	say "ferry: installing $*"
	say "ferry: $count packages with what they depend on, ${size:-0 MB} to fetch, ${disk:-0 MB} on disk"
}

apt_install() {
	apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold "$@" </dev/null
}

install_debian() {
	export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C
	policy_restore
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	if announce "$@" 2>"$log"; then
		cat "$log" >&2
	else
		say "ferry: reading the package lists"
		apt-get update >"$log" 2>&1 || say "ferry: apt-get update reported errors, going on with what it got"
		announce "$@" || { cat "$log" >&2; say "ferry: apt cannot install $*"; return 1; }
	fi
	trap 'rm -f "$log"; policy_restore' EXIT
	trap 'exit 130' HUP INT TERM
	policy_forbid
	if ! apt_install "$@" >"$log" 2>&1; then
		# Lists that are too old name files that the mirror no longer has.
		apt-get update >>"$log" 2>&1 || true
		if ! apt_install "$@" >>"$log" 2>&1; then
			tail -n 40 "$log" >&2
			say "ferry: apt-get install failed"
			return 1
		fi
	fi
	rm -f "$log"
	disable_new_units "$@"
	policy_restore
	trap - EXIT HUP INT TERM
}

main() {
	wanted=$*
	for purpose in "$@"; do
		grep -q "^$purpose	" "$table" && continue
		say "ferry: no purpose '$purpose' in packaging/packages.tsv"
		exit 2
	done
	family=$(distribution)
	packages=$(missing_packages "$family" | tr '\n' ' ')
	packages=${packages% }
	[ -n "$packages" ] || exit 0

	case $family in
	debian) command="apt-get install --no-install-recommends $packages" ;;
	fedora) command="dnf install $packages" ;;
	arch) command="pacman -S --needed $packages" ;;
	*) command="(no apt-get, dnf or pacman here) the equivalents of $packages" ;;
	esac
	if [ "${NO_INSTALL:-0}" != 0 ] && [ -n "${NO_INSTALL:-}" ]; then
		say "ferry: missing for $wanted: $packages"
		say "ferry: NO_INSTALL is set; to install them: $command"
		exit 1
	fi
	if [ "$family" != debian ] || [ "$(id -u)" != 0 ]; then
		say "ferry: missing for $wanted: $packages"
		say "ferry: run as root: $command"
		exit 1
	fi
	# shellcheck disable=SC2086
	install_debian $packages
	left=$(missing_packages "$family" | tr '\n' ' ')
	if [ -n "$left" ]; then
		say "ferry: installed, but still not usable: $left"
		exit 1
	fi
}

main "$@"
