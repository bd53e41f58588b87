#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One measurement of one tool, inside the world that bench/run.py made. Prints one JSON object.

Each step is a function of its own below; whatever it does, the memory is verified in the end.
"""

import json
import mmap
import os
import pathlib
import re
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time

import containers
from ferrytest import Criu, Ferry, Program
from ferrytest.redis import Client, Server, value
from timing import timed

WARM_LEAST_MIB = 64
PATIENCE = 300  # seconds: hosts have been slow to give memory
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
        if path.is_file() and not path.is_symlink() and path.suffix != ".log":
            total += path.stat().st_blocks * 512
    return total


def warm(words):
    """
    Touch as much memory as the target has and let it go, in pages as large as its own. A host that takes free memory back from its guests
    needs some seconds to give it again, which come and go with what its other guests do; here they go by before something is timed, for
    either tool.
    """
    mib = next((int(word.partition("=")[2]) for word in words if word.startswith("mib=")), 0)
    if mib >= WARM_LEAST_MIB:
        with mmap.mmap(-1, (mib + mib // 8) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE if "huge" in words else mmap.MADV_NOHUGEPAGE)
            for at in range(0, len(memory), mmap.PAGESIZE):
                memory[at] = 1


def gap_ns(program):
    """The largest gap since the last call, as the target saw it; verifies the memory as well."""
    program.verify()
    return int((program.folder / "gap").read_text())


def pss_bytes(pids):
    """Memory of a tree; what several have counts once."""
    total = 0
    for pid in pids:
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
        total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.M)[1]) * 1024
    return total


def leave_running(engine, words, images, more):
    """A dump after which the target goes on; a thread inside tells the largest gap it saw. {metric: value}"""
    found = {}
    program = Program("memory", *words, "watch", patience=PATIENCE)
    warm(words)
    gap_ns(program)
    time.sleep(0.3)
    found["idle_gap"] = gap_ns(program)
    gap_ns(program)
    report, found["wall_leave_running"] = timed(lambda: engine.dump(program.pid, images, leave_running=True, more=more))
    found["freeze"] = gap_ns(program)
    found["freeze_reported"] = report.get("freeze_ns") if engine.name == "ferry" else frozen_ns(images)
    return found


def there_and_back(engine, words, images, more):
    """A dump that ends the target, and its restore: {metric: value}."""
    program = Program("memory", *words, patience=PATIENCE)
    pids, found = program.tree(), {}
    warm(words)
    _, found["wall"] = timed(lambda: engine.dump(program.pid, images, more=more))
    program.wait_gone(pids)
    found["image"] = image_bytes(images)
    warm(words)
    _, found["restore"] = timed(lambda: engine.restore(images))
    found["pss"] = pss_bytes(program.tree())
    program.verify()
    return found


def lazily(engine, words, images):
    """The time until a restored program can be worked with; CRIU's way to that is a restore of everything."""
    program = Program("memory", *words, patience=PATIENCE)
    pids, more = program.tree(), ["--lazy"] * (engine.name == "ferry")
    engine.dump(program.pid, images)
    program.wait_gone(pids)
    warm(words)

    def restore():
        engine.restore(images, more=more)
        program.finish()

    _, answer = timed(restore)
    program.verify()
    return {"answer": answer}


def once_more(engine, words, images):
    """Two dumps of a program that goes on; the second stores what changed, if the tool can tell."""
    program = Program("memory", *words, patience=PATIENCE)
    first, second = (pathlib.Path(images) / name for name in ("first", "second"))
    first.mkdir()
    second.mkdir()
    tracked = ["--track-mem"] * (engine.name == "ferry")
    found = {}
    warm(words)
    _, found["first_wall"] = timed(lambda: engine.dump(program.pid, first, leave_running=True, more=tracked))
    program.spoil()
    older = ["--prev-images-dir", "../first"] * (engine.name == "ferry")
    pids = program.tree()
    _, found["second_wall"] = timed(lambda: engine.dump(program.pid, second, leave_running=True, more=tracked + older))
    found["second_image"] = image_bytes(second)
    program.verify()
    program.kill(pids)
    program.wait_gone(pids)
    # It may have been reading what it was asked last.
    engine.restore(second, more=["--files=as-found"] * (engine.name == "ferry"))
    program.verify()
    return found


class Requests(threading.Thread):
    """A client that writes to redis all the time, and remembers how long the longest request took."""

    KEYS = 10_000

    def __init__(self):
        super().__init__()
        self.client, self.longest, self.over = Client("127.0.0.1"), 0, False

    def run(self):
        number = 0
        while not self.over:
            number += 1
            _, took = timed(lambda: self.client.ask("SET", f"hot:{number % self.KEYS}", b"%4096d" % number))
            self.longest = max(self.longest, took)

    def seen(self):
        """The longest since the last call."""
        longest, self.longest = self.longest, 0
        return longest


def kill(pids):
    """For good."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def busy_redis(engine, words, images):
    """A dump of a redis-server that is written to: {metric: value}."""
    server, found = LargeServer(), {}
    warm(words)
    requests = Requests()
    requests.start()
    try:
        time.sleep(0.5)
        requests.seen()
        time.sleep(0.5)
        found["idle_request"] = requests.seen()
        _, found["wall_leave_running"] = timed(
            lambda: engine.dump(server.pid, images, leave_running=True, tcp_established=True))
        time.sleep(0.05)
        found["request"] = requests.seen()
    finally:
        requests.over = True
        requests.join()
    pids = server.tree()
    server.verify()
    kill(pids)
    server.wait_gone(pids)
    engine.restore(images, more=["--tcp-close"])
    server.client = Client("127.0.0.1")
    server.verify()
    kill(pids)
    return found


class LargeServer(Server):
    """2 GiB."""

    KEYS = 524_400  # of 4 KiB; they are set in groups of 200

    def verify(self):
        """A tenth of what nobody writes to."""
        for number in range(0, self.KEYS, 10):
            assert self.client.ask("GET", f"key:{number}") == value(number), f"key:{number} is wrong"


STEPS = {"leave": leave_running, "back": there_and_back, "lazy": lazily, "again": once_more, "redis": busy_redis, **containers.STEPS}
DUMPS_WITH = ("leave", "back")  # options of ferry dump


def main():
    tool, images_base, step, *words = sys.argv[1:]
    more = [word for word in words if word[0] == "-" and tool == "ferry"]
    words = [word for word in words if word[0] != "-"]
    engine = Ferry() if tool == "ferry" else Criu(os.environ["FERRY_CRIU_SID"], verbosity=2)
    if tool == "criu":
        engine.run("check")  # fills its cache of kernel features
        version = engine.version()
    else:
        version = re.sub(r"^ferry\s+", "", engine.run("--version").stdout.strip())
    images = tempfile.mkdtemp(prefix="bench-", dir=images_base or None)
    try:
        found = STEPS[step](engine, words, images, *[more] * (step in DUMPS_WITH))
    finally:
        shutil.rmtree(images, ignore_errors=True)
    print(json.dumps({"version": version, "metrics": {name: value for name, value in found.items() if value is not None}}))


if __name__ == "__main__":
    main()
