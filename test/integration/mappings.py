#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mappings that are read without /proc/PID/smaps are what smaps tells, and an image does not depend on the way."""

import json
import os
import pathlib
import shutil
import subprocess

from ferrytest import Ferry, Program, main, skip, test
from ferrytest.register import Skip

IMAGES = pathlib.Path("images")
# Programs with mappings of every kind that ferry has an example of, or that go back to smaps.
PROGRAMS = (
    "vma-anon", "vma-file", "vma-shared", "vma-guard", "vma-droppable", "vma-wipeonfork", "vma-locked", "vma-may-write", "vma-short-file",
    "mlockall", "memory-merge", "heap-stack", "huge-transparent", "thp-process", "memfd", "memfd-mapped", "posix-shm", "sysvshm", "devzero",
    "vdso", "large", "shared-parts")
OTHERS = ("vma-sealed", "huge-private", "huge-shared", "memfd-secret", "uring-shared", "packet-ring", "uffd-missing", "uffd-protected",
          "aio-contexts")


def mappings(pid, way):
    """(how they were read, a line for each)."""
    done = Ferry().run("debug", "mappings", pid, way)
    assert not done.returncode, done
    how, *lines = done.stdout.splitlines()
    return how, lines


def of_each(pid):
    """Both ways of a tree; whether none of it was read from smaps."""
    how, lines = mappings(pid, "iterator")
    if how not in ("iterator", "smaps"):
        skip(f"no iterator over mappings: {how}")
    assert mappings(pid, "smaps") == ("smaps", lines), pid
    return how == "iterator" and len(lines) > 5


def without_iterator(*words):
    """ferry where nobody finds what the kernel says about its types."""
    script = 'mount --make-rprivate / && mount -t tmpfs none /sys/kernel/btf && exec "$@"'
    return subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", os.environ["FERRY"], *map(str, words)], capture_output=True,
                          text=True, timeout=120, check=False)


def memory_of(images):
    """file -> contents of what tells of mappings."""
    found = {}
    for path in sorted(images.glob("mm-*.img")) + sorted(images.glob("ferry-mm-*.img")):
        done = Ferry().run("image", "show", path)
        assert not done.returncode, done
        found[path.name] = json.loads(done.stdout)
    return found


if os.environ.get("FERRY"):
    @test(timeout=120)
    def both_ways():
        """Flags, places, names and grain of every mapping, also of those that are none of the mapper's examples."""
        for name in PROGRAMS + OTHERS:
            try:
                program = Program(name)
            except Skip:
                assert name in OTHERS, name
                continue
            ways = [of_each(pid) for pid in program.tree()]
            assert all(ways) or name in OTHERS, (name, ways)
            if name == "vma-sealed":
                assert not any(ways), ways
            program.verify()
            program.quit()

    @test(timeout=120)
    def same_image():
        """A dump without the iterator tells the same, and says so."""
        program = Program("large")
        Ferry().dump(program.pid, IMAGES, leave_running=True, more=("--no-live",))
        first = memory_of(IMAGES)
        shutil.rmtree(IMAGES)
        done = without_iterator("dump", "-t", program.pid, "-D", IMAGES, "-R", "--no-live", "-v")
        assert not done.returncode, done
        assert "mappings are read from smaps" in done.stderr, done.stderr
        assert first and memory_of(IMAGES) == first
        shutil.rmtree(IMAGES)
        pids = program.tree()
        done = without_iterator("dump", "-t", program.pid, "-D", IMAGES)
        assert not done.returncode, done
        program.wait_gone(pids)
        Ferry().restore(IMAGES)
        program.process = None
        program.verify()
        program.kill()


if __name__ == "__main__":
    main()
