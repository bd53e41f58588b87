#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Dump here, restore in new namespaces (pid, mount, network, ipc, uts, time), dump there, restore there again. And the
clocks: a world whose clocks are ten days ahead, and the way back; for the program no clock goes back or jumps."""

import os
import pathlib
import tempfile
import time

from ferrytest import Ferry, Program, differences, round_trip, snapshot, test
from ferrytest.cases import CASES, start
from ferrytest.worlds import in_new_world, leave_low_pids, worlds_main

DAYS = 10 * 86400


def arrive(state, before, images, options):
    """In the new world: restore, compare, prove; then once more from there."""
    program = Program.adopt(state)
    volatile = program.volatile()
    Ferry().restore(images, **options)
    found = differences(before, snapshot(program.pid, volatile))
    assert not found, f"{len(found)} differences: " + "; ".join(found[:12])
    program.verify()
    round_trip(program, Ferry(), times=1, **options)
    program.quit()


def depart(case):
    """Program and image of it, from this world."""
    leave_low_pids()
    program, _ = start(case)
    program.verify()
    pids, before = program.tree(), snapshot(program.pid, program.volatile())
    images = pathlib.Path(tempfile.mkdtemp(prefix="images-"))
    Ferry().dump(program.pid, images, **case.options)
    program.wait_gone(pids)
    return program, before, images


def register(case):
    """One test for each program without a partner in this world's network."""

    def moved():
        program, before, images = depart(case)
        in_new_world(arrive, program.belongs(), before, images, case.options, seconds=90)

    test(name=case.name, timeout=120)(moved)


def clocks_arrive(state, images, leave):
    """In a world of other clocks: the program's own go on; perhaps it leaves again."""
    program = Program.adopt(state)
    Ferry().restore(images)
    time.sleep(0.3)
    program.verify()
    if leave:
        Ferry().dump(program.pid, leave)
        return program.belongs()
    program.finish()
    program.quit()
    return None


def images_folder():
    """A new one."""
    return pathlib.Path(tempfile.mkdtemp(prefix="images-"))


def clocks_start(leave):
    """Starts in a world of other clocks, and leaves."""
    leave_low_pids()
    program = Program("clocks")
    program.verify()
    Ferry().dump(program.pid, leave)
    return program.belongs()


if os.environ.get("FERRY"):
    for line in CASES:
        if not line.partner and line.worlds:
            register(line)

    @test(timeout=120)
    def clocks_from_ahead():
        """Dumped where the clocks are ten days ahead, restored here, dumped here, restored ahead."""
        first, second = images_folder(), images_folder()
        state = in_new_world(clocks_start, first, monotonic=DAYS, boottime=DAYS)
        program = Program.adopt(state)
        Ferry().restore(first)
        time.sleep(0.3)
        program.verify()
        Ferry().dump(program.pid, second)
        in_new_world(clocks_arrive, program.belongs(), second, None, monotonic=DAYS, boottime=DAYS)

    @test(timeout=120)
    def clocks_to_ahead():
        """Dumped here, restored where the clocks are ten days ahead, dumped there, restored here."""
        first, second = images_folder(), images_folder()
        leave_low_pids()
        program = Program("clocks")
        program.verify()
        Ferry().dump(program.pid, first)
        program.reap()
        state = in_new_world(clocks_arrive, program.belongs(), first, second, monotonic=DAYS, boottime=DAYS)
        program = Program.adopt(state)
        Ferry().restore(second)
        time.sleep(0.3)
        program.verify()
        program.finish()
        program.quit()

if __name__ == "__main__":
    worlds_main(arrive, clocks_arrive, clocks_start)
