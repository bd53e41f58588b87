#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rules about text: licence lines, #pragma once, block comments only, no leftovers, no paths of one machine."""

import re

import tree

CODE = (".c", ".h", ".def", ".S", ".lds", ".proto", ".py", ".sh", ".map")
BY_NAME = ("meson.build", "meson_options.txt", "Makefile", "run")
# Spelled in pieces, so that this file passes its own rules.
LEFTOVERS = re.compile(r"\b(" + "TO" + "DO|FIX" + "ME|XX" + "X)\\b")
MACHINE_PATHS = re.compile(r"(?<![\w./-])/(" + "wo" + r"rk/|tmp/(wt|build-)|ro" + r"ot/|ho" + r"me/\w)")
MIRRORS = re.compile(r"https?://(deb|ftp|snapshot|security)[\w.]*\.debian\.org|https?://[\w.]*(mirror|registry)[\w.]*")
# Columns. For C it is clang-format that says.
WIDEST = {".py": 140, ".sh": 120}
BINARY = (".img", ".png", ".gz", ".bin")


def check_line(path, number, line, problems):
    if LEFTOVERS.search(line):
        problems.append(f"{path}:{number}: a leftover: {line.strip()}")
    if MACHINE_PATHS.search(line):
        problems.append(f"{path}:{number}: a path of one machine: {line.strip()}")
    if MIRRORS.search(line):
        problems.append(f"{path}:{number}: names a mirror or registry: {line.strip()}")
    width = len(line.expandtabs(8))
    if width > WIDEST.get(path.suffix, width):
        problems.append(f"{path}:{number}: {width} columns")
    if line != line.rstrip():
        problems.append(f"{path}:{number}: white space at the end of the line")


def check_c(path, text, problems):
    if path.suffix == ".h" and "#pragma once" not in text:
        problems.append(f"{path}: no #pragma once")
    bare = re.sub(r'"(\\.|[^"\\\n])*"|/\*.*?\*/|\'(\\.|[^\'\\\n])+\'', "", text, flags=re.DOTALL)
    for line in bare.splitlines():
        if "//" in line:
            problems.append(f"{path}: a // comment: {line.strip()}")


def main():
    problems = []
    paths = [p for p in tree.files("") if p.suffix not in BINARY and "corpus" not in p.parts and p.name != "LICENSE"]
    for path in paths:
        text = tree.read(path)
        listed = path.name in BY_NAME and not (path.name == "meson.build" and path.parts[0] == "src")
        if (path.suffix in CODE or listed) and "SPDX-License-Identifier: " not in text[:200]:
            problems.append(f"{path}: no SPDX line at its head")
        if text and not text.endswith("\n"):
            problems.append(f"{path}: no newline at its end")
        if path.suffix in (".c", ".h"):
            check_c(path, text, problems)
        for number, line in enumerate(text.splitlines(), 1):
            check_line(path, number, line, problems)
    tree.finish(problems, len(paths))


if __name__ == "__main__":
    main()
