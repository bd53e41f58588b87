#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A room of src/ includes only rooms above it, names headers from the root of src/, and installed headers include
only installed headers. The rooms stand in the root meson.build in the same order."""

import re

import tree

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+([<"])([^>"]+)[>"]', re.MULTILINE)


def rank(room):
    return tree.ROOMS.index(room)


def exists(name):
    """A header of src/, or one that the build makes from NAME.in."""
    return (tree.SOURCE / "src" / name).exists() or (tree.SOURCE / "src" / (name + ".in")).exists() \
        or (tree.BUILD / "src" / name).exists()


def check_source(path, problems):
    room = path.parts[1]
    if room not in tree.ROOMS:
        problems.append(f"{path}: src/{room} is no room; see doc/architecture.md and test/lint/tree.py")
        return
    for mark, name in INCLUDE.findall(tree.read(path)):
        if mark == "<":
            if name.startswith("ferry/") and not (tree.SOURCE / "include" / name).exists():
                problems.append(f"{path}: <{name}> does not exist")
            continue
        target = name.split("/")[0]
        if name.endswith(".pb-c.h") or name.endswith(".blob.h"):
            # Generated: it belongs to the room that its first component names, or to this one.
            if target in tree.ROOMS and rank(target) > rank(room):
                problems.append(f"{path}: includes '{name}', and {room} stands above {target}")
        elif "/" not in name or target not in tree.ROOMS:
            problems.append(f"{path}: '{name}' is not named from src/ as \"room/file.h\"")
        elif not exists(name):
            problems.append(f"{path}: '{name}' does not exist")
        elif rank(target) > rank(room):
            problems.append(f"{path}: includes '{name}', and {room} stands above {target}")


def check_installed(path, problems):
    for mark, name in INCLUDE.findall(tree.read(path)):
        if mark == '"':
            problems.append(f"{path}: an installed header includes '{name}', which is not installed")


def check_meson(problems):
    order = re.findall(r"^\s*subdir\('src/([^'/]+)'\)", tree.read("meson.build"), re.MULTILINE)
    for room in order:
        if room not in tree.ROOMS:
            problems.append(f"meson.build: src/{room} is no room")
    known = [room for room in order if room in tree.ROOMS]
    if known != sorted(known, key=rank):
        problems.append(f"meson.build: the rooms stand in another order than the list: {', '.join(known)}")


def main():
    problems = []
    sources = tree.files(".c", ".h", ".def", under="src")
    installed = tree.files(".h", ".def", under="include")
    for path in sources:
        check_source(path, problems)
    for path in installed:
        check_installed(path, problems)
    check_meson(problems)
    tree.finish(problems, len(sources) + len(installed))


if __name__ == "__main__":
    main()
