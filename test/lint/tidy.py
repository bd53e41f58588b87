#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""clang-tidy with the checks of .clang-tidy. With --changed only files that differ from the commit before
(FERRY_LINT_BASE, else the merge base with origin/main, else HEAD~1), with work not committed yet."""

import concurrent.futures
import os
import subprocess
import sys

import tree


def git(*words):
    done = subprocess.run(["git", *words], cwd=tree.SOURCE, check=False, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL)
    return done.stdout.strip() if done.returncode == 0 else ""


def base_commit():
    head = git("rev-parse", "HEAD")
    candidates = [os.environ.get("FERRY_LINT_BASE", ""), git("merge-base", "HEAD", "origin/main"),
                  git("rev-parse", "HEAD~1")]
    return next((c for c in candidates if c and c != head), head)


def changed_files():
    names = git("diff", "--name-only", base_commit(), "--").splitlines()
    return set(names + git("ls-files", "--others", "--exclude-standard").splitlines())


def check(path):
    done = subprocess.run(["clang-tidy", "--quiet", f"-p={tree.BUILD / 'clang'}", "--warnings-as-errors=*", str(path)],
                          cwd=tree.SOURCE, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.stdout.strip() if done.returncode else ""


def main():
    paths = sorted(path for path in tree.compile_commands("clang") if path.suffix == ".c")
    if not paths:
        tree.finish(["no compile_commands.json in the clang build"], 0)
    if "--changed" in sys.argv:
        changed = changed_files()
        paths = [path for path in paths if str(path) in changed]
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("JOBS") or os.cpu_count() or 1)) as pool:
        problems = [p for p in pool.map(check, paths) if p]
    tree.finish(problems, len(paths))


if __name__ == "__main__":
    main()
