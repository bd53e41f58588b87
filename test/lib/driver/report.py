# SPDX-License-Identifier: Apache-2.0
"""What counts: allowed skips, the number of tests, results.tsv and the last line."""

import fnmatch
import os
import re
import subprocess
import sys

from driver.model import Result


class Skips:
    """test/skips.txt: test (a glob pattern), probe command, reason; fields separated by tabs."""

    def __init__(self, path):
        self.entries = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.strip() and not line.startswith("#"):
                    pattern, probe, reason = line.split("\t")
                    self.entries.append((pattern, probe, reason))

    def judge(self, name, said):
        """A skip counts as one only if it is listed and the machine really lacks the thing."""
        for pattern, probe, reason in self.entries:
            if not fnmatch.fnmatchcase(name, pattern):
                continue
            there = subprocess.run(["sh", "-c", probe], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, check=False).returncode == 0
            if there:
                return "failed", f"skipped ({said}), but this machine has it: {probe}"
            return "skipped", reason
        return "failed", f"skipped, but not listed in test/skips.txt: {said}"


def check_count(source, results):
    """The number of tests may fall only together with test/count.txt, and that only with a line in NEWS.

    When everything passed and the number has risen, the file is brought up to date, to be committed with the new
    tests; with FERRY_COUNT=fixed (as .ci/run sets it) the tree stays as it is.
    """
    path = source / "test" / "count.txt"
    expected = int(path.read_text(encoding="utf-8").split()[0]) if path.exists() else 0
    count = len(results) + 1
    if count < expected:
        return Result("driver/count", "failed", 0, f"{count} tests; test/count.txt says {expected}")
    told = fall_is_told(source)
    if told:
        return Result("driver/count", "failed", 0, told)
    good = not any(r.outcome == "failed" for r in results)
    if count > expected and good and os.environ.get("FERRY_COUNT") != "fixed":
        path.write_text(f"{count}\n", encoding="utf-8")
        return Result("driver/count", "passed", 0, f"test/count.txt raised from {expected} to {count}; commit it")
    return Result("driver/count", "passed", 0)


def check_refusals(source, build, results):
    """What test/refusals.tsv says that tests are refused for is what they were told."""
    names = [name for r in results for part, _, name in [r.name.partition("/")] if part == "integration" and r.outcome == "passed"]
    done = subprocess.run([sys.executable, str(source / "scripts" / "refusals.py"), "--unseen", str(build), *names], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        return Result("driver/refusals", "failed", 0, f"{len(done.stdout.splitlines())} reasons that no test was told",
                      done.stdout)
    return Result("driver/refusals", "passed", 0)


def git(source, *words):
    done = subprocess.run(["git", *words], cwd=source, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          check=False)
    return done.stdout if done.returncode == 0 else None


def fall_is_told(source):
    """Every commit that lowered test/count.txt must have touched NEWS.md with a line that says 'tests'."""
    log = git(source, "log", "--format=%H", "--", "test/count.txt")
    for commit in (log or "").split():
        before = git(source, "show", f"{commit}^:test/count.txt")
        after = git(source, "show", f"{commit}:test/count.txt")
        if before is None or after is None or int(after.split()[0]) >= int(before.split()[0]):
            continue
        news = git(source, "show", "--format=", commit, "--", "NEWS.md") or ""
        added = [line for line in news.splitlines() if line.startswith("+") and not line.startswith("+++")]
        if not any("tests" in line for line in added):
            return f"commit {commit[:12]} lowered test/count.txt without a line in NEWS.md that says why"
    return ""


def write(path, results):
    """results.tsv: name, outcome, seconds, reason (doc/outputs.md)."""
    lines = ["name\toutcome\tseconds\treason"]
    for r in results:
        lines.append(f"{r.name}\t{r.outcome}\t{r.seconds:.3f}\t{r.reason.replace(chr(9), ' ')}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


PART = re.compile(r"interop-part: ferry->criu (\d+)/(\d+), criu->ferry (\d+)/(\d+)$", re.MULTILINE)


def interop_line(results):
    """The sum over what the tests of integration/interop said; nothing when none ran."""
    parts = [map(int, found) for r in results for found in PART.findall(r.output)]
    if not parts:
        return ""
    forth, of_forth, back, of_back = map(sum, zip(*parts))
    return f"interop: ferry->criu {forth}/{of_forth}, criu->ferry {back}/{of_back}"


def write_answers(path, results):
    """criu-answers.tsv: program, what CRIU does with it alone, as the tests of integration/interop found out."""
    lines = [line.partition(": ")[2] for r in results for line in r.output.splitlines()
             if line.startswith("criu-answer: ")]
    if lines:
        path.write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")


def summary(results, seconds):
    """Print failures with their output, then the one last line; returns the exit status."""
    count = {outcome: sum(r.outcome == outcome for r in results) for outcome in ("passed", "failed", "skipped")}
    for r in results:
        if r.outcome == "failed":
            print(f"\n===== {r.name} failed: {r.reason}")
            print(r.output.rstrip())
    if count["failed"]:
        print("\nfailed:")
        for r in results:
            if r.outcome == "failed":
                print(f"  {r.name}: {r.reason}")
    print()
    interop = interop_line(results)
    if interop:
        print(interop)
    print(f"in {seconds:.0f} s")
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped", flush=True)
    return 1 if count["failed"] or not count["passed"] else 0
