#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each header compiles alone, in any order, without a warning."""

import concurrent.futures
import os
import subprocess

import tree

DEFAULT = ["-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Iinclude", "-Isrc", "-Itest/lib", "-Itest/unit"]


def flags_for(header, commands):
    """The -I and -D of a source file that is compiled in the same folder; generated headers need them."""
    for path, (directory, words) in commands.items():
        if path.parent == header.parent:
            kept = [w for w in words if w.startswith(("-D", "-std=", "-W")) or w.startswith("-I")]
            return [("-I" + os.path.join(directory, w[2:])) if w.startswith("-I") else w for w in kept] + DEFAULT[4:]
    return DEFAULT


def check(header, commands):
    if header.parts[0] == "include":
        text = f"#include <{header.relative_to('include')}>\n"
    else:
        text = f'#include "{tree.SOURCE / header}"\n'
    flags = [f for f in flags_for(header, commands) if f not in ("-Wmissing-prototypes",)]
    # An inline function that nobody calls is no fault of a header.
    command = ["gcc", "-x", "c", "-fsyntax-only", "-Werror", "-Wno-unused-function", *flags, "-"]
    done = subprocess.run(command, cwd=tree.SOURCE, input=text, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    return f"{header} does not compile alone:\n{done.stdout.rstrip()}" if done.returncode else ""


def main():
    commands = tree.compile_commands()
    headers = [h for h in tree.files(".h") if h.parts[0] in ("src", "include", "test")]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        problems = [p for p in pool.map(lambda h: check(h, commands), headers) if p]
    tree.finish(problems, len(headers))


if __name__ == "__main__":
    main()
