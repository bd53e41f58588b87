# SPDX-License-Identifier: Apache-2.0
"""Build directories: the plain one, and those that only tests use, inside it."""

import dataclasses
import os
import subprocess
import time

from driver.model import Result


@dataclasses.dataclass(frozen=True)
class Build:
    """One configuration of the tree. Tests found in it carry the prefix."""

    name: str
    prefix: str
    folder: str  # below the plain build directory
    compiler: str
    arguments: tuple = ()
    environment: tuple = ()


SANITIZERS = (
    ("ASAN_OPTIONS", "abort_on_error=0:detect_stack_use_after_return=1:strict_string_checks=1"),
    ("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1"),
)

# gcc 12 reports null dereferences and uninitialised variables that sanitizer instrumentation made up.
SANITIZED_GCC = "-Dc_args=-Wno-null-dereference -Wno-maybe-uninitialized -Wno-stringop-overflow -fno-omit-frame-pointer"

PLAIN = Build("gcc", "", "", "")
ASAN = Build(
    "asan", "asan/", "asan", "gcc",
    ("-Db_sanitize=address,undefined", "-Dbuildtype=debug", "-Doptimization=1", "-Dwerror=true", "-Dman=disabled",
     SANITIZED_GCC),
    SANITIZERS,
)
CLANG = Build("clang", "clang/", "clang", "clang", ("-Dwerror=true", "-Dman=disabled"))
FUZZ = Build(
    "fuzz", "fuzz/", "fuzz", "clang",
    ("-Dfuzz=true", "-Dtests=false", "-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dman=disabled",
     "-Dbuildtype=debugoptimized", "-Dc_args=-fsanitize=fuzzer-no-link"),
    SANITIZERS,
)
WERROR = Build("werror", "werror/", "werror", "gcc", ("-Dwerror=true", "-Dman=disabled"))


def make(build, source, top, jobs):
    """Configure and build; the Result is named build/NAME and carries the compiler's output."""
    folder = top / build.folder
    environment = dict(os.environ)
    commands = [["ninja", "-C", str(folder), f"-j{jobs}"]]
    if build.compiler:
        environment["CC"] = build.compiler
        commands.insert(0, [str(source / "scripts" / "configure.sh"), str(folder), *build.arguments])
    elif not (folder / "build.ninja").exists():
        commands.insert(0, [str(source / "scripts" / "configure.sh"), str(folder)])
    began = time.monotonic()
    print(f"building {folder}", flush=True)
    for command in commands:
        done = subprocess.run(command, cwd=source, env=environment, stdin=subprocess.DEVNULL, text=True,
                              errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if "error" in line.lower() or "FAILED" in line]
            reason = lines[0].strip() if lines else f"{command[0]} exited with {done.returncode}"
            return Result(f"build/{build.name}", "failed", time.monotonic() - began, reason, done.stdout)
    return Result(f"build/{build.name}", "passed", time.monotonic() - began)
