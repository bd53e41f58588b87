#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every test program as a job of root's and of an ordinary user's: it is saved and restored twice, or refused before
anything stops, with a hint, as test/job-refusals.tsv says. Nothing between the two. And every one of them restored where its
numbers are others."""

import os
import pathlib
import tempfile

from ferrytest import Ferry, differences, main, test
from ferrytest.cases import CASES, start
from ferrytest.jobs import NOBODY, JobProgram, Jobs, snapshot_inside

# What a job of each area has to do with, also in make check.
SAMPLE = ("family", "vma-shared", "memfd-mapped", "files", "ghost-file", "pipes", "tree", "threads", "pty-session", "unix-socket",
          "tcp-listen", "udp-queue", "posix-timers", "sysvshm", "uring-plain", "raw-sockets", "zombie-exited",
          "message-queue", "shared-parts", "seccomp-one")
# The program cannot do its work as this user; it notices a difference; refused by name, but only when everything stood.
NOT_STARTED, DIFFERS, LATE = "not-started", "differs", "late:"


def refusals():
    """{(whose, program): (outcome, cause)}; whose is root or user, outcome an error's word or one of the above."""
    table = {}
    for line in (pathlib.Path(os.environ["FERRY_SOURCE"]) / "test/job-refusals.tsv").read_text().splitlines():
        if line and not line.startswith("#"):
            whose, name, outcome, cause = line.split("\t")
            assert (whose, name) not in table, line
            table[whose, name] = outcome, cause
    return table


def refused(jobs, program, words):
    """The error's word when a save was refused in the right way; None: it was saved."""
    done = jobs.run("save", *words, program.name)
    if done.returncode == 0:
        return None
    print(done.stderr)
    assert done.returncode == 3, f"a refusal was expected: {done.stderr}"
    assert "hint: " in done.stderr, f"no hint: {done.stderr}"
    program.verify()
    assert jobs.state(program.name) == "running" and not list(jobs.folder.glob(f"{program.name}/image-*"))
    check = Ferry().run("check", "--tree", program.pid) if not jobs.user else jobs.check(program.pid)
    word = done.stderr.rpartition("[")[2].partition("]")[0]
    print(check.stdout)
    return word if check.returncode == 3 and f"{word}: " in check.stdout else LATE + word


def there_and_back(program, jobs, words, expected):
    """Saved and restored twice. The word of a refusal, or None."""
    for _ in (1, 2):
        before = program.inside()
        word = refused(jobs, program, words)
        if word:
            return word
        jobs.good("restore", *words, program.name)
        program.look()
        program.compare(before)
        try:
            program.verify()
        except AssertionError:
            if expected == DIFFERS:
                return DIFFERS
            raise
    try:
        program.finish()
    except AssertionError:
        if expected == DIFFERS:
            return DIFFERS
        raise
    if program.partner:
        program.partner.finish()
    return None


def as_job(case, user):
    """Works, or is refused as the table says."""
    jobs, whose = Jobs(user), "user" if user else "root"
    expected = refusals().get((whose, case.name), (None, ""))[0]
    program = JobProgram.start(jobs, case)
    words = ["--tcp-established"] * case.options.get("tcp_established", False)
    outcome = there_and_back(program, jobs, words, expected) if program else NOT_STARTED
    print(f"{whose} {case.name}: {outcome or 'works'}")
    assert outcome == expected, f"{whose} {case.name}: {outcome}, and the table says {expected}"
    if program:
        jobs.run("stop", "--timeout", "1", case.name)


def with_other_numbers(case):
    """Restored where the machine's numbers for it are others: in a new PID namespace; and once more, from there."""
    program, partner = start(case)
    program.verify()
    number = program.pid
    for more in (("--new-pidns",), ()):
        before = snapshot_inside(program.pid, number, program.volatile())
        images = pathlib.Path(tempfile.mkdtemp(prefix="images-"))
        Ferry().dump(program.pid, images, **case.options)
        program.reap()
        options = {**case.options, "more": (*case.options.get("more", ()), *more)}
        program.pid = Ferry().restore(images, **options)["pid"]
        assert program.pid != number, "its number was free"
        found = differences(before, snapshot_inside(program.pid, number, program.volatile()))
        assert not found, f"{len(found)} differences: " + "; ".join(found[:12])
        program.verify()
    program.finish()
    if partner:
        partner.finish()
    program.kill()


def register(case):
    """Three tests for each program."""
    test(name=f"{case.name}-numbers", timeout=120, tier="check" if case.name in SAMPLE[:3] else "soak")(
        lambda: with_other_numbers(case))
    for whose, user in (("root", None), ("user", NOBODY)):
        tier = "check" if case.name in SAMPLE else "soak"
        test(name=f"{case.name}-{whose}", timeout=120, tier=tier)(lambda user=user: as_job(case, user))


if os.environ.get("FERRY"):
    for line in CASES:
        register(line)

if __name__ == "__main__":
    main()
