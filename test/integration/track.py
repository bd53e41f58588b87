#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rounds of a chain over several commands: memory that changes between rounds comes back as it was, page by page."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

from ferrytest import Ferry, Program, main, test
from ferrytest.leftovers import Leftovers
from ferrytest.process import wait_until
from ferrytest.snapshot import differences, snapshot

# How memory changes between rounds: words of the program rounds.
WAYS = ("write", "replace", "move", "move-much", "move-away", "drop", "drop-much", "fork", "protect", "guard", "huge", "read",
        "direct", "aio", "aio-kept", "uring", "shared", "file", "grow", "heap", "own-uffd")
PAGES = 1024  # that the program has written at first
ROUNDS = 4
FULL = "is a full one"
KILLS = 30


def started(*command):
    """A process that reads and says nothing."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,  # pylint: disable=consider-using-with
                            stderr=subprocess.DEVNULL, start_new_session=True)


def wait_gone(path):
    """The program removes it when it has done what it stands for."""
    wait_until(lambda: not path.exists(), "the program does not change its memory")


def change(program, times=1):
    """Have the program change its memory, as it does."""
    for _ in range(times):
        path = program.folder / "change"
        path.touch()
        wait_gone(path)


def pre_dump(program, number, more=()):
    """One round into a directory of its own; (report, what was said)."""
    before = ("--prev-images-dir", f"../round-{number - 1}") if number else ()
    done = Ferry().run("pre-dump", "-t", program.pid, "-D", f"round-{number}", "--json", *before, *more)
    return Ferry().report("ferry pre-dump", done), done.stderr


def dump(program, number, more=()):
    """The last round; (report, what was said)."""
    pids = program.tree()
    done = Ferry().run("dump", "-t", program.pid, "-D", "final", "--json", "--prev-images-dir", f"../round-{number}", *more)
    report = Ferry().report("ferry dump", done)
    program.wait_gone(pids)
    return report, done.stderr


def keepers():
    """Processes that keep something."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        if "(ferry-keeper)" in text and text.rpartition(")")[2].split()[0] != "Z":
            found.append(int(path.parent.name))
    return found


