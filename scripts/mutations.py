#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Breaks one thing at a time in a copy of the tree, builds it, and runs the tests that ought to notice. A mutation that
no test notices is a failure: the tests do not cover what they claim.

Mutations come from test/mutations.tsv, and from src/kind/: each kind without one of the functions that save its state,
bring it back, or refuse it.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

SOURCE = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(SOURCE / "test" / "lib"), str(SOURCE / "scripts")]
sys.dont_write_bytecode = True

# pylint: disable=wrong-import-position
import refusals  # noqa: E402
from driver import builds, discover, model, report, runner  # noqa: E402
from ferrytest.cases import CASES  # noqa: E402

TEST_SECONDS = 60


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--filter", default="", help="only mutations whose name contains or matches this")
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


# Members of a kind's tables that save state and bring it back: without one a round trip is not what it was.
HOOKS = ("collect_task", "collect_thread", "collect_ended", "collect_fd", "collect_end", "collect_all", "discover", "dump",
         "dump_end", "read", "prepare", "make", "find", "taken", "fill", "entered", "restore", "restore_task", "restore_thread", "is_late",
         "is_last", "settle", "settle_task", "map", "join_session", "opened", "ready", "finish", "before_run", "left", "after",
         "abandon")
# Those that refuse, which the tests of test/refusals.tsv notice.
CHECKS = ("check", "check_fd", "check_vma", "check_task", "check_end")
# What says which objects a kind has, or what it is: nothing works without, or there is no function to take away.
OTHERS = ("name", "what", "fd_type", "image_file", "ns", "late", "type", "enter", "map_anywhere", "is_alone", "owns", "owns_vma",
          "owns_record", "collect", "collect_vma", "ask_task", "ask_thread")


# What no round trip of a program can notice: who does.
ELSEWHERE = {
    "inotify-check": "integration/refused.watchers",
    "cgroup-ready": "integration/cgroups.made",
    "cgroup-left": "integration/cgroups.paused_v1,integration/cgroups.paused_v2",
    "cgroup-abandon": "integration/cgroups.undone",
    "shmem-check_end": "integration/jobs.refused_user",
    "shmem-before_run": "integration/refused.memory_and_who_waits",
    "shmem-check_vma": "integration/refused.memory_held_outside",
    "inet-after": "integration/sockets.beside_a_dump,integration/sockets.lock_waits",
    "landlock-collect_thread": "integration/attributes.landlock",
    "pidfd-collect_end": "integration/refused.pidfd_of_thread",
    "regs-collect_ended": "integration/roundtrip.leader-ended",
    "seccomp-check_task": "integration/jobsweep.seccomp-one-user",
    "sched-collect_ended": "integration/roundtrip.leader-ended",
    "tun-before_run": "integration/worlds.tunnel-persistent",
    "hugetlb-read": "integration/refused.huge_pages_lacking",
    "mounts-finish": "integration/jobs.rounds",
    "netns-collect": "integration/netns.given",
    "netns-dump": "integration/netns.given",
    "netns-find": "integration/netns.given",
    "netns-read": "integration/netns.refused-without",
    "inet-ready": "integration/netns.kill-given-from-criu",
    "regfile-before_run": "integration/foreign.links",
    "regfile-ready": "integration/foreign.links_killed",
    "tty-before_run": "integration/refused.terminal_outside",
}


# What no test can notice, and why. Where collecting says the same as a check, tests would have to compare the stage.
NOBODY = {
    **{key: "collecting says the same when the tree stands" for key in (
        "memfd-check_vma", "mounts-check", "netlink-check", "nsfile-check", "packet-check_vma", "regfile-check",
        "regfile-check_task", "regfile-check_vma", "regs-check_task", "secret-check_vma", "sysvshm-check_vma",
        "tun-check")},
    "signal-collect_ended": "a signal would have to come while a thread ends for the second time",
    "thread-collect_ended": "collect.c has the name already",
    "aio-collect_task": "check_vma says the same before",
    "aio-collect_end": "a disk answers before anybody could look",
    "regfile-collect_end": "only a request in flight changes a file of a tree that stands",
    "shmem-collect_task": "what is not there is read as zeroes then, which take nothing in an image, and the job ends",
    "sysvshm-abandon": "the warden does the same when ferry ends",
    "sysvshm-after": "what it gives back ends with ferry",
    "tty-after": "what it gives back ends with ferry",
    "unix-abandon": "the warden does the same when ferry ends",
    "creds-check_task": "test/refusals.tsv: there is no security module with labels",
}


def cases_of(kind):
    """The round trips of a kind's programs, and of those that have it among others."""
    own = [case.name for case in CASES if case.kind == kind]
    return own + [case.name for case in CASES if kind in case.also]


