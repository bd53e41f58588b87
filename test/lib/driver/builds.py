# SPDX-License-Identifier: Apache-2.0
"""Build directories: the plain one, and those that only tests use, inside it."""

import dataclasses
import os
import re
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


def run(command, build, source):
    """Run a step of a build; (exit status, output)."""
    environment = dict(os.environ)
    if build.compiler:
        environment["CC"] = build.compiler
    done = subprocess.run(command, cwd=source, env=environment, stdin=subprocess.DEVNULL, text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout


def result(build, began, code, output):
    """The Result of a build is named build/NAME; a failed one carries the compiler's output."""
    if not code:
        return Result(f"build/{build.name}", "passed", time.monotonic() - began)
    lines = [line for line in output.splitlines() if re.search(r"\berror:|^ERROR", line)]
    lines += [line for line in output.splitlines() if line.startswith("FAILED:")]
    reason = " ".join(lines[0].split()) if lines else f"exit {code}"
    return Result(f"build/{build.name}", "failed", time.monotonic() - began, reason, output)


def configure(build, source, top):
    """Set the build directory up; only a failed Result matters. The plain one is whoever called make's."""
    began = time.monotonic()
    folder = top / build.folder
    if not build.compiler and (folder / "build.ninja").exists():
        return result(build, began, 0, "")
    return result(build, began, *run([str(source / "scripts" / "configure.sh"), str(folder), *build.arguments], build,
                                     source))


def make(build, source, top, jobs):
    """Compile a configured build directory."""
    began = time.monotonic()
    print(f"building {top / build.folder}", flush=True)
    return result(build, began, *run(["ninja", "-C", str(top / build.folder), f"-j{jobs}"], build, source))
