#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every --help exits 0, prints on stdout, stays silent on stderr, and no line is wider than 80 columns."""

import subprocess

import options
import tree

PROGRAMS = ["ferry", "ferryd", "vkernel-runtime", "vkerneld"]


def check(command, problems):
    done = subprocess.run([*command, "--help"], check=False, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    shown = " ".join([command[0].rsplit("/", 1)[-1], *command[1:], "--help"])
    if done.returncode:
        problems.append(f"{shown} exits with {done.returncode}")
    if not done.stdout.strip():
        problems.append(f"{shown} prints nothing on stdout")
    if done.stderr:
        problems.append(f"{shown} prints on stderr: {done.stderr.splitlines()[0]}")
    for line in done.stdout.splitlines():
        if len(line.expandtabs(8)) > 80:
            problems.append(f"{shown}: {len(line.expandtabs(8))} columns: {line.strip()[:60]}...")


def main():
    problems, count = [], 0
    for name in PROGRAMS:
        path = tree.BUILD / name
        if not path.exists():
            continue
        commands = [[str(path)]]
        if name == "ferry":
            commands += [[str(path), verb] for verb in options.verbs()]
        for command in commands:
            check(command, problems)
            count += 1
    tree.finish(problems, count)


if __name__ == "__main__":
    main()
