#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each change of test/mutations.tsv still finds its text, once: make soak would notice too, but much later."""

import tree

TABLE = "test/mutations.tsv"


def main():
    problems, count = [], 0
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
