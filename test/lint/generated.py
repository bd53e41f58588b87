#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What is generated agrees with its source: doc/kinds.md, the shell completions, the list in ferry-errors(7)."""

import re
import shutil
import subprocess
import sys

import tree

OPTIONS = "src/engine/options.def"
MAIN = "src/cli/main.c"
ERRORS = "include/ferry/errors.def"


def run(problems, *words, text=None):
    """Standard output; a failure is a problem."""
    done = subprocess.run(words, cwd=tree.SOURCE, input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False)
    if done.returncode or done.stderr:
        last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        problems.append(f"{' '.join(words[:3])}: {last}")
    return done.stdout


def check_kinds(problems):
    if run(problems, sys.executable, "scripts/kinds.py") != tree.read("doc/kinds.md"):
        problems.append("doc/kinds.md is not what the sources say; run scripts/kinds.py --write")


def check_completion(problems, shell):
    text = run(problems, sys.executable, "completions/generate.py", shell, OPTIONS, MAIN)
    if shutil.which(shell):
        run(problems, shell, "-n", text=text)
    verbs = set(re.findall(r"\bV_[A-Z]+\b", tree.read(MAIN)))
    for line in tree.read(OPTIONS).splitlines():
        found = re.match(r'OPTION\(\w+, "([\w-]+)", .*?, ([\w |]+), ("[^"]*"|NULL),', line)
        # An option of verbs that this ferry does not have completes nothing.
        if found and ({"V_ALL"} | verbs) & set(found.group(2).split(" | ")) and "--" + found.group(1) not in text:
            problems.append(f"the completion for {shell} lacks --{found.group(1)}")


def check_errors(problems):
    page = run(problems, sys.executable, "doc/man/errors.py", "doc/man/ferry-errors.7.scd", ERRORS)
    words = re.findall(r'^FERRY_ERROR\(\w+, "([\w-]+)"', tree.read(ERRORS), re.MULTILINE)
    for word in words:
        if f"\n*{word}*\n" not in page:
            problems.append(f"ferry-errors(7) lacks {word}")
    if shutil.which("scdoc"):
        run(problems, "scdoc", text=page)


def main():
    problems = []
    check_kinds(problems)
    for shell in ("bash", "zsh"):
        check_completion(problems, shell)
    check_errors(problems)
    tree.finish(problems, 4)


if __name__ == "__main__":
    main()
