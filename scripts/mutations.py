#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Breaks one thing at a time in a copy of the tree, builds it, and runs the tests that ought to notice. A mutation that
no test notices is a failure: the tests do not cover what they claim.

Mutations come from test/mutations.tsv, and from src/kind/: each kind without one of the functions that bring its state back.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SOURCE / "test" / "lib"))
sys.dont_write_bytecode = True


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--filter", default="", help="only mutations whose name contains this")
    parser.add_argument("--results", type=pathlib.Path)
    return parser.parse_args()


def plain(text):
    """The texts of the table with \\n and \\t for what they stand for."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def listed():
    """(name, file, find, replace, tests) of the table."""
    for line in (SOURCE / "test" / "mutations.tsv").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, file, find, replace, tests = line.split("\t")
            yield name, pathlib.Path(file), plain(find), plain(replace), tests


# Members of a kind's table that bring state back.
HOOKS = ("restore", "restore_task", "restore_thread", "settle", "settle_task", "map", "join_session", "opened", "ready")


def tests_of(kind):
    """The round trips of a kind's programs; all of them when it has none of its own."""
    from ferrytest.cases import CASES  # pylint: disable=import-outside-toplevel

    names = [f"*integration/roundtrip.{case.name}" for case in CASES if case.kind == kind]
    return ",".join(names) or "integration/roundtrip"


def of_kinds():
    """Each kind without one of the functions that bring its state back."""
    for path in sorted((SOURCE / "src" / "kind").glob("*.c")):
        for table in re.findall(r"^const struct kind_ops \w+ = \{.*?^\};", path.read_text(encoding="utf-8"),
                                re.MULTILINE | re.DOTALL):
            kind = re.search(r'\.name = "([^"]*)"', table)[1]
            for line, hook in re.findall(r"^(\t+\.(\w+) = \w+,\n)", table, re.MULTILINE):
                if hook in HOOKS:
                    yield (f"kind-{kind}-without-{hook}", path.relative_to(SOURCE), table,
                           table.replace(line, ""), tests_of(kind))


def copy_tree(target):
    """The files that git knows or would know. Only what differs is written: an old time on a file whose object came
    from a mutation would keep that object."""
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=SOURCE,
                           check=True, stdout=subprocess.PIPE, text=True).stdout.split("\0")
    for name in filter(None, names):
        path = target / name
        if not (SOURCE / name).is_file() or (path.exists() and path.read_bytes() == (SOURCE / name).read_bytes()):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SOURCE / name, path)
        shutil.copymode(SOURCE / name, path)
    for path in [p for p in target.rglob("*") if p.is_file()]:
        if str(path.relative_to(target)) not in names:
            path.unlink()


def run_tests(tree, build, tests, jobs):
    """(number of failed tests, output)."""
    results = build / "check" / "results.tsv"
    results.unlink(missing_ok=True)
    # One mutation breaks the same test in every build; the plain one is enough.
    done = subprocess.run([sys.executable, str(tree / "test" / "run.py"), "check", "--build", str(build),
                           "--jobs", str(jobs), "--filter", tests, "--plain-only"], cwd=tree, check=False, text=True,
                          errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = results.read_text(encoding="utf-8").splitlines()[1:] if results.exists() else []
    fields = [line.split("\t") for line in lines]
    broken = any(name.startswith("build/") and outcome == "failed" for name, outcome, *_ in fields)
    failed = [name for name, outcome, *_ in fields if outcome == "failed"]
    return failed, broken, done.stdout


def try_mutation(tree, build, mutation, jobs):
    """(outcome, reason) of one mutation."""
    _, file, find, replace, tests = mutation
    path = tree / file
    original = path.read_text(encoding="utf-8")
    if original.count(find) != 1:
        return "failed", f"{file} has the text {original.count(find)} times, not once"
    path.write_text(original.replace(find, replace), encoding="utf-8")
    try:
        failed, broken, output = run_tests(tree, build, tests, jobs)
    finally:
        path.write_text(original, encoding="utf-8")
    if broken:
        return "failed", "does not build: " + " ".join(output.split())[-200:]
    if not failed:
        return "failed", f"no test of '{tests}' notices it"
    return "passed", f"noticed by {len(failed)}: {', '.join(failed[:3])}"


def main():
    options = parse()
    top = options.build.resolve()
    tree, build = top / "mutations" / "tree", top / "mutations" / "build"
    results = options.results or top / "check" / "mutations.tsv"
    results.parent.mkdir(parents=True, exist_ok=True)
    copy_tree(tree)
    lines, count = ["name\toutcome\tseconds\treason"], {"passed": 0, "failed": 0}
    for mutation in [*listed(), *of_kinds()]:
        name = "mutation/" + mutation[0]
        if options.filter not in name:
            continue
        began = time.monotonic()
        outcome, reason = try_mutation(tree, build, mutation, options.jobs)
        seconds = time.monotonic() - began
        count[outcome] += 1
        lines.append(f"{name}\t{outcome}\t{seconds:.3f}\t{reason.replace(chr(9), ' ')}")
        print(f"{outcome:8}{seconds:7.1f} s  {name}: {reason}", flush=True)
    results.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{count['passed']} passed, {count['failed']} failed, 0 skipped")
    sys.exit(1 if count["failed"] else 0)


if __name__ == "__main__":
    main()
