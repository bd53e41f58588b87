#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each change of test/mutations.tsv still finds its text, once, and each function of a kind has a test that notices when it
is not there: make soak would notice too, but much later."""

import pathlib
import re
import sys

import tree

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
sys.dont_write_bytecode = True

import mutations as script  # noqa: E402  pylint: disable=wrong-import-position

TABLE = "test/mutations.tsv"


def of_kinds():
    """Functions that no mutation takes away, and such mutations that no test would notice."""
    for path in sorted((tree.SOURCE / "src" / "kind").glob("*.c")):
        for table in script.tables_of(path):
            for member in re.findall(r"^\t+\.(\w+) = ", table, re.MULTILINE):
                if member not in script.HOOKS + script.CHECKS + script.OTHERS:
                    yield f"{path.name}: scripts/mutations.py does not know what .{member} is for"
    if tree.SOURCE == SCRIPTS.parent:
        yield from (f"no test would notice {name}" for name, _, _, _, tests in script.of_kinds() if not tests)


def main():
    problems, count = list(of_kinds()), 0
    for number, line in enumerate(tree.read(TABLE).splitlines(), 1):
        if line.startswith("#") or not line:
            continue
        count += 1
        fields = line.split("\t")
        if len(fields) != 5:
            problems.append(f"{TABLE}:{number}: {len(fields)} fields, not 5")
            continue
        name, file, find = fields[:3]
        found = tree.read(file).count(find.replace("\\n", "\n").replace("\\t", "\t")) if (tree.SOURCE / file).exists() else 0
        if found != 1:
            problems.append(f"{TABLE}:{number}: {name}: {file} has the text {found} times, not once")
    tree.finish(problems, count)


if __name__ == "__main__":
    main()