def comm(pid):
    """The name of a process."""
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def state(pid):
    """What it does: one letter."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def children(pid):
    """Of a process."""
    try:
        return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def uses_protection(pid):
    """Whether a userfaultfd protects memory of it."""
    return " uw" in pathlib.Path(f"/proc/{pid}/smaps").read_text()


def by_uffd():
    """Whether pages are tracked one by one; soft-dirty bits are those of whole huge pages."""
    return json.loads(Ferry().run("check", "--json").stdout)["uffd-wp-async"] == "present"


def few():
    """More than a round has after one change of the program, which writes to each 37th page."""
    return 160 if by_uffd() else PAGES


def compare(program, restore):
    """What is there before the dump and after the restore."""
    program.verify()
    volatile = program.volatile()
    before = snapshot(program.pid, volatile)
    restore()
    found = differences(before, snapshot(program.pid, volatile))
    assert not found, f"{len(found)} differences: " + "; ".join(found[:12])
    program.verify()


def round_trip(way):
    """Rounds, a dump, a restore; once more with what was restored."""
    program = Program("rounds", way)
    for _ in range(2):
        for number in range(ROUNDS):
            pre_dump(program, number, ("--overwrite",))
            change(program)
        program.verify()

        def there_and_back():
            dump(program, ROUNDS - 1, ("--overwrite",))
            Ferry().restore("final", more=("--files=as-found",))

        change(program, 2)
        compare(program, there_and_back)
    program.quit()


def add_way(way):
    """One test for each."""
    def function():
        round_trip(way)
    function.__name__ = way.replace("-", "_")
    function.__doc__ = f"Memory that changes by: {way}."
    test(timeout=120)(function)


if os.environ.get("FERRY"):
    for each in WAYS:
        add_way(each)

    @test(timeout=60)
    def small():
        """A round has what was written since the one before, and little else."""
        program = Program("rounds")
        watch = Leftovers(program.pid)
        report, said = pre_dump(program, 0)
        assert PAGES <= report["pages_written"] < PAGES + 300 and not said, (report, said)
        assert len(keepers()) == 1
        report, said = pre_dump(program, 1)
        assert report["pages_written"] < 100 and not said, (report, said)
        wait_until(lambda: len(keepers()) == 1, "the keeper of the round before is still there")
        change(program)
        report, said = pre_dump(program, 2)
        assert 56 <= report["pages_written"] < few() and not said, (report, said)
        done = Ferry().run("restore", "-D", "round-2", "-d")
        assert done.returncode == 3 and "it is a round before a dump" in done.stderr, done
        report, said = dump(program, 2)
        assert report["pages_written"] < few() + 140 and not said, (report, said)
        wait_until(lambda: not keepers(), "the keeper does not end with the tree")
        assert not list(pathlib.Path().glob("*/*.sock"))
        watch.check(expected=[pathlib.Path().absolute()])

    @test(timeout=60)
    def image_gone():
        """The keeper of an image that is overwritten or removed ends: nothing stays protected on behalf of what nobody can build on."""
        program = Program("rounds")
        pre_dump(program, 0)
        before = keepers()
        _, said = pre_dump(program, 0, ("--overwrite",))
        assert not said, said
        wait_until(lambda: len(keepers()) == 1 and keepers() != before, "the first keeper is still there")
        change(program)
        report, said = pre_dump(program, 1)
        assert 56 <= report["pages_written"] < few() and not said, (report, said)
        shutil.rmtree("round-1")
        wait_until(lambda: not keepers(), "it keeps for nobody")
        assert not uses_protection(program.pid)
        program.verify()
        program.quit()

    @test(timeout=60)
    def keeper_killed():
        """Without a keeper the program runs on, nothing of it is protected, and the next image is a full one."""
        program = Program("rounds")
        pre_dump(program, 0)
        os.kill(keepers()[0], signal.SIGKILL)
        wait_until(lambda: not keepers(), "the keeper lives")
        assert not uses_protection(program.pid)
        change(program)
        program.verify()
        report, said = dump(program, 0)
        assert FULL in said and report["pages_written"] > PAGES, (report, said)
        assert not pathlib.Path("final/parent").exists()
        Ferry().restore("final")
        program.verify()
        program.quit()

    @test(timeout=60)
    def not_taken():
        """A dump that is refused or fails leaves the keeper, and the next one builds on the same round."""
        program = Program("rounds")
        pre_dump(program, 0)
        change(program)
        for fault in ("collect-vma", "pages-read", "image-write", "image-sync", "read-back"):
            done = Ferry().run("dump", "-t", program.pid, "-D", "final", "--prev-images-dir", "../round-0",
                               environment={"FERRY_FAULT": fault})
            assert done.returncode == 1 and not pathlib.Path("final").exists(), done
            program.verify()
        for fault in ("seize", "inject-call", "pages-read", "image-write"):
            done = Ferry().run("pre-dump", "-t", program.pid, "-D", "other", "--overwrite", environment={"FERRY_FAULT": fault})
            assert done.returncode in (0, 1), done
            program.verify()
        report, said = dump(program, 0)
        assert report["pages_written"] < few() + 140 and not said, (report, said)
        Ferry().restore("final")
        program.verify()
        program.quit()

    @test(timeout=60)
    def spent():
        """A round that failed after it had armed cannot be gone back behind."""
        program = Program("rounds")
        pre_dump(program, 0)
        change(program)
        done = Ferry().run("pre-dump", "-t", program.pid, "-D", "round-1", "--prev-images-dir", "../round-0",
                           environment={"FERRY_FAULT": "pages-read"})
        assert done.returncode == 1 and not pathlib.Path("round-1").exists(), done
        wait_until(lambda: not keepers(), "somebody keeps what is out of date")
        report, said = dump(program, 0)
        assert FULL in said and report["pages_written"] > PAGES, (report, said)
        Ferry().restore("final")
        program.verify()
        program.quit()

    @test(timeout=60)
    def running_on():
        """Dumps of a tree that runs on build on each other; each can be restored."""
        program = Program("rounds")
        options = ("--leave-running", "--track-mem", "--json")
        Ferry().run("dump", "-t", program.pid, "-D", "round-0", *options)
        for number in (1, 2):
            change(program)
            done = Ferry().run("dump", "-t", program.pid, "-D", f"round-{number}", "--prev-images-dir", f"../round-{number - 1}",
                               *options)
            report = Ferry().report("ferry dump", done)
            assert report["pages_written"] < few() + 240 and not done.stderr, (report, done.stderr)
        pids = program.tree()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        program.wait_gone(pids)
        wait_until(lambda: not keepers(), "the keeper does not end with the tree")
        Ferry().restore("round-2")
        program.verify()
        program.quit()

    @test(timeout=120)
    def programs():
        """Threads, trees and families, with rounds before."""
        for name in ("threads", "tree", "family", "leader-ended", "heap-stack", "vma-anon", "vma-guard", "huge-transparent",
                     "memory-merge", "vma-wipeonfork", "vma-droppable"):
            program = Program(name)
            for number in range(2):
                _, said = pre_dump(program, number, ("--overwrite",))
                assert not said, (name, said)
            dump(program, 1, ("--overwrite",))
            Ferry().restore("final")
            program.verify()
            program.finish()
            program.quit()

    @test(timeout=60)
    def killed():
        """SIGKILL at any instant of a pre-dump leaves the program well, no image, nothing protected and no keeper."""
        program = Program("rounds")
        pre_dump(program, 0)
        chance = random.Random(7)
        for _ in range(KILLS):
            process = started(os.environ["FERRY"], "pre-dump", "-t", str(program.pid), "-D", "round-1",
                              "--prev-images-dir", "../round-0", "--overwrite")
            time.sleep(chance.uniform(0, 0.06))
            for worker in [pid for pid in children(process.pid) if comm(pid) == "ferry-worker"]:
                os.kill(worker, signal.SIGKILL)
            process.wait()
            change(program)
            program.verify()
            if process.returncode == 0:
                pre_dump(program, 0, ("--overwrite",))
            elif not pathlib.Path("round-1/inventory.img").exists():
                wait_until(lambda: not uses_protection(program.pid) or keepers(), "memory is still protected")
        dump(program, 0, ("--overwrite",))
        Ferry().restore("final")
        program.verify()
        program.quit()

    @test(timeout=60)
    def executed():
        """Another program in the same process: a full image."""
        process = started("/bin/sh", "-c", "kill -STOP $$; exec sleep 100")
        wait_until(lambda: state(process.pid) == "T", "it does not stop")
        done = Ferry().run("pre-dump", "-t", process.pid, "-D", "round-0")
        assert done.returncode == 0 and not done.stderr, done
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: comm(process.pid) == "sleep", "nothing was executed")
        done = Ferry().run("dump", "-t", process.pid, "-D", "final", "--prev-images-dir", "../round-0")
        assert done.returncode == 0 and FULL in done.stderr, done
        process.wait()
        report = Ferry().restore("final")
        os.kill(report["pid"], signal.SIGKILL)

    @test(timeout=60)
    def two_chains():
        """One tree can be tracked for one chain at a time; another is told so, and is whole all the same."""
        program = Program("rounds")
        pre_dump(program, 0)
        done = Ferry().run("pre-dump", "-t", program.pid, "-D", "other")
        assert done.returncode == 0 and "stored whole" in done.stderr, done
        change(program)
        done = Ferry().run("pre-dump", "-t", program.pid, "-D", "other-1", "--prev-images-dir", "../other", "--json")
        report = Ferry().report("ferry pre-dump", done)
        assert report["pages_written"] > PAGES, report
        report, said = dump(program, 0)
        assert report["pages_written"] < few() + 140 and not said, (report, said)
        Ferry().restore("final")
        program.verify()
        program.quit()

    @test(timeout=60)
    def dedup():
        """Older rounds lose what younger ones have, and the chain is whole."""
        program = Program("rounds")
        for number in range(3):
            change(program)
            pre_dump(program, number, ("--auto-dedup",))
        change(program)
        blocks = [path.stat().st_blocks for path in sorted(pathlib.Path().glob("round-*/pages-*.img"))]
        dump(program, 2, ("--auto-dedup",))
        after = [path.stat().st_blocks for path in sorted(pathlib.Path().glob("round-*/pages-*.img"))]
        assert sum(after) < sum(blocks), (blocks, after)
        Ferry().restore("final")
        program.verify()
        program.quit()

    @test(timeout=60)
    def plain_dump():
        """A dump that does not ask for the round before is an ordinary one, whoever tracks the tree."""
        program = Program("rounds")
        pids = program.tree()
        pre_dump(program, 0)
        Ferry().dump(program.pid, "final")
        program.wait_gone(pids)
        Ferry().restore("final")
        program.verify()
        program.quit()

    @test(timeout=60)
    def other_image():
        """A keeper answers for its own image only."""
        program = Program("rounds")
        pre_dump(program, 0)
        pathlib.Path("round-0").rename("round-9")
        other = Program("rounds")
        pre_dump(other, 0)
        # The socket of the first stands beside the image of the second.
        os.replace("round-9/ferry-keeper.sock", "round-0/ferry-keeper.sock")
        _, said = dump(program, 0)
        assert FULL in said, said
        other.quit()
        time.sleep(0.1)
        Ferry().restore("final")
        program.verify()
        program.quit()

if __name__ == "__main__":
    main()
