#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How far a job is: one line on a terminal, from a second on, which is gone in the end; JSON where one asks for it; nothing elsewhere."""

import json
import os
import pathlib
import pty
import shutil
import subprocess
import sys

from ferrytest import Ferry, Program, main, test
from ferrytest.register import skip

IMAGES = pathlib.Path("images")
SLOW = ("--hook", "sleep 2.5")
ERASED = "\r\x1b[K"
BIG = ("import mmap, os, sys, time\nn = int(sys.argv[1])\nm = mmap.mmap(-1, n << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
       "b = os.urandom(1 << 20)\nfor i in range(n): m[i << 20:(i + 1) << 20] = b\n"
       "print('ready', flush=True)\nos.dup2(os.open('/dev/null', 1), 1)\nwhile True: time.sleep(9)\n")


def on_terminal(*words):
    """Exit status, and all that came to the terminal."""
    pid, terminal = pty.fork()
    if not pid:
        os.execv(os.environ["FERRY"], ["ferry", *map(str, words)])
    out = b""
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:
            break
        if not data:
            break
        out += data
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out.decode()


if os.environ.get("FERRY"):
    @test(timeout=60)
    def terminal():
        """A line that is written again and again and taken away; what is short, or has a reader, shows nothing."""
        program = Program("heap-stack")
        dump = ("dump", "-t", program.pid, "-D", IMAGES, "-R", "--overwrite")
        status, out = on_terminal(*dump, *SLOW)
        assert status == 0 and out.endswith(ERASED) and out.count("\rferry: hook" + "\x1b[K") > 2 and "\n" not in out, out
        status, out = on_terminal(*dump)
        assert status == 0 and out == "", out
        status, out = on_terminal(*dump, *SLOW, "--json")
        assert status == 0 and "\x1b" not in out and json.loads(out)["pid"] == program.pid, out
        done = Ferry().run(*dump, *SLOW)
        assert done.returncode == 0 and done.stdout == "" and done.stderr == "", done
        # An error stands on a line of its own.
        status, out = on_terminal(*dump, "--hook", "sleep 2.5; exit 1")
        assert status == 1 and ERASED + "ferry: the command of --hook ended with status 1 [hook]" in out, out
        program.verify()
        program.quit()

    @test(timeout=60)
    def series():
        """Each snapshot anew; what is told of it stands on a line of its own."""
        program = Program("heap-stack")
        status, out = on_terminal("snapshot", program.pid, "-D", "series", *SLOW)
        line = next(line for line in out.split("\n") if "stood still" in line)
        assert status == 0 and "\rferry: hook\x1b[K" in line and ERASED + "series/" in line, out
        done = Ferry().run("snapshot", program.pid, "-D", "series", *SLOW, "--json", "--events")
        words = [json.loads(line)["event"] for line in done.stdout.splitlines()]
        assert words[-2:] == ["stored", "ended"] and set(words[:-2]) == {"progress"}, words
        program.quit()

    @test(timeout=60)
    def events():
        """JSON, an object a line, before the result."""
        program = Program("heap-stack")
        done = Ferry().run("dump", "-t", program.pid, "-D", IMAGES, "-R", *SLOW, "--json", "--events")
        *seen, result = [json.loads(line) for line in done.stdout.splitlines()]
        assert result["pid"] == program.pid and 1 <= len(seen) <= 3, done
        for event in seen:
            assert event["event"] == "progress" and event["step"] == "hook" and event["total_ns"] >= 10**9, event
            assert set(event) == {"event", "step", "round", "bytes", "total_bytes", "bytes_per_s", "left_s", "total_ns"}, event
        program.quit()

    @test(timeout=120)
    def numbers():
        """Bytes are counted where they are moved, and come near the total."""
        def seen(*words):
            done = Ferry().run(*words, "--json", "--events")
            assert done.returncode == 0, done
            return [event for event in map(json.loads, done.stdout.splitlines()[:-1]) if event["step"] == "memory"]

        for mib in (512, 2048):
            with subprocess.Popen([sys.executable, "-c", BIG, str(mib)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, start_new_session=True) as big:
                big.stdout.readline()
                big.stdout.close()
                dumped = seen("dump", "-t", big.pid, "-D", IMAGES, "-R", "--no-live")
                big.kill()
                big.wait()
                restored = seen("restore", "-D", IMAGES, "-d")
                os.kill(big.pid, 9)
            shutil.rmtree(IMAGES)
            for events_of in (dumped, restored):
                assert all(event["bytes"] <= event["total_bytes"] for event in events_of), events_of
                assert [event["bytes"] for event in events_of] == sorted(event["bytes"] for event in events_of), events_of
            if any(event["bytes"] > mib << 18 and event["bytes_per_s"] for event in dumped + restored):
                return
        skip("this machine is too fast for it")

if __name__ == "__main__":
    main()
