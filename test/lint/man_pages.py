#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every man page builds, prints without a groff warning, and the pages it refers to exist."""

import re
import shutil
import subprocess
import sys

import tree

sys.path.insert(0, str(tree.SOURCE / "doc" / "man"))
import pages  # noqa: E402  pylint: disable=wrong-import-position


def own_names():
    """Every page and every name that is a link to one, as name.section."""
    found = set()
    for source in (tree.SOURCE / "doc" / "man").glob("*.scd"):
        page, others = pages.names(source)
        found.update([page, *others])
    return found


def main():
    problems = []
    sources = tree.files(".scd", under="doc/man")
    known = own_names()
    for path in sources:
        done = subprocess.run(["scdoc"], input=tree.read(path), text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, check=False)
        if done.returncode:
            problems.append(f"{path}: scdoc: {done.stderr.strip()}")
            continue
        if shutil.which("groff"):
            warnings = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-rLL=100n"], input=done.stdout, text=True,
                                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False).stderr
            if warnings:
                problems.append(f"{path}: groff: {warnings.splitlines()[0]}")
        text = tree.read(path)
        for name, section in re.findall(r"\*?(ferry[\w-]*|ferryd|vkernel[\w-]*)\*?\((\d)\)", text):
            if f"{name}.{section}" not in known:
                problems.append(f"{path}: refers to {name}({section}), which does not exist")
        stem, section = path.name[: -len(".scd")].rsplit(".", 1)
        first = text.split("\n", 1)[0]
        if not first.startswith(f"{stem}({section})"):
            problems.append(f"{path}: its first line is not {stem}({section})")
    tree.finish(problems, len(sources))


if __name__ == "__main__":
    main()
