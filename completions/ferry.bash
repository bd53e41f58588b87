# SPDX-License-Identifier: Apache-2.0
# Completion for bash. Verbs and options are what --help lists, so they are never out of date.

_ferry_verbs()
{
	"$1" --help 2>/dev/null | awk '/^[A-Z].*:$/ { verbs = /^Verbs:/ } verbs && /^  [a-z]/ { print $1 }'
}

_ferry_options()
{
	"$1" "$2" --help 2>/dev/null | grep -oE '^ +(-[A-Za-z0-9], )?--[a-z][a-z0-9-]*' | grep -oE -- '--[a-z0-9-]+'
}

_ferry()
{
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}

	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_ferry_verbs "${COMP_WORDS[0]}") --help --version" -- "$word")
		return
	fi
	case $before in
	-t | --tree)
		mapfile -t COMPREPLY < <(compgen -W "$(ps -e -o pid= 2>/dev/null)" -- "$word")
		return
		;;
	-D | --images-dir)
		mapfile -t COMPREPLY < <(compgen -d -- "$word")
		return
		;;
	esac
	case $word in
	-*) mapfile -t COMPREPLY < <(compgen -W "$(_ferry_options "${COMP_WORDS[0]}" "${COMP_WORDS[1]}")" -- "$word") ;;
	*) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
	esac
}

complete -o filenames -F _ferry ferry
