#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Restored trees that run before their memory is there (ferry restore --lazy): what they find in it, and what comes in between."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

from ferrytest import EngineError, Ferry, main, test
from ferrytest.cases import CASES, start
from ferrytest.process import PROC, is_alive, read_text, wait_until
from ferrytest.program import Program

IMAGES = pathlib.Path("images")
BAD = (1, 3)
# Programs for what a task has beside memory of its own, and for memory of all kinds.
ALSO = ("heap-stack", "vma-anon", "vma-locked", "vma-guard", "vma-wipeonfork", "vma-droppable", "vma-sealed", "vma-file", "mlockall",
        "mlockall-on-fault", "numa-policy", "huge-private", "large", "large-child", "family", "rounds", "vma-shared",
        "threads", "rseq", "robust-list", "tree", "shared-memory", "shared-memory-threads", "leader-ended", "zombie-exited",
        "stopped", "signals-actions", "handler-in-use", "seccomp-one", "seccomp-threads", "traced-waits", "old-memory",
        "uffd-missing", "uffd-protected", "aio-events", "uring-full", "credentials",
        "shared-descriptors", "continued-untold", "leader-ended-shared", "sysvshm-watched")
KILLS = 6  # restores during which pager and guardian are killed again and again


def named(name):
    """Processes of this name."""
    return [int(path.name) for path in PROC.iterdir() if path.name.isdigit() and is_alive(int(path.name)) and
            (read_text(path / "comm") or "").strip() == name]


def wait_filled():
    """Until nobody fills memory any more."""
    wait_until(lambda: not named("ferry-pager") and not named("ferry-guardian"), "the pager does not end", 60)


def saved(program, images=IMAGES):
    """Dump it."""
    pids = program.tree()
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir()
    Ferry().dump(program.pid, images)
    program.wait_gone(pids)


def come_back(*more, images=IMAGES):
    """Restore it; the report."""
    return Ferry().restore(images, more=("--lazy", *more))


def held(*more):
    """Restore it, and keep the pager from doing anything: its pid."""
    come_back(*more)
    pagers = named("ferry-pager")
    for pid in pagers:
        os.kill(pid, signal.SIGSTOP)
    return pagers


def let_go(pagers):
    """Let it go on."""
    for pid in pagers:
        os.kill(pid, signal.SIGCONT)


def there_and_back(case):
    """Twice, asked at once and again when all is there."""
    program, partner = start(case)
    for _ in range(2):
        pids = program.tree()
        shutil.rmtree(IMAGES, ignore_errors=True)
        IMAGES.mkdir()
        Ferry().dump(program.pid, IMAGES, **case.options)
        program.wait_gone(pids)
        Ferry().restore(IMAGES, more=("--lazy",), **case.options)
        if case.program != "large":  # it counts the pages that are there
            program.verify()
        wait_filled()
        program.verify()
    program.finish()
    if partner:
        partner.finish()
    program.quit()


def register(case):
    """One test for each of them."""
    test(name=f"with_{case.name}", timeout=120)(lambda: there_and_back(case))


def kill_again(dice, until):
    """SIGKILL to either of the two, again and again, never to both at once. How often."""
    killed, end = 0, time.monotonic() + 120
    while not until():
        here = {pid: (pathlib.Path(f"/proc/{pid}/comm").read_text(), pathlib.Path(f"/proc/{pid}/wchan").read_text(),
                      pathlib.Path(f"/proc/{pid}/syscall").read_text()) for name in ("ferry-pager", "ferry-guardian")
                for pid in named(name)} if time.monotonic() > end else None
        assert not here, f"they never end: {here}"
        name = dice.choice(("ferry-pager", "ferry-guardian"))
        other = {"ferry-pager": "ferry-guardian", "ferry-guardian": "ferry-pager"}[name]
        victims = named(name)
        if victims and named(other):
            try:
                os.kill(victims[0], signal.SIGKILL)
            except ProcessLookupError:
                continue  # all is there
            killed += 1
            # The one that is left has to have made another.
            wait_until(lambda v=victims[0], n=name: not is_alive(v) and (named(n) or not named("ferry-pager")), "nobody takes over")
        # On a slow machine none would live long enough to bring a page.
        time.sleep(dice.random() * 0.02 * (1 + killed / 20))
    return killed