def refusals_of(path):
    """The tests of what the source of a kind refuses."""
    proofs = [proof for (file, _), proof in refusals.in_table().items() if pathlib.Path(file).name.startswith(path.stem)]
    return ",".join(dict.fromkeys(f"integration/{test}" for proof in proofs if proof[0] not in "-?"
                                  for test in proof.split(", ")))


def tables_of(path):
    """The tables of functions in the source of a kind."""
    return re.findall(r"^(?:static )?const struct (?:kind|ns)_ops \w+ = \{.*?\};", path.read_text(encoding="utf-8"),
                      re.MULTILINE | re.DOTALL)


def of_kinds():
    """Each kind without one of the functions that save its state, bring it back, or refuse it."""
    for path in sorted((SOURCE / "src" / "kind").glob("*.c")):
        tables = tables_of(path)
        for table in tables:
            kind = re.search(r'\.name = "([^"]*)"', tables[-1])[1]
            for line, hook in re.findall(r"^(\t+\.(\w+) = \w+,\n)", table, re.MULTILINE):
                tests = cases_of(kind) if hook in HOOKS else refusals_of(path) if hook in CHECKS else None
                if tests is not None and f"{kind}-{hook}" not in NOBODY:
                    yield (f"kind-{kind}-without-{hook}", path.relative_to(SOURCE), table,
                           table.replace(line, ""), ELSEWHERE.get(f"{kind}-{hook}") or tests)


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


def make(tree, build, jobs):
    """Build the copy as it is; why it does not."""
    plain = dataclasses.replace(builds.PLAIN, arguments=("-Dman=disabled",))
    for result in (builds.configure(plain, tree, build), builds.make(plain, tree, build, jobs)):
        if result.outcome == "failed":
            return result.reason
    return ""


def run_tests(tree, build, tests, jobs):
    """(failed tests, what the compiler said when it does not build) of a filter."""
    results = build / "check" / "results.tsv"
    results.unlink(missing_ok=True)
    # One mutation breaks the same test in every build; the plain one is enough.
    done = subprocess.run([sys.executable, str(tree / "test" / "run.py"), "check", "--build", str(build),
                           "--jobs", str(jobs), "--filter", tests, "--plain-only"], cwd=tree, check=False, text=True,
                          errors="replace", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    lines = results.read_text(encoding="utf-8").splitlines()[1:] if results.exists() else []
    failed = [name for name, outcome, *_ in (line.split("\t") for line in lines) if outcome == "failed"]
    return failed, done.stdout if any(name.startswith("build/") for name in failed) else ""


def run_round_trips(tree, build, names, jobs):
    """The same of round trips, until one notices. The other programs of the build know nothing of kinds."""
    done = subprocess.run(["ninja", "-C", str(build), "ferry"], check=False, text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        return [], done.stdout
    path, environment = tree / "test" / "integration" / "roundtrip.py", discover.script_environment(tree, build)
    failed = []

    def one(name):
        if not failed:
            result = runner.run_one(model.Test(name, [sys.executable, str(path), name], TEST_SECONDS, environment),
                                    str(build / "test" / "lib" / "nsinit"), report.Skips(tree / "test" / "skips.txt"))
            failed.extend([name] * (result.outcome == "failed"))

    with runner.huge_pages(), concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(one, name) for name in names]:
            future.result()
    return failed, ""


def try_mutation(tree, build, mutation, jobs):
    """(outcome, reason) of one mutation."""
    _, file, find, replace, tests = mutation
    path = tree / file
    original = path.read_text(encoding="utf-8")
    if original.count(find) != 1:
        return "failed", f"{file} has the text {original.count(find)} times, not once"
    path.write_text(original.replace(find, replace), encoding="utf-8")
    try:
        failed, broken = (run_tests if isinstance(tests, str) else run_round_trips)(tree, build, tests, jobs)
    finally:
        path.write_text(original, encoding="utf-8")
    if broken:
        return "failed", "does not build: " + " ".join(broken.split())[-200:]
    if not failed:
        return "failed", f"no test of {tests} notices it"
    return "passed", f"noticed by {', '.join(failed[:3])}"


def main():
    options = parse()
    top = options.build.resolve()
    tree, build = top / "mutations" / "tree", top / "mutations" / "build"
    results = options.results or top / "check" / "mutations.tsv"
    results.parent.mkdir(parents=True, exist_ok=True)
    copy_tree(tree)
    problem = make(tree, build, options.jobs)
    if problem:
        sys.exit(f"the tree does not build: {problem}")
    lines, count = ["name\toutcome\tseconds\treason"], {"passed": 0, "failed": 0}
    for mutation in [*listed(), *of_kinds()]:
        name = "mutation/" + mutation[0]
        if not discover.matches(name, options.filter):
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
