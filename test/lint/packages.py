#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""packaging/packages.tsv is well formed, and doc/building.md names every package of it for dnf and pacman."""

import tree

PURPOSES = ["build", "check", "demo", "bench", "lint", "deb"]


def main():
    problems, rows = [], []
    for number, line in enumerate(tree.read("packaging/packages.tsv").splitlines(), 1):
        if line.startswith("#") or not line:
            continue
        fields = line.split("\t")
        if len(fields) != 5 or not all(fields):
            problems.append(f"packaging/packages.tsv:{number}: {len(fields)} fields, not 5")
        elif fields[0] not in PURPOSES:
            problems.append(f"packaging/packages.tsv:{number}: no purpose '{fields[0]}'")
        else:
            rows.append(fields)
    words = set(tree.read("doc/building.md").replace("`", " ").split())
    for _, debian, fedora, arch, _ in rows:
        for name in (debian, fedora, arch):
            if name not in words:
                problems.append(f"doc/building.md does not name {name}")
    tree.finish(sorted(set(problems)), len(rows))


if __name__ == "__main__":
    main()
