#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every fault name of dump and restore. A dump that fails leaves the target running, no image and nothing else; a restore
that fails leaves nothing but the image, and that is as good as before."""

import os
import pathlib
import time

from ferrytest import Ferry, Program, main, test
from ferrytest.cases import CASES, start
from ferrytest.leftovers import Leftovers, may_write
from ferrytest.process import is_alive
from ferrytest.redis import Server
from ferrytest.software.java import Java
from ferrytest.software.nginx import Nginx
from ferrytest.software.node import Node
from ferrytest.software.tmux import Tmux

IMAGES = pathlib.Path("images")
FAILED, REFUSED = 1, 3  # exit status
NOT_LAZY = ("memory-fill",)  # which is done by the pager
CONNECTION = ("tcp-repair", "net-lock")  # nothing but a connection has these
# In make check: what has effects outside of the target. In make soak every program.
IN_CHECK = ("threads", "tree", "pipes", "unix-queues", "tcp-established-v4", "ghost-directory", "link-other", "sysvshm",
            "message-queue", "fifo-deleted", "pty-session", "uring-tables", "inotify-deleted", "locks-ofd", "unix-places",
            "mounts-tmpfs", "ipc-messages", "pid-nested", "large")


def names(stage, connected):
    """The faults of a stage that this program can meet."""
    listed = [line.split("\t") for line in Ferry().run("debug", "faults").stdout.splitlines()]
    assert len(listed) > 20, listed
    return [word for word, where, _ in listed if where == stage and (connected or word not in CONNECTION)]


def nothing_left(watch, program, what, locked=False):
    """Helpers of ferry may need a moment to end."""
    alive = is_alive(program.pid)
    allowed = [IMAGES.absolute(), *may_write(program)]

    def problems():
        return watch.problems(program.pid if alive else None, allowed, locked)

    deadline = time.monotonic() + 10
    while problems() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not problems(), f"{what}: {problems()}"


def dump_faults(program, watch, options):
    """With and without --leave-running: the target runs on in any case."""
    tcp = bool(options.get("tcp_established"))
    words = ["dump", "-t", program.pid, "-D", IMAGES, *options.get("more", ())] + ["--tcp-established"] * tcp
    for name in names("dump", tcp):
        for more in ([], ["-R"]):
            done = Ferry().run(*words, *more, environment={"FERRY_FAULT": name})
            what = f"dump, {name} {more}"
            assert done.returncode in (FAILED, REFUSED), f"{what}: exit status {done.returncode} {done.stderr}"
            assert not IMAGES.exists() or not list(IMAGES.iterdir()), f"{what}: {list(IMAGES.iterdir())}"
            nothing_left(watch, program, what)
            program.verify()


def restore_faults(program, watch, options):
    """Nothing runs, and the image restores afterwards."""
    Ferry().dump(program.pid, IMAGES, **options)
    program.reap()
    files = sorted(path.name for path in IMAGES.iterdir())
    tcp = bool(options.get("tcp_established"))
    words = ["restore", "-D", IMAGES, "-d", *options.get("more", ())] + ["--tcp-established"] * tcp
    for name in names("restore", tcp):
        done = Ferry().run(*words, environment={"FERRY_FAULT": name})
        assert done.returncode in (FAILED, REFUSED), f"restore, {name}: exit status {done.returncode} {done.stderr}"
        assert not is_alive(program.pid), f"restore, {name}: it runs"
        assert sorted(path.name for path in IMAGES.iterdir()) == files, f"restore, {name}: the image changed"
        nothing_left(watch, program, f"restore, {name}", locked=tcp)
    Ferry().restore(IMAGES, **options)
    nothing_left(watch, program, "restore")
    program.verify()


def lazy_faults():
    """The same when memory is to come later: nothing of a pager is left, and the image is as good as before."""
    program = Program("large")
    watch = Leftovers(program.pid)
    Ferry().dump(program.pid, IMAGES)
    program.reap()
    files = sorted(path.name for path in IMAGES.iterdir())
    met = set()
    for name in names("restore", False) + names("lazy", False):
        if name in NOT_LAZY:
            continue
        done = Ferry().run("restore", "-D", IMAGES, "-d", "--lazy", environment={"FERRY_FAULT": name})
        assert done.returncode in (FAILED, REFUSED), f"restore --lazy, {name}: exit status {done.returncode} {done.stderr}"
        assert not is_alive(program.pid), f"restore --lazy, {name}: it runs"
        assert sorted(path.name for path in IMAGES.iterdir()) == files, f"restore --lazy, {name}: the image changed"
        nothing_left(watch, program, f"restore --lazy, {name}")
        met.add(name)
    assert "start-pager" in met, met
    Ferry().restore(IMAGES)
    program.process = None
    program.verify()
    program.finish()
    program.quit()


def faults_of(program, partner, options):
    """All of them, one after the other, on one program."""
    watch = Leftovers(program.pid)
    dump_faults(program, watch, options)
    restore_faults(program, watch, options)
    if partner:
        partner.finish()
    program.finish()
    program.quit()


def register(case):
    """One test for each program."""
    test(name=case.name, timeout=300, tier="check" if case.name in IN_CHECK else "soak")(lambda: faults_of(*start(case), case.options))


def register_software(make):
    """One test for a program that people run, with its clients' connections."""
    test(name="software-" + make.__module__.rpartition(".")[2], timeout=400)(
        lambda: faults_of(make(), None, {"tcp_established": True} if make.CONNECTED else {}))


if os.environ.get("FERRY"):
    test(name="lazy", timeout=120)(lazy_faults)

    for line in CASES:
        register(line)

    for software in (Server, Nginx, Node, Tmux, Java):
        register_software(software)

if __name__ == "__main__":
    main()