if os.environ.get("FERRY"):
    for line in CASES:
        if line.name in ALSO:
            register(line)

    @test(timeout=300)
    def busy():
        """Threads that change their memory in all ways while it comes, several generations."""
        program = Program("latecomer")
        for _ in range(3):
            saved(program)
            report = come_back()
            assert report["lazy_bytes"] > 30 << 20, report
            program.verify()
            wait_filled()
        assert program.spoil() and not program.ask("verify", "main")[0]
        program.quit()

    @test(timeout=300)
    def killed():
        """Pager and guardian are killed at any instant, and no page is ever wrong."""
        dice = random.Random(1)
        program = Program("latecomer")
        n = 0
        for _ in range(KILLS):
            saved(program)
            come_back()
            n += kill_again(dice, lambda: not named("ferry-pager") and not named("ferry-guardian"))
            program.verify()
        assert n > KILLS, n
        program.quit()

    @test(timeout=120)
    def own_namespace():
        """In a PID namespace of its own."""
        program = Program("latecomer")
        saved(program)
        report = come_back("--new-pidns")
        program.pid = report["pid"]
        program.verify()
        wait_filled()
        program.verify()
        program.kill()

    @test(timeout=120)
    def dump_meanwhile():
        """A dump is refused while memory still comes, leaves the tree alone, and works afterwards."""
        program = Program("latecomer")
        saved(program)
        pagers = held()
        assert pagers
        try:
            Ferry().dump(program.pid, pathlib.Path("early").absolute().parent / "early-images")
            raise AssertionError("it was dumped")
        except EngineError as error:
            assert "--lazy" in error.output and "ferry-pager" in error.output, error.output
        let_go(pagers)
        program.verify()
        wait_filled()
        saved(program)
        Ferry().restore(IMAGES)
        program.verify()
        program.quit()

    @test(timeout=120)
    def image_removed():
        """What the pager has open is enough."""
        program = Program("latecomer")
        saved(program)
        pagers = held()
        assert pagers
        shutil.rmtree(IMAGES)
        let_go(pagers)
        program.verify()
        wait_filled()
        program.verify()
        program.quit()

    @test(timeout=120)
    def image_damaged():
        """Pages that cannot be read end the tree."""
        program = Program("latecomer")
        saved(program)
        log = pathlib.Path("restore.log").absolute()
        pagers = held("--log-file", str(log))
        assert pagers
        for pages in [path for path in IMAGES.rglob("pages-*.img") if not path.is_symlink()]:
            os.truncate(pages, pages.stat().st_size // 8 + 77)
        pids = program.tree()
        let_go(pagers)
        program.wait_gone(pids)
        wait_filled()
        assert "cannot be read from the image" in log.read_text(), log.read_text()

    @test(timeout=120)
    def ends_early():
        """The tree is gone, or one process of it, before its memory is there."""
        for pick in (slice(0, None), slice(1, 2)):
            program = Program("tree")
            saved(program)
            pagers = held()
            pids = program.tree()
            for pid in pids[pick]:
                os.kill(pid, signal.SIGKILL)
            let_go(pagers)
            wait_filled()
            program.kill(pids)
            program.wait_gone(pids)

    @test(timeout=60)
    def refused():
        """Where it cannot be, it is refused before anything is there."""
        program = Program("heap-stack")
        saved(program)
        done = Ferry().run("restore", "-D", IMAGES, "-d", "--lazy", "--auto-dedup")
        assert done.returncode in (1, 2) and "--auto-dedup" in done.stderr, done
        done = subprocess.run(["unshare", "--user", "--map-root-user", os.environ["FERRY"], "restore", "-D", str(IMAGES), "-d",
                               "--lazy"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode in BAD and "userfaultfd" in done.stderr, done
        assert not program.running()
        come_back()
        program.verify()
        program.quit()

if __name__ == "__main__":
    main()
