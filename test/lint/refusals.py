#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each reason for which the sources refuse a dump stands in test/refusals.tsv with tests that there are, or with a cause."""

import ast
import pathlib
import sys

import tree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
sys.dont_write_bytecode = True

import refusals  # noqa: E402  pylint: disable=wrong-import-position


def names(file):
    """Words of a test file that may be names of tests: its strings and functions."""
    path = tree.SOURCE / "test" / "integration" / f"{file}.py"
    if not path.exists():
        return set()
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)} | {
        node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def known(test, files):
    """Whether there is such a test; names may be put together from a word and what begins or joins it."""
    file, _, name = test.partition(".")
    words = files.setdefault(file, names(file))
    return any(name == word or name.replace("_", "-").endswith(word.replace("_", "-")) for word in words if len(word) > 1)


def main():
    table, sources, files = refusals.in_table(tree.SOURCE), refusals.in_sources(tree.SOURCE), {}
    problems = [f"{refusals.TABLE} lacks: {file}: {reason}" for file, reason in sources if (file, reason) not in table]
    problems += [f"{refusals.TABLE} has what no source says: {file}: {reason}" for file, reason in set(table) - set(sources)]
    for (file, reason), proof in table.items():
        if proof.startswith("?") or proof in ("", "-"):
            problems.append(f"{refusals.TABLE}: neither test nor cause: {file}: {reason}")
        problems += [f"{refusals.TABLE}: there is no test {name}" for name, _ in refusals.tests_of(proof)
                     if not known(name, files)]
    tree.finish(problems, len(sources))


if __name__ == "__main__":
    main()
