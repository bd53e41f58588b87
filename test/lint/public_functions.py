#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a library exports is what section 3 of the manual describes and what an installed header declares."""

import re
import subprocess
import sys

import tree

sys.path.insert(0, str(tree.SOURCE / "doc" / "man"))
import pages  # noqa: E402  pylint: disable=wrong-import-position

# libcriu keeps the names of another project's interface; its page is libcriu(3).
FOREIGN = re.compile(r"^criu_")


def exported():
    """Function -> library, over every shared library of the build."""
    found = {}
    for library in sorted(tree.BUILD.glob("lib*.so.*")):
        if library.is_symlink() or not library.is_file():
            continue
        listing = subprocess.run(["nm", "-D", "--defined-only", "--format=posix", str(library)], check=True, text=True,
                                 stdout=subprocess.PIPE).stdout
        for line in listing.splitlines():
            name, kind = line.split()[:2]
            if kind in "TWi":
                found[name.split("@")[0]] = library.name
            elif kind != "A":
                found[name.split("@")[0]] = f"{library.name} (as data)"
    return found


def documented():
    names = set()
    for source in (tree.SOURCE / "doc" / "man").glob("*.3.scd"):
        page, others = pages.names(source)
        names.update(name.rsplit(".", 1)[0] for name in [page, *others])
    # A page about a whole library is named as the library is.
    return {name for name in names if not name.startswith("lib")}


def declared():
    names = set()
    for header in tree.files(".h", under="include"):
        text = re.sub(r"/\*.*?\*/", "", tree.read(header), flags=re.DOTALL)
        names.update(re.findall(r"\b(ferry_\w+)\s*\([^;{]*\)[^;{]*;", text))
    return names


def main():
    problems = []
    functions, manual, headers = exported(), documented(), declared()
    for name, library in sorted(functions.items()):
        if FOREIGN.match(name):
            continue
        if not name.startswith("ferry_"):
            problems.append(f"{library} exports {name}, which does not begin with ferry_")
            continue
        if name not in manual:
            problems.append(f"{library} exports {name}, which has no page in section 3")
        if name not in headers:
            problems.append(f"{library} exports {name}, which no installed header declares")
    if functions:
        for name in sorted(manual - set(functions)):
            problems.append(f"{name}(3) describes a function that no library exports")
        for name in sorted(headers - set(functions)):
            problems.append(f"{name} is declared in an installed header, and no library exports it")
    tree.finish(problems, len(functions))


if __name__ == "__main__":
    main()
