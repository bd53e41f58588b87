#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Attributes of tasks and threads that are refused: by name, and the program goes on."""

import json
import os
import pathlib
import signal

from ferrytest import Ferry, main, old, status, test, wait_until
from ferrytest.program import Program, is_old, runs
from ferrytest.register import skip

REFUSED = 3  # exit status

IMAGES = pathlib.Path("images")

# Name of the test, what the message says, program and its arguments.
TABLE = [
    ("supervised", "asks a supervisor", "seccomp", "asking"),
    ("thread-files", "has a descriptor table of its own", "odd-threads", "files"),
    ("thread-folders", "share a working directory that is not the process's", "odd-threads", "folders"),
    ("segment", "has a segment register loaded", "odd-threads", "segment"),
    ("table", "entries in its local descriptor table", "odd-threads", "table"),
    ("descriptor", "has a segment descriptor of its own", "odd-threads", "descriptor"),
    ("table-end", "has nothing among the first 129 entries", "odd-threads", "table-end"),
    ("landlock", "is in a Landlock domain", "odd-threads", "landlock"),
    ("landlock-user", "is in a Landlock domain", "odd-threads", "landlock-user"),
    ("timer-clock", "measures the processor time of a thread", "timer-kinds", "own-clock"),
    ("old-wide", "of a 32-bit program runs 64-bit code", "old-refused", "wide"),
    ("old-table", "has a segment register loaded", "old-refused", "table"),
]


def refused(pid, text):
    """A dump of it is refused with these words and leaves nothing."""
    done = Ferry().run("dump", "-t", pid, "-D", IMAGES, "--json")
    assert done.returncode == REFUSED, f"exit status {done.returncode}: {done.stderr}"
    said = json.loads(done.stdout.splitlines()[0])
    assert said["error"] == "unsupported-task" and text in said["message"], said
    assert not IMAGES.exists(), "an images directory stayed"


def mapped(pid):
    """The mappings of a process."""
    return pathlib.Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


def register(name, text, program, *arguments):
    """One test for each line of the table."""

    def run():
        if is_old(program) and not runs(program):
            skip("neither compiler nor kernel need have programs of 32 bits")
        running = Program(program, *arguments)
        refused(running.pid, text)
        running.verify()
        running.quit()

    test(name=name, timeout=60)(run)


if os.environ.get("FERRY"):
    for line in TABLE:
        register(*line)


    @test(timeout=60)
    def program_of_32_bits():
        """One that has no libc. What only execve(2) settles stays as 64-bit programs have it: the page of vsyscalls shows."""
        try:
            running = old.start_program(pathlib.Path("old-program"))
        except OSError:
            skip("neither compiler nor kernel need have programs of 32 bits")
        wait_until(lambda: "[vdso]" in mapped(running.pid), "no vdso")
        before = mapped(running.pid)
        assert "[vsyscall]" not in before, before
        done = Ferry().run("dump", "-t", running.pid, "-D", IMAGES)
        assert done.returncode == 0, done.stderr
        running.wait()
        done = Ferry().run("restore", "-D", IMAGES, "-d")
        assert done.returncode == 0, done.stderr
        gate = [line for line in mapped("self").splitlines(True) if line.endswith("[vsyscall]\n")]
        after = mapped(running.pid)
        assert after == before + "".join(gate), f"{before} became {after}"
        # It has to get to pause(2) again.
        wait_until(lambda: status(running.pid)["State"].startswith("S"), "it does not sleep", 10)
        os.kill(running.pid, signal.SIGKILL)


    @test(timeout=60)
    def stopped_under_seccomp():
        """It is left as it is: stopped."""
        program = Program("seccomp", "one")
        os.kill(program.pid, signal.SIGSTOP)
        wait_until(lambda: status(program.pid)["State"].startswith("T"), "it does not stop", 10)
        refused(program.pid, "is stopped, and runs under seccomp")
        assert status(program.pid)["State"].startswith("T"), status(program.pid)["State"]
        os.kill(program.pid, signal.SIGCONT)
        program.verify()
        program.quit()

if __name__ == "__main__":
    main()
