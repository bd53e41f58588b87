#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cppcheck over src/ with the build's include paths."""

import os
import subprocess

import tree

# Each with its reason: style remarks and what needs the whole program is left to the compilers and clang-tidy.
SUPPRESSED = [
    "missingIncludeSystem",  # system headers are not read
    "unusedFunction",  # libraries export what only callers use
    "unmatchedSuppression",
    "unknownMacro",  # X-macro lists read on their own
    "normalCheckLevelMaxBranches",
    "memleak",  # _cleanup_free_ and the like are not known to free; the sanitizers watch
    "resourceLeak",
    "ctuuninitvar",  # what a function is given to fill; the compilers watch
    "comparePointers",  # first and last byte of embedded code are symbols of their own
    "constStatement",  # a register variable's asm() is taken for an array
]


def main():
    build = tree.BUILD / "check" / "cppcheck"
    build.mkdir(parents=True, exist_ok=True)
    command = ["cppcheck", "--quiet", "--enable=warning,portability", "--inline-suppr", "--std=c11",
               "--error-exitcode=1", f"-j{os.cpu_count()}", f"--cppcheck-build-dir={build}",
               "-Iinclude", "-Isrc", "-D_GNU_SOURCE", "-D__x86_64__", "--template={file}:{line}: {id}: {message}",
               *[f"--suppress={name}" for name in SUPPRESSED], "src"]
    done = subprocess.run(command, cwd=tree.SOURCE, check=False, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    problems = [line for line in done.stdout.splitlines() if line.strip()] if done.returncode else []
    tree.finish(problems, len(tree.files(".c", under="src")))


if __name__ == "__main__":
    main()
