# SPDX-License-Identifier: Apache-2.0
"""Runs tests: several at a time, each in a world of its own, with a time limit."""

import concurrent.futures
import contextlib
import glob
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time

from driver.model import Result

SKIPPED = 77
TIMED_OUT = 124
KEEP_OUTPUT_BYTES = 200_000
HUGE_PAGES = 64  # of 2 MiB, for all tests that run at a time


def last_line(output):
    """The last line with something in it: by convention it says what went wrong."""
    for line in reversed(output.splitlines()):
        if line.strip():
            return " ".join(line.split())[:300]
    return ""


def skip_reason(output):
    """What follows SKIP: in the output."""
    for line in reversed(output.splitlines()):
        if line.startswith("SKIP:"):
            return " ".join(line[5:].split())
    return last_line(output)


class World:
    """The folder and the command line around one isolated test."""

    def __init__(self, nsinit, test):
        self.folder = tempfile.mkdtemp(prefix="ferry-test-", dir="/tmp")
        self.command = [nsinit, "--folder", self.folder, "--timeout", str(test.timeout), "--", *test.command]

    def remove_groups(self):
        """Cgroups of the test are named after its folder, in the root or where the tests live."""
        name = os.path.basename(self.folder)
        lines = pathlib.Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        for above in {"", *(line.split(":", 2)[2].rstrip("/") for line in lines)}:
            for place in glob.glob(f"/sys/fs/cgroup{above}/{name}") + glob.glob(f"/sys/fs/cgroup/*{above}/{name}"):
                for group, _, _ in os.walk(place, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(group)

    def left_behind(self):
        """Empty unless the test wrote past the file system that nsinit put over its folder."""
        try:
            os.rmdir(self.folder)
            return ""
        except OSError:
            names = ", ".join(sorted(os.listdir(self.folder))[:5])
            shutil.rmtree(self.folder, ignore_errors=True)
            return f"left files behind: {names}"


def execute(command, environment, timeout):
    """Returns the exit code (TIMED_OUT when the time was over) and the output."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=environment, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            code = TIMED_OUT
    return code, output[-KEEP_OUTPUT_BYTES:].decode("utf-8", "replace")


def judge(test, code, output, left, skips):
    """Outcome and reason of one finished test."""
    if code == 0 and left:
        return "failed", left
    if code == 0:
        return "passed", ""
    if code == SKIPPED:
        return skips.judge(test.name, skip_reason(output))
    if code == TIMED_OUT:
        return "failed", f"no end after {test.timeout:.0f} s"
    return "failed", f"exit {code}: {last_line(output)}"


def run_one(test, nsinit, skips):
    """Run one test and say what became of it."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **test.environment}
    for name in ("NO_INSTALL", "T", "JOBS", "MAKEFLAGS", "MAKELEVEL"):
        environment.pop(name, None)
    began = time.monotonic()
    left = ""
    if test.isolated:
        world = World(nsinit, test)
        try:
            code, output = execute(world.command, environment, test.timeout + 30)
        finally:
            world.remove_groups()
            left = world.left_behind()
    else:
        code, output = execute(test.command, environment, test.timeout)
    outcome, reason = judge(test, code, output, left, skips)
    return Result(test.name, outcome, time.monotonic() - began, reason, output)


@contextlib.contextmanager
def huge_pages():
    """Let the kernel make some huge pages when a program asks for them."""
    knob = pathlib.Path("/proc/sys/vm/nr_overcommit_hugepages")
    try:
        before = knob.read_text(encoding="ascii")
        if int(before) < HUGE_PAGES:
            knob.write_text(str(HUGE_PAGES), encoding="ascii")
    except OSError:
        before = None  # the programs that need them will be skipped, and test/skips.txt judges that
    try:
        yield
    finally:
        if before is not None and int(before) < HUGE_PAGES:
            knob.write_text(before, encoding="ascii")


def at_once(jobs):
    """Tests at a time: most of them wait half of their time. One job means one."""
    return max(jobs + jobs // 2, 1)


def run_all(tests, options, skips):
    """Parallel ones first, then those that want the machine for themselves."""
    nsinit = str(options.build / "test" / "lib" / "nsinit")
    lock = threading.Lock()
    results = []

    def task(test):
        result = run_one(test, nsinit, skips)
        with lock:
            results.append(result)
            note = f": {result.reason}" if result.reason else ""
            print(f"{result.outcome:8}{result.seconds:7.1f} s  {result.name}{note}", flush=True)

    # The long ones first: otherwise the last of them runs alone at the end.
    parallel = sorted((t for t in tests if not t.exclusive), key=lambda t: -t.timeout)
    with huge_pages():
        with concurrent.futures.ThreadPoolExecutor(at_once(options.jobs)) as pool:
            for future in [pool.submit(task, test) for test in parallel]:
                future.result()
        for test in tests:
            if test.exclusive:
                task(test)
    return sorted(results, key=lambda r: r.name)
