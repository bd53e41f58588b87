#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Very many of one thing: mappings, descriptors, memory."""

import os
import pathlib
import re
import resource
import shutil
import subprocess
import tempfile

from ferrytest import Ferry, Leftovers, Program, main, skip, test

IMAGES = pathlib.Path("images")
LIMIT = pathlib.Path("/proc/sys/vm/max_map_count")
GIB = 1 << 30
PAGE = 4096
MAPPINGS = 100_000
REFUSED = 3  # exit status


class Mappings:
    """How many mappings a process may have, for the time of a test."""

    def __init__(self, most):
        self.most = most
        self.before = LIMIT.read_text()

    def __enter__(self):
        LIMIT.write_text(f"{self.most}\n")

    def __exit__(self, *_):
        LIMIT.write_text(self.before)


def mappings(pid):
    """Addresses and rights of all that is the program's own memory."""
    return re.findall(r"^(\S+ \S+) 0+ 00:00 0 *$", pathlib.Path(f"/proc/{pid}/maps").read_text(), re.M)


def there_and_back(program, images=IMAGES, rounds=2):
    """Twice in a row; every page and descriptor proves itself."""
    watch = Leftovers()
    for _ in range(rounds):
        before = [mappings(pid) for pid in program.tree()]
        pids = program.tree()
        Ferry().dump(program.pid, images)
        program.wait_gone(pids)
        Ferry().restore(images)
        assert program.tree() == pids
        assert [mappings(pid) for pid in pids] == before, "mappings are not as they were"
        program.verify()
        shutil.rmtree(images)
    assert program.spoil()
    assert not all(good for _, good, _ in program.ask_all("verify")), "the proof sees nothing"
    program.quit()
    watch.check(expected=[program.folder])


def descriptors(number, processes):
    """As many in each of so many processes."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < number + 100:
        skip(f"RLIMIT_NOFILE is below {number}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    there_and_back(Program("multitude", f"descriptors={number}", f"processes={processes - 1}"))


if os.environ.get("FERRY"):
    @test(timeout=200, name="mappings-100k")
    def many_mappings():
        """More than the machine lets a process have, until it is told to; without that the restore says what to raise."""
        with Mappings(4 * MAPPINGS):
            program = Program("multitude", f"mappings={MAPPINGS}")
            pids, before = program.tree(), mappings(program.pid)
            assert len(before) >= MAPPINGS, len(before)
            Ferry().dump(program.pid, IMAGES)
            program.wait_gone(pids)
        done = Ferry().run("restore", "-D", IMAGES)
        assert done.returncode == REFUSED and "sysctl vm.max_map_count=" in done.stderr, done
        assert not os.path.exists(f"/proc/{pids[0]}")
        needed = int(re.search(r"vm\.max_map_count=(\d+)", done.stderr)[1])
        with Mappings(needed):
            Ferry().restore(IMAGES)
            assert mappings(program.pid) == before
            program.verify()
            shutil.rmtree(IMAGES)
            there_and_back(program)

    @test(timeout=200, name="processes-150")
    def many_processes():
        """Small ones, stored side by side: each has the pages and records that were its own."""
        there_and_back(Program("multitude", "pages=40", "mappings=20", "descriptors=16", "processes=149"))

    test(timeout=200, name="descriptors-15k")(lambda: descriptors(15_000, 1))
    test(timeout=300, name="descriptors-40k")(lambda: descriptors(10_000, 4))

    @test(timeout=60, name="descriptors-limit")
    def more_than_allowed():
        """More sockets and files in a tree than ferry may have open: whoever may raise the limit does, the other says so."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (450, 450))
        program = Program("multitude", "descriptors=400", "processes=3")
        watch = Leftovers(program.pid)
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "-R")
        if done.returncode:
            assert "[limit]" in done.stderr and "ulimit -n" in done.stderr and not IMAGES.exists(), done
        program.verify()
        program.quit()
        watch.check(expected=[program.folder, *([] if done.returncode else [IMAGES.absolute()])])

    @test(timeout=60, name="descriptors-limit-there")
    def more_than_allowed_there():
        """The same of a restore."""
        program = Program("multitude", "descriptors=400", "processes=3")
        pids = program.tree()
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (450, 450))
        Ferry().dump(program.pid, IMAGES)
        program.wait_gone(pids)
        resource.setrlimit(resource.RLIMIT_NOFILE, (450, 450))
        done = Ferry().run("restore", "-D", IMAGES)
        if done.returncode:
            assert done.returncode == REFUSED and "RLIMIT_NOFILE of ferry is 450 [limit]" in done.stderr, done
            assert "ulimit -n " in done.stderr and not os.path.exists(f"/proc/{pids[0]}"), done
        else:
            program.verify()
            program.quit()

    @test(timeout=1800, tier="soak", name="memory-16g")
    def much_memory():
        """The image lies on a disk, and the source is gone before the restore."""
        with tempfile.TemporaryDirectory(dir=os.environ["FERRY_BUILD"], prefix="scale-") as folder:
            kind = subprocess.run(["stat", "-f", "-c", "%T", folder], check=True, capture_output=True, text=True).stdout
            memory, disk = os.sysconf("SC_AVPHYS_PAGES") * PAGE, shutil.disk_usage(folder).free
            if memory < 17 * GIB or disk < 18 * GIB or "tmpfs" in kind:
                skip(f"{memory / GIB:.1f} GiB of memory and {disk / GIB:.1f} GiB on a {kind.strip()} are free")
            there_and_back(Program("multitude", f"pages={16 * GIB // PAGE}", patience=120), pathlib.Path(folder) / "images", rounds=1)


if __name__ == "__main__":
    main()
