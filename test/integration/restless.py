#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Targets that change while they are being frozen: they fork, execute, make threads, end, are killed. A dump holds the
tree as it is at one instant or refuses it by name; the tree goes on in any case, and nothing is left behind."""

import json
import os
import pathlib
import shutil
import subprocess
import threading
import time
from random import Random

from ferrytest import Ferry, Leftovers, Program, main, test, wait_until
from ferrytest.process import running
from ferrytest.program import program_path

IMAGES = pathlib.Path("images").resolve()
REFUSED = 3  # exit status
DUMPS = 12
# A task without memory may be seen, which is refused; too much may change, again and again.
OUTCOMES = ("dumped", "unsupported-task", "target-changed")


def moves(program):
    """It is dumped for good in the middle of its work, and goes on from there."""
    pids, tries = program.tree(), 0
    while Ferry().run("dump", "-t", program.pid, "-D", IMAGES).returncode:
        tries += 1
        assert tries < 20 and not IMAGES.exists()
        pids = program.tree()
    program.wait_gone(pids)
    Ferry().restore(IMAGES)
    program.verify()
    shutil.rmtree(IMAGES)


def dumps(what, least):
    """One dump after the other of a tree that never rests."""
    program = Program("restless", what)
    watch = Leftovers(program.pid)
    outcomes = {}
    for _ in range(DUMPS):
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "-R", "--json")
        word = "dumped" if done.returncode == 0 else json.loads(done.stdout.splitlines()[0])["error"]
        outcomes[word] = outcomes.get(word, 0) + 1
        assert word in OUTCOMES, done.stdout
        assert done.returncode == 0 or not IMAGES.exists(), "an images directory stayed"
        if done.returncode == 0:
            assert Ferry().run("image", "verify", IMAGES).returncode == 0
        program.verify()
        shutil.rmtree(IMAGES, ignore_errors=True)
    print(outcomes)
    assert outcomes.get("dumped", 0) >= least, outcomes
    moves(program)
    program.quit()
    # Workers of the last moment end by themselves.
    wait_until(lambda: not running(program_path("restless")), "workers do not end")
    watch.check(expected=[program.folder])


def killed_meanwhile(seconds):
    """Somebody kills the target at this instant of its dump."""
    program = Program("heap-stack")
    watch = Leftovers(program.pid)
    with subprocess.Popen([Ferry().path, "dump", "-t", str(program.pid), "-D", str(IMAGES)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as dump:
        time.sleep(seconds)
        os.kill(program.pid, 9)
        said = dump.communicate(timeout=20)[1]
    program.reap()
    if dump.returncode == 0:
        assert Ferry().run("image", "verify", IMAGES).returncode == 0, "the dump came first and is not whole"
    else:
        assert said.strip() and not IMAGES.exists(), f"{dump.returncode}: {said}"
    watch.check(expected=[IMAGES, program.folder])
    shutil.rmtree(IMAGES, ignore_errors=True)
    return dump.returncode == 0


if os.environ.get("FERRY"):
    test(timeout=120, name="fork")(lambda: dumps("fork", 1))
    test(timeout=120, name="exec")(lambda: dumps("exec", 1))
    test(timeout=120, name="threads")(lambda: dumps("threads", 1))
    test(timeout=120, name="sockets")(lambda: dumps("sockets", DUMPS // 2))

    @test(timeout=180)
    def killed():
        """At instants all over the length of a dump."""
        random = Random(7)
        ends = [killed_meanwhile(random.random() * 0.03) for _ in range(25)]
        print(f"{ends.count(True)} of {len(ends)} dumps were done before the target was killed")

    @test(timeout=60)
    def full_disk():
        """Too little space is seen before anything stops."""
        program = Program("vma-anon")
        IMAGES.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(IMAGES)], check=True)
        stopped = []
        over = threading.Event()

        def watch():
            while not over.is_set():
                text = pathlib.Path(f"/proc/{program.pid}/status").read_text()
                stopped.append("TracerPid:\t0" not in text)

        looker = threading.Thread(target=watch)
        looker.start()
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "-R")
        over.set()
        looker.join()
        assert done.returncode == REFUSED and "[no-space]" in done.stderr, done.stderr
        assert not any(stopped), "it was stopped"
        assert not list(IMAGES.iterdir()), list(IMAGES.iterdir())
        program.verify()
        program.quit()

if __name__ == "__main__":
    main()
