# SPDX-License-Identifier: Apache-2.0
"""What the lints share: the files of the tree, compile commands, and how a lint ends."""

import json
import os
import pathlib
import shlex
import subprocess
import sys

SOURCE = pathlib.Path(os.environ.get("FERRY_SOURCE", pathlib.Path(__file__).resolve().parents[2]))
BUILD = pathlib.Path(os.environ.get("FERRY_BUILD", SOURCE / "build"))

# The rooms of src/, top to bottom: a folder includes only folders above it, and itself.
ROOMS = [
    "base", "kernel", "proc", "image", "inject", "tcp", "blob", "model", "host", "stream", "mem", "freeze", "kind",
    "collect", "restore", "engine", "store", "migrate", "jobs", "series", "rpc", "container", "compat", "doctor", "sched", "cli", "agent",
    "vkernel",
]


def files(*suffixes, under=None):
    """Files of the tree that git knows or would know, relative to it."""
    done = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=SOURCE,
                          check=True, stdout=subprocess.PIPE, text=True)
    names = sorted(set(done.stdout.split("\0")) - {""})
    paths = [pathlib.Path(n) for n in names if n.endswith(suffixes) and (SOURCE / n).is_file()]
    if under:
        paths = [p for p in paths if p.parts[: len(pathlib.Path(under).parts)] == pathlib.Path(under).parts]
    return paths


def read(path):
    """The text of a file of the tree."""
    return (SOURCE / path).read_text(encoding="utf-8", errors="replace")


def compile_commands(folder=""):
    """Source file (relative to the tree) -> argument list without the compiler, input and output."""
    path = BUILD / folder / "compile_commands.json"
    if not path.exists():
        return {}
    commands = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        name = pathlib.Path(os.path.normpath(os.path.join(entry["directory"], entry["file"])))
        if not name.is_relative_to(SOURCE) or name.is_relative_to(BUILD):
            continue
        words = shlex.split(entry["command"])
        kept, skip = [], False
        for word in words[1:]:
            if skip:
                skip = False
            elif word in ("-o", "-MF", "-MQ", "-c"):
                skip = True
            elif word not in ("-MD",):
                kept.append(word)
        commands[name.relative_to(SOURCE)] = (pathlib.Path(entry["directory"]), kept)
    return commands


def finish(problems, checked):
    """End the lint: problems one a line, or what was looked at."""
    for problem in problems:
        print(problem)
    if problems:
        print(f"{len(problems)} problems")
        sys.exit(1)
    print(f"{checked} checked")
    sys.exit(0)
