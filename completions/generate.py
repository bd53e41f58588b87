#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Usage: generate.py bash|zsh OPTIONS.DEF MAIN.C. Prints the completion of the ferry command.

Verbs come from the table in src/cli/main.c, options from src/engine/options.def.
"""

import pathlib
import re
import sys

OPTION = re.compile(r'^OPTION\(\w+, "([\w-]+)", (\'\w\'|0), (\w+), ([\w |]+), ("[^"]*"|NULL), .*?, "([^"]*)"\)$',
                    re.MULTILINE)
VERB = re.compile(r'^\t\{"([a-z]+)",\s+(V_\w+),\s+(?:"[^"]*"),\s+"([^"]*)",\s+\w+\},$', re.MULTILINE)
IMAGE_VERBS = "show decode encode info verify"
HEAD = ("SPDX-License-Identifier: Apache-2.0\n"
        "# Completion of ferry for %s. Generated from options.def and the table of verbs.")


def read(options, main):
    """Verbs as (word, text, [(long, letter or '', argument or '', help)])."""
    listed = []
    for word, letter, kind, verbs, argument, text in OPTION.findall(options):
        verbs = {v.strip() for v in verbs.split("|")}
        listed.append((word, letter.strip("'0"), "" if kind == "BOOL" else argument.strip('"'), text, verbs))
    if len(listed) != options.count("\nOPTION("):
        sys.exit("generate.py: an entry of options.def was not understood")
    found = []
    for word, bit, text in VERB.findall(main):
        own = [o[:4] for o in listed if bit in o[4] or "V_ALL" in o[4] and bit != "V_IMAGE"]
        found.append((word, text, own))
    if not found:
        sys.exit("generate.py: no verbs found")
    return found


JOB_VERBS = ("attach", "logs", "save", "restore", "stop", "rm")
# The first column of "ferry ps", but for its heading.
JOB_NAMES = "ferry ps 2>/dev/null | sed '1d; s/ .*//'"


def values(argument):
    """How an argument is completed: 'dir', 'file', 'pid', a list of words, or nothing."""
    if argument in ("DIR", "FILE", "PID"):
        return argument.lower()
    return argument.split("|") if "|" in argument else ""


def bash(verbs):
    """One case for each verb and one for each argument."""
    words, arguments = [], {}
    for verb, _, options in verbs:
        extra = " " + IMAGE_VERBS if verb == "image" else " faults" if verb == "debug" else ""
        text = " ".join(sorted("--" + o[0] for o in options) + ["--help"]) + extra
        words.append(f"\t{verb}) words='{text}' ;;")
        for word, letter, argument, _ in options:
            names = [f"--{word}"] + ([f"-{letter}"] if letter else [])
            if argument:
                arguments.setdefault(argument, set()).update(names)
    replies = {"dir": "compgen -d", "file": "compgen -f", "pid": "compgen -W \"$(ps -eo pid= 2>/dev/null)\""}
    cases = []
    for argument, names in sorted(arguments.items()):
        what = values(argument)
        reply = f"compgen -W '{' '.join(what)}'" if isinstance(what, list) else replies.get(what)
        names = " | ".join(sorted(names))
        cases.append(f"\t{names})\n\t\t" + (f"mapfile -t COMPREPLY < <({reply} -- \"$current\")\n\t\t" if reply else "")
                     + "return ;;")
    verb_words = " ".join(v[0] for v in verbs)
    return "\n".join([
        "# " + HEAD % "bash",
        "_ferry() {",
        "\tlocal current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words=",
        "\tCOMPREPLY=()",
        "\tif [ \"$COMP_CWORD\" -eq 1 ]; then",
        f"\t\tmapfile -t COMPREPLY < <(compgen -W '{verb_words} --help --version' -- \"$current\")",
        "\t\treturn",
        "\tfi",
        "\tcase $previous in", *cases, "\tesac",
        "\tcase ${COMP_WORDS[1]} in", *words, "\tesac",
        "\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")",
        "\tcase ${COMP_WORDS[1]} in",
        "\tshow | image)",
        "\t\t[ \"${current:0:1}\" = - ] ||",
        "\t\t\tmapfile -t -O \"${#COMPREPLY[@]}\" COMPREPLY < <(compgen -f -- \"$current\") ;;",
        f"\t{' | '.join(JOB_VERBS)})",
        "\t\t[ \"${current:0:1}\" = - ] ||",
        "\t\t\tmapfile -t -O \"${#COMPREPLY[@]}\" COMPREPLY < <(compgen -W \"$(" + JOB_NAMES + ")\" -- \"$current\") ;;",
        "\trun)",
        "\t\t[ \"${current:0:1}\" = - ] ||",
        "\t\t\tmapfile -t -O \"${#COMPREPLY[@]}\" COMPREPLY < <(compgen -c -f -- \"$current\") ;;",
        "\tesac",
        "}",
        "complete -o filenames -F _ferry ferry",
        "",
    ])


def zsh_text(text):
    """Inside single quotes and an _arguments specification."""
    return re.sub(r"([\[\]:])", r"\\\1", text).replace("'", "'\\''")


def zsh_argument(argument):
    """The part of an _arguments specification behind the text."""
    what = values(argument)
    if isinstance(what, list):
        return f":value:({' '.join(what)})"
    action = {"dir": "_files -/", "file": "_files", "pid": "_pids"}.get(what, " ")
    return f":{zsh_text(argument)}:{action}" if argument else ""


def zsh(verbs):
    """_arguments for each verb."""
    lines = ["#compdef ferry", "# " + HEAD % "zsh", "local -a verbs", "verbs=("]
    lines += [f"\t'{verb}:{zsh_text(text)}'" for verb, text, _ in verbs]
    lines += [")", "if (( CURRENT == 2 )); then", "\t_describe verb verbs", "\treturn", "fi",
              "local verb=$words[2]", "shift words", "(( CURRENT-- ))", "case $verb in"]
    for verb, _, options in verbs:
        lines.append(f"{verb})\n\t_arguments \\")
        for word, letter, argument, text in options:
            tail = f"[{zsh_text(text)}]{zsh_argument(argument)}'"
            equals = "=" if argument else ""
            if letter:
                plus = "+" if argument else ""
                lines.append(f"\t\t'(-{letter} --{word})'{{-{letter}{plus},--{word}{equals}}}'{tail} \\")
            else:
                lines.append(f"\t\t'--{word}{equals}{tail} \\")
        extra = {"image": f" '1:verb:({IMAGE_VERBS})' '*:file:_files'", "debug": " '1:word:(faults)'",
                 "show": " '*:image:_files -/'", "run": " '1:command:_command_names -e' '*:word:_files'"}.get(verb, "")
        if verb in JOB_VERBS:
            extra = ' "*:job:(${(f)$(' + JOB_NAMES + ')})"'
        lines.append(f"\t\t'(-h --help)'{{-h,--help}}'[show the options]'{extra} ;;")
    return "\n".join([*lines, "esac", ""])


def main():
    options, table = (pathlib.Path(name).read_text(encoding="utf-8") for name in sys.argv[2:4])
    sys.stdout.write({"bash": bash, "zsh": zsh}[sys.argv[1]](read(options, table)))


if __name__ == "__main__":
    main()
