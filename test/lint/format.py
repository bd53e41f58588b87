#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The code is as clang-format (version 14, .clang-format) writes it; `make format` brings it there."""

import concurrent.futures
import os
import re
import subprocess

import tree

BATCH = 20


def check(paths):
    """The first place in each file where clang-format would change something."""
    done = subprocess.run(["clang-format", "--dry-run", "-Werror", "--ferror-limit=1", *map(str, paths)],
                          cwd=tree.SOURCE, check=False, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    found = re.findall(r"^(\S+?):(\d+):\d+: error: code should be clang-formatted", done.stderr, re.MULTILINE)
    if done.returncode and not found:
        return [done.stderr.strip()]
    return [f"{path}:{line}: not formatted; run make format" for path, line in dict(found).items()]


def main():
    paths = tree.files(".c", ".h")
    batches = [paths[i:i + BATCH] for i in range(0, len(paths), BATCH)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = [problem for found in pool.map(check, batches) for problem in found]
    tree.finish(problems, len(paths))


if __name__ == "__main__":
    main()
