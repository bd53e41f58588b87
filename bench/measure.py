#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One measurement of one tool, inside the world that bench/run.py made. Prints one JSON object.

First a dump that leaves the target running: the watching thread inside tells the largest gap it saw. Then a dump that
ends it, and a restore; the memory is verified before and after.
"""

import json
import os
import pathlib
import re
import shutil
import struct
import sys
import tempfile
import time

from ferrytest import Criu, Ferry, Program

SERVICE_MAGIC, STATS_MAGIC = 0x55105940, 0x57093306


def varint(raw, at):
    """(value, next position) of a protobuf varint."""
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def numbers(raw):
    """field -> value of a message that holds integers and messages only."""
    found, at = {}, 0
    while at < len(raw):
        key, at = varint(raw, at)
        value, at = varint(raw, at)
        if key & 7 == 2:
            value, at = raw[at:at + value], at + value
        found[key >> 3] = value
    return found


def frozen_ns(images):
    """What CRIU says about itself: frozen_time (field 2, in microseconds) of the dump part (field 1) of stats-dump."""
    path = pathlib.Path(images) / "stats-dump"
    if not path.exists():
        return None
    raw = path.read_bytes()
    service, magic, size = struct.unpack_from("<III", raw)
    if (service, magic) != (SERVICE_MAGIC, STATS_MAGIC):
        return None
    return numbers(numbers(raw[12:12 + size])[1])[2] * 1000


def image_bytes(images):
    """What the image takes on disk."""
    total = 0
    for path in pathlib.Path(images).rglob("*"):
        if path.is_file() and path.suffix != ".log":
            total += path.stat().st_blocks * 512
    return total


def timed(call):
    """(result, nanoseconds)."""
    began = time.monotonic_ns()
    result = call()
    return result, time.monotonic_ns() - began


def gap_ns(program):
    """The largest gap since the last call, as the target saw it; verifies the memory as well."""
    program.verify()
    return int((program.folder / "gap").read_text())


def main():
    tool, images_base, *arguments = sys.argv[1:]
    engine = Ferry() if tool == "ferry" else Criu(os.environ["FERRY_CRIU_SID"], verbosity=2)
    if tool == "criu":
        engine.run("check")  # fills its cache of kernel features
        version = engine.version()
    else:
        version = re.sub(r"^ferry\s+", "", engine.run("--version").stdout.strip())
    program = Program("memory", *arguments)
    first = tempfile.mkdtemp(prefix="bench-first-", dir=images_base or None)
    second = tempfile.mkdtemp(prefix="bench-second-", dir=images_base or None)
    metrics = {}
    try:
        gap_ns(program)
        time.sleep(0.3)
        metrics["idle_gap"] = ("ns", gap_ns(program))
        gap_ns(program)
        report, wall = timed(lambda: engine.dump(program.pid, first, leave_running=True))
        metrics["freeze"] = ("ns", gap_ns(program))
        metrics["wall_leave_running"] = ("ns", wall)
        reported = report.get("freeze_ns") if tool == "ferry" else frozen_ns(first)
        if reported is not None:
            metrics["freeze_reported"] = ("ns", reported)
        shutil.rmtree(first)

        pids = program.tree()
        _, metrics_wall = timed(lambda: engine.dump(program.pid, second))
        metrics["wall"] = ("ns", metrics_wall)
        program.wait_gone(pids)
        metrics["image"] = ("bytes", image_bytes(second))
        _, restore = timed(lambda: engine.restore(second))
        metrics["restore"] = ("ns", restore)
        program.verify()
    finally:
        shutil.rmtree(first, ignore_errors=True)
        shutil.rmtree(second, ignore_errors=True)
    print(json.dumps({"version": version, "metrics": metrics}))


if __name__ == "__main__":
    main()
