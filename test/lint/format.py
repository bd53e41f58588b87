#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The code is as clang-format (version 14, .clang-format) writes it; `make format` brings it there."""

import subprocess

import tree


def main():
    paths = tree.files(".c", ".h")
    problems = []
    for path in paths:
        text = tree.read(path)
        done = subprocess.run(["clang-format", f"--assume-filename={path}"], cwd=tree.SOURCE, input=text, text=True,
                              stdout=subprocess.PIPE, check=True)
        if done.stdout == text:
            continue
        lines = zip(text.splitlines() + [""], done.stdout.splitlines() + [""])
        line = next((i for i, (a, b) in enumerate(lines, 1) if a != b), 0)
        problems.append(f"{path}:{line}: not formatted; run make format")
    tree.finish(problems, len(paths))


if __name__ == "__main__":
    main()
