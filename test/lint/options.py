#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The options of each verb, as `ferry VERB --help` prints them, are those of ferry-VERB(1), and each stands in
src/engine/options.def."""

import re
import subprocess

import tree

OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z0-9-]*)")


def run_help(*words):
    return subprocess.run([str(tree.BUILD / "ferry"), *words, "--help"], check=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def verbs():
    """First words of the indented lines below 'Verbs:' (or 'Commands:') of ferry --help."""
    found, inside = [], False
    for line in run_help().splitlines():
        if re.match(r"^\s*(verbs|commands)\b.*:\s*$", line, re.IGNORECASE):
            inside = True
        elif inside and re.match(r"^\s+[a-z]", line):
            found.append(line.split()[0])
        elif inside and line.strip() == "":
            continue
        else:
            inside = False
    return found


def manual_options(path):
    """Options that have an entry of their own: lines that begin with *--name* or *-x*, *--name*."""
    found = set()
    for line in tree.read(path).splitlines():
        if line.startswith("*-"):
            found.update(OPTION.findall(line.replace("*", " ").replace("\\", "")))
    return found


def main():
    if not (tree.BUILD / "ferry").exists():
        print("no ferry in this build")
        tree.finish([], 0)
    problems = []
    defined = set()
    definitions = tree.SOURCE / "src" / "engine" / "options.def"
    if definitions.exists():
        defined = {"--" + word for word in re.findall(r'"([a-z][a-z0-9-]+)"', definitions.read_text(encoding="utf-8"))}
    names = verbs()
    if not names:
        problems.append("ferry --help lists no verb")
    for verb in names:
        shown = set()
        for line in run_help(verb).splitlines():
            if re.match(r"^\s+-", line):
                shown.update(OPTION.findall(line.split("  ")[0] if not line.startswith("  ") else
                                            re.split(r"\s{2,}", line.strip())[0]))
        page = f"doc/man/ferry-{verb}.1.scd"
        if not (tree.SOURCE / page).exists():
            problems.append(f"ferry {verb} has no {page}")
            continue
        written = manual_options(page)
        for option in sorted(shown - written):
            problems.append(f"{page} lacks {option}")
        for option in sorted(written - shown):
            problems.append(f"{page} describes {option}, which ferry {verb} --help does not list")
        for option in sorted((shown & written) - defined - {"--help"}):
            if defined:
                problems.append(f"{option} of ferry {verb} is not in src/engine/options.def")
    tree.finish(problems, len(names))


if __name__ == "__main__":
    main()
